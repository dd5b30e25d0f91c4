"""Priors on the vertices of the cube: a subset of the operations."""

import math
from collections.abc import Sequence
from typing import Any, final

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from evidentia.models.structure.errors import FamilyError
from evidentia.models.structure.prior import StructurePrior

Numbers = float | Sequence[float] | Tensor


def probabilities(owner: str, value: Any, num_ops: int) -> Tensor:
    """One probability per operation ``(K,)``, in double precision; FamilyError naming ``owner`` otherwise."""
    probs = torch.as_tensor(value, dtype=torch.float64)
    probs = probs.expand(num_ops) if probs.ndim == 0 else probs
    if probs.shape != (num_ops,) or not bool(((probs >= 0) & (probs <= 1)).all()):
        raise FamilyError(
            f"{owner}: probs={probs.tolist()} must be one probability in [0, 1], or one for each of the "
            f"{num_ops} operations."
        )
    return probs


def bernoulli_log_mass(gates: Tensor, probs: Tensor) -> Tensor:
    """``Σ_r γ_r log p_r + (1-γ_r) log(1-p_r)`` for gates ``(*b, K)`` of 0 and 1, shape ``(*b)``."""
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
        probabilities(owner, self.probs, num_ops)

    def vertex_log_mass(self, gates: Tensor) -> Tensor:
        """Sum of Bernoulli log-masses."""
        return bernoulli_log_mass(gates, probabilities("Bernoulli", self.probs, gates.shape[-1]))

    def sample(self, edge: str, ops: Sequence[str], like: Tensor) -> Tensor:
        """The stacked sites ``gamma/<edge>/<op>``."""
        probs = probabilities(f"edge {edge!r}", self.probs, len(ops)).to(dtype=like.dtype, device=like.device)
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
