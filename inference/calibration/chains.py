"""Posterior draws for many data sets by one kernel: tuned on others, frozen, all chains in one batch."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from evidentia.inference.calibration.whitened import Whitened, within_covariance
from evidentia.inference.mcmc.points import Point, evaluate_point

__all__ = ["Tuned", "autocorrelation", "chain_draws", "tune"]


class Tuned(NamedTuple):
    """What the pilot found; nothing in it depends on the data sets that are ranked later.

    Attributes:
        state: of the kernel, with its adaptation over.
        factor: (D, D), of the coordinates.
        thinning: transitions between two draws.

    References:
        none; bookkeeping.
    """

    state: Any
    factor: Tensor
    thinning: int


def tune(
    kernel: Any,
    density: Any,
    start: Tensor,
    scale: Tensor,
    num_datasets: int,
    *,
    thinning: int | None,
    max_thinning: int = 64,
    pilot_steps: int = 100,
    largest: float = 0.1,
    generator: torch.Generator | None = None,
) -> Tuned:
    r"""Adapt a kernel on pilot data sets: coordinates, step size, trajectory, thinning.

    The kernel adapts twice, the second time in coordinates in which the mean covariance within the
    posteriors is the identity. Then the lag is searched at which every coordinate, and the log density, have
    a correlation below `largest`.

    Args:
        kernel: a `BatchedKernel`.
        density: of the pilot data sets, one for every row.
        start: (R, D), rows of one data set together.
        scale: (D,) standard deviations of the prior.
        num_datasets: R over the chains of each.
        thinning: None: searched.
        max_thinning: largest thinning that is searched.
        pilot_steps: transitions of each adaptation.
        largest: correlation that is still taken for none.
        generator: torch's global one when None.

    References:
        Talts, Betancourt, Simpson, Vehtari, Gelman, 2018, Validating Bayesian inference algorithms with
        simulation-based calibration (thinning).
    """
    chains = len(start) // num_datasets
    factor, shift, position = scale.diag(), torch.zeros_like(start), start
    state: Any = None
    for turn in range(2):
        white = Whitened(density, factor, shift)
        state = kernel.start(white, white.inward(position), pilot_steps, generator)
        seen = []
        for step in range(pilot_steps):
            state, _ = kernel.advance(white, state, generator)
            if step >= pilot_steps // 2:
                seen.append(white.outward(state.position))
        position = seen[-1]
        if turn == 0:
            draws = torch.stack(seen, 1).reshape(num_datasets, chains * len(seen), -1)
            covariance, mean = within_covariance(draws)
            factor = torch.linalg.cholesky(covariance)
            shift = mean.repeat_interleave(chains, 0)
    values: list[Tensor] = []
    tried, longest = 0, min(8, max_thinning)
    while thinning is None:
        for _ in range(longest + longest // 4 + 3 - len(values)):
            state, _ = kernel.advance(white, state, generator)
            values.append(torch.cat([state.position, state.log_density[:, None]], 1))
        series = torch.stack(values, 1).reshape(num_datasets, chains, len(values), -1)
        lags = range(tried + 1, longest + 1)
        thinning = next((lag for lag in lags if bool((autocorrelation(series, lag) <= largest).all())), None)
        if thinning is None and longest == max_thinning:
            thinning = max_thinning
        tried, longest = longest, min(2 * longest, max_thinning)
    return Tuned(state, factor, thinning)


def chain_draws(
    kernel: Any,
    density: Any,
    tuned: Tuned,
    start: Tensor,
    *,
    num_draws: int,
    warmup_steps: int,
    anneal: bool,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Draws of every chain with everything frozen, and the acceptance of every chain.

    Args:
        kernel: a `BatchedKernel`.
        density: of the ranked data sets, one for every row.
        tuned: from `tune`.
        start: (R, D).
        num_draws: K of each chain.
        warmup_steps: transitions before the first draw.
        anneal: let the likelihood grow from nothing over the first half of the warm-up.
        generator: torch's global one when None.

    Returns:
        (R, K, D) unconstrained positions and (R,) mean acceptance rates.

    References:
        none; bookkeeping.
    """
    white = Whitened(density, tuned.factor, torch.zeros_like(start))
    first = Whitened(density, tuned.factor, white.shift, 0.0) if anneal else white
    state = _moved(kernel, first, tuned.state, first.inward(start))
    rising = warmup_steps // 2
    for step in range(warmup_steps):
        current = white
        if anneal and step <= rising:
            # Quadratic: most of a likelihood comes with the first per cent of its power.
            power = ((step + 1) / (rising + 1)) ** 2
            current = white if step == rising else Whitened(density, tuned.factor, white.shift, power)
            state = _moved(kernel, current, state, state.position)
        state, _ = kernel.advance(current, state, generator)
    if anneal and warmup_steps == 0:
        state = _moved(kernel, white, state, state.position)
    draws, rates = [], []
    for _ in range(num_draws):
        for _ in range(tuned.thinning):
            state, info = kernel.advance(white, state, generator)
            rates.append(info.acceptance_rate)
        draws.append(white.outward(state.position))
    return torch.stack(draws, 1), torch.stack(rates).mean(0)


def _moved(kernel: Any, density: Any, state: Any, position: Tensor) -> Any:
    """The chains at `position` under `density`, the adaptation kept; no step size is searched."""
    if isinstance(getattr(state, "point", None), Point):
        point = evaluate_point(position, density, getattr(kernel, "beta", 1.0))
        return state._replace(point=point)
    return kernel.relocate(density, state, position)


def autocorrelation(values: Tensor, lag: int = 1) -> Tensor:
    r"""Correlation of draws `lag` apart within chains, one number for all data sets.

    \[ \rho = \operatorname{mean}_{i,c,t} \frac{(v_{ict} - \bar v_i)(v_{ic,t+\ell} - \bar v_i)}{s_i^2} \]

    with the mean and the variance of each data set, so that every data set counts the same.

    Args:
        values: (N, C, T, Q).
        lag: how far apart.

    Returns:
        (Q,); zero where nothing moves or T is no larger than the lag.

    References:
        none; it is the pooled sample autocorrelation.

    Example:
        >>> round(float(autocorrelation(torch.tensor([1.0, -1.0] * 50).reshape(1, 1, 100, 1))), 6)
        -1.0
    """
    steps = values.shape[2]
    if steps <= lag:
        return values.new_zeros(values.shape[-1])
    centred = values - values.mean((1, 2), keepdim=True)
    spread = centred.square().mean((1, 2), keepdim=True)
    scaled = centred / spread.sqrt().clamp(min=1e-300)
    return (scaled[:, :, lag:] * scaled[:, :, :-lag]).mean((0, 1, 2))
