"""MEADS: generalised HMC whose step size and damping come from the moments of other chains."""

from __future__ import annotations

import math
from typing import Any, ClassVar, NamedTuple, final

import torch
from torch import Tensor

from evidentia.inference.mcmc.adaptation.step_size import search_step_size
from evidentia.inference.mcmc.adaptation.warmup import (
    METRICS,
    Tuning,
    init_tuning,
    step_size_at,
    update_tuning,
)
from evidentia.inference.mcmc.batched import BatchedKernel
from evidentia.inference.mcmc.ghmc import GHMCState, ghmc_init, ghmc_step
from evidentia.inference.mcmc.info import Info
from evidentia.inference.mcmc.metric import Metric, whiten
from evidentia.inference.mcmc.points import evaluate_point

__all__ = ["MEADS", "MEADSRun", "largest_variance"]


def largest_variance(value: Tensor) -> Tensor:
    r"""An estimate of \(\sum\lambda^2 / \sum\lambda\) of second moments: near the largest eigenvalue.

    Both sums are estimated without bias, the first by \(\sum_{i \ne j} (x_i^\top x_j)^2 / n(n - 1)\), so
    that folds smaller than the dimension do not look stretched.

    Args:
        value: (folds, n, D), \(n \ge 2\); the moments are about zero.

    Returns:
        (folds,) float64.

    References:
        Hoffman, Sountsov, 2022, Tuning-free generalized Hamiltonian Monte Carlo.

    Example:
        >>> largest_variance(torch.tensor([[[3.0, 0.0], [-3.0, 0.0]]]))
        tensor([9.], dtype=torch.float64)
    """
    value = value.double()
    count = value.shape[1]
    small = value if count <= value.shape[2] else value.mT
    norms = value.square().sum(-1)
    squares = (small @ small.mT).square().sum((-2, -1)) - norms.square().sum(-1)
    return squares / (count - 1) / norms.sum(-1).clamp(min=1e-300)


class MEADSRun(NamedTuple):
    """A run of `MEADS`.

    Attributes:
        moving: positions, momenta and slices.
        tuning: metric, and a step size in units of the folds' own.
        scale: running geometric mean of the folds' step sizes, in logs.
        damping: running geometric mean of the folds' dampings, in logs.
        step: transitions so far.
        warmup_steps: transitions that adapt.

    References:
        none; bookkeeping.
    """

    moving: GHMCState
    tuning: Tuning
    scale: float
    damping: float
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
class MEADS(BatchedKernel):
    r"""Generalised HMC tuned by maximum eigenvalues over folds of chains.

    In the warm-up each fold moves with the step size and damping that another fold's moments give, in the
    space whitened by the ensemble's metric: \(e = r / \sqrt{2\lambda_{\max}(g g^\top)}\), \(\gamma =
    \max(1 / \sqrt{\lambda_{\max}(q q^\top)}, 1 / (e t))\); dual averaging moves the common factor \(r\)
    until the mean acceptance is 0.94. Afterwards all is frozen at its running mean, the same for all chains.

    With fewer than sixteen chains there are no folds: \(\gamma = 1\), and the step size is that of dual
    averaging. The paper also rests one fold in turn and has no accept target.

    Args:
        model: a Pyro model.
        num_chains: chains inside; 64 or more are wanted.
        executor: as in `compile_density`.
        seed: of the kernel's random stream.
        target_accept_prob: mean acceptance to aim at.
        folds: number of folds.
        metric: "auto", "dense", "diagonal" or "identity".
        forgetting: of the ensemble's moments.
        beta: inverse temperature.

    Raises:
        ValueError: a setting out of range.

    References:
        Hoffman, Sountsov, 2022, Tuning-free generalized Hamiltonian Monte Carlo.

    Example:
        >>> from evidentia.inference.density.evaluation import target_of
        >>> normal, generator = target_of(lambda x: -0.5 * (x**2).sum(-1)), torch.Generator().manual_seed(0)
        >>> kernel = MEADS(num_chains=32)
        >>> state = kernel.start(normal, torch.zeros(32, 2), 50, generator)
        >>> for _ in range(60):
        ...     state, info = kernel.advance(normal, state, generator)
        >>> sorted(kernel.adaptation(state))
        ['covariance', 'damping', 'step_size']
    """

    name: ClassVar[str] = "meads"

    def __init__(
        self,
        model: Any = None,
        *,
        num_chains: int = 1,
        executor: str = "auto",
        seed: int | None = None,
        target_accept_prob: float = 0.94,
        folds: int = 4,
        metric: str = "auto",
        forgetting: float = 0.97,
        beta: Tensor | float = 1.0,
    ) -> None:
        super().__init__(model, num_chains=num_chains, executor=executor, seed=seed)
        if not 0.0 < target_accept_prob < 1.0:
            raise ValueError(
                f"target_accept_prob: expected between 0 and 1, got {target_accept_prob}. Fix: 0.94"
            )
        if folds < 2:
            raise ValueError(f"folds: expected a number >= 2, got {folds}. Fix: folds=4")
        if metric not in METRICS:
            raise ValueError(f"metric: expected one of {METRICS}, got {metric!r}. Fix: metric='auto'")
        self.target_accept_prob, self.folds, self.metric = target_accept_prob, folds, metric
        self.forgetting, self.beta = forgetting, beta

    def start(
        self, density: Any, position: Tensor, warmup_steps: int, generator: torch.Generator | None
    ) -> MEADSRun:
        """The first state; the factor of the step size is searched by single steps."""
        tuning = init_tuning(
            position, None, step_size=1.0, first=1.0, target=self.target_accept_prob,
            metric=self.metric, forgetting=self.forgetting,
        )  # fmt: skip
        moving = ghmc_init(position, density, tuning.metric, beta=self.beta, generator=generator)
        scale, damping = self._folded(moving, tuning.metric, 1)

        def trial(factor: float) -> float:
            _, info = ghmc_step(
                moving, density, factor * scale, damping, tuning.metric, beta=self.beta, generator=generator
            )
            return float(info.acceptance_rate.mean())

        first = search_step_size(trial, 1.0, self.target_accept_prob)
        tuning = init_tuning(
            position, None, step_size=first, first=1.0, target=self.target_accept_prob,
            metric=self.metric, forgetting=self.forgetting,
        )  # fmt: skip
        means = (float(scale.double().log().mean()), float(damping.double().log().mean()))
        return MEADSRun(moving, tuning, *means, 0, warmup_steps)

    def advance(
        self, density: Any, state: MEADSRun, generator: torch.Generator | None
    ) -> tuple[MEADSRun, Info]:
        """One transition of all chains."""
        moving, tuning, log_scale, log_damping, step, warmup_steps = state
        factor = step_size_at(tuning, step, warmup_steps)
        if step >= warmup_steps:
            e, damping = factor * math.exp(log_scale), math.exp(log_damping)
            moved, info = ghmc_step(
                moving, density, e, damping, tuning.metric, beta=self.beta, generator=generator
            )
            return state._replace(moving=moved, step=step + 1), info
        scale, fold_damping = self._folded(moving, tuning.metric, step + 1)
        moved, info = ghmc_step(
            moving, density, factor * scale, fold_damping, tuning.metric, beta=self.beta, generator=generator
        )
        weight = max(2.0 / (step + 2), 1.0 - self.forgetting)
        log_scale += weight * (float(scale.double().log().mean()) - log_scale)
        log_damping += weight * (float(fold_damping.double().log().mean()) - log_damping)
        before = tuning.metric
        tuning = update_tuning(
            tuning, moved.position, float(info.acceptance_rate.mean()), step, warmup_steps,
            target=self.target_accept_prob, metric=self.metric, forgetting=self.forgetting,
        )  # fmt: skip
        if tuning.metric is not before:
            moved = moved._replace(momentum=_under(tuning.metric, before, moved.momentum))
        return MEADSRun(moved, tuning, log_scale, log_damping, step + 1, warmup_steps), info

    def adaptation(self, state: MEADSRun) -> dict[str, Tensor]:
        """Step size, damping and covariance."""
        factor = step_size_at(state.tuning, state.step, state.warmup_steps)
        return {
            "step_size": torch.tensor(factor * math.exp(state.scale), dtype=torch.float64),
            "damping": torch.tensor(math.exp(state.damping), dtype=torch.float64),
            "covariance": state.tuning.metric.covariance,
        }

    def relocate(self, density: Any, state: MEADSRun, position: Tensor) -> MEADSRun:
        """The chains moved; momenta, slices and adaptation kept."""
        return state._replace(
            moving=state.moving._replace(point=evaluate_point(position, density, self.beta))
        )

    def _folded(self, moving: GHMCState, metric: Metric, count: int) -> tuple[Tensor, Tensor]:
        """Step size and damping of every chain, (C,), from the fold before its own."""
        position, gradient = moving.point.position, moving.point.gradient
        chains = len(position)
        size = chains // self.folds
        if size < 4:
            return position.new_ones(chains), position.new_ones(chains)
        # Chains that do not fill a fold move as the last one does.
        shape = (self.folds, size, position.shape[1])
        centred = whiten(metric, position[: self.folds * size]).reshape(shape)
        slope = gradient[: self.folds * size]
        slope = slope @ metric.factor if metric.is_dense else slope * metric.factor
        scale = (2.0 * largest_variance(slope.reshape(shape))).clamp(1e-12, 1e12).rsqrt()
        spread = largest_variance(centred - centred.mean(1, keepdim=True)).clamp(1e-12, 1e12)
        damping = torch.maximum(spread.rsqrt(), 1.0 / (count * scale))
        both = torch.stack([scale, damping]).nan_to_num(1.0).roll(1, 1).repeat_interleave(size, 1)
        rest = both[:, -1:].expand(2, chains - both.shape[1])
        scale, damping = torch.cat([both, rest], 1).to(position.dtype)
        return scale, damping


def _under(new: Metric, old: Metric, momentum: Tensor) -> Tensor:
    """The momentum whose whitened form under `new` is the one it had under `old`."""
    white = momentum @ old.factor if old.is_dense else momentum * old.factor
    return white @ new.inverse if new.is_dense else white * new.inverse
