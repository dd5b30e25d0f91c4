"""The normal law cut to an interval, with exact pathwise gradients."""

import math
from typing import Any, final

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.utils import broadcast_all, clamp_probs

from evidentia.models.distributions.bounded_interval import BoundedInterval
from evidentia.models.distributions.implicit import closed_form_sample
from evidentia.models.distributions.normal_tails import (
    HALF_LOG_2PI,
    interval_quantile,
    leans_right,
    log_mass,
    log_ndtr,
    quantile_partials,
    tail_moments,
)


@final
class TruncatedNormal(TorchDistribution):
    """Law of ``N(loc, scale²)`` given ``low <= z <= high``; either bound may be infinite.

    With ξ = (z-loc)/scale, α = (low-loc)/scale, β = (high-loc)/scale and F the CDF at z:

        ``log_prob(z) = -ξ²/2 - log(√(2π) scale) - log(Φ(β) - Φ(α))``
        ``dz/dlow = wa = (1-F) exp((ξ²-α²)/2)``,  ``dz/dhigh = wb = F exp((ξ²-β²)/2)``
        ``dz/dloc = 1 - wa - wb``,  ``dz/dscale = ξ - wa α - wb β``    (0 for the terms of an infinite bound)

    Draws invert the CDF on the side of the nearer tail, in log space, so bounds hundreds of scales away work.
    Quantiles and the normaliser are computed in float64 and returned in the type of the parameters. Second
    derivatives of draws are correct.

    Args:
        loc: mean of the uncut law; all arguments broadcast.
        scale: standard deviation of the uncut law, positive.
        low: lower bound, -inf for none.
        high: upper bound, inf for none.

    Shapes: batch is the broadcast shape, scalar events.

    Raises:
        ValueError: ``scale`` is not positive or ``low >= high`` (validation on); a value outside the bounds.

    Example:
        >>> import torch
        >>> law = TruncatedNormal(torch.tensor(0.0), torch.tensor(1.0), low=0.0)
        >>> law.mean, law.log_prob(torch.tensor(0.0))
        (tensor(0.7979), tensor(-0.2258))

    References:
        Figurnov, Mohamed & Mnih, 2018. Implicit reparameterization gradients.
    """

    arg_constraints = {  # noqa: RUF012
        "loc": constraints.real,
        "scale": constraints.positive,
        "low": constraints.dependent(is_discrete=False, event_dim=0),
        "high": constraints.dependent(is_discrete=False, event_dim=0),
    }
    has_rsample = True

    def __init__(
        self,
        loc: Tensor | float,
        scale: Tensor | float,
        low: Tensor | float = -math.inf,
        high: Tensor | float = math.inf,
        *,
        validate_args: bool | None = None,
    ) -> None:
        self.loc, self.scale, self.low, self.high = broadcast_all(loc, scale, low, high)
        super().__init__(self.loc.shape, torch.Size(), validate_args=validate_args)
        if self._validate_args and not bool((self.low < self.high).all()):
            raise ValueError(
                f"TruncatedNormal: expected low < high everywhere, got low={self.low}, high={self.high}. "
                "Fix: swap the bounds, or leave one out for an infinite bound."
            )

    def expand(self, batch_shape: Any, _instance: Any = None) -> "TruncatedNormal":
        """The same law with a larger batch shape."""
        new = self._get_checked_instance(TruncatedNormal, _instance)
        batch_shape = torch.Size(batch_shape)
        for name in ("loc", "scale", "low", "high"):
            setattr(new, name, getattr(self, name).expand(batch_shape))
        super(TruncatedNormal, new).__init__(batch_shape, torch.Size(), validate_args=False)
        new._validate_args = self._validate_args
        return new

    @constraints.dependent_property(is_discrete=False, event_dim=0)
    def support(self) -> BoundedInterval:
        """``[low, high]``."""
        return BoundedInterval(self.low, self.high)

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Draws with gradients, shape ``(*sample, *batch)``."""
        shape = self._extended_shape(torch.Size(sample_shape))
        return self._quantile(clamp_probs(torch.rand(shape, dtype=torch.float64, device=self.loc.device)))

    def icdf(self, value: Tensor) -> Tensor:
        """Quantiles at probabilities ``value``, differentiable in it and in the parameters."""
        return self._quantile(value.double())

    def _quantile(self, u: Tensor) -> Tensor:
        alpha, beta = self._standard_bounds()
        u, alpha, beta = torch.broadcast_tensors(u, alpha, beta)
        with torch.no_grad():
            xi = interval_quantile(u, alpha, beta)
        xi = closed_form_sample(xi, quantile_partials, u, alpha, beta)
        z = (self.loc.double() + self.scale.double() * xi).to(self.loc.dtype)
        # rounding may step over a bound: correct the value, keep the gradient
        inside = torch.minimum(torch.maximum(z, self.low), self.high)
        return z + (inside - z).detach()

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density in nats, shape ``(*sample, *batch)``; -inf outside the bounds without validation."""
        if self._validate_args:
            self._validate_sample(value)
        scale = self.scale.double()
        xi = (value.double() - self.loc.double()) / scale
        # far in a tail -ξ²/2 and the log-mass are large and cancel
        density = -0.5 * xi.square() - HALF_LOG_2PI - scale.log() - log_mass(*self._standard_bounds())
        inside = (self.low <= value) & (value <= self.high)
        return torch.where(inside, density, -math.inf).to(self.loc.dtype)

    def cdf(self, value: Tensor) -> Tensor:
        """Distribution function, shape ``(*sample, *batch)``."""
        if self._validate_args:
            self._validate_sample(value)
        alpha, beta = self._standard_bounds()
        value = torch.minimum(torch.maximum(value, self.low), self.high)
        x, alpha, beta = torch.broadcast_tensors(
            (value.double() - self.loc.double()) / self.scale.double(), alpha, beta
        )
        flip = leans_right(alpha, beta)
        lower = log_ndtr(torch.where(flip, -beta, alpha))
        upper = log_ndtr(torch.where(flip, -alpha, beta))
        here = log_ndtr(torch.where(flip, -x, x))
        share = (here - upper).exp() * torch.expm1(lower - here) / torch.expm1(lower - upper)
        return torch.where(flip, 1 - share, share).to(self.loc.dtype)

    @property
    def mean(self) -> Tensor:
        """``loc + scale (h(α) - h(β))`` with ``h(x) = φ(x)/(Φ(β) - Φ(α))``, shape ``(*batch)``."""
        mean, _ = self._standard_moments()
        return (self.loc.double() + self.scale.double() * mean).to(self.loc.dtype)

    @property
    def variance(self) -> Tensor:
        """``scale² (1 + α h(α) - β h(β) - (h(α) - h(β))²)``; by quadrature in far tails."""
        _, variance = self._standard_moments()
        return (self.scale.double().square() * variance).to(self.loc.dtype)

    def _standard_moments(self) -> tuple[Tensor, Tensor]:
        alpha, beta = self._standard_bounds()
        mass = log_mass(alpha, beta)

        def hazard(end: Tensor) -> tuple[Tensor, Tensor]:
            infinite = end.isinf()
            finite = torch.where(infinite, torch.zeros_like(end), end)
            log_density = -0.5 * finite.square() - HALF_LOG_2PI - mass
            return torch.where(infinite, -math.inf, log_density).exp(), finite

        (at_low, low), (at_high, high) = hazard(alpha), hazard(beta)
        mean = at_low - at_high
        variance = 1 + low * at_low - high * at_high - mean.square()
        flip = leans_right(alpha, beta)
        distance = torch.where(flip, alpha, -beta)
        far = distance > 10
        beyond, spread = tail_moments(torch.where(far, distance, 10.0), beta - alpha)
        beyond = distance + beyond
        return (
            torch.where(far, torch.where(flip, beyond, -beyond), mean),
            torch.where(far, spread, variance),
        )

    def _standard_bounds(self) -> tuple[Tensor, Tensor]:
        """α and β; an infinite bound stays infinite and passes no gradient (inf · 0 would be NaN)."""
        loc, scale = self.loc.double(), self.scale.double()

        def standard(end: Tensor) -> Tensor:
            infinite = end.isinf()
            finite = torch.where(infinite, torch.zeros_like(end), end)
            return torch.where(infinite, end.double(), (finite - loc) / scale)

        return standard(self.low), standard(self.high)
