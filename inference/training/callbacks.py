"""What may be called while a fit runs: after a step, at a checkpoint, at the end, at a numerical failure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

__all__ = ["Callback", "CallbackLike", "Step", "notify"]


class Step(NamedTuple):
    """What a callback learns about one finished step.

    Attributes:
        step: number of steps taken so far, this one included.
        num_steps: the number asked for.
        loss: the loss of this step in nats; not finite when the step was skipped.
        smoothed: mean of the last finite losses in nats.
        learning_rate: the rate of the first parameter group.
        skipped: number of updates skipped so far.
        evaluation: the last held-out loss in nats, or None.

    References:
        none; bookkeeping.
    """

    step: int
    num_steps: int
    loss: float
    smoothed: float
    learning_rate: float
    skipped: int
    evaluation: float | None


@runtime_checkable
class Callback(Protocol):
    """The four hooks of a fit. An object may have any of them; a plain function is taken as `on_step`.

    References:
        none; bookkeeping.

    Example:
        >>> class StopAt:
        ...     def on_step(self, step):
        ...         return "budget" if step.step >= 3 else None
        >>> notify([StopAt()], "on_step", Step(3, 10, 1.0, 1.0, 0.1, 0, None))
        'budget'
    """

    def on_step(self, step: Step) -> bool | str | None:
        """After each step. True stops the fit with reason "callback"; a string stops it with that reason."""

    def on_checkpoint(self, state: Mapping[str, Any]) -> None:
        """Every `checkpoint_every` steps, with the flat state."""

    def on_end(self, fit: Any) -> None:
        """Once, with the finished `Fit`."""

    def on_nan(self, error: Any) -> None:
        """At every numerical failure, with the `FitError` that `nan="stop"` would raise."""


CallbackLike: TypeAlias = Callback | Callable[[Step], "bool | str | None"] | object


def notify(callbacks: Iterable[CallbackLike], hook: str, payload: Any) -> str | None:
    """Call one hook of every callback that has it; return the first reason to stop, if any.

    Args:
        callbacks: objects with any of the hooks of `Callback`, or plain functions for `on_step`.
        hook: name of the hook.
        payload: its single argument.

    Returns:
        None, or why the fit should stop.

    References:
        none; bookkeeping.

    Example:
        >>> notify([lambda step: True], "on_step", None)
        'callback'
    """
    reason: str | None = None
    for callback in callbacks:
        method = getattr(callback, hook, None)
        if method is None and hook == "on_step" and callable(callback):
            method = callback
        if method is None:
            continue
        answer = method(payload)
        if answer and reason is None:
            reason = answer if isinstance(answer, str) else "callback"
    return reason
