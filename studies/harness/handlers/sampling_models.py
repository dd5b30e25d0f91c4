"""Posteriors for samplers that have no data, and the moments that draws from a posterior must have."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, final

if TYPE_CHECKING:
    from torch import Tensor

    from evidentia.studies.harness.data.dataset import Dataset

NODES = 4001
"""Points of the quadrature over tau."""


def gaussian_factor(dim: int = 100, condition: float = 1e4) -> Dataset:
    """The Cholesky factor of a covariance with random axes; variances are spread evenly in the logarithm.

    Args:
        dim: number of dimensions.
        condition: largest variance over the smallest; their geometric mean is 1.
    """
    import numpy

    from evidentia.studies.harness.data.dataset import make_dataset

    state = numpy.random.RandomState(5)
    axes, _ = numpy.linalg.qr(state.randn(dim, dim))
    half = math.log10(condition) / 2
    factor = numpy.linalg.cholesky((axes * numpy.logspace(-half, half, dim)) @ axes.T)
    return make_dataset(factor, None, [f"x{index}" for index in range(dim)])


class Moments(NamedTuple):
    """Means and standard deviations of a site, with the Monte-Carlo errors of the two; zero where exact."""

    mean: Tensor
    sd: Tensor
    mean_error: Tensor | float = 0.0
    sd_error: Tensor | float = 0.0


@final
class CorrelatedGaussian:
    """x ~ N(0, L L'), and nothing is observed."""

    def __call__(self, x: Tensor) -> None:
        """x (D, D) is the factor L."""
        import pyro
        from pyro import distributions as dist

        pyro.sample("x", dist.MultivariateNormal(x.new_zeros(len(x)), scale_tril=x))


@final
class NealFunnel:
    """v ~ N(0, 3), z_i ~ N(0, exp(v / 2)): the centred form, and nothing is observed.

    References:
        Neal, 2003. Slice sampling.
    """

    def __call__(self, x: Tensor) -> None:
        """x (n, 1) says how many z there are, and no more."""
        import pyro
        from pyro import distributions as dist

        v = pyro.sample("v", dist.Normal(x.new_tensor(0.0), 3.0))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x.new_tensor(0.0), (v / 2).exp()))


def reference_moments(model: Any, args: tuple[Tensor, ...]) -> Mapping[str, Moments]:
    """site -> `Moments` of the posterior, exact or of a long run; empty where none are known."""
    from evidentia.studies.harness.handlers.evidence_models import EightSchools, HierarchicalLogistic

    if isinstance(model, CorrelatedGaussian):
        sd = args[0].square().sum(-1).sqrt()
        return {"x": Moments(0 * sd, sd)}
    if isinstance(model, NealFunnel):
        # The z have moments, but so heavy a tail that no run of this length finds their spread.
        return {"v": Moments(args[0].new_tensor(0.0), args[0].new_tensor(3.0))}
    if isinstance(model, EightSchools):
        return eight_schools_moments(*args)
    if isinstance(model, HierarchicalLogistic) and tuple(args[0].shape) == (569, 23):
        return {name: Moments(*args[0].new_tensor(rows)) for name, rows in LOGISTIC.items()}
    return {}


def eight_schools_moments(x: Tensor, y: Tensor) -> dict[str, Moments]:
    """Moments of `EightSchools`: analytic in mu and t, quadrature over tau.

    Example:
        >>> import torch
        >>> schools = torch.tensor([[15.0], [10.0]], dtype=torch.float64)
        >>> sorted(eight_schools_moments(schools, schools[:, 0]))
        ['mu', 't', 'tau']
    """
    import torch

    from evidentia.studies.harness.handlers.evidence_models import normal_rank_one

    u = (torch.arange(NODES, dtype=torch.float64) + 0.5) / NODES  # for u the prior of tau is flat
    tau = 5 * torch.tan(math.pi * u / 2)
    noise = x[:, 0].square()
    total = noise + tau[:, None].square()
    weight = normal_rank_one(y, total, 25.0).softmax(0)
    spread = 1 / (1 / 25 + (1 / total).sum(-1))
    centre = spread * (y / total).sum(-1)
    gain = tau[:, None] / total
    t_mean = gain * (y - centre[:, None])
    t_variance = noise / total + gain.square() * spread[:, None]
    return {
        "mu": _mixed(weight, centre, spread),
        "tau": _mixed(weight, tau, 0 * tau),
        "t": _mixed(weight[:, None], t_mean, t_variance),
    }


def _mixed(weight: Tensor, mean: Tensor, variance: Tensor) -> Moments:
    """Moments of a mixture over the first dimension."""
    centre = (weight * mean).sum(0)
    second = (weight * (variance + (mean - centre).square())).sum(0)
    return Moments(centre, second.sqrt())


# Of 4 x 4,000 draws by NumPyro 0.15.3 (NUTS, dense metric, float64): mean, standard deviation, their errors.
LOGISTIC: Mapping[str, Any] = {
    "alpha": (
        -0.10963,
        0.59967,
        0.00498,
        0.00469,
    ),
    "beta": (
        (
            0.2101,
            0.6493,
            0.3225,
            -0.2156,
            -0.7413,
            1.1916,
            -3.1191,
            -1.4163,
            -0.7718,
            -0.6004,
            -1.9467,
            2.0846,
            -0.0874,
            -1.9945,
            -0.5013,
            0.1292,
            0.5333,
            -0.4544,
            0.1279,
            1.4409,
            -3.0309,
            -3.9325,
            -2.6193,
        ),
        (
            1.8443,
            0.7925,
            1.9424,
            1.8915,
            0.7068,
            1.4629,
            1.5337,
            1.3895,
            0.5228,
            0.9538,
            1.4974,
            0.7467,
            1.399,
            1.969,
            0.5006,
            0.8364,
            0.9529,
            0.9084,
            0.5322,
            0.9379,
            2.0072,
            1.1653,
            1.9023,
        ),
        (
            0.0131,
            0.0059,
            0.0148,
            0.0134,
            0.0048,
            0.0129,
            0.0146,
            0.0096,
            0.0038,
            0.0076,
            0.0116,
            0.0071,
            0.0102,
            0.0158,
            0.0038,
            0.0063,
            0.0081,
            0.0067,
            0.0038,
            0.0078,
            0.0162,
            0.0116,
            0.0152,
        ),
        (
            0.0153,
            0.0054,
            0.0162,
            0.0163,
            0.0044,
            0.0111,
            0.0114,
            0.0092,
            0.0031,
            0.007,
            0.0104,
            0.0053,
            0.0115,
            0.0145,
            0.0033,
            0.0064,
            0.0071,
            0.0065,
            0.0047,
            0.0063,
            0.0136,
            0.0085,
            0.0135,
        ),
    ),
    "tau": (
        2.08222,
        0.64121,
        0.0084,
        0.00594,
    ),
}
