"""What an inference handler is given (`Problem`, `Context`) and what it hands back (`Outcome`).

A handler is a function ``handler(problem, params, context) -> Outcome`` registered by a key. It knows
nothing of folders, locks or executors: it asks ``context.checkpoint`` to save and load its flat state, and
asks ``context.should_stop()`` after every step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias, final

from evidentia.studies.harness.terminal.progress import ProgressEvent as ProgressEvent

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

Scalar: TypeAlias = "str | int | float | bool | None"
State: TypeAlias = "dict[str, Any]"
"""Flat state of a handler: tensors, and values JSON can hold (numbers, text, lists, tuples, dicts)."""


class CheckpointStore(Protocol):
    """Keeps the newest states of one point; the disk is its business alone."""

    def save(self, state: Mapping[str, Any], step: int | None = None) -> None:
        """Keep ``state``; the number of the step is ``step`` or ``state["step"]``."""

    def load(self, expected: Mapping[str, Tensor] | None = None) -> State | None:
        """Return the newest usable state, exactly as saved, or None where nothing was ever saved.

        ``expected`` names tensors whose shapes and dtypes the state must have.
        """


@final
class Stopped(Exception):  # noqa: N818 - a request that was honoured, not an error
    """A handler stopped because ``should_stop()`` said so, **after** its checkpoint was written."""

    def __init__(self, step: int = 0) -> None:
        super().__init__(f"stopped after step {step}; the checkpoint is written")
        self.step = step


class Problem(NamedTuple):
    """The resolved question of one point.

    Args:
        data: the validated data set.
        model: what the model's builder returned (a Pyro program, or an object of the study's own).
        guide: what the guide's builder returned, or None.
        pair: ``Pair(model, guide)`` where both exist, else None.
    """

    data: Any
    model: Any = None
    guide: Any = None
    pair: Any = None


def _never() -> bool:
    return False


def _silent(event: ProgressEvent) -> None:
    del event


@final
@dataclass(frozen=True)
class Context:
    """How one point is to be run.

    Args:
        seed: 32-bit seed of the point; the global generators are already seeded with it.
        point: the point (settings, id, varied axes).
        budget: limits on steps and seconds.
        device: torch device name.
        threads: torch threads of the point.
        checkpoint: the store, or None when the run keeps no files.
        checkpoint_every: steps between two checkpoints.
        should_stop: asked after every step; when true, save the state and raise :class:`Stopped`.
        report: receives a :class:`ProgressEvent`; cheap enough to call at each step.
        callbacks: further callbacks of the training, where the handler trains with `fit`.

    Example::

        >>> context = Context(seed=3)
        >>> context.should_stop(), context.resumed_state()
        (False, None)
    """

    seed: int
    point: Any = None
    budget: Any = None
    device: str = "cpu"
    threads: int = 1
    checkpoint: CheckpointStore | None = None
    checkpoint_every: int = 100
    should_stop: Callable[[], bool] = _never
    report: Callable[[ProgressEvent], None] = _silent
    callbacks: tuple[Any, ...] = ()

    def resumed_state(self) -> State | None:
        """Return the state to continue from, or None for a fresh start."""
        return None if self.checkpoint is None else self.checkpoint.load()

    def checkpoint_due(self, step: int) -> bool:
        """Return whether a checkpoint is due after ``step`` steps."""
        return self.checkpoint is not None and step % max(1, self.checkpoint_every) == 0


@final
@dataclass
class Outcome:
    """What came out of one point.

    Args:
        rows: one mapping of column to scalar per row of the result table.
        idata: an InferenceData, saved as ``draws.nc``; None where there are no draws.
        weights: tensors saved as ``weights.safetensors``.
        tables: data frames saved as ``tables/<name>.csv``.
        checks: the verdict's checks.
        extra: anything a metric or a figure needs within the process; never written.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    idata: Any = None
    weights: dict[str, Tensor] = field(default_factory=dict)
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)
    checks: Sequence[Any] = ()
    extra: dict[str, Any] = field(default_factory=dict)


Handler: TypeAlias = "Callable[[Problem, Mapping[str, Any], Context], Outcome]"
