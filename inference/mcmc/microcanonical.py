"""Microcanonical Langevin Monte Carlo: paths at unit speed, unadjusted."""

from __future__ import annotations

import math
from typing import Any, ClassVar, NamedTuple, final

import torch
from torch import Tensor

from evidentia.inference.mcmc.adaptation.warmup import METRICS, Tuning, init_tuning, update_tuning
from evidentia.inference.mcmc.batched import BatchedKernel
from evidentia.inference.mcmc.info import Info
from evidentia.inference.mcmc.isokinetic import draw_direction, isokinetic_path, refresh_direction
from evidentia.inference.mcmc.metric import Metric
from evidentia.inference.mcmc.points import Point, choose, evaluate_point

__all__ = ["MCLMC", "MCLMCRun", "MCLMCState", "check_dim", "mclmc_init", "mclmc_step"]


class MCLMCState(NamedTuple):
    """Where the chains are and where they head.

    Attributes:
        point: position, log density and gradient.
        direction: (C, D) unit vectors in the whitened space.

    References:
        Robnik, Seljak, 2024, Fluctuation without dissipation: microcanonical Langevin Monte Carlo.
    """

    point: Point
    direction: Tensor

    @property
    def position(self) -> Tensor:
        """(C, D)."""
        return self.point.position

    @property
    def log_density(self) -> Tensor:
        """(C,) nats."""
        return self.point.log_density


def mclmc_init(
    position: Tensor,
    density: Any,
    *,
    beta: Tensor | float = 1.0,
    generator: torch.Generator | None = None,
) -> MCLMCState:
    """The state at `position` (C, D), with uniform directions.

    Raises:
        ValueError: one dimension, where no direction can turn.

    References:
        Robnik, De Luca, Silverstein, Seljak, 2023, Microcanonical Hamiltonian Monte Carlo.

    Example:
        >>> from evidentia.inference.density.evaluation import target_of
        >>> mclmc_init(torch.ones(3, 2), target_of(lambda x: -0.5 * (x**2).sum(-1))).direction.shape
        torch.Size([3, 2])
    """
    check_dim(position)
    return MCLMCState(evaluate_point(position, density, beta), draw_direction(position, generator))


def mclmc_step(
    state: MCLMCState,
    density: Any,
    step_size: Tensor | float,
    length: float,
    metric: Metric,
    *,
    beta: Tensor | float = 1.0,
    generator: torch.Generator | None = None,
) -> tuple[MCLMCState, Info]:
    r"""One unadjusted step: forget the direction in part, then one isokinetic step.

    The exact dynamics leave \(\pi(q)\) times the uniform law of directions invariant; the step's bias is of
    second order in \(e\). A chain whose step is not finite stays, takes a new direction, and counts as
    divergent.

    Args:
        state: of all chains.
        density: a `LogDensity`, a tempered density or a plain target.
        step_size: \(e\), () or (C,), in the whitened space.
        length: \(L\), the length over which directions decorrelate; \(\sqrt D\) suits.
        metric: which whitens.
        beta: inverse temperature, () or (C,).
        generator: torch's global one when None.

    Returns:
        The new state and what happened; `energy_error` is what an accept step would have seen.

    References:
        Robnik, Seljak, 2024, Fluctuation without dissipation: microcanonical Langevin Monte Carlo.

    Example:
        >>> from evidentia.inference.density.evaluation import target_of
        >>> from evidentia.inference.mcmc.metric import identity_metric
        >>> normal, start = target_of(lambda x: -0.5 * (x**2).sum(-1)), torch.ones(3, 2)
        >>> state, info = mclmc_step(mclmc_init(start, normal), normal, 0.1, 1.4, identity_metric(start))
        >>> bool((info.energy_error.abs() < 0.1).all())
        True
    """
    direction = refresh_direction(state.direction, step_size, length, generator)
    path = isokinetic_path(state.point, direction, density, step_size, 1, metric, beta)
    finite = path.energy_error.isfinite() & path.point.gradient.isfinite().all(-1)
    fresh = draw_direction(direction, generator)
    info = Info(
        finite.double(), -state.log_density.double(), ~finite, torch.tensor(1), path.energy_error
    )  # fmt: skip
    heading = torch.where(finite[:, None], path.direction, fresh)
    return MCLMCState(choose(finite, path.point, state.point), heading), info


class MCLMCRun(NamedTuple):
    r"""A run of `MCLMC`.

    Attributes:
        moving: positions and directions.
        tuning: the metric.
        error: running mean of \(\Delta^2 / (D e^6)\).
        step_size: of the next step.
        step: transitions so far.
        warmup_steps: transitions that adapt.

    References:
        none; bookkeeping.
    """

    moving: MCLMCState
    tuning: Tuning
    error: float
    step_size: float
    step: int
    warmup_steps: int

    @property
    def position(self) -> Tensor:
        """(C, D)."""
        return self.moving.point.position

    @property
    def log_density(self) -> Tensor:
        """(C,) nats."""
        return self.moving.point.log_density


@final
class MCLMC(BatchedKernel):
    r"""Unadjusted microcanonical Langevin: one gradient a step and no rejections, for many dimensions.

    In the warm-up the step size goes to where the squared energy error per dimension, \(E \Delta^2 / D\), is
    `energy_variance`; as a step's error is of third order, \(e = (v / E[\Delta^2 / (D e^6)])^{1/6}\). Draws
    carry the flag *unadjusted*.

    Args:
        model: a Pyro model with two or more latent dimensions.
        num_chains: chains inside.
        executor: as in `compile_density`.
        seed: of the kernel's random stream.
        energy_variance: \(v\).
        length: decorrelation length in units of \(\sqrt D\).
        step_size: fixed in the whitened space; tuned when None.
        metric: "auto", "dense", "diagonal" or "identity".
        forgetting: of the ensemble's moments.
        beta: inverse temperature.

    Raises:
        ValueError: a setting out of range, or one dimension.

    References:
        Robnik, De Luca, Silverstein, Seljak, 2023, Microcanonical Hamiltonian Monte Carlo. Robnik, Seljak,
        2024, Fluctuation without dissipation: microcanonical Langevin Monte Carlo.

    Example:
        >>> MCLMC(num_chains=8).adjusted
        False
    """

    name: ClassVar[str] = "mclmc"
    adjusted: ClassVar[bool] = False

    def __init__(
        self,
        model: Any = None,
        *,
        num_chains: int = 1,
        executor: str = "auto",
        seed: int | None = None,
        energy_variance: float = 5e-4,
        length: float = 1.0,
        step_size: float | None = None,
        metric: str = "auto",
        forgetting: float = 0.97,
        beta: Tensor | float = 1.0,
    ) -> None:
        super().__init__(model, num_chains=num_chains, executor=executor, seed=seed)
        for word, value in (
            ("energy_variance", energy_variance),
            ("length", length),
            ("step_size", 1.0 if step_size is None else step_size),
        ):
            if not (value > 0 and math.isfinite(value)):
                raise ValueError(f"{word}: expected a positive number, got {value}. Fix: leave it out")
        if metric not in METRICS:
            raise ValueError(f"metric: expected one of {METRICS}, got {metric!r}. Fix: metric='auto'")
        self.energy_variance, self.length, self.step_size = energy_variance, length, step_size
        self.metric, self.forgetting, self.beta = metric, forgetting, beta

    def start(
        self, density: Any, position: Tensor, warmup_steps: int, generator: torch.Generator | None
    ) -> MCLMCRun:
        """The first state."""
        tuning = init_tuning(
            position, None, step_size=1.0, first=1.0, target=0.5,
            metric=self.metric, forgetting=self.forgetting,
        )  # fmt: skip
        moving = mclmc_init(position, density, beta=self.beta, generator=generator)
        first = 0.2 * math.sqrt(position.shape[-1]) if self.step_size is None else self.step_size
        return MCLMCRun(moving, tuning, 0.0, first, 0, warmup_steps)

    def advance(
        self, density: Any, state: MCLMCRun, generator: torch.Generator | None
    ) -> tuple[MCLMCRun, Info]:
        """One step of all chains."""
        moving, tuning, error, step_size, step, warmup_steps = state
        dim = moving.position.shape[-1]
        moved, info = mclmc_step(
            moving, density, step_size, self.length * math.sqrt(dim), tuning.metric,
            beta=self.beta, generator=generator,
        )  # fmt: skip
        if step < warmup_steps:
            tuning = update_tuning(
                tuning, moved.position, 1.0, step, warmup_steps,
                target=None, metric=self.metric, forgetting=self.forgetting,
            )  # fmt: skip
            if self.step_size is None:
                # One wild chain must not decide for the ensemble, hence the cap.
                cap = 1e3 * self.energy_variance * dim
                square = info.energy_error.square().nan_to_num(cap, cap, cap).clamp(max=cap)
                now = float(square.mean()) / (dim * step_size**6)
                # Few chains need a longer memory.
                weight = max(2.0 / (step + 2), min(0.1, len(square) / 640.0))
                error += weight * (now - error)
                wanted = (self.energy_variance / max(error, 1e-300)) ** (1.0 / 6.0)
                step_size = min(max(wanted, 0.5 * step_size), 2.0 * step_size, 2.0 * math.sqrt(dim))
        return MCLMCRun(moved, tuning, error, step_size, step + 1, warmup_steps), info

    def adaptation(self, state: MCLMCRun) -> dict[str, Tensor]:
        """Step size, decorrelation length and covariance."""
        length = self.length * math.sqrt(state.position.shape[-1])
        return {
            "step_size": torch.tensor(state.step_size, dtype=torch.float64),
            "trajectory_length": torch.tensor(length, dtype=torch.float64),
            "covariance": state.tuning.metric.covariance,
        }

    def relocate(self, density: Any, state: MCLMCRun, position: Tensor) -> MCLMCRun:
        """The chains moved; directions and adaptation kept."""
        return state._replace(
            moving=state.moving._replace(point=evaluate_point(position, density, self.beta))
        )


def check_dim(position: Tensor) -> None:
    """Refuses positions (C, D) in which no direction can turn.

    Raises:
        ValueError: one dimension.

    References:
        none; bookkeeping.

    Example:
        >>> check_dim(torch.zeros(1, 2))
    """
    if position.shape[-1] < 2:
        raise ValueError(
            f"position: microcanonical kernels need two or more dimensions, got {position.shape[-1]}. "
            "Fix: kernel='hmc'"
        )
