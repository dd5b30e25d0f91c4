"""Collapsed Gibbs over structures: weights integrated out, chains batched, state resumable."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evidentia.inference.evidence.log_evidence import Kind
from evidentia.inference.structure.gibbs_step import GibbsState, dispersed, make_target, step
from evidentia.inference.structure.gibbs_target import CachedTarget, GibbsTarget, LogEvidenceFunction
from evidentia.inference.structure.linear import family_of
from evidentia.inference.structure.posterior import StructurePosterior
from evidentia.inference.structure.scores import linear_scores
from evidentia.inference.validate import check_conditional_rows, check_data
from evidentia.models.linear.conjugate_regression import ConjugateRegression
from evidentia.models.structure.family import Family

Watcher = Callable[[int, Callable[[], dict[str, Tensor]]], bool | None]


def structure_gibbs(
    model: Any,
    x: Any,
    y: Any,
    *,
    num_sweeps: int = 2000,
    warmup_sweeps: int = 200,
    num_chains: int = 4,
    seed: int = 0,
    log_evidence: LogEvidenceFunction | None = None,
    kind: Kind = "consistent estimate",
    initial: Tensor | None = None,
    state: Mapping[str, Tensor] | None = None,
    conditional_rows: int | None = None,
    callback: Watcher | None = None,
) -> StructurePosterior:
    """Sample structures from p(Γ | y) ∝ p(y | Γ) P(Γ) by Gibbs sweeps in random order.

    Conjugate models need nothing else. Any other model needs `log_evidence`; its values are cached by
    structure.

    Args:
        model: SubsetRegression, or the model of a family.
        x, y: data.
        num_sweeps: kept, per chain.
        warmup_sweeps: dropped before.
        num_chains: run as one batch, from dispersed starts.
        seed: of everything random here.
        log_evidence: gates (B, G) -> (B,), for models without a closed form.
        kind: of what `log_evidence` returns.
        initial: (G,) or (num_chains, G); uniformly random structures when None.
        state: `StructurePosterior.state` of a shorter run with the same arguments; it goes on bit for bit.
        conditional_rows: as in `enumerate_structures`.
        callback: called after each sweep with its number and a function giving the state; True stops.

    Returns:
        StructurePosterior over the visited structures, with `draws` (chains, num_sweeps, G).

    Raises:
        ValueError: bad data, a bad start, no closed form and no `log_evidence`, or a state of another run.

    References:
        George and McCulloch, 1997. Approaches for Bayesian variable selection.

    Example:
        >>> from evidentia.models.regression import NormalPrior, SubsetRegression
        >>> x = torch.tensor([[1.0, 0.0], [-1.0, 1.0], [0.5, -1.0], [2.0, 0.3]], dtype=torch.float64)
        >>> model = SubsetRegression(["a", "b"], NormalPrior(noise_scale=0.5))
        >>> posterior = structure_gibbs(model, x, 2 * x[:, 0], num_sweeps=50, warmup_sweeps=5)
        >>> posterior.draws.shape, posterior.map.label
        (torch.Size([4, 50, 2]), '{a}')
    """
    if num_sweeps < 1 or warmup_sweeps < 0 or num_chains < 1:
        raise ValueError(
            f"structure_gibbs: need num_sweeps ≥ 1, warmup_sweeps ≥ 0 and num_chains ≥ 1, got {num_sweeps}, "
            f"{warmup_sweeps} and {num_chains}"
        )
    family = family_of(model)
    target, problem = make_target(model, x, y, log_evidence)
    if problem is not None:  # said before the run, not after it
        check_conditional_rows(conditional_rows, len(problem.y))
        linear_scores(problem, torch.zeros(0, family.num_gates), conditional_rows)
    if state is None:
        now, done = dispersed(target, family, num_chains, seed, initial), 0
        draws: list[Tensor] = []
    else:
        now, done, draws = _resume(target, family, state, num_chains, problem)
    total = warmup_sweeps + num_sweeps

    def snapshot() -> dict[str, Tensor]:
        return _flatten(now, done, draws, target, family)

    while done < total:
        now, _ = step(now, target, family)
        done += 1
        if done > warmup_sweeps:
            draws.append(now.position.to(torch.uint8))
        if callback is not None and callback(done, snapshot):
            break
    if not draws:
        raise ValueError(
            f"structure_gibbs: stopped after {done} of {warmup_sweeps} warm-up sweeps, nothing was kept"
        )
    gates = torch.stack(draws, 1)
    visited = _unique(gates)
    value = target.log_evidence(visited)
    exact = problem is not None
    return StructurePosterior(
        family,
        visited,
        value,
        torch.zeros_like(value),
        "exact" if exact else kind,
        family.log_prior(visited),
        draws=gates,
        model=model,
        problem=problem,
        scores=linear_scores(problem, visited, conditional_rows) if problem is not None else None,
        state=snapshot(),
        data=check_data(x, y),
    )


def _flatten(
    state: GibbsState, done: int, draws: list[Tensor], target: GibbsTarget, family: Family
) -> dict[str, Tensor]:
    kept = torch.stack(draws, 1) if draws else torch.zeros(len(state.position), 0, family.num_gates)
    flat = {
        "gates": state.position.to(torch.uint8),
        "log_evidence": state.log_evidence,
        "generator": state.generator,
        "sweeps": torch.tensor(done),
        "draws": kept.to(torch.uint8),
    }
    if isinstance(target, CachedTarget):
        flat["cache/gates"], flat["cache/log_evidence"] = target.memory()
    return flat


def _resume(
    target: GibbsTarget,
    family: Family,
    state: Mapping[str, Tensor],
    chains: int,
    problem: ConjugateRegression | None,
) -> tuple[GibbsState, int, list[Tensor]]:
    gates = state["gates"].double()
    if gates.shape != (chains, family.num_gates):
        raise ValueError(
            f"structure_gibbs: the state has gates {tuple(gates.shape)}, not {(chains, family.num_gates)}; "
            "resume with the model and num_chains of the first run"
        )
    if problem is not None and not torch.allclose(
        problem.log_evidence(gates), state["log_evidence"], rtol=1e-6, atol=1e-6
    ):
        raise ValueError(
            "structure_gibbs: the state belongs to other data or another prior: its log evidences are not "
            "those of this model; resume with the data of the first run"
        )
    if isinstance(target, CachedTarget) and "cache/gates" in state:
        target.remember(state["cache/gates"], state["cache/log_evidence"])
    evidence = state["log_evidence"]
    now = GibbsState(gates, evidence + family.log_prior(gates), evidence, state["generator"])
    return now, int(state["sweeps"]), list(state["draws"].unbind(1))


def _unique(draws: Tensor) -> Tensor:
    """The different structures among draws (chains, draws, G), float64."""
    flat = draws.reshape(-1, draws.shape[-1]).numpy()
    _, first = np.unique(np.packbits(flat, axis=1), axis=0, return_index=True)
    return torch.tensor(flat[np.sort(first)], dtype=torch.float64)
