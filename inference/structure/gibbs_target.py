"""What structure Gibbs sweeps over: a conjugate model through its tableau, or any cached log evidence."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple, final

import torch
from torch import Tensor

from evidentia.inference.structure.tableau import flip, here, neighbours, start
from evidentia.models.linear.conjugate_regression import ConjugateRegression
from evidentia.models.structure.family import Family
from evidentia.models.structure.prior import StructurePrior
from evidentia.models.structure.priors import Bernoulli, BetaBinomial

LogEvidenceFunction = Callable[[Tensor], Tensor]


class Swept(NamedTuple):
    """Gates (chains, G), log evidence (chains,) and number of changes (chains,) after one sweep.

    References:
        George and McCulloch, 1997. Approaches for Bayesian variable selection.
    """

    gates: Tensor
    log_evidence: Tensor
    changes: Tensor


class GibbsTarget(ABC):
    """Abstract: the posterior over gates that a sweep leaves invariant."""

    @abstractmethod
    def log_evidence(self, gates: Tensor) -> Tensor:
        """log p(y | gates) in nats, (B, G) -> (B,)."""

    @abstractmethod
    def sweep(self, gates: Tensor, log_evidence: Tensor, generator: torch.Generator) -> Swept:
        """Visit every gate (or edge) once in random order, each drawn from its full conditional."""


@final
class ConjugateTarget(GibbsTarget):
    """Gates of one column each, on the vertices of one cube: evidence by the sweep operator.

    Between two changes the conditional odds of all gates stay as they are. So one evaluation of all
    neighbours finds the next gate, in the random order, that changes value; those before it keep theirs.
    The law is that of a gate-by-gate sweep; the work is one rank-one update per change.

    References:
        George and McCulloch, 1997. Approaches for Bayesian variable selection.

    Example:
        >>> from evidentia.models.linear.priors import NormalPrior
        >>> x = torch.tensor([[1.0], [-1.0]], dtype=torch.float64)
        >>> target = ConjugateTarget(ConjugateRegression(NormalPrior(), x, 9 * x[:, 0]), Bernoulli(0.5))
        >>> closed = torch.zeros(1, 1, dtype=torch.float64)
        >>> target.sweep(closed, target.log_evidence(closed), torch.Generator().manual_seed(0)).gates
        tensor([[1.]], dtype=torch.float64)
    """

    def __init__(self, problem: ConjugateRegression, prior: StructurePrior) -> None:
        if problem.widths != [1] * len(problem.widths):
            raise ValueError(
                "ConjugateTarget: every gate must own exactly one column; use CachedTarget instead"
            )
        self.problem = problem
        self._prior_gain = prior_gain(prior, len(problem.widths))

    def log_evidence(self, gates: Tensor) -> Tensor:
        """Exact."""
        return self.problem.log_evidence(gates)

    def sweep(self, gates: Tensor, log_evidence: Tensor, generator: torch.Generator) -> Swept:
        """One random-order sweep of all chains."""
        prior, data = self.problem.prior, self.problem.data
        order = torch.rand(gates.shape, dtype=gates.dtype, generator=generator)
        threshold = torch.rand(gates.shape, dtype=gates.dtype, generator=generator).logit()
        tableau = start(self.problem.matrix, gates, prior.floor)
        evidence = prior.log_evidence(data, here(tableau))
        cursor = torch.full_like(evidence, -1.0)
        changes = torch.zeros_like(evidence)
        while True:
            near = prior.log_evidence(data, neighbours(tableau))
            gain = near - evidence[:, None] + self._prior_gain(tableau.gates)
            opened = tableau.gates > 0
            wanted = threshold < torch.where(opened, -gain, gain)
            change = (wanted != opened) & (order > cursor[:, None])
            first, index = torch.where(change, order, 2.0).min(1)
            active = first < 2
            if not bool(active.any()):
                return Swept(tableau.gates, evidence, changes)
            evidence = torch.where(active, near.gather(1, index[:, None])[:, 0], evidence)
            tableau = flip(tableau, index, active)
            cursor = first  # 2 for a finished chain
            changes = changes + active


def prior_gain(prior: StructurePrior, gates: int) -> Callable[[Tensor], Tensor]:
    """A function from gates (chains, K) to the change of the log prior when each single gate is flipped.

    References:
        Scott and Berger, 2010. Bayes and empirical-Bayes multiplicity adjustment in the variable-selection
        problem.

    Example:
        >>> gain = prior_gain(BetaBinomial(), 2)(torch.tensor([[0.0, 0.0]], dtype=torch.float64))
        >>> bool((gain - torch.tensor([[1 / 6, 1 / 6]]).log() + math.log(1 / 3) < 1e-6).all())
        True
    """
    if isinstance(prior, Bernoulli):
        logits = torch.as_tensor(prior.probs, dtype=torch.float64).expand(gates).logit()
        return lambda value: torch.where(value > 0, -logits, logits)
    if isinstance(prior, BetaBinomial):
        sizes = torch.tril(torch.ones(gates + 1, gates, dtype=torch.float64), -1)
        by_size = prior.log_mass(sizes)

        def exchangeable(value: Tensor) -> Tensor:
            size = value.sum(-1, keepdim=True).long()
            step = torch.where(value > 0, -1, 1)
            return by_size[size + step] - by_size[size]

        return exchangeable

    def general(value: Tensor) -> Tensor:
        flipped = (value[:, None, :] - torch.eye(gates, dtype=value.dtype)).abs()
        return prior.log_mass(flipped) - prior.log_mass(value)[:, None]

    return general


@final
class CachedTarget(GibbsTarget):
    """Any family of vertices with any log-evidence function, each structure evaluated once.

    Cube gates are drawn one by one, simplex edges as one categorical. An *estimated* evidence is kept for
    ever (pseudo-marginal): the chain then targets exactly exp(estimate) × prior.

    Args:
        family: all edges on `cube_vertex`, `simplex_vertex`, or relaxed domains read at their vertices.
        function: gates (B, G) -> log evidence (B,); called only with structures not seen before.
        cache: evidences known already, from `memory`.

    References:
        Andrieu and Roberts, 2009. The pseudo-marginal approach for efficient Monte Carlo computations.

    Example:
        >>> from evidentia.models.structure.ops import Constant, GLM
        >>> family = Family(1).edge("x", "f", ops={"a": Constant(), "b": GLM()}, domain="simplex_vertex")
        >>> target = CachedTarget(family, lambda gates: 50 * gates[:, 1])
        >>> swept = target.sweep(torch.tensor([[1.0, 0.0]]), torch.zeros(1), torch.Generator().manual_seed(0))
        >>> swept.gates, len(target.cache)
        (tensor([[0., 1.]]), 2)
    """

    def __init__(
        self, family: Family, function: LogEvidenceFunction, cache: dict[bytes, float] | None = None
    ) -> None:
        self.family = family
        self.function = function
        self.cache: dict[bytes, float] = {} if cache is None else cache
        self._blocks: list[tuple[slice, bool]] = []
        begin = 0
        for edge in family.edges:
            count = len(edge.ops)
            if edge.domain.is_cube:
                self._blocks += [(slice(i, i + 1), True) for i in range(begin, begin + count)]
            else:
                self._blocks.append((slice(begin, begin + count), False))
            begin += count

    def log_evidence(self, gates: Tensor) -> Tensor:
        """From the cache; structures not in it are evaluated in one call."""
        keys = [row.tobytes() for row in gates.to(torch.uint8).numpy()]
        fresh = {key: i for i, key in enumerate(keys) if key not in self.cache}
        if fresh:
            rows = list(fresh.values())
            values = torch.as_tensor(self.function(gates[rows])).double()
            for key, row, value in zip(fresh, rows, values.tolist(), strict=True):
                if math.isnan(value):
                    raise ValueError(
                        f"log evidence of structure {self.family.label(gates[row])!r} is NaN; "
                        "return -inf for impossible structures, or repair the estimator"
                    )
                self.cache[key] = value
        return torch.tensor([self.cache[key] for key in keys], dtype=torch.float64)

    def sweep(self, gates: Tensor, log_evidence: Tensor, generator: torch.Generator) -> Swept:
        """One sweep; the random order of the blocks is common to the chains."""
        chains, changes = len(gates), torch.zeros(len(gates), dtype=torch.float64)
        evidence = log_evidence.double()
        for number in torch.randperm(len(self._blocks), generator=generator).tolist():
            where, is_flip = self._blocks[number]
            width = where.stop - where.start
            values = torch.tensor([[0.0], [1.0]]) if is_flip else torch.eye(width)
            options = gates[:, None, :].repeat(1, len(values), 1)
            options[:, :, where] = values.to(gates)
            flat = options.reshape(-1, options.shape[-1])
            scores = self.log_evidence(flat)
            joint = (scores + self.family.log_prior(flat.double())).reshape(chains, -1)
            uniform = torch.rand(joint.shape, dtype=torch.float64, generator=generator)
            choice = (joint - (-uniform.log()).log()).argmax(1)
            moved = options[torch.arange(chains), choice]
            changes = changes + (moved != gates).any(-1)
            gates, evidence = moved, scores.reshape(chains, -1)[torch.arange(chains), choice]
        return Swept(gates, evidence, changes)

    def memory(self) -> tuple[Tensor, Tensor]:
        """The cache as plain tensors: structures (N, G) uint8 and evidences (N,)."""
        if not self.cache:
            return torch.zeros(0, self.family.num_gates, dtype=torch.uint8), torch.zeros(
                0, dtype=torch.float64
            )
        keys = torch.tensor([list(key) for key in self.cache], dtype=torch.uint8)
        return keys, torch.tensor(list(self.cache.values()), dtype=torch.float64)

    def remember(self, keys: Tensor, values: Tensor) -> None:
        """Put `memory` back."""
        self.cache.update(
            (row.tobytes(), value) for row, value in zip(keys.numpy(), values.tolist(), strict=True)
        )
