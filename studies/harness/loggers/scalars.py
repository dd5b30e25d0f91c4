"""What every logger writes: the numbers of a training step, every so many steps and at the end."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from evidentia.studies.harness.errors import StudyError

if TYPE_CHECKING:
    from evidentia.inference.training.callbacks import Step

__all__ = ["ScalarLogger", "scalars_of"]


def scalars_of(step: Step) -> dict[str, float]:
    """Name -> value of what is written about a step: losses in nats, and the learning rate.

    What is not finite is left out: the loss of a skipped step, or a held-out loss that was never computed.

    Example:
        >>> from evidentia.inference.training.callbacks import Step
        >>> scalars_of(Step(1, 10, 2.5, 2.75, 0.01, 0, None))
        {'loss': 2.5, 'smoothed_loss': 2.75, 'learning_rate': 0.01}
    """
    named = {
        "loss": step.loss,
        "smoothed_loss": step.smoothed,
        "learning_rate": step.learning_rate,
        "held_out_loss": step.evaluation,
    }
    return {name: float(value) for name, value in named.items() if value is not None and math.isfinite(value)}


class ScalarLogger(ABC):
    """A callback that writes the scalars of every n-th step and of the last one.

    Args:
        every: n; the first and the last step are always written.

    Raises:
        StudyError: n is below 1.

    References:
        none; bookkeeping.
    """

    def __init__(self, every: int = 10) -> None:
        if every < 1:
            raise StudyError(f"every: given {every}, expected a number of steps, at least 1.")
        self.every = every
        self.started = False
        self._opened = False
        self._pending: Step | None = None

    def on_step(self, step: Step) -> None:
        """Write the step where it is due; keep it for the end where it is not."""
        first = not self._opened
        if first:
            self.open(step.step)
            self._opened = self.started = True
        if first or step.step % self.every == 0:
            self.write(step.step, scalars_of(step))
            self._pending = None
        else:
            self._pending = step

    def on_checkpoint(self, state: Mapping[str, Any]) -> None:
        """Make what was written so far survive a crash, as the checkpoint does."""
        del state
        if self._opened:
            self.flush()

    def on_nan(self, error: Any) -> None:
        """Make what led to a numerical failure readable."""
        del error
        if self._opened:
            self.flush()

    def on_end(self, fit: Any) -> None:
        """Write the last step and close; what a signal stopped will go on, so it is not complete."""
        self.finish(complete=getattr(fit, "stopped", "") != "signal")

    def finish(self, complete: bool = True) -> None:
        """Write what is pending and close, however the training ended; a second call does nothing."""
        if not self._opened:
            return
        if self._pending is not None:
            self.write(self._pending.step, scalars_of(self._pending))
            self._pending = None
        self._opened = False
        self.close(complete)

    @abstractmethod
    def open(self, step: int) -> None:
        """Begin; `step` is the first step that will be written, above 1 where a training is resumed."""

    @abstractmethod
    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Write the numbers of one step."""

    @abstractmethod
    def flush(self) -> None:
        """Bring everything to the disk."""

    @abstractmethod
    def close(self, complete: bool) -> None:
        """End; `complete` is false where the training failed or will be resumed."""
