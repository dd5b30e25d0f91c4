"""Models with discrete sites that are kept: HMC given them, then Gibbs over them."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal, NamedTuple, final

import torch
from torch import Tensor

from evidentia.inference.density.discrete import (
    DiscreteSite,
    discrete_sites,
    pack_discrete,
    unpack_discrete,
)
from evidentia.inference.mcmc.adaptation.halton import halton
from evidentia.inference.mcmc.adaptation.warmup import (
    METRICS,
    Tuning,
    init_tuning,
    step_size_at,
    update_tuning,
)
from evidentia.inference.mcmc.batched import BatchedKernel
from evidentia.inference.mcmc.discrete_gibbs import gibbs_sweep
from evidentia.inference.mcmc.hmc import hmc_init, hmc_step
from evidentia.inference.mcmc.info import Info
from evidentia.inference.mcmc.points import Point

__all__ = ["DiscreteGibbs", "GibbsRun"]


class GibbsRun(NamedTuple):
    """A run of `DiscreteGibbs`.

    Attributes:
        point: continuous positions, with density and gradient at the discrete values.
        values: (C, E) float64, all elements of all discrete sites.
        tuning: step size and metric.
        walk_rate: mean acceptance of discrete walks since the warm-up; one where none walks.
        step: transitions so far.
        warmup_steps: transitions that adapt.

    References:
        none; bookkeeping.
    """

    point: Point
    values: Tensor
    tuning: Tuning
    walk_rate: float
    step: int
    warmup_steps: int

    @property
    def position(self) -> Tensor:
        """(C, D)."""
        return self.point.position

    @property
    def log_density(self) -> Tensor:
        """(C,) nats, of positions and discrete values together."""
        return self.point.log_density


@final
class DiscreteGibbs(BatchedKernel):
    r"""Metropolis within Gibbs: HMC for the continuous sites, then a sweep over every discrete element.

    Elements with a finite support are drawn from their exact conditional, all values in one batch; others
    (Poisson …) walk by one up or down. The density is compiled with discrete="given", and draws have the
    discrete sites among them. Without discrete sites this is HMC of a fixed length.

    Args:
        model: a Pyro model.
        num_chains: chains inside.
        executor: as in `compile_density`.
        seed: of the kernel's random stream.
        trajectory_length: mean length of the HMC moves, in the whitened space.
        max_leapfrogs: cap on the leapfrogs of a move.
        sweeps: over the discrete elements, in each transition.
        jump: longest step of a discrete walk.
        target_accept_prob: mean acceptance of the HMC moves to aim at.
        metric: "auto", "dense", "diagonal" or "identity".
        forgetting: of the ensemble's moments.

    Raises:
        ValueError: a setting out of range.

    References:
        Geman, Geman, 1984, Stochastic relaxation, Gibbs distributions, and the Bayesian restoration of
        images. Tierney, 1994, Markov chains for exploring posterior distributions.

    Example:
        >>> DiscreteGibbs(num_chains=8).discrete
        'given'
    """

    name: ClassVar[str] = "gibbs"
    discrete: ClassVar[Literal["sum", "given"]] = "given"

    def __init__(
        self,
        model: Any = None,
        *,
        num_chains: int = 1,
        executor: str = "auto",
        seed: int | None = None,
        trajectory_length: float = 1.5,
        max_leapfrogs: int = 32,
        sweeps: int = 1,
        jump: int = 1,
        target_accept_prob: float = 0.8,
        metric: str = "auto",
        forgetting: float = 0.97,
    ) -> None:
        super().__init__(model, num_chains=num_chains, executor=executor, seed=seed)
        for word, value in (("max_leapfrogs", max_leapfrogs), ("sweeps", sweeps), ("jump", jump)):
            if value < 1:
                raise ValueError(f"{word}: expected a number >= 1, got {value}. Fix: {word}=1")
        if not 0.0 < target_accept_prob < 1.0:
            raise ValueError(
                f"target_accept_prob: expected between 0 and 1, got {target_accept_prob}. Fix: 0.8"
            )
        if metric not in METRICS:
            raise ValueError(f"metric: expected one of {METRICS}, got {metric!r}. Fix: metric='auto'")
        self.trajectory_length, self.max_leapfrogs = trajectory_length, max_leapfrogs
        self.sweeps, self.jump, self.target_accept_prob = sweeps, jump, target_accept_prob
        self.metric, self.forgetting = metric, forgetting
        self._known: tuple[Any, tuple[DiscreteSite, ...]] = (None, ())

    def init(self, *args: Any, **kwargs: Any) -> GibbsRun:
        """The first state under `MCMC.run(*args, **kwargs)`."""
        state: GibbsRun = super().init(*args, discrete="given", **kwargs)
        return state

    def start(
        self, density: Any, position: Tensor, warmup_steps: int, generator: torch.Generator | None
    ) -> GibbsRun:
        """The first state: finite elements begin uniformly on their support, others at a prior draw."""
        sites = self._sites(density)
        parts = [position.new_empty(len(position), 0, dtype=torch.float64)]
        for site in sites:
            if site.values is None:
                parts.append(site.first.expand(len(position), site.size))
            else:
                shape = (len(position), site.size)
                index = torch.randint(len(site.values), shape, generator=generator, device=position.device)
                parts.append(site.values[index])
        values = torch.cat(parts, -1).to(position.device)
        given = self._at(density, values)
        point = hmc_init(position, given)

        def trial(metric: Any, step_size: float) -> float:
            _, info = hmc_step(point, given, step_size, 1, metric, generator=generator)
            return float(info.acceptance_rate.mean())

        tuning = init_tuning(
            position,
            trial,
            step_size=None,
            first=position.shape[-1] ** -0.25,
            target=self.target_accept_prob,
            metric=self.metric,
            forgetting=self.forgetting,
        )
        return GibbsRun(point, values, tuning, 1.0, 0, warmup_steps)

    def advance(
        self, density: Any, state: GibbsRun, generator: torch.Generator | None
    ) -> tuple[GibbsRun, Info]:
        """One HMC move at the discrete values, then the sweeps."""
        point, values, tuning, walk_rate, step, warmup_steps = state
        step_size = step_size_at(tuning, step, warmup_steps)
        wanted = math.ceil(2.0 * halton(step + 1) * self.trajectory_length / step_size)
        num_steps = max(1, min(self.max_leapfrogs, 4 + step, wanted))
        point, info = hmc_step(
            point, self._at(density, values), step_size, num_steps, tuning.metric, generator=generator
        )
        sites = self._sites(density)
        if sites:
            value, evaluations, rate = point.log_density, 1, 0.0

            def joint(position: Tensor, given: Tensor) -> Tensor:
                found: Tensor = self._at(density, given)(position)
                return found

            for _ in range(self.sweeps):
                sweep = gibbs_sweep(
                    point.position, values, value, sites, joint, jump=self.jump, generator=generator
                )
                values, value = sweep.values, sweep.log_density
                evaluations += sweep.evaluations
                rate += float(sweep.acceptance.mean()) / self.sweeps
            point = hmc_init(point.position, self._at(density, values))
            info = info._replace(num_steps=info.num_steps + evaluations)
            seen = max(step - warmup_steps, 0) + 1
            walk_rate += (rate - walk_rate) / seen
        if step < warmup_steps:
            tuning = update_tuning(
                tuning, point.position, float(info.acceptance_rate.mean()), step, warmup_steps,
                target=self.target_accept_prob, metric=self.metric, forgetting=self.forgetting,
            )  # fmt: skip
        return GibbsRun(point, values, tuning, walk_rate, step + 1, warmup_steps), info

    def adaptation(self, state: GibbsRun) -> dict[str, Tensor]:
        """Step size, covariance, and the acceptance of discrete walks."""
        step_size = step_size_at(state.tuning, state.step, state.warmup_steps)
        return {
            "step_size": torch.tensor(step_size, dtype=torch.float64),
            "walk_rate": torch.tensor(state.walk_rate, dtype=torch.float64),
            "covariance": state.tuning.metric.covariance,
        }

    def extra_draws(self, density: Any, state: GibbsRun) -> dict[str, Tensor]:
        """The discrete sites of a state, site → (C, *shape), of the types that the model gives them."""
        sites = self._sites(density)
        found = unpack_discrete(sites, state.values)
        return {site.name: found[site.name].to(site.dtype) for site in sites}

    def relocate(self, density: Any, state: GibbsRun, position: Tensor) -> GibbsRun:
        """The chains moved; discrete values and adaptation kept."""
        return state._replace(point=hmc_init(position, self._at(density, state.values)))

    def unpack(self, state: GibbsRun) -> dict[str, Tensor]:
        """Unconstrained continuous sites and discrete sites."""
        extra = self.extra_draws(self.density, state)
        return super().unpack(state) | {k: v if self._batched else v[0] for k, v in extra.items()}

    def pack(self, state: GibbsRun, params: dict[str, Tensor]) -> GibbsRun:
        """`state` moved to unconstrained sites, and to discrete values where they are given."""
        sites = self._sites(self.density)
        if sites and all(site.name in params for site in sites):
            given = {s.name: params[s.name].reshape(self.num_chains, *s.shape) for s in sites}
            state = state._replace(values=pack_discrete(sites, given))
        return self.relocate(self.density, state, self._positions(params))

    def _sites(self, density: Any) -> tuple[DiscreteSite, ...]:
        """Found once for each density: that takes a run of the model."""
        if self._known[0] is not density:
            self._known = (density, discrete_sites(density))
        return self._known[1]

    def _at(self, density: Any, values: Tensor) -> Any:
        """The density at discrete values (R, E)."""
        sites = self._sites(density)
        return density.with_discrete(unpack_discrete(sites, values)) if sites else density
