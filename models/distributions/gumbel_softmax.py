"""The Gumbel-Softmax (Concrete) law on the simplex, in log space."""

import math
from typing import Any, final

import torch
from pyro.distributions import Categorical, TorchDistribution
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.utils import clamp_probs

from evidentia.models.distributions.gumbel_softmax_kl import gumbel_softmax_kl as gumbel_softmax_kl
from evidentia.models.distributions.gumbel_softmax_kl import (
    gumbel_softmax_kl_ratio as gumbel_softmax_kl_ratio,
)
from evidentia.models.distributions.log_simplex import log_simplex


@final
class GumbelSoftmax(TorchDistribution):
    r"""Law of ``y = log γ`` with ``γ = softmax((log s + G)/τ)`` and independent standard Gumbel ``G``.

    The density of γ with respect to the Lebesgue measure of its first K-1 coordinates is
    ``p(γ) = (K-1)! τ^{K-1} ∏_l s_l γ_l^{-τ-1} / (Σ_l s_l γ_l^{-τ})^K``, and ``log_prob(y) = log p(γ) + Σ_l
    log γ_l``, the density in the log-ratios ``y_l - y_K`` (see `LogSimplex`). Everything is computed from y,
    so that samples at temperature 0.01 neither underflow nor leave the support in single precision.

    At *every* temperature the largest coordinate is l with probability ``s_l / Σ s``. As τ → 0 the law tends
    to the one-hot categorical; as τ → ∞ it concentrates at the centre 1/K whatever s is.

    Args:
        temperature: τ > 0, shape ``(*batch)``; broadcasts with the batch shape of ``logits``.
        logits: ``log s`` up to an additive constant, shape ``(*batch, K)``.

    Shapes: event ``(K,)``, batch the broadcast of ``temperature.shape`` and ``logits.shape[:-1]``.

    Raises:
        ValueError: ``logits`` is a scalar, or a parameter is outside its constraint.

    Example:
        >>> import torch
        >>> law = GumbelSoftmax(torch.tensor([0.1, 1.0]), torch.tensor([3.0, 1.0, 0.5]).log())
        >>> law.batch_shape, law.event_shape
        (torch.Size([2]), torch.Size([3]))
        >>> _ = torch.manual_seed(0)
        >>> y = law.rsample()
        >>> bool(torch.allclose(y.exp().sum(-1), torch.ones(2)))
        True

    References:
        Jang, Gu & Poole, 2017. Categorical reparameterization with Gumbel-Softmax.
        Maddison, Mnih & Teh, 2017. The Concrete distribution.
    """

    arg_constraints = {"temperature": constraints.positive, "logits": constraints.real_vector}  # noqa: RUF012
    support = log_simplex
    has_rsample = True

    def __init__(
        self, temperature: Tensor | float, logits: Tensor, *, validate_args: bool | None = None
    ) -> None:
        if logits.ndim < 1:
            raise ValueError("GumbelSoftmax: argument 'logits' must have shape (*batch, K), got a scalar.")
        temperature = torch.as_tensor(temperature, dtype=logits.dtype, device=logits.device)
        batch_shape = torch.broadcast_shapes(temperature.shape, logits.shape[:-1])
        self.temperature = temperature.expand(batch_shape)
        self.logits = logits.expand((*batch_shape, logits.shape[-1]))
        super().__init__(batch_shape, logits.shape[-1:], validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "GumbelSoftmax":
        """The same law with a larger batch shape."""
        new = self._get_checked_instance(GumbelSoftmax, _instance)
        batch_shape = torch.Size(batch_shape)
        new.temperature = self.temperature.expand(batch_shape)
        new.logits = self.logits.expand(batch_shape + self.event_shape)
        super(GumbelSoftmax, new).__init__(batch_shape, self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Reparameterised draws of ``log γ``, shape ``(*sample, *batch, K)``."""
        shape = self._extended_shape(torch.Size(sample_shape))
        uniform = torch.rand(shape, dtype=self.logits.dtype, device=self.logits.device)
        gumbel = -(-clamp_probs(uniform).log()).log()
        return ((self.logits + gumbel) / self.temperature[..., None]).log_softmax(-1)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density at ``value = log γ``, shape ``(*sample, *batch)``."""
        if self._validate_args:
            self._validate_sample(value)
        size = self.event_shape[0]
        score = (self.logits - self.temperature[..., None] * value).log_softmax(-1)
        return math.lgamma(size) + (size - 1) * self.temperature.log() + score.sum(-1)

    @property
    def rounded(self) -> Categorical:
        """The exact law of the largest coordinate: categorical with probabilities ``s / Σ s``."""
        return Categorical(logits=self.logits)

    def inverse_moment_finite(self, order: float) -> Tensor:
        """Whether ``E[γ_l^{-order}]`` is finite: ``order < τ (K-1)``, shape ``(*batch)``.

        The moment of order 2 is the one that enters the KL divergence of scale-coupled weights.
        """
        return order < self.temperature * (self.event_shape[0] - 1)
