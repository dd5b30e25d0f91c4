"""The Dirichlet law on the simplex, in log space."""

from typing import Any, final

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import Dirichlet, constraints
from torch.distributions.utils import clamp_probs

from evidentia.models.distributions.log_simplex import log_simplex


@final
class LogDirichlet(TorchDistribution):
    """Law of ``y = log γ`` with ``γ ~ Dirichlet(concentration)``.

    ``log_prob(y) = lnΓ(Σα) - Σ lnΓ(α_l) + Σ_l α_l y_l``: the density in the log-ratios (see `LogSimplex`). A
    structure prior with temperature t and weights s has ``concentration = t · s``: for t → 0 it tends to
    one-hot vectors with probabilities ``s/Σs``, for t → ∞ it concentrates at ``s/Σs`` (not at the centre).

    Args:
        concentration: α > 0, shape ``(*batch, K)``.

    Shapes: event ``(K,)``, batch ``concentration.shape[:-1]``. Draws are in log space: ``log Gamma(α)`` is
        drawn as
    ``log Gamma(α + 1) + log(U)/α``, which does not underflow for small α. Gradients are implicit.

    Raises:
        ValueError: ``concentration`` is a scalar or not positive.

    Example:
        >>> import torch
        >>> law = LogDirichlet(0.995 * torch.ones(3))
        >>> law.mean
        tensor([0.3333, 0.3333, 0.3333])

    References:
        Figurnov, Mohamed & Mnih, 2018. Implicit reparameterization gradients.
        Aitchison, 1982. The statistical analysis of compositional data.
    """

    arg_constraints = {"concentration": constraints.independent(constraints.positive, 1)}  # noqa: RUF012
    support = log_simplex
    has_rsample = True

    def __init__(self, concentration: Tensor, *, validate_args: bool | None = None) -> None:
        if concentration.ndim < 1:
            raise ValueError(
                "LogDirichlet: argument 'concentration' must have shape (*batch, K), got a scalar."
            )
        self.concentration = concentration
        super().__init__(concentration.shape[:-1], concentration.shape[-1:], validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "LogDirichlet":
        """The same law with a larger batch shape."""
        new = self._get_checked_instance(LogDirichlet, _instance)
        batch_shape = torch.Size(batch_shape)
        new.concentration = self.concentration.expand(batch_shape + self.event_shape)
        super(LogDirichlet, new).__init__(batch_shape, self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Draws of ``log γ`` with implicit gradients, shape ``(*sample, *batch, K)``."""
        concentration = self.concentration.expand(self._extended_shape(torch.Size(sample_shape)))
        uniform = clamp_probs(torch.rand_like(concentration))
        log_gamma = torch._standard_gamma(concentration + 1).log() + uniform.log() / concentration
        return log_gamma.log_softmax(-1)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density at ``value = log γ``, shape ``(*sample, *batch)``."""
        if self._validate_args:
            self._validate_sample(value)
        alpha = self.concentration
        return (alpha * value).sum(-1) + alpha.sum(-1).lgamma() - alpha.lgamma().sum(-1)

    @property
    def mean(self) -> Tensor:
        """Mean of γ (not of its logarithm): ``α / Σα``, shape ``(*batch, K)``."""
        return self.concentration / self.concentration.sum(-1, keepdim=True)

    @property
    def variance(self) -> Tensor:
        """Variance of γ: ``π(1-π)/(Σα + 1)`` with ``π = α/Σα``, shape ``(*batch, K)``."""
        return self.mean * (1 - self.mean) / (self.concentration.sum(-1, keepdim=True) + 1)

    @property
    def base(self) -> Dirichlet:
        """The torch Dirichlet law of γ itself."""
        return Dirichlet(self.concentration)
