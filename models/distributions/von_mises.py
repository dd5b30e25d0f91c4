"""The von Mises law on the circle with pathwise gradients."""

import math
from typing import Any, final

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.utils import broadcast_all

from evidentia.models.distributions.gauss_legendre import unit_nodes
from evidentia.models.distributions.implicit import closed_form_sample

PROPOSALS = 32  # each is accepted with probability >= 0.65, so all fail with probability below 1e-14
NODES = 64


@final
class VonMises(TorchDistribution):
    """Law of an angle, ``p(z) = exp(κ cos(z - μ)) / (2π I0(κ))``, with ``rsample``.

    With x = z - μ in (0, π) (odd in x) and ``A(κ) = I1(κ)/I0(κ)``:

        ``dz/dκ = ∫_x^π (cos t - A(κ)) exp(κ (cos t - cos x)) dt``,    ``dz/dμ = 1 (mod 2π)``

    by 64 Gauss-Legendre nodes; the exponent is never positive. Draws take the first accepted of 32
    Best-Fisher proposals, so there is no loop and the sampler can be captured into a graph. All of it is
    computed in float64 and returned in the type of the parameters. Second derivatives of draws are correct.

    Args:
        loc: μ, any real number, read modulo 2π; broadcasts with ``concentration``.
        concentration: κ > 0 (accurate from 1e-4 to 1e5).

    Shapes: batch ``loc.shape``, scalar events. Draws lie in [-π, π]; values may be any real number. The
        gradient uses 64 numbers for each draw.

    Raises:
        ValueError: ``concentration`` is not positive (validation on).

    Example:
        >>> import torch
        >>> law = VonMises(torch.tensor(0.0), torch.tensor(2.0))
        >>> law.log_prob(torch.tensor(0.0)), law.variance
        (tensor(-0.6619), tensor(0.3022))

    References:
        Figurnov, Mohamed & Mnih, 2018. Implicit reparameterization gradients.
        Best & Fisher, 1979. Efficient simulation of the von Mises distribution.
    """

    arg_constraints = {"loc": constraints.real, "concentration": constraints.positive}  # noqa: RUF012
    support = constraints.real
    has_rsample = True

    def __init__(
        self, loc: Tensor | float, concentration: Tensor | float, *, validate_args: bool | None = None
    ) -> None:
        self.loc, self.concentration = broadcast_all(loc, concentration)
        super().__init__(self.loc.shape, torch.Size(), validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "VonMises":
        """The same law with a larger batch shape."""
        new = self._get_checked_instance(VonMises, _instance)
        batch_shape = torch.Size(batch_shape)
        new.loc = self.loc.expand(batch_shape)
        new.concentration = self.concentration.expand(batch_shape)
        super(VonMises, new).__init__(batch_shape, torch.Size(), validate_args=False)
        new._validate_args = self._validate_args
        return new

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Draws in [-π, π] with gradients, shape ``(*sample, *batch)``."""
        shape = self._extended_shape(torch.Size(sample_shape))
        kappa = self.concentration.double().expand(shape)
        with torch.no_grad():
            x = _best_fisher(kappa)
        x = closed_form_sample(x, _partial, kappa)
        angle = torch.remainder(x + self.loc.double() + math.pi, 2 * math.pi) - math.pi
        return angle.to(self.loc.dtype)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density with respect to the angle, in nats, shape ``(*sample, *batch)``."""
        if self._validate_args:
            self._validate_sample(value)
        return _log_density(value.double() - self.loc.double(), self.concentration.double()).to(
            self.loc.dtype
        )

    def cdf(self, value: Tensor) -> Tensor:
        """Distribution function of the draw on [-π, π]: the mass of the arc from -π to ``value``.

        Beyond that range it goes on by one for each turn. It has no jump opposite to μ: inside the range of
        the draws, one would bias the gradients of mixtures.
        """
        if self._validate_args:
            self._validate_sample(value)
        loc, kappa = self.loc.double(), self.concentration.double()
        return (_arc(value.double() - loc, kappa) - _arc(-math.pi - loc, kappa)).to(self.loc.dtype)

    @property
    def mean(self) -> Tensor:
        """Circular mean: μ."""
        return self.loc

    @property
    def mode(self) -> Tensor:
        """Most probable angle: μ."""
        return self.loc

    @property
    def variance(self) -> Tensor:
        """Circular variance: ``1 - A(κ)``, shape ``(*batch)``."""
        return _one_minus_ratio(self.concentration.double()).to(self.loc.dtype)


def _log_density(x: Tensor, kappa: Tensor) -> Tensor:
    # cos x - 1 = -2 sin²(x/2) keeps its digits where κ is large and x small
    return -2 * kappa * (x / 2).sin().square() - (2 * math.pi * torch.special.i0e(kappa)).log()


def _arc(x: Tensor, kappa: Tensor) -> Tensor:
    """Mass from -π to x around the mode, plus the number of whole turns."""
    turns = torch.floor((x + math.pi) / (2 * math.pi))
    x = x - 2 * math.pi * turns
    # the ends of the reduced range can be overstepped by rounding
    tail = _tail_integral(x.abs().clamp_max(math.pi), kappa) * _log_density(x, kappa).exp()
    return turns + torch.where(x > 0, 1 - tail, tail)


def _one_minus_ratio(kappa: Tensor) -> Tensor:
    zero = torch.special.i0e(kappa)
    return (zero - torch.special.i1e(kappa)) / zero


def _tail_integral(x: Tensor, kappa: Tensor, deficit: Tensor | None = None) -> Tensor:
    """``∫_x^π h(t) exp(κ (cos t - cos x)) dt``; h = 1, or ``cos t - A`` written ``(1 - A) - 2 sin²(t/2)``."""
    points, weights = unit_nodes(NODES, x)
    # stop where the exponential has fallen to e^-40: cos t = max(-1, cos x - 40/κ)
    reach = (x / 2).sin().square() + 20 / kappa
    whole = reach >= 1
    end = torch.where(whole, math.pi, 2 * torch.where(whole, 0.5, reach).sqrt().asin())
    x, kappa, width = x[..., None], kappa[..., None], (end - x)[..., None]
    t = x + width * points
    value = (-2 * kappa * ((t + x) / 2).sin() * ((t - x) / 2).sin()).exp()
    if deficit is not None:
        value = value * (deficit[..., None] - 2 * (t / 2).sin().square())
    return (value * weights).sum(-1) * width[..., 0]


def _partial(x: Tensor, kappa: Tensor) -> tuple[Tensor]:
    return (x.sign() * _tail_integral(x.abs(), kappa, _one_minus_ratio(kappa)),)


def _best_fisher(kappa: Tensor) -> Tensor:
    """Draws of z - μ: the first accepted of a fixed number of wrapped-Cauchy proposals."""
    tau = 1 + (1 + 4 * kappa.square()).sqrt()
    rho = (tau - (2 * tau).sqrt()) / (2 * kappa)
    r = (1 + rho.square()) / (2 * rho)
    r = torch.where(kappa < 1e-5, 1 / kappa + kappa, r)  # its limit; the quotient above loses its digits
    uniform = torch.rand((2, PROPOSALS, *kappa.shape), dtype=kappa.dtype, device=kappa.device)
    z = (math.pi * uniform[0]).cos()
    f = (1 + r * z) / (r + z)
    c = kappa * (r - f)
    accept = (c * (2 - c) > uniform[1]) | ((c / uniform[1]).log() + 1 - c >= 0)
    first = accept.to(torch.uint8).argmax(0, keepdim=True)
    angle = f.gather(0, first)[0].clamp(-1, 1).acos()
    return torch.where(torch.rand_like(kappa) < 0.5, -angle, angle)
