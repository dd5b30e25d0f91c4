"""Dual averaging: the step size at which the mean acceptance over chains meets a target."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

__all__ = [
    "StepSize",
    "final_step_size",
    "init_step_size",
    "restart_average",
    "search_step_size",
    "update_step_size",
]


class StepSize(NamedTuple):
    r"""State of dual averaging; the numbers are those of the whole ensemble, so they are plain floats.

    Attributes:
        log_step: the step size to use in the warm-up, in logs.
        log_average: the average to use afterwards.
        error: running mean of target minus acceptance.
        centre: where the iterates are pulled to.
        updates: how many there were.
        averaged: how many of them are in the average.

    References:
        Hoffman, Gelman, 2014, The No-U-Turn sampler. Nesterov, 2009, Primal-dual subgradient methods for
        convex problems.
    """

    log_step: float
    log_average: float
    error: float
    centre: float
    updates: int
    averaged: int


def init_step_size(step_size: float) -> StepSize:
    """Begin at `step_size`.

    Raises:
        ValueError: it is not positive and finite.

    References:
        Hoffman, Gelman, 2014, The No-U-Turn sampler.

    Example:
        >>> init_step_size(1.0).log_step
        0.0
    """
    if not (step_size > 0 and math.isfinite(step_size)):
        raise ValueError(f"step_size: expected a positive finite number, got {step_size}. Fix: step_size=0.5")
    log_step = math.log(step_size)
    return StepSize(log_step, log_step, 0.0, log_step, 0, 0)


def update_step_size(
    state: StepSize,
    acceptance: float,
    target: float,
    *,
    gamma: float = 0.05,
    delay: float = 10.0,
    decay: float = 0.75,
) -> StepSize:
    r"""One update, with \(H_t = \frac1{t + t_0}\sum_s (\delta - a_s)\) (delayed):

    \[ \log e_{t+1} = \mu - \frac{\sqrt t}{\gamma} H_t, \qquad
       \overline{\log e}_{t+1} = t^{-\kappa} \log e_{t+1} + (1 - t^{-\kappa}) \overline{\log e}_t \]

    Args:
        state: the state before.
        acceptance: \(a_t\), mean over chains; not a number counts as zero.
        target: \(\delta\).
        gamma: \(\gamma\), how strongly iterates are pulled to \(\mu\).
        delay: \(t_0\), damps the first updates.
        decay: \(\kappa\), how fast early iterates are forgotten.

    References:
        Hoffman, Gelman, 2014, The No-U-Turn sampler.

    Example:
        >>> state = init_step_size(1.0)
        >>> for _ in range(500):  # acceptance e^{-step}
        ...     state = update_step_size(state, math.exp(-math.exp(state.log_step)), 0.5)
        >>> round(math.exp(-final_step_size(state)), 2)
        0.5
    """
    acceptance = acceptance if acceptance == acceptance else 0.0
    count = state.updates + 1
    weight = 1.0 / (count + delay)
    error = (1.0 - weight) * state.error + weight * (target - acceptance)
    move = math.sqrt(count) / gamma * error
    # Where every step is accepted (a flat density) nothing else keeps the step size finite.
    log_step = state.centre - min(max(move, -50.0), 50.0)
    averaged = state.averaged + 1
    forget = averaged**-decay
    log_average = forget * log_step + (1.0 - forget) * state.log_average
    return StepSize(log_step, log_average, error, state.centre, count, averaged)


def restart_average(state: StepSize) -> StepSize:
    """The same iterates, averaged from here on: for a metric that has changed since the beginning.

    References:
        none; bookkeeping.

    Example:
        >>> state = restart_average(update_step_size(init_step_size(1.0), 0.2, 0.5))
        >>> state = update_step_size(state, 0.5, 0.5)
        >>> state.log_average == state.log_step
        True
    """
    return state._replace(averaged=0)


def final_step_size(state: StepSize) -> float:
    """The averaged step size.

    References:
        Hoffman, Gelman, 2014, The No-U-Turn sampler.

    Example:
        >>> final_step_size(init_step_size(0.5))
        0.5
    """
    return math.exp(state.log_average)


def search_step_size(
    acceptance: Callable[[float], float], initial: float, target: float, *, limit: int = 40
) -> float:
    """A first step size: doubled or halved until the acceptance crosses the target.

    Args:
        acceptance: step size → mean acceptance of one trial transition of all chains.
        initial: first trial.
        target: acceptance to cross.
        limit: trials at most.

    Returns:
        The last trial; `initial` times or over a power of two.

    References:
        Hoffman, Gelman, 2014, The No-U-Turn sampler (their first heuristic).

    Example:
        >>> search_step_size(lambda step: math.exp(-step), 16.0, 0.5)
        0.5
    """
    step = initial
    growing = acceptance(step) > target
    factor = 2.0 if growing else 0.5
    for _ in range(limit):
        step *= factor
        # A NaN acceptance must shrink the step, hence the comparison in this form.
        if (acceptance(step) > target) != growing:
            break
    return step / 2.0 if growing else step
