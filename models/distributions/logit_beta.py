"""The Beta law on (0, 1), in logit space."""

from typing import Any, final

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.utils import clamp_probs
from torch.nn.functional import logsigmoid


@final
class LogitBeta(TorchDistribution):
    """Law of ``y = logit γ`` with ``γ ~ Beta(a, b)``.

    ``log_prob(y) = lnΓ(a+b) - lnΓ(a) - lnΓ(b) + a log σ(y) + b log σ(-y)``: the density of y, which is that
    of γ times ``γ(1-γ)``. Draws are differences of log-Gamma variables in log space, so small a and b do not
    underflow.

    Args:
        concentration1: a > 0; broadcasts with ``concentration0``.
        concentration0: b > 0.

    Example:
        >>> import torch
        >>> LogitBeta(torch.tensor(1.0), torch.tensor(1.0)).log_prob(torch.tensor(0.0)).exp()
        tensor(0.2500)

    References:
        Figurnov, Mohamed & Mnih, 2018. Implicit reparameterization gradients.
    """

    arg_constraints = {  # noqa: RUF012
        "concentration1": constraints.positive,
        "concentration0": constraints.positive,
    }
    support = constraints.real
    has_rsample = True

    def __init__(
        self, concentration1: Tensor, concentration0: Tensor, *, validate_args: bool | None = None
    ) -> None:
        self.concentration1, self.concentration0 = torch.broadcast_tensors(concentration1, concentration0)
        super().__init__(self.concentration1.shape, torch.Size(), validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "LogitBeta":
        """The same law with a larger batch shape."""
        new = self._get_checked_instance(LogitBeta, _instance)
        batch_shape = torch.Size(batch_shape)
        new.concentration1 = self.concentration1.expand(batch_shape)
        new.concentration0 = self.concentration0.expand(batch_shape)
        super(LogitBeta, new).__init__(batch_shape, torch.Size(), validate_args=False)
        new._validate_args = self._validate_args
        return new

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Draws of ``logit γ`` with implicit gradients, shape ``(*sample, *batch)``."""
        shape = self._extended_shape(torch.Size(sample_shape))
        return _log_gamma(self.concentration1.expand(shape)) - _log_gamma(self.concentration0.expand(shape))

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density at ``value = logit γ``, shape ``(*sample, *batch)``."""
        if self._validate_args:
            self._validate_sample(value)
        a, b = self.concentration1, self.concentration0
        return (a + b).lgamma() - a.lgamma() - b.lgamma() + a * logsigmoid(value) + b * logsigmoid(-value)


def _log_gamma(concentration: Tensor) -> Tensor:
    uniform = clamp_probs(torch.rand_like(concentration))
    return torch._standard_gamma(concentration + 1).log() + uniform.log() / concentration
