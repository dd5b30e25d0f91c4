"""HMC with everything adapted: step size, ensemble metric and trajectory length."""

from __future__ import annotations

import math
from typing import Any, ClassVar, NamedTuple, final

import torch
from torch import Tensor

from evidentia.inference.mcmc.adaptation.halton import halton
from evidentia.inference.mcmc.adaptation.trajectory import (
    Trajectory,
    chees,
    final_trajectory,
    init_trajectory,
    principal_direction,
    snaper,
    update_trajectory,
)
from evidentia.inference.mcmc.adaptation.warmup import Tuning, init_tuning, step_size_at, update_tuning
from evidentia.inference.mcmc.batched import BatchedKernel
from evidentia.inference.mcmc.hmc import HMCState, hmc_init, hmc_transition
from evidentia.inference.mcmc.info import Info

__all__ = ["HMC", "HMCRun"]

# Part of the warm-up after which the trajectory length begins anew.
RESTART = 0.3


class HMCRun(NamedTuple):
    """A run of `HMC`: where the chains are and what the warm-up knows.

    Attributes:
        point: of all chains.
        tuning: step size and metric.
        trajectory: trajectory length.
        direction: (D,) principal direction, for the SNAPER criterion.
        step: transitions so far.
        warmup_steps: transitions that adapt.

    References:
        none; bookkeeping.
    """

    point: HMCState
    tuning: Tuning
    trajectory: Trajectory
    direction: Tensor
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


@final
class HMC(BatchedKernel):
    r"""Hamiltonian Monte Carlo with \(n = \lceil 2 h_t T / e \rceil\) leapfrogs for all chains.

    \(h_t\) is Halton's sequence. In the warm-up dual averaging moves \(e\), the ensemble's covariance becomes
    the metric, and \(T\) climbs a criterion of how far the chains get. Afterwards all three are frozen and
    chains are independent.

    Args:
        model: a Pyro model.
        num_chains: chains inside; the dense metric wants twice as many as dimensions.
        executor: as in `compile_density`.
        seed: of the kernel's random stream.
        target_accept_prob: mean acceptance to aim at.
        criterion: "chees", "snaper" (one direction: for a diagonal metric in many dimensions) or "none"
            (the length stays as given).
        trajectory_length: first \(T\), in units of the whitened space.
        step_size: first \(e\); searched when None.
        metric: "auto", "dense", "diagonal" or "identity".
        max_leapfrogs: cap on \(n\).
        rate: what a longer trajectory must be worth, the power of \(T\) in the criterion.
        learning_rate: of \(\log T\).
        forgetting: of the ensemble's moments.
        beta: inverse temperature.

    Raises:
        ValueError: a setting out of range.

    References:
        Hoffman, Radul, Sountsov, 2021, An adaptive-MCMC scheme for setting trajectory lengths in Hamiltonian
        Monte Carlo. Sountsov, Hoffman, 2021, Focusing on difficult directions for learning HMC trajectory
        lengths.

    Example:
        >>> from evidentia.inference.density.evaluation import target_of
        >>> normal, generator = target_of(lambda x: -0.5 * (x**2).sum(-1)), torch.Generator().manual_seed(0)
        >>> kernel = HMC(num_chains=32)
        >>> state = kernel.start(normal, torch.zeros(32, 2), 50, generator)
        >>> for _ in range(60):
        ...     state, info = kernel.advance(normal, state, generator)
        >>> sorted(kernel.adaptation(state))
        ['covariance', 'step_size', 'trajectory_length']
    """

    name: ClassVar[str] = "hmc"

    def __init__(
        self,
        model: Any = None,
        *,
        num_chains: int = 1,
        executor: str = "auto",
        seed: int | None = None,
        target_accept_prob: float = 0.8,
        criterion: str = "chees",
        trajectory_length: float = 1.0,
        step_size: float | None = None,
        metric: str = "auto",
        max_leapfrogs: int = 256,
        rate: float = 0.3,
        learning_rate: float = 0.05,
        forgetting: float = 0.97,
        beta: Tensor | float = 1.0,
    ) -> None:
        super().__init__(model, num_chains=num_chains, executor=executor, seed=seed)
        if criterion not in ("chees", "snaper", "none"):
            raise ValueError(
                f"criterion: expected 'chees', 'snaper' or 'none', got {criterion!r}. Fix: criterion='chees'"
            )
        if not 0.0 < target_accept_prob < 1.0:
            raise ValueError(
                f"target_accept_prob: expected between 0 and 1, got {target_accept_prob}. Fix: 0.8"
            )
        if max_leapfrogs < 1:
            raise ValueError(f"max_leapfrogs: expected a number >= 1, got {max_leapfrogs}. Fix: 256")
        self.target_accept_prob, self.criterion, self.max_leapfrogs = (
            target_accept_prob,
            criterion,
            max_leapfrogs,
        )
        self.trajectory_length, self.step_size, self.metric = trajectory_length, step_size, metric
        self.rate, self.learning_rate, self.forgetting = rate, learning_rate, forgetting
        self.beta = beta

    def start(
        self, density: Any, position: Tensor, warmup_steps: int, generator: torch.Generator | None
    ) -> HMCRun:
        """The first state; a first step size is searched with single leapfrogs."""
        point = hmc_init(position, density, self.beta)

        def trial(metric: Any, step_size: float) -> float:
            _, info, _ = hmc_transition(
                point, density, step_size, 1, metric, beta=self.beta, generator=generator
            )
            return float(info.acceptance_rate.mean())

        tuning = init_tuning(
            position,
            trial,
            step_size=self.step_size,
            first=position.shape[-1] ** -0.25,
            target=self.target_accept_prob,
            metric=self.metric,
            forgetting=self.forgetting,
        )
        direction = torch.ones(position.shape[-1], dtype=torch.float64, device=position.device)
        direction /= math.sqrt(len(direction))
        return HMCRun(point, tuning, init_trajectory(self.trajectory_length), direction, 0, warmup_steps)

    def advance(self, density: Any, state: HMCRun, generator: torch.Generator | None) -> tuple[HMCRun, Info]:
        """One transition of all chains."""
        point, tuning, trajectory, direction, step, warmup_steps = state
        adapting = step < warmup_steps
        if adapting and step == int(RESTART * warmup_steps):
            # A length that a poor first metric asked for is a hundred turns in the whitened space.
            trajectory = init_trajectory(min(math.exp(trajectory.log_length), self.trajectory_length))
            state = state._replace(trajectory=trajectory)
        step_size = step_size_at(tuning, step, warmup_steps)
        length = math.exp(trajectory.log_length) if adapting else final_trajectory(trajectory)
        # A first step size may be far too small: trajectories grow with the knowledge of the warm-up.
        most = min(self.max_leapfrogs, 4 + step) if adapting else self.max_leapfrogs
        num_steps = max(1, min(most, math.ceil(2.0 * halton(step + 1) * length / step_size)))
        moved, info, end = hmc_transition(
            point, density, step_size, num_steps, tuning.metric, beta=self.beta, generator=generator
        )
        if adapting:
            if self.criterion != "none":
                trajectory, direction = self._lengthen(state, info, end, num_steps * step_size, step_size)
            tuning = update_tuning(
                tuning,
                moved.position,
                float(info.acceptance_rate.mean()),
                step,
                warmup_steps,
                target=self.target_accept_prob,
                metric=self.metric,
                forgetting=self.forgetting,
            )
        return HMCRun(moved, tuning, trajectory, direction, step + 1, warmup_steps), info

    def adaptation(self, state: HMCRun) -> dict[str, Tensor]:
        """Step size, trajectory length and covariance."""
        step_size = step_size_at(state.tuning, state.step, state.warmup_steps)
        return {
            "step_size": torch.tensor(step_size, dtype=torch.float64),
            "trajectory_length": torch.tensor(final_trajectory(state.trajectory), dtype=torch.float64),
            "covariance": state.tuning.metric.covariance,
        }

    def relocate(self, density: Any, state: HMCRun, position: Tensor) -> HMCRun:
        """The chains moved, the adaptation kept."""
        return state._replace(point=hmc_init(position, density, self.beta))

    def _lengthen(
        self, state: HMCRun, info: Info, end: Any, travelled: float, step_size: float
    ) -> tuple[Trajectory, Tensor]:
        """Trajectory and direction after one look at where the chains went."""
        direction, metric = state.direction, state.tuning.metric
        ends = (state.position, end.position, end.momentum, info.acceptance_rate, metric)
        if self.criterion == "snaper":
            direction = principal_direction(direction, state.position, metric, state.trajectory.updates)
            found = snaper(*ends, direction)
        else:
            found = chees(*ends)
        trajectory = update_trajectory(
            state.trajectory,
            float(found.value),
            float(found.derivative),
            travelled,
            rate=self.rate,
            learning_rate=self.learning_rate,
            shortest=step_size,
            longest=0.5 * self.max_leapfrogs * step_size,
        )
        return trajectory, direction
