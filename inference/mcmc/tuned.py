"""What one-step kernels share: a step size tuned to an acceptance rate, and the ensemble metric."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from evidentia.inference.mcmc.adaptation.warmup import (
    METRICS,
    Tuning,
    init_tuning,
    step_size_at,
    update_tuning,
)
from evidentia.inference.mcmc.batched import BatchedKernel
from evidentia.inference.mcmc.info import Info
from evidentia.inference.mcmc.metric import Metric
from evidentia.inference.mcmc.points import Point, evaluate_point

__all__ = ["TunedKernel", "TunedRun"]


class TunedRun(NamedTuple):
    """A run of a tuned kernel.

    Attributes:
        point: of all chains.
        tuning: step size and metric.
        step: transitions so far.
        warmup_steps: transitions that adapt.

    References:
        none; bookkeeping.
    """

    point: Point
    tuning: Tuning
    step: int
    warmup_steps: int

    @property
    def position(self) -> Tensor:
        """(C, D)."""
        return self.point.position

    @property
    def log_density(self) -> Tensor:
        """(C,) nats."""
        return self.point.log_density


class TunedKernel(BatchedKernel):
    """Abstract: a kernel of one step size and one metric; a concrete class gives `transition`.

    Args:
        model: a Pyro model.
        num_chains: chains inside the kernel.
        executor: as in `compile_density`.
        seed: of the kernel's random stream.
        step_size: the first step size in the whitened space; searched when None.
        target_accept_prob: mean acceptance to aim at; the kernel's own optimum when None.
        metric: "auto" (dense for large ensembles), "dense", "diagonal" or "identity".
        forgetting: of the ensemble's moments.
        beta: inverse temperature, () or (C,).

    Raises:
        ValueError: a setting out of range.

    References:
        Roberts, Rosenthal, 2001, Optimal scaling for various Metropolis-Hastings algorithms.
    """

    optimal_acceptance: ClassVar[float]

    def __init__(
        self,
        model: Any = None,
        *,
        num_chains: int = 1,
        executor: str = "auto",
        seed: int | None = None,
        step_size: float | None = None,
        target_accept_prob: float | None = None,
        metric: str = "auto",
        forgetting: float = 0.97,
        beta: Tensor | float = 1.0,
    ) -> None:
        super().__init__(model, num_chains=num_chains, executor=executor, seed=seed)
        if metric not in METRICS:
            raise ValueError(
                f"metric: expected one of {', '.join(METRICS)}, got {metric!r}. Fix: metric='auto'"
            )
        target = self.optimal_acceptance if target_accept_prob is None else target_accept_prob
        if not 0.0 < target < 1.0:
            raise ValueError(
                f"target_accept_prob: expected between 0 and 1, got {target_accept_prob}. Fix: leave it out"
            )
        self.step_size, self.target_accept_prob, self.metric = step_size, target, metric
        self.forgetting, self.beta = forgetting, beta

    @abstractmethod
    def transition(
        self,
        point: Point,
        density: Any,
        step_size: float,
        metric: Metric,
        generator: torch.Generator | None,
    ) -> tuple[Point, Info]:
        """One transition of all chains with given settings: the pure step."""

    def warmup_transition(
        self,
        point: Point,
        density: Any,
        step_size: float,
        metric: Metric,
        generator: torch.Generator | None,
    ) -> tuple[Point, Info]:
        """The transition of the warm-up; the same as afterwards unless a class says otherwise."""
        return self.transition(point, density, step_size, metric, generator)

    def first_step_size(self) -> float | None:
        """Where the warm-up begins; None: searched."""
        return self.step_size

    def step_size_of(self, state: TunedRun) -> float:
        """The step size of the next transition."""
        return step_size_at(state.tuning, state.step, state.warmup_steps)

    def start(
        self, density: Any, position: Tensor, warmup_steps: int, generator: torch.Generator | None
    ) -> TunedRun:
        """The first state; a first step size is searched unless it was given."""
        point = evaluate_point(position, density, self.beta)

        def trial(metric: Metric, step_size: float) -> float:
            _, info = self.warmup_transition(point, density, step_size, metric, generator)
            return float(info.acceptance_rate.mean())

        tuning = init_tuning(
            position,
            trial,
            step_size=self.first_step_size(),
            first=1.0,
            target=self.target_accept_prob,
            metric=self.metric,
            forgetting=self.forgetting,
        )
        return TunedRun(point, tuning, 0, warmup_steps)

    def advance(
        self, density: Any, state: TunedRun, generator: torch.Generator | None
    ) -> tuple[TunedRun, Info]:
        """One transition of all chains; adapts within the warm-up."""
        point, tuning, step, warmup_steps = state
        adapting = step < warmup_steps
        move = self.warmup_transition if adapting else self.transition
        point, info = move(point, density, self.step_size_of(state), tuning.metric, generator)
        if adapting:
            tuning = update_tuning(
                tuning,
                point.position,
                float(info.acceptance_rate.mean()),
                step,
                warmup_steps,
                target=self.target_accept_prob,
                metric=self.metric,
                forgetting=self.forgetting,
            )
        return TunedRun(point, tuning, step + 1, warmup_steps), info

    def adaptation(self, state: TunedRun) -> dict[str, Tensor]:
        """Step size and covariance."""
        return {
            "step_size": torch.tensor(self.step_size_of(state), dtype=torch.float64),
            "covariance": state.tuning.metric.covariance,
        }

    def relocate(self, density: Any, state: TunedRun, position: Tensor) -> TunedRun:
        """The chains moved, the adaptation kept."""
        return state._replace(point=evaluate_point(position, density, self.beta))
