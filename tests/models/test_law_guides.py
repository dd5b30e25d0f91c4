"""Every reparameterised law as a guide site: SVI finds a target of the same family, in a plate."""

from collections.abc import Callable
from typing import NamedTuple

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor
from torch.distributions import constraints

from evidentia.models.distributions.implicit import ImplicitReparam
from evidentia.models.distributions.log_gamma import LogGamma
from evidentia.models.distributions.mixture import MixtureReparam
from evidentia.models.distributions.truncated_normal import TruncatedNormal
from evidentia.models.distributions.von_mises import VonMises


class Fit(NamedTuple):
    """A family, the parameters of the target, where the guide starts, and which are positive."""

    build: Callable[..., dist.TorchDistribution]
    target: tuple[float, ...]
    start: tuple[float, ...]
    positive: tuple[int, ...]


def two_normals(first: Tensor, second: Tensor, scale: Tensor, logit: Tensor) -> MixtureReparam:
    weights = dist.Categorical(logits=torch.stack([logit, torch.zeros_like(logit)], -1))
    return MixtureReparam(weights, dist.Normal(torch.stack([first, second], -1), scale[..., None]))


def two_gaussians(first: Tensor, second: Tensor, scale: Tensor, lean: Tensor) -> MixtureReparam:
    """Two Gaussians of two coordinates: locations (±), one scale, one correlation-like entry."""
    loc = torch.stack([torch.stack([first, second], -1), -torch.stack([first, second], -1)], -2)
    zero = torch.zeros_like(scale)
    tril = torch.stack([torch.stack([scale, zero], -1), torch.stack([lean, scale], -1)], -2)
    parts = dist.MultivariateNormal(loc, scale_tril=tril.unsqueeze(-3))
    return MixtureReparam(dist.Categorical(logits=torch.zeros(2)), parts)


FITS = {
    "von_mises": Fit(VonMises, (0.8, 3.0), (0.2, 1.5), (1,)),
    "truncated": Fit(lambda m, s: TruncatedNormal(m, s, low=0.0, high=4.0), (1.0, 0.8), (2.0, 1.5), (1,)),
    "truncated_far": Fit(lambda m, s: TruncatedNormal(m, s, low=0.0), (-6.0, 1.5), (-3.0, 1.5), (1,)),
    "mixture": Fit(two_normals, (-1.0, 1.5, 0.6, 0.7), (-0.5, 1.0, 1.0, 0.0), (2,)),
    "mixture_gaussian": Fit(two_gaussians, (1.0, 0.5, 0.7, 0.4), (0.5, 0.3, 1.0, 0.0), (2,)),
    "wrapped_logistic": Fit(lambda m, s: ImplicitReparam(dist.Logistic(m, s)), (0.5, 0.7), (0.0, 1.5), (1,)),
    "log_gamma": Fit(LogGamma, (0.3, 2.0), (1.0, 1.0), (0, 1)),
}


@pytest.mark.statistical
@pytest.mark.parametrize("name", FITS)
def test_svi_recovers_the_target(name: str) -> None:
    fit = FITS[name]

    def model() -> None:
        with pyro.plate("sites", 3, dim=-1):
            pyro.sample("z", fit.build(*(torch.full((3,), v) for v in fit.target)))

    def guide() -> None:
        given = [
            pyro.param(
                f"p{i}",
                torch.full((3,), v),
                constraint=constraints.positive if i in fit.positive else constraints.real,
            )
            for i, v in enumerate(fit.start)
        ]
        with pyro.plate("sites", 3, dim=-1):
            pyro.sample("z", fit.build(*given))

    loss = pyro.infer.Trace_ELBO(num_particles=32, vectorize_particles=True, max_plate_nesting=1)
    optimiser = pyro.optim.ClippedAdam({"lr": 0.1, "lrd": 0.985})
    svi = pyro.infer.SVI(model, guide, optimiser, loss)
    first = svi.evaluate_loss()
    for _ in range(150):
        svi.step()
    # the loss is the KL divergence of three copies: zero at the target
    losses = torch.tensor([svi.evaluate_loss() for _ in range(20)])
    assert losses.mean() < 0.02
    assert losses.mean() < 0.2 * first


def test_mixed_with_subsampling_and_to_event() -> None:
    loc = torch.zeros(10, 2, requires_grad=True)

    def model() -> None:
        with pyro.plate("data", 10, subsample_size=4):
            pyro.sample("z", dist.Normal(0.0, 1.0).expand([2]).to_event(1))

    def guide() -> None:
        with pyro.plate("data", 10, subsample_size=4) as rows:
            pyro.sample("z", TruncatedNormal(loc[rows], 1.0, low=-5.0).to_event(1))

    value = pyro.infer.Trace_ELBO().differentiable_loss(model, guide)
    (gradient,) = torch.autograd.grad(value, loc)
    assert ((gradient != 0).any(-1).sum()) == 4
