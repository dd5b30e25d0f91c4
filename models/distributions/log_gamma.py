"""The Gamma law in log space, for concentrations so small that the draw itself underflows."""

from typing import Any, final

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.utils import broadcast_all, clamp_probs


@final
class LogGamma(TorchDistribution):
    """Law of ``y = log x`` with ``x ~ Gamma(a, rate)``.

    ``log_prob(y) = a log(rate) + a y - rate e^y - lnΓ(a)``. Draws are ``log Gamma(a + 1) + log(U)/a - log
    rate``: no underflow (at a = 0.05 in float32 more than one draw in a hundred of torch's Gamma is stuck at
    the smallest number). The gradient is that of torch's Gamma at a + 1 plus that of ``log(U)/a``.

    Args:
        concentration: a > 0; broadcasts with ``rate``.
        rate: positive.

    Shapes: batch ``concentration.shape``, scalar events: logarithms. Second derivatives of draws in a raise,
        as for torch's Gamma.

    Raises:
        ValueError: an argument is not positive (validation on).

    Example:
        >>> import torch
        >>> LogGamma(torch.tensor(1.0), torch.tensor(1.0)).log_prob(torch.tensor(0.0))
        tensor(-1.)

    References:
        Figurnov, Mohamed & Mnih, 2018. Implicit reparameterization gradients.
    """

    arg_constraints = {"concentration": constraints.positive, "rate": constraints.positive}  # noqa: RUF012
    support = constraints.real
    has_rsample = True

    def __init__(
        self, concentration: Tensor | float, rate: Tensor | float = 1.0, *, validate_args: bool | None = None
    ) -> None:
        self.concentration, self.rate = broadcast_all(concentration, rate)
        super().__init__(self.concentration.shape, torch.Size(), validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "LogGamma":
        """The same law with a larger batch shape."""
        new = self._get_checked_instance(LogGamma, _instance)
        batch_shape = torch.Size(batch_shape)
        new.concentration = self.concentration.expand(batch_shape)
        new.rate = self.rate.expand(batch_shape)
        super(LogGamma, new).__init__(batch_shape, torch.Size(), validate_args=False)
        new._validate_args = self._validate_args
        return new

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Draws of ``log x`` with gradients, shape ``(*sample, *batch)``."""
        a = self.concentration.expand(self._extended_shape(torch.Size(sample_shape)))
        uniform = clamp_probs(torch.rand_like(a))
        return torch._standard_gamma(a + 1).log() + uniform.log() / a - self.rate.log()

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density at ``value = log x``, in nats, shape ``(*sample, *batch)``."""
        if self._validate_args:
            self._validate_sample(value)
        a, log_rate = self.concentration, self.rate.log()
        return a * (value + log_rate) - (value + log_rate).exp() - a.lgamma()

    def cdf(self, value: Tensor) -> Tensor:
        """Distribution function of ``log x``; differentiable in ``value`` only."""
        a, y = self.concentration, value + self.rate.log()
        # far below, where e^y may underflow: the leading term e^{ay} / Γ(a+1) is exact to e^y
        leading = (a * y - (a + 1).lgamma()).exp()
        return torch.where(y < -40, leading, torch.special.gammainc(a, y.clamp_min(-40).exp()))

    @property
    def mean(self) -> Tensor:
        """``ψ(a) - log rate``, shape ``(*batch)``."""
        return self.concentration.digamma() - self.rate.log()

    @property
    def variance(self) -> Tensor:
        """``ψ'(a)``, shape ``(*batch)``."""
        return torch.special.polygamma(1, self.concentration)
