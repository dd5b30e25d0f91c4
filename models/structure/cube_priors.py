"""Priors on the cube and on its vertices: a subset of the operations, or independent gates between 0 and 1."""

import math
from collections.abc import Sequence
from typing import Any, final

import pyro
import pyro.distributions as dist
import torch
from evidentia.models.distributions.logit_beta import LogitBeta
from evidentia.models.distributions.relaxed_bernoulli import LogitRelaxedBernoulli
from evidentia.models.structure.errors import FamilyError
from evidentia.models.structure.prior import StructurePrior, positive_temperature, weights_of
from torch import Tensor

Numbers = float | Sequence[float] | Tensor


def _probabilities(owner: str, value: Any, num_ops: int) -> Tensor:
    probs = torch.as_tensor(value, dtype=torch.float64)
    probs = probs.expand(num_ops) if probs.ndim == 0 else probs
    if probs.shape != (num_ops,) or not bool(((probs >= 0) & (probs <= 1)).all()):
        raise FamilyError(
            f"{owner}: probs={probs.tolist()} must be one probability in [0, 1], or one for each of the "
            f"{num_ops} operations."
        )
    return probs


def _bernoulli_log_mass(gates: Tensor, probs: Tensor) -> Tensor:
    probs = probs.to(dtype=gates.dtype, device=gates.device)
    return torch.where(gates > 0.5, probs.log(), (-probs).log1p()).sum(-1)


@final
class Bernoulli(StructurePrior):
    """Each operation is on independently; sites ``gamma/<edge>/<op>`` hold 0 or 1.

    ``log P(γ) = Σ_r γ_r log p_r + (1-γ_r) log(1-p_r)``. The sites can be enumerated in parallel.

    Args:
        probs: probability that an operation is on: one number, or one per operation.

    Raises:
        FamilyError: at declaration of the edge, not probabilities.

    Example:
        >>> import torch
        >>> Bernoulli(0.25).log_mass(torch.tensor([1.0, 0.0])).exp()
        tensor(0.1875)

    References:
        Liang et al., 2008. Mixtures of g priors for Bayesian variable selection.
    """

    domain = "cube_vertex"

    def __init__(self, probs: Numbers = 0.5) -> None:
        self.probs = probs

    def check(self, owner: str, num_ops: int) -> None:
        """One probability, or one per operation."""
        _probabilities(owner, self.probs, num_ops)

    def vertex_log_mass(self, gates: Tensor) -> Tensor:
        """Sum of Bernoulli log-masses."""
        return _bernoulli_log_mass(gates, _probabilities("Bernoulli", self.probs, gates.shape[-1]))

    def sample(self, edge: str, ops: Sequence[str], like: Tensor) -> Tensor:
        """The stacked sites ``gamma/<edge>/<op>``."""
        probs = _probabilities(f"edge {edge!r}", self.probs, len(ops)).to(
            dtype=like.dtype, device=like.device
        )
        gates = [
            pyro.sample(f"gamma/{edge}/{name}", dist.Bernoulli(p), infer={"enumerate": "parallel"})
            for name, p in zip(ops, probs, strict=True)
        ]
        return torch.stack(torch.broadcast_tensors(*gates), -1)

    def __repr__(self) -> str:
        return f"Bernoulli(probs={self.probs})"


@final
class BetaBinomial(StructurePrior):
    """Exchangeable subsets: each operation on with a common probability ``p ~ Beta(a, b)``, integrated out.

    ``P(γ) = B(a + k, b + K - k)/B(a, b)`` with k operations on: with a = b = 1 all sizes k are equally
    probable. The sites ``gamma/<edge>/<op>`` follow Pólya's urn, ``P(γ_r = 1 | γ_{<r}) = (a + Σ_{s<r} γ_s)/(a
    + b + r)``, and can be enumerated in parallel.

    Args:
        a: prior count of operations on, positive.
        b: prior count of operations off, positive.

    Raises:
        FamilyError: a or b not positive.

    Example:
        >>> import torch
        >>> BetaBinomial().log_mass(torch.tensor([[0.0, 0.0], [1.0, 0.0]])).exp()
        tensor([0.3333, 0.1667])

    References:
        Scott & Berger, 2010. Bayes and empirical-Bayes multiplicity adjustment in the variable-selection
        problem.
    """

    domain = "cube_vertex"

    def __init__(self, a: float = 1.0, b: float = 1.0) -> None:
        if not (0 < a < math.inf and 0 < b < math.inf):
            raise FamilyError(
                f"BetaBinomial: a and b must be positive numbers, got a={a}, b={b}. Try a=1, b=1."
            )
        self.a = float(a)
        self.b = float(b)

    def check(self, owner: str, num_ops: int) -> None:
        """Any number of operations is accepted."""

    def vertex_log_mass(self, gates: Tensor) -> Tensor:
        """``ln B(a + k, b + K - k) - ln B(a, b)``."""
        on = gates.sum(-1)
        off = gates.shape[-1] - on
        total = math.lgamma(self.a + self.b) - math.lgamma(self.a) - math.lgamma(self.b)
        top = torch.lgamma(self.a + on) + torch.lgamma(self.b + off)
        return top - math.lgamma(self.a + self.b + gates.shape[-1]) + total

    def sample(self, edge: str, ops: Sequence[str], like: Tensor) -> Tensor:
        """The stacked sites ``gamma/<edge>/<op>``, one after another."""
        gates: list[Tensor] = []
        on = like.new_zeros(())
        for r, name in enumerate(ops):
            law = dist.Bernoulli((self.a + on) / (self.a + self.b + r))
            gates.append(pyro.sample(f"gamma/{edge}/{name}", law, infer={"enumerate": "parallel"}))
            on = on + gates[-1]
        return torch.stack(torch.broadcast_tensors(*gates), -1)

    def __repr__(self) -> str:
        return f"BetaBinomial(a={self.a}, b={self.b})"


@final
class RelaxedBernoulli(StructurePrior):
    """Independent relaxed Bernoulli gates on the cube; site ``gamma/<edge>`` holds ``logit γ``, support real.

    ``γ_r = σ((logit p_r + L_r)/τ)`` with logistic noise L. The mass of a vertex is the Bernoulli mass with
    the same probabilities, exact for the rounded law at every temperature.

    Args:
        temperature: τ > 0.
        probs: probability that a gate is above one half: one number, or one per operation, inside (0, 1).

    Raises:
        FamilyError: temperature not positive; probabilities outside (0, 1).

    Example:
        >>> import torch
        >>> RelaxedBernoulli(0.5, 0.25).log_mass(torch.tensor([1.0, 0.0])).exp()
        tensor(0.1875)

    References:
        Maddison, Mnih & Teh, 2017. The Concrete distribution.
    """

    domain = "cube"

    def __init__(self, temperature: float = 1.0, probs: Numbers = 0.5) -> None:
        self.temperature = positive_temperature("RelaxedBernoulli", temperature)
        self.probs = probs

    def check(self, owner: str, num_ops: int) -> None:
        """Probabilities strictly between 0 and 1."""
        probs = _probabilities(owner, self.probs, num_ops)
        if not bool(((probs > 0) & (probs < 1)).all()):
            raise FamilyError(
                f"{owner}: probs={probs.tolist()} of a relaxed gate must lie strictly between 0 and 1. "
                "Leave an operation out, or use the domain 'cube_vertex'."
            )

    def vertex_log_mass(self, gates: Tensor) -> Tensor:
        """Sum of Bernoulli log-masses."""
        return _bernoulli_log_mass(gates, _probabilities("RelaxedBernoulli", self.probs, gates.shape[-1]))

    def sample(self, edge: str, ops: Sequence[str], like: Tensor) -> Tensor:
        """Logistic function of the site ``gamma/<edge>``."""
        logits = _probabilities(f"edge {edge!r}", self.probs, len(ops)).logit()
        logits = logits.to(dtype=like.dtype, device=like.device)
        law = LogitRelaxedBernoulli(logits.new_tensor(self.temperature), logits).to_event(1)
        return pyro.sample(f"gamma/{edge}", law).sigmoid()

    def __repr__(self) -> str:
        return f"RelaxedBernoulli(temperature={self.temperature}, probs={self.probs})"


@final
class Beta(StructurePrior):
    """Independent gates ``γ_r ~ Beta(τ a, τ b)`` on the cube; site ``gamma/<edge>`` holds ``logit γ``, support real.

    The mean is ``a/(a+b)``; for τ → 0 the gates are 0 or 1. The mass of a vertex is the Bernoulli mass with
    that mean, the limit for τ → 0.

    Args:
        temperature: τ > 0, multiplies a and b.
        a: weight of an open gate: one positive number, or one per operation.
        b: weight of a closed gate: likewise.

    Raises:
        FamilyError: temperature, a or b not positive, or of the wrong length.

    Example:
        >>> import torch
        >>> Beta(0.5, a=1.0, b=3.0).log_mass(torch.tensor([1.0, 0.0])).exp()
        tensor(0.1875)

    References:
        Figurnov, Mohamed & Mnih, 2018. Implicit reparameterization gradients.
    """

    domain = "cube"

    def __init__(self, temperature: float = 1.0, a: Numbers = 1.0, b: Numbers = 1.0) -> None:
        self.temperature = positive_temperature("Beta", temperature)
        self.a = a
        self.b = b

    def check(self, owner: str, num_ops: int) -> None:
        """Positive weights, one or one per operation."""
        weights_of(owner, "a", self.a, num_ops)
        weights_of(owner, "b", self.b, num_ops)

    def vertex_log_mass(self, gates: Tensor) -> Tensor:
        """Sum of Bernoulli log-masses with probabilities ``a/(a+b)``."""
        a = weights_of("Beta", "a", self.a, gates.shape[-1])
        return _bernoulli_log_mass(gates, a / (a + weights_of("Beta", "b", self.b, gates.shape[-1])))

    def sample(self, edge: str, ops: Sequence[str], like: Tensor) -> Tensor:
        """Logistic function of the site ``gamma/<edge>``."""
        a = self.temperature * weights_of(f"edge {edge!r}", "a", self.a, len(ops), like)
        b = self.temperature * weights_of(f"edge {edge!r}", "b", self.b, len(ops), like)
        return pyro.sample(f"gamma/{edge}", LogitBeta(a, b).to_event(1)).sigmoid()

    def __repr__(self) -> str:
        return f"Beta(temperature={self.temperature}, a={self.a}, b={self.b})"


@final
class LogitNormal(StructurePrior):
    """Independent gates ``γ_r = σ(x_r/τ)``, ``x_r ~ N(loc, scale²)``, on the cube; site holds ``logit γ``, support real.

    The mass of a vertex is the Bernoulli mass with ``p = Φ(loc/scale)``, exact for the rounded law at every
    τ.

    Args:
        temperature: τ > 0.
        loc: mean: one number, or one per operation.
        scale: standard deviation: one positive number, or one per operation.

    Raises:
        FamilyError: temperature or scale not positive, or a wrong number of entries.

    Example:
        >>> import torch
        >>> LogitNormal().log_mass(torch.tensor([1.0, 0.0])).exp()
        tensor(0.2500)

    References:
        Aitchison & Shen, 1980. Logistic-normal distributions: some properties and uses.
    """

    domain = "cube"

    def __init__(self, temperature: float = 1.0, loc: Numbers = 0.0, scale: Numbers = 1.0) -> None:
        self.temperature = positive_temperature("LogitNormal", temperature)
        self.loc = torch.as_tensor(loc, dtype=torch.float64)
        self.scale = torch.as_tensor(scale, dtype=torch.float64)

    def check(self, owner: str, num_ops: int) -> None:
        """One mean and one positive deviation, or one per operation."""
        weights_of(owner, "scale", self.scale, num_ops)
        if self.loc.ndim > 0 and self.loc.shape != (num_ops,):
            raise FamilyError(
                f"{owner}: loc has shape {tuple(self.loc.shape)} for {num_ops} operations; give one number, "
                "or one each."
            )

    def vertex_log_mass(self, gates: Tensor) -> Tensor:
        """Sum of Bernoulli log-masses with probabilities ``Φ(loc/scale)``."""
        probs = 0.5 * torch.erfc(-(self.loc / self.scale) / math.sqrt(2))
        return _bernoulli_log_mass(gates, probs.expand(gates.shape[-1]))

    def sample(self, edge: str, ops: Sequence[str], like: Tensor) -> Tensor:
        """Logistic function of the site ``gamma/<edge>``."""
        loc, scale = (
            (v / self.temperature).expand(len(ops)).to(dtype=like.dtype, device=like.device)
            for v in (self.loc, self.scale)
        )
        return pyro.sample(f"gamma/{edge}", dist.Normal(loc, scale).to_event(1)).sigmoid()

    def __repr__(self) -> str:
        return f"LogitNormal(temperature={self.temperature}, loc={self.loc.tolist()}, scale={self.scale.tolist()})"
