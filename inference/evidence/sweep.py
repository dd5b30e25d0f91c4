"""One sweep of particles along a ladder of temperatures: weights, resampling, moves."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from evidentia.inference.density.evaluation import as_tempered
from evidentia.inference.evidence.ladder import finite_or_dead, next_beta
from evidentia.inference.evidence.moves import (
    TARGET_ACCEPTANCE,
    Density,
    Path,
    jittered_move,
    particle_covariance,
)
from evidentia.inference.evidence.resampling import genealogical_variance, systematic_resample
from evidentia.inference.mcmc.hmc import HMCState, hmc_init
from evidentia.inference.mcmc.metric import Metric, metric_of, whiten

__all__ = ["Sweep", "sweep"]

# A transition below this acceptance only tunes the step size and does not count as a move.
_COUNTS, _MOST_TUNING = 0.4, 12
_MOST_TEMPERATURES = 1000
# Moves go on until no direction is correlated with its ancestor by more than this, plus its noise.
_CORRELATION, _FEWEST_MOVES, _MOST_MOVES = 0.15, 2, 12


class Sweep(NamedTuple):
    r"""What one sweep from prior to posterior left behind.

    Attributes:
        position: (copies * N, D), equally weighted.
        log_increments: (copies, S), float64, nats.
        variance: genealogical variance of each copy's evidence over its square, (copies,).
        acceptance: (S,), mean over the moves that counted.
        moves: transitions at each temperature, of which those with a good step size count.
        num_gradients: calls of the density.
        alive: the fewest prior draws of finite likelihood in a copy.
        stuck: inverse temperatures at which the moves did not forget the ancestors.
        path: settings at each temperature.
        stages: the particles at each temperature, (copies * N, D) each.

    References:
        none; bookkeeping.
    """

    position: Tensor
    log_increments: Tensor
    variance: Tensor
    acceptance: Tensor
    moves: tuple[int, ...]
    num_gradients: int
    alive: int
    stuck: tuple[float, ...]
    path: Path
    stages: tuple[Tensor, ...]


def sweep(
    density: Density,
    position: Tensor,
    size: tuple[int, int],
    ladder: Tensor | None,
    target: float,
    num_moves: int | tuple[int, ...] | None,
    generator: torch.Generator | None,
) -> Sweep:
    r"""Weight, resample and move prior draws until the inverse temperature is 1.

    Args:
        density: a `LogDensity` or a tempered density.
        position: prior draws, (copies * N, D), copies first.
        size: (copies, N).
        ladder: inverse temperatures from 0 to 1; found from the effective sample size when None.
        target: wanted effective fraction.
        num_moves: transitions at every temperature, or at each of them; by decorrelation when None.
        generator: random numbers; torch's global generator when None.

    Returns:
        `Sweep`.

    Raises:
        ValueError: no particle of a copy has a finite likelihood, or a ladder of 1000 temperatures.

    References:
        Del Moral, Doucet and Jasra, 2006, Sequential Monte Carlo samplers.

    Example:
        >>> from evidentia.inference.density.evaluation import tempered_of
        >>> log_normal = lambda x: -0.5 * x.square().sum(-1)
        >>> density = tempered_of(log_normal, log_normal)
        >>> found = sweep(density, torch.randn(64, 1), (4, 16), None, 0.5, 1, None)
        >>> found.log_increments.shape[0], float(found.path.betas[-1])
        (4, 1.0)
    """
    count = size[1]
    value = finite_or_dead(as_tempered(density)(position, 0.0).log_likelihood).double().view(size)
    alive = int((value > -torch.inf).sum(-1).min())
    eve = torch.arange(count, device=position.device).expand(size)
    step = position.new_tensor(1.2 * position.shape[-1] ** -0.25)
    beta, betas = 0.0, [0.0]
    increments: list[Tensor] = []
    acceptance: list[Tensor] = []
    moves: list[int] = []
    variance = value.new_zeros(size[0])
    covariances: list[Tensor] = []
    steps: list[Tensor] = []
    stuck: list[float] = []
    stages, calls = [position], 1
    while beta < 1:
        if len(betas) > _MOST_TEMPERATURES:
            raise ValueError(
                f"the ladder is at {beta:.3g} after {_MOST_TEMPERATURES} temperatures: the likelihood is too "
                "rough for so many particles. Fix: more num_particles, or a ladder by betas="
            )
        new = next_beta(value, beta, target) if ladder is None else float(ladder[len(betas)])
        log_weight = (new - beta) * value
        increments.append(log_weight.logsumexp(-1) - math.log(count))
        if not covariances:
            covariances.append(particle_covariance(position, log_weight.new_zeros(log_weight.numel())))
        covariances.append(particle_covariance(position, log_weight.log_softmax(-1).flatten()))
        variance = variance + genealogical_variance(log_weight, eve)
        ancestor = systematic_resample(log_weight, generator)
        eve = eve.gather(-1, ancestor)
        flat = (ancestor + count * torch.arange(size[0], device=ancestor.device).unsqueeze(-1)).flatten()
        state = hmc_init(position[flat], density, new)
        fixed = num_moves[len(moves)] if isinstance(num_moves, tuple) else num_moves
        metric = metric_of(covariances[-1])
        moved = _move(state, density, step, metric, new, fixed, generator)
        state, step = moved.state, moved.step_size
        position, value = state.position, finite_or_dead(state.log_likelihood).double().view(size)
        beta = new
        stages.append(position)
        betas.append(new)
        steps.append(step)
        moves.append(moved.moves)
        acceptance.append(moved.acceptance)
        calls += 1 + moved.calls
        if not moved.mixed:
            stuck.append(new)
    path = Path(
        torch.tensor(betas, dtype=torch.float64, device=position.device),
        torch.stack(covariances),
        torch.stack([steps[0], *steps]),
    )
    return Sweep(
        position,
        torch.stack(increments, -1),
        variance,
        torch.stack(acceptance),
        tuple(moves),
        calls,
        alive,
        tuple(stuck),
        path,
        tuple(stages),
    )


class _Moved(NamedTuple):
    """Particles after the moves at one temperature."""

    state: HMCState
    step_size: Tensor
    acceptance: Tensor
    moves: int
    calls: int
    mixed: bool


def _move(
    state: HMCState,
    density: Density,
    step: Tensor,
    metric: Metric,
    beta: float,
    num_moves: int | None,
    generator: torch.Generator | None,
) -> _Moved:
    """Transitions that leave the tempered posterior invariant, with the step size tuned between them."""
    start = _traits(state, metric)
    count, calls, rates = 0, 0, []
    for tried in range(_MOST_TUNING + (num_moves or _MOST_MOVES)):
        state, info = jittered_move(state, density, step, metric, beta, generator=generator)
        rate = info.acceptance_rate.mean()
        calls += int(info.num_steps)
        # A batch of particles sees its acceptance at once, so the gain is one and does not decay.
        step = step * (rate - TARGET_ACCEPTANCE).to(step).exp()
        if float(rate) < _COUNTS and tried - count < _MOST_TUNING:
            continue
        count += 1
        rates.append(rate)
        if count >= (num_moves or _MOST_MOVES):
            break
        if num_moves is None and count >= _FEWEST_MOVES and _decorrelated(start, _traits(state, metric)):
            break
    mixed = _decorrelated(start, _traits(state, metric))
    return _Moved(state, step, torch.stack(rates).mean(), count, calls, mixed)


def _traits(state: HMCState, metric: Metric) -> Tensor:
    """What must be forgotten: whitened position and log likelihood, standardised, (C, D + 1)."""
    likelihood = state.log_likelihood.unsqueeze(-1).to(state.position)
    value = torch.cat([whiten(metric, state.position), likelihood], -1)
    value = value - value.mean(0)
    return value / value.square().mean(0).sqrt().clamp(min=1e-30)


def _decorrelated(start: Tensor, now: Tensor) -> bool:
    """Whether no trait is correlated with the ancestor's beyond the noise of so many particles."""
    return float((start * now).mean(0).max()) < _CORRELATION + 2 / math.sqrt(len(start))
