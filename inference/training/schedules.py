"""Values that change with the step: pure functions, so that a resumed fit needs no state for them."""

from __future__ import annotations

import math
from collections.abc import Callable

__all__ = ["cosine", "exponential", "linear"]

Schedule = Callable[[int], float]


def linear(start: float, stop: float, num_steps: int) -> Schedule:
    r"""From `start` to `stop` along a line: \(v_t = a + (b - a) \min(t / T, 1)\).

    Args:
        start: the value at step 0, a.
        stop: the value at step T and after it, b.
        num_steps: the number of steps it takes, T.

    Returns:
        The value as a function of the step.

    Raises:
        ValueError: fewer than one step, or a value that is not finite.

    References:
        Bowman, Vilnis, Vinyals et al., 2016, Generating sentences from a continuous space.

    Example:
        >>> weight = linear(0.1, 1.0, 9)
        >>> [round(weight(step), 3) for step in (0, 1, 9, 50)]
        [0.1, 0.2, 1.0, 1.0]
    """
    _check(start, stop, num_steps)
    return lambda step: stop if step >= num_steps else start + (stop - start) * step / num_steps


def exponential(start: float, stop: float, num_steps: int) -> Schedule:
    r"""From `start` to `stop` by a constant factor: \(v_t = a (b/a)^{\min(t/T, 1)}\).

    Args:
        start: the value at step 0, a > 0.
        stop: the value at step T and after it, b > 0.
        num_steps: the number of steps it takes, T.

    Returns:
        The value as a function of the step.

    Raises:
        ValueError: fewer than one step, or a value that is not positive and finite.

    References:
        Jang, Gu, Poole, 2017, Categorical reparameterization with Gumbel-softmax.

    Example:
        >>> temperature = exponential(4.0, 0.25, 4)
        >>> [temperature(step) for step in (0, 1, 4, 9)]
        [4.0, 2.0, 0.25, 0.25]
    """
    _check(start, stop, num_steps)
    if start <= 0 or stop <= 0:
        raise ValueError(
            f"exponential: expected positive values, got {start} and {stop}. Fix: use linear, or a small "
            "positive number in place of 0"
        )
    return lambda step: stop if step >= num_steps else start * (stop / start) ** (step / num_steps)


def cosine(start: float, stop: float, num_steps: int) -> Schedule:
    r"""From `start` to `stop` along half a cosine: \(v_t = b + (a - b)(1 + \cos \pi \min(t/T, 1)) / 2\).

    Args:
        start: the value at step 0, a.
        stop: the value at step T and after it, b.
        num_steps: the number of steps it takes, T.

    Returns:
        The value as a function of the step.

    Raises:
        ValueError: fewer than one step, or a value that is not finite.

    References:
        Loshchilov, Hutter, 2017, SGDR: Stochastic gradient descent with warm restarts.

    Example:
        >>> rate = cosine(1.0, 0.0, 10)
        >>> [round(rate(step), 3) for step in (0, 5, 10, 11)]
        [1.0, 0.5, 0.0, 0.0]
    """
    _check(start, stop, num_steps)

    def value(step: int) -> float:
        if step >= num_steps:
            return stop
        return stop + (start - stop) * 0.5 * (1.0 + math.cos(math.pi * step / num_steps))

    return value


def _check(start: float, stop: float, num_steps: int) -> None:
    if num_steps < 1:
        raise ValueError(f"num_steps: expected a number >= 1, got {num_steps}")
    for name, value in (("start", start), ("stop", stop)):
        if not math.isfinite(value):
            raise ValueError(f"{name}: expected a finite number, got {value}")
