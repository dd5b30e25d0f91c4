"""Parallel tempering: a ladder of temperatures in one batch, moved by HMC and exchanged."""

from __future__ import annotations

import math
from typing import Any, ClassVar, NamedTuple, final

import torch
from torch import Tensor

from evidentia.inference.mcmc.adaptation.halton import halton
from evidentia.inference.mcmc.adaptation.warmup import METRICS, Tuning, init_tuning, update_tuning
from evidentia.inference.mcmc.batched import BatchedKernel
from evidentia.inference.mcmc.hmc import hmc_step
from evidentia.inference.mcmc.info import Info
from evidentia.inference.mcmc.ladder import equalised_ladder, first_ladder
from evidentia.inference.mcmc.points import Point, evaluate_point
from evidentia.inference.mcmc.tempering import swap_step

__all__ = ["ParallelTempering", "TemperingRun"]


class TemperingRun(NamedTuple):
    """A run of `ParallelTempering`; K temperatures of C chains.

    Attributes:
        position: (C, D), the chains at beta one: the first rows of the ladder.
        ladder: of K C rows, row k C + c is chain c at temperature k.
        betas: (K,) from one downwards.
        log_step: (K,) logarithms of the step sizes in use.
        log_average: (K,) of those to use after the warm-up.
        swap_rate: (K - 1,) mean acceptance of swaps since `swap_count` began.
        swap_count: (K - 1,) rounds in which a pair was asked.
        tuning: metric, of the chains at beta one.
        step: transitions so far.
        warmup_steps: transitions that adapt.

    References:
        none; bookkeeping.
    """

    position: Tensor
    ladder: Point
    betas: Tensor
    log_step: Tensor
    log_average: Tensor
    swap_rate: Tensor
    swap_count: Tensor
    tuning: Tuning
    step: int
    warmup_steps: int

    @property
    def log_density(self) -> Tensor:
        """(C,) nats, of the chains at beta one."""
        return self.ladder.log_density[: len(self.position)]


@final
class ParallelTempering(BatchedKernel):
    r"""Chains at \(1 = \beta_0 > \dots > \beta_{K-1}\), moved by HMC and swapped with their neighbours.

    All temperatures move in one batch of K C rows; the result is the C chains at \(\beta = 1\). Swaps
    alternate between even and odd pairs. In the warm-up every temperature tunes its own step size, and the
    ladder moves towards equal swap rates (`adaptation` reports them; 0.6 to 0.8 is good, more temperatures
    raise them). Every chain has a ladder of its own: chains stay independent.

    Args:
        model: a Pyro model.
        num_chains: chains at beta one.
        executor: as in `compile_density`.
        seed: of the kernel's random stream.
        num_temperatures: \(K\).
        lowest_beta: \(\beta_{K-1}\); when None 0 (the prior) for a model with a proper prior, else 0.02.
        trajectory_length: mean length of the HMC moves, in the whitened space of beta one.
        max_leapfrogs: cap on the leapfrogs of a move.
        target_accept_prob: mean acceptance of the HMC moves to aim at.
        metric: "auto", "dense", "diagonal" or "identity".
        forgetting: of the ensemble's moments.

    Raises:
        ValueError: a setting out of range.

    References:
        Geyer, 1991, Markov chain Monte Carlo maximum likelihood. Syed, Bouchard-Côté, Deligiannidis, Doucet,
        2022, Non-reversible parallel tempering: a scalable highly parallel MCMC scheme.

    Example:
        >>> from evidentia.inference.density.evaluation import target_of
        >>> normal, generator = target_of(lambda x: -0.5 * (x**2).sum(-1)), torch.Generator().manual_seed(0)
        >>> kernel = ParallelTempering(num_chains=8, num_temperatures=3)
        >>> state = kernel.start(normal, torch.zeros(8, 2), 20, generator)
        >>> for _ in range(25):
        ...     state, info = kernel.advance(normal, state, generator)
        >>> sorted(kernel.adaptation(state))
        ['betas', 'covariance', 'step_size', 'step_sizes', 'swap_rate']
    """

    name: ClassVar[str] = "tempering"

    def __init__(
        self,
        model: Any = None,
        *,
        num_chains: int = 1,
        executor: str = "auto",
        seed: int | None = None,
        num_temperatures: int = 8,
        lowest_beta: float | None = None,
        trajectory_length: float = 1.5,
        max_leapfrogs: int = 16,
        target_accept_prob: float = 0.8,
        metric: str = "auto",
        forgetting: float = 0.97,
    ) -> None:
        super().__init__(model, num_chains=num_chains, executor=executor, seed=seed)
        first_ladder(num_temperatures, 0.0 if lowest_beta is None else lowest_beta)
        if not 0.0 < target_accept_prob < 1.0:
            raise ValueError(
                f"target_accept_prob: expected between 0 and 1, got {target_accept_prob}. Fix: 0.8"
            )
        if max_leapfrogs < 1 or not trajectory_length > 0:
            raise ValueError("max_leapfrogs, trajectory_length: expected positive numbers. Fix: 16 and 1.5")
        if metric not in METRICS:
            raise ValueError(f"metric: expected one of {METRICS}, got {metric!r}. Fix: metric='auto'")
        self.num_temperatures, self.lowest_beta = num_temperatures, lowest_beta
        self.trajectory_length, self.max_leapfrogs = trajectory_length, max_leapfrogs
        self.target_accept_prob, self.metric, self.forgetting = target_accept_prob, metric, forgetting

    def start(
        self, density: Any, position: Tensor, warmup_steps: int, generator: torch.Generator | None
    ) -> TemperingRun:
        """The first state: every temperature of a chain starts at its position."""
        lowest = self.lowest_beta
        if lowest is None:
            proper = getattr(density, "proper_prior", False) and density.has_likelihood
            lowest = 0.0 if proper else 0.02
        betas = first_ladder(self.num_temperatures, lowest).to(position.device)
        tuning = init_tuning(
            position, None, step_size=1.0, first=1.0, target=self.target_accept_prob,
            metric=self.metric, forgetting=self.forgetting,
        )  # fmt: skip
        # Wide laws at low beta take longer steps, up to a limit that the tuning finds.
        log_step = math.log(0.5) - 0.25 * betas.clamp(min=0.05).log()
        pairs = torch.zeros(self.num_temperatures - 1, dtype=torch.float64, device=position.device)
        ladder = self._everywhere(density, position, betas)
        return TemperingRun(
            position, ladder, betas, log_step, log_step, pairs, pairs, tuning, 0, warmup_steps
        )

    def advance(
        self, density: Any, state: TemperingRun, generator: torch.Generator | None
    ) -> tuple[TemperingRun, Info]:
        """One HMC move of all rows, then one round of swaps."""
        _, ladder, betas, log_step, log_average, rate, count, tuning, step, warmup_steps = state
        adapting = step < warmup_steps
        levels, chains = len(betas), len(ladder.position) // len(betas)
        each = betas.repeat_interleave(chains)
        sizes = (log_step if adapting else log_average).exp()
        wanted = 2.0 * halton(step + 1) * self.trajectory_length / float(sizes[0])
        num_steps = max(1, min(self.max_leapfrogs, math.ceil(wanted)))
        moved, info = hmc_step(
            ladder, density, sizes.repeat_interleave(chains).to(ladder.position.dtype), num_steps,
            tuning.metric, beta=each, generator=generator,
        )  # fmt: skip
        swap = swap_step(moved.position, moved.log_likelihood, betas, step, generator)
        asked = ~swap.rate.isnan()
        count = count + asked
        rate = torch.where(asked, rate + (swap.rate - rate) / count.clamp(min=1), rate)
        if adapting:
            accept = info.acceptance_rate.reshape(levels, chains).mean(1)
            gain = (step + 2.0) ** -0.6
            log_step = log_step + gain * 2.0 * (accept - self.target_accept_prob)
            log_average = log_average + max(2.0 / (step + 2), 0.03) * (log_step - log_average)
            tuning = update_tuning(
                tuning, swap.position[:chains], 1.0, step, warmup_steps,
                target=None, metric=self.metric, forgetting=self.forgetting,
            )  # fmt: skip
            if _renews(step + 1, warmup_steps) and bool((count > 0).all()):
                betas, log_step, log_average = self._moved_ladder(betas, rate, log_step, log_average)
                rate, count = torch.zeros_like(rate), torch.zeros_like(count)
            elif step + 1 == warmup_steps:
                # What is reported is what the sampling phase does.
                rate, count = torch.zeros_like(rate), torch.zeros_like(count)
        ladder = evaluate_point(swap.position, density, betas.repeat_interleave(chains))
        cold = Info(*(part[:chains] if part.ndim else part for part in info))
        cold = cold._replace(num_steps=torch.tensor((num_steps + 1) * levels))
        run = TemperingRun(
            ladder.position[:chains], ladder, betas, log_step, log_average, rate, count, tuning, step + 1,
            warmup_steps,
        )  # fmt: skip
        return run, cold

    def adaptation(self, state: TemperingRun) -> dict[str, Tensor]:
        """Step sizes, that of beta one by itself; ladder, swap rates and covariance."""
        sizes = (state.log_step if state.step < state.warmup_steps else state.log_average).exp()
        return {
            "step_size": sizes[0],
            "step_sizes": sizes,
            "betas": state.betas,
            "swap_rate": state.swap_rate,
            "covariance": state.tuning.metric.covariance,
        }

    def relocate(self, density: Any, state: TemperingRun, position: Tensor) -> TemperingRun:
        """The chains moved at every temperature; the adaptation kept."""
        return state._replace(position=position, ladder=self._everywhere(density, position, state.betas))

    def _everywhere(self, density: Any, position: Tensor, betas: Tensor) -> Point:
        rows = position.repeat(len(betas), 1)
        return evaluate_point(rows, density, betas.repeat_interleave(len(position)))

    def _moved_ladder(self, betas: Tensor, rate: Tensor, *logs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The equalised ladder, with step sizes interpolated onto it."""
        new = equalised_ladder(betas, rate)
        old, order = betas.flip(0), logs
        right = torch.searchsorted(old, new).clamp(1, len(old) - 1)
        share = ((new - old[right - 1]) / (old[right] - old[right - 1]).clamp(min=1e-300)).clamp(0.0, 1.0)
        first, second = (torch.lerp(log.flip(0)[right - 1], log.flip(0)[right], share) for log in order)
        return new, first, second


def _renews(step: int, warmup_steps: int) -> bool:
    """At an eighth, a quarter, a half and three quarters of the warm-up."""
    return step in {warmup_steps * part // 8 for part in (1, 2, 4, 6)} and step > 1
