"""The relaxed Bernoulli (binary Concrete) law on the cube, in logit space."""

from typing import Any, final

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.utils import clamp_probs
from torch.nn.functional import softplus


@final
class LogitRelaxedBernoulli(TorchDistribution):
    """Law of ``y = logit γ`` with ``γ = σ((ℓ + L)/τ)``, ℓ the log-odds and L standard logistic noise.

    ``log_prob(y) = log τ + v - 2 log(1 + e^v)``, ``v = ℓ - τ y``: a logistic density. At every temperature
    ``P(γ > 1/2) = σ(ℓ)``. ``log_prob`` is the density of y; that of γ has the extra term ``-log γ(1-γ)``.

    Args:
        temperature: τ > 0; broadcasts with ``logits``.
        logits: ℓ, log-odds of an open gate, shape ``(*batch)``.

    Example:
        >>> import torch
        >>> law = LogitRelaxedBernoulli(torch.tensor(0.5), torch.zeros(3))
        >>> law.log_prob(torch.zeros(3)).exp()
        tensor([0.1250, 0.1250, 0.1250])

    References:
        Maddison, Mnih & Teh, 2017. The Concrete distribution.
    """

    arg_constraints = {"temperature": constraints.positive, "logits": constraints.real}  # noqa: RUF012
    support = constraints.real
    has_rsample = True

    def __init__(
        self, temperature: Tensor | float, logits: Tensor, *, validate_args: bool | None = None
    ) -> None:
        temperature = torch.as_tensor(temperature, dtype=logits.dtype, device=logits.device)
        self.temperature, self.logits = torch.broadcast_tensors(temperature, logits)
        super().__init__(self.logits.shape, torch.Size(), validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "LogitRelaxedBernoulli":
        """The same law with a larger batch shape."""
        new = self._get_checked_instance(LogitRelaxedBernoulli, _instance)
        batch_shape = torch.Size(batch_shape)
        new.temperature = self.temperature.expand(batch_shape)
        new.logits = self.logits.expand(batch_shape)
        super(LogitRelaxedBernoulli, new).__init__(batch_shape, torch.Size(), validate_args=False)
        new._validate_args = self._validate_args
        return new

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Reparameterised draws of ``logit γ``, shape ``(*sample, *batch)``."""
        shape = self._extended_shape(torch.Size(sample_shape))
        uniform = clamp_probs(torch.rand(shape, dtype=self.logits.dtype, device=self.logits.device))
        return (self.logits + uniform.logit()) / self.temperature

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density at ``value = logit γ``, shape ``(*sample, *batch)``."""
        if self._validate_args:
            self._validate_sample(value)
        v = self.logits - self.temperature * value
        return self.temperature.log() - softplus(v) - softplus(-v)
