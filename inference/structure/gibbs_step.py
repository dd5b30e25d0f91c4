"""One collapsed Gibbs sweep over structures: state, pure init and step, starts and targets."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from evidentia.inference.structure.gibbs_target import (
    CachedTarget,
    ConjugateTarget,
    GibbsTarget,
    LogEvidenceFunction,
)
from evidentia.inference.structure.linear import family_of, linear_problem
from evidentia.inference.validate import check_data
from evidentia.models.linear.conjugate_regression import ConjugateRegression
from evidentia.models.structure.family import Family


class GibbsState(NamedTuple):
    """Everything a continuation needs: gates (chains, G), log joint, log evidence (chains,), generator state.

    References:
        George and McCulloch, 1997. Approaches for Bayesian variable selection.
    """

    position: Tensor
    log_density: Tensor
    log_evidence: Tensor
    generator: Tensor


class GibbsInfo(NamedTuple):
    """Number of gates (or edges) that changed value, (chains,).

    References:
        George and McCulloch, 1997. Approaches for Bayesian variable selection.
    """

    changes: Tensor


def init(gates: Tensor, target: GibbsTarget, family: Family, generator: Tensor) -> GibbsState:
    """The state at `gates` (chains, G).

    References:
        George and McCulloch, 1997. Approaches for Bayesian variable selection.
    """
    gates = gates.double()
    evidence = target.log_evidence(gates)
    return GibbsState(gates, evidence + family.log_prior(gates), evidence, generator)


def step(state: GibbsState, target: GibbsTarget, family: Family) -> tuple[GibbsState, GibbsInfo]:
    """One sweep of every chain over all gates; pure up to the cache of `target`.

    References:
        George and McCulloch, 1997. Approaches for Bayesian variable selection.
    """
    generator = torch.Generator()
    generator.set_state(state.generator)
    swept = target.sweep(state.position, state.log_evidence, generator)
    log_density = swept.log_evidence + family.log_prior(swept.gates)
    return GibbsState(swept.gates, log_density, swept.log_evidence, generator.get_state()), GibbsInfo(
        swept.changes
    )


def dispersed(
    target: GibbsTarget, family: Family, chains: int, seed: int, initial: Tensor | None
) -> GibbsState:
    """Chains at `initial` (G,) or (chains, G), or at uniformly random structures when None.

    Raises:
        ValueError: `initial` is not a structure.

    References:
        Gelman and Rubin, 1992. Inference from iterative simulation using multiple sequences.
    """
    generator = torch.Generator().manual_seed(seed)
    if initial is None:
        parts = []
        for edge in family.edges:
            noise = torch.rand(chains, len(edge.ops), generator=generator)
            best = torch.nn.functional.one_hot(noise.argmax(-1), len(edge.ops))
            parts.append(noise > 0.5 if edge.domain.is_cube else best)
        gates = torch.cat([part.double() for part in parts], -1)
    else:
        gates = torch.as_tensor(initial).double().expand(chains, family.num_gates).clone()
        for row in gates:
            family.structure(row)  # raises when the start is not a structure
    return init(gates, target, family, generator.get_state())


def make_target(
    model: Any, x: Any, y: Any, log_evidence: LogEvidenceFunction | None = None
) -> tuple[GibbsTarget, ConjugateRegression | None]:
    """The fastest target for a model, and its conjugate problem if there is one.

    Raises:
        ValueError: bad data, or the model has no closed form and `log_evidence` is None.

    References:
        Andrieu and Roberts, 2009. The pseudo-marginal approach for efficient Monte Carlo computations.
    """
    family = family_of(model)
    if log_evidence is not None:
        check_data(x, y, family.inputs)
        return CachedTarget(family, log_evidence), None
    try:
        problem = linear_problem(model, x, y)
    except ValueError as error:
        raise ValueError(
            f"structure_gibbs: {error}; or pass log_evidence=, a function of the gates"
        ) from error
    (edge,) = family.edges
    if edge.domain.is_cube and problem.widths == [1] * len(edge.ops):
        return ConjugateTarget(problem, edge.prior), problem
    return CachedTarget(family, problem.log_evidence), problem
