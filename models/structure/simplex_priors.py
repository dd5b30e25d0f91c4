"""Priors on the simplex and on its vertices: one operation, or a convex mixture."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import final

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from evidentia.models.distributions.gumbel_softmax import GumbelSoftmax as LogGumbelSoftmax
from evidentia.models.distributions.log_dirichlet import LogDirichlet
from evidentia.models.distributions.logistic_normal import LogisticNormal as LogLogisticNormal
from evidentia.models.distributions.logistic_normal import argmax_probability
from evidentia.models.hyper import Hyper
from evidentia.models.structure.errors import FamilyError
from evidentia.models.structure.prior import StructurePrior, positive_temperature, weights_of

Weights = Sequence[float] | Tensor | Hyper | None


def _one_hot_log_mass(gates: Tensor, log_probs: Tensor) -> Tensor:
    log_probs = log_probs.to(dtype=gates.dtype, device=gates.device)
    return torch.where(gates > 0, log_probs, torch.zeros_like(log_probs)).sum(-1)


class Concentrated(StructurePrior):
    """A relaxed prior with a temperature and one concentration ``s_l`` per operation; abstract.

    References:
        Bakhteev, 2020. Bayesian selection of a suboptimal structure of a deep learning model.
    """

    domain = "simplex"

    def __init__(self, temperature: float = 1.0, concentration: Weights = None) -> None:
        self.temperature = positive_temperature(type(self).__name__, temperature)
        self.concentration = concentration

    @property
    def hyper(self) -> dict[str, Hyper]:
        """``{"concentration": s}`` when s is learned."""
        return {"concentration": self.concentration} if isinstance(self.concentration, Hyper) else {}

    def check(self, owner: str, num_ops: int) -> None:
        """The concentration has one positive number per operation."""
        weights_of(owner, "concentration", self.concentration, num_ops)

    def vertex_log_mass(self, gates: Tensor) -> Tensor:
        """``log(s_l/Σs)``."""
        weights = weights_of(type(self).__name__, "concentration", self.concentration, gates.shape[-1])
        return _one_hot_log_mass(gates, (weights / weights.sum()).log())

    def current(self, edge: str, num_ops: int, like: Tensor) -> Tensor:
        """The concentration ``(K,)`` inside a Pyro model: fixed, or the param ``concentration/<edge>``."""
        if isinstance(self.concentration, Hyper):
            return self.concentration.param(f"concentration/{edge}", like).expand(num_ops)
        return weights_of(f"edge {edge!r}", "concentration", self.concentration, num_ops, like)

    @abstractmethod
    def law(self, edge: str, num_ops: int, like: Tensor) -> TorchDistribution:
        """The law of ``log γ`` inside a Pyro model, with the dtype of ``like``."""

    def sample(self, edge: str, ops: Sequence[str], like: Tensor) -> Tensor:
        """``exp`` of the site ``gamma/<edge>``."""
        return pyro.sample(f"gamma/{edge}", self.law(edge, len(ops), like)).exp()

    def __repr__(self) -> str:
        return f"{type(self).__name__}(temperature={self.temperature}, concentration={self.concentration})"


@final
class GumbelSoftmax(Concentrated):
    """``γ = softmax((log s + G)/τ)`` on the simplex; site ``gamma/<edge>`` holds ``log γ``.

    The mass of vertex l is ``s_l/Σs``: exact for the rounded law at every temperature.

    Args:
        temperature: τ > 0.
        concentration: s, one positive number per operation; ones when None; a ``Hyper`` is the ``pyro.param``
            ``concentration/<edge>`` of the model; ``log_mass`` is pure and uses its initial value.

    Raises:
        FamilyError: temperature not positive; at declaration of the edge, a wrong concentration.

    Example:
        >>> import torch
        >>> GumbelSoftmax(0.2, [3.0, 1.0]).log_mass(torch.eye(2)).exp()
        tensor([0.7500, 0.2500])

    References:
        Maddison, Mnih & Teh, 2017. The Concrete distribution.
    """

    def law(self, edge: str, num_ops: int, like: Tensor) -> LogGumbelSoftmax:
        """The law of ``log γ`` inside a Pyro model, with the dtype of ``like``."""
        logits = self.current(edge, num_ops, like).log()
        return LogGumbelSoftmax(logits.new_tensor(self.temperature), logits)


@final
class Dirichlet(Concentrated):
    """``γ ~ Dirichlet(τ s)`` on the simplex; site ``gamma/<edge>`` holds ``log γ``, support log-simplex.

    The mean is ``π = s/Σs`` and the variance ``π(1-π)/(τ Σs + 1)``: one-hot for τ → 0, and π (not the centre)
    for τ → ∞. The mass of vertex l is its mean ``s_l/Σs``, the limit for τ → 0.

    Args:
        temperature: τ > 0, multiplies the concentration.
        concentration: s, one positive number per operation; ones when None; a ``Hyper`` as in
            `GumbelSoftmax`.

    Raises:
        FamilyError: temperature not positive; at declaration of the edge, a wrong concentration.

    Example:
        >>> import torch
        >>> Dirichlet(0.995).log_mass(torch.eye(4)).exp()
        tensor([0.2500, 0.2500, 0.2500, 0.2500])

    References:
        Bakhteev, 2020. Bayesian selection of a suboptimal structure of a deep learning model.
    """

    def law(self, edge: str, num_ops: int, like: Tensor) -> LogDirichlet:
        """The law of ``log γ`` inside a Pyro model, with the dtype of ``like``."""
        return LogDirichlet(self.temperature * self.current(edge, num_ops, like))


@final
class LogisticNormal(StructurePrior):
    """``γ = softmax(x/τ)``, independent ``x_l ~ N(loc_l, scale_l²)``; site ``gamma/<edge>`` holds ``log γ``.

    The mass of vertex l is ``P(argmax x = l)``, exact for the rounded law at every temperature, by
    quadrature.

    Args:
        temperature: τ > 0.
        loc: means, one per operation; zeros when None.
        scale: standard deviations, one per operation or one number.

    Raises:
        FamilyError: temperature or scale not positive, or a wrong number of entries.

    Example:
        >>> import torch
        >>> LogisticNormal(1.0, loc=[1.0, 0.0]).log_mass(torch.eye(2)).exp()
        tensor([0.7602, 0.2398])

    References:
        Potapczynski, Loaiza-Ganem & Cunningham, 2020. Invertible Gaussian reparameterization.
    """

    domain = "simplex"

    def __init__(
        self,
        temperature: float = 1.0,
        loc: Sequence[float] | Tensor | None = None,
        scale: float | Sequence[float] | Tensor = 1.0,
    ) -> None:
        self.temperature = positive_temperature("LogisticNormal", temperature)
        self.loc = None if loc is None else torch.as_tensor(loc, dtype=torch.float64)
        self.scale = torch.as_tensor(scale, dtype=torch.float64)

    def check(self, owner: str, num_ops: int) -> None:
        """One mean and one positive deviation per operation."""
        weights_of(owner, "scale", self.scale, num_ops)
        if self.loc is not None and self.loc.shape != (num_ops,):
            raise FamilyError(
                f"{owner}: loc has shape {tuple(self.loc.shape)} for {num_ops} operations; give one mean per "
                "operation."
            )

    def _parameters(self, num_ops: int) -> tuple[Tensor, Tensor]:
        loc = torch.zeros(num_ops, dtype=torch.float64) if self.loc is None else self.loc
        return loc, self.scale.expand(num_ops)

    def vertex_log_mass(self, gates: Tensor) -> Tensor:
        """``log P(argmax x = l)``."""
        return _one_hot_log_mass(gates, argmax_probability(*self._parameters(gates.shape[-1])).log())

    def law(self, edge: str, num_ops: int, like: Tensor) -> LogLogisticNormal:
        """The law of ``log γ``, with the dtype of ``like``."""
        loc, scale = (v.to(dtype=like.dtype, device=like.device) for v in self._parameters(num_ops))
        return LogLogisticNormal(loc, scale=scale, temperature=loc.new_tensor(self.temperature))

    def sample(self, edge: str, ops: Sequence[str], like: Tensor) -> Tensor:
        """``exp`` of the site ``gamma/<edge>``."""
        return pyro.sample(f"gamma/{edge}", self.law(edge, len(ops), like)).exp()

    def __repr__(self) -> str:
        loc = None if self.loc is None else self.loc.tolist()
        return f"LogisticNormal(temperature={self.temperature}, loc={loc}, scale={self.scale.tolist()})"


@final
class Categorical(StructurePrior):
    """Exactly one operation, l with probability ``probs_l/Σ probs``; site ``gamma/<edge>`` holds l.

    The site can be enumerated in parallel by ``TraceEnum_ELBO`` and by Pyro's NUTS.

    Args:
        probs: weights, one per operation; equal when None. Zero excludes an operation.

    Raises:
        FamilyError: at declaration of the edge, wrong length, negative, or all zero.

    Example:
        >>> import torch
        >>> Categorical([1.0, 3.0]).log_mass(torch.eye(2)).exp()
        tensor([0.2500, 0.7500])

    References:
        Bakhteev, 2020. Bayesian selection of a suboptimal structure of a deep learning model.
    """

    domain = "simplex_vertex"

    def __init__(self, probs: Sequence[float] | Tensor | None = None) -> None:
        self.probs = probs

    def check(self, owner: str, num_ops: int) -> None:
        """One weight per operation, not all zero."""
        weights_of(owner, "probs", self.probs, num_ops, zero=True)

    def vertex_log_mass(self, gates: Tensor) -> Tensor:
        """``log(probs_l/Σ probs)``."""
        weights = weights_of("Categorical", "probs", self.probs, gates.shape[-1], zero=True)
        return _one_hot_log_mass(gates, (weights / weights.sum()).log())

    def sample(self, edge: str, ops: Sequence[str], like: Tensor) -> Tensor:
        """One-hot of the site ``gamma/<edge>``."""
        probs = weights_of(f"edge {edge!r}", "probs", self.probs, len(ops), like, zero=True)
        index = pyro.sample(f"gamma/{edge}", dist.Categorical(probs=probs), infer={"enumerate": "parallel"})
        return (index[..., None] == torch.arange(len(ops), device=index.device)).to(like.dtype)

    def __repr__(self) -> str:
        return f"Categorical(probs={self.probs})"
