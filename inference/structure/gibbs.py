"""Collapsed Gibbs over structures: weights integrated out, chains batched, state resumable."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, final

import numpy as np
import torch
from evidentia.inference.evidence.log_evidence import Kind
from evidentia.inference.mcmc.kernel import Kernel
from evidentia.inference.structure.enumerate import linear_scores
from evidentia.inference.structure.gibbs_target import (
    CachedTarget,
    ConjugateTarget,
    GibbsTarget,
    LogEvidenceFunction,
)
from evidentia.inference.structure.linear import family_of, linear_problem
from evidentia.inference.structure.posterior import StructurePosterior
from evidentia.inference.validate import check_data
from evidentia.models.conjugate_regression import ConjugateRegression
from evidentia.models.structure.family import Family
from torch import Tensor

Watcher = Callable[[int, Callable[[], dict[str, Tensor]]], bool | None]


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
    if state is None:
        now, done = _start(target, family, num_chains, seed, initial), 0
        draws: list[Tensor] = []
    else:
        now, done, draws = _resume(target, family, state, num_chains)
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
    )


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


def _start(target: GibbsTarget, family: Family, chains: int, seed: int, initial: Tensor | None) -> GibbsState:
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
    target: GibbsTarget, family: Family, state: Mapping[str, Tensor], chains: int
) -> tuple[GibbsState, int, list[Tensor]]:
    gates = state["gates"].double()
    if gates.shape != (chains, family.num_gates):
        raise ValueError(
            f"structure_gibbs: the state has gates {tuple(gates.shape)}, not {(chains, family.num_gates)}; "
            "resume with the model and num_chains of the first run"
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


def _data(x: Any, y: Any) -> tuple[Any, Any]:
    return x, y


@final
class StructureGibbs(Kernel):
    """Collapsed structure Gibbs under `pyro.infer.MCMC`; samples are the structure sites of the model.

    Args:
        model: as in `structure_gibbs`.
        num_chains: batched inside; with one chain the samples have no chain dimension.
        seed: of the sweeps.
        log_evidence: for models without a closed form.

    References:
        George and McCulloch, 1997. Approaches for Bayesian variable selection.

    Example:
        >>> from evidentia.models.regression import NormalPrior, SubsetRegression
        >>> from pyro.infer import MCMC
        >>> x = torch.tensor([[1.0, 0.0], [-1.0, 1.0], [0.5, -1.0], [2.0, 0.3]], dtype=torch.float64)
        >>> kernel = StructureGibbs(SubsetRegression(["a", "b"], NormalPrior(noise_scale=0.5)))
        >>> mcmc = MCMC(kernel, num_samples=20, warmup_steps=5, disable_progbar=True)
        >>> mcmc.run(x, 2 * x[:, 0])
        >>> sorted(mcmc.get_samples())
        ['gamma/x->f/a', 'gamma/x->f/b']
    """

    def __init__(
        self,
        model: Any,
        *,
        num_chains: int = 1,
        seed: int = 0,
        log_evidence: LogEvidenceFunction | None = None,
    ) -> None:
        super().__init__(model)
        self.family = family_of(model)
        self.num_chains = num_chains
        self.seed = seed
        self._function = log_evidence
        self._target: GibbsTarget | None = None

    @property
    def target(self) -> GibbsTarget:
        """What is swept; known after `setup`."""
        if self._target is None:
            raise ValueError("StructureGibbs: no data yet; run it with MCMC(kernel, ...).run(x, y)")
        return self._target

    def init(self, *args: Any, **kwargs: Any) -> GibbsState:
        """Dispersed random structures."""
        x, y = _data(*args, **kwargs)
        self._target, _ = make_target(self.model, x, y, self._function)
        return _start(self._target, self.family, self.num_chains, self.seed, None)

    def step(self, state: GibbsState) -> tuple[GibbsState, GibbsInfo]:
        """One sweep."""
        return step(state, self.target, self.family)

    def unpack(self, state: GibbsState) -> dict[str, Tensor]:
        """Structure sites."""
        sites: dict[str, Tensor] = {}
        begin = 0
        for edge in self.family.edges:
            part = state.position[:, begin : begin + len(edge.ops)]
            if edge.domain.is_cube:
                sites |= {f"gamma/{edge.name}/{name}": part[:, i] for i, name in enumerate(edge.ops)}
            else:
                sites[f"gamma/{edge.name}"] = part.argmax(-1).double()
            begin += len(edge.ops)
        return {name: value[0] if self.num_chains == 1 else value for name, value in sites.items()}

    def pack(self, state: GibbsState, params: dict[str, Tensor]) -> GibbsState:
        """The state at given structure sites."""
        parts = []
        for edge in self.family.edges:
            if edge.domain.is_cube:
                columns = [params[f"gamma/{edge.name}/{name}"].reshape(self.num_chains) for name in edge.ops]
                parts.append(torch.stack(columns, -1))
            else:
                index = params[f"gamma/{edge.name}"].reshape(self.num_chains).long()
                parts.append(torch.nn.functional.one_hot(index, len(edge.ops)))
        gates = torch.cat([part.double() for part in parts], -1)
        return init(gates, self.target, self.family, state.generator)
