"""Executors: how points are handed out. Three methods; the default computes them one by one, here."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple, Protocol, final

if TYPE_CHECKING:
    from evidentia.studies.harness.declare.points import Point


@final
class Status(NamedTuple):
    """How a point ended; results travel by disk, so this is all that an executor carries.

    Args:
        state: "done", "skipped" (it was done already), "failed", "stopped", "busy" (another process has it).
        error: ``{type, message, site}`` of a failed point.
        exit_code: of a failed point: 2 for bad input, 3 for anything that failed while computing.
        notices: lines for the user from a point that was computed in another process.
    """

    state: str
    error: dict[str, str] | None = None
    exit_code: int = 0
    notices: tuple[str, ...] = ()


class Executor(Protocol):
    """What the driver needs of an executor."""

    def submit(self, point: Point) -> str:
        """Take a point and return its id."""

    def as_done(self) -> Iterator[tuple[str, Status]]:
        """Compute what was submitted and yield each point's id and status as it ends."""

    def close(self) -> None:
        """Let go of every process and connection."""


@final
class SerialExecutor:
    """Points one after the other in this process, in the order they were submitted.

    Args:
        run: computes one point.
        stop: asked before each point; when true, the rest stays undone.
    """

    def __init__(self, run: Callable[[Point], Status], stop: Callable[[], bool] = lambda: False) -> None:
        self._run = run
        self._stop = stop
        self._queue: deque[Point] = deque()

    def submit(self, point: Point) -> str:
        """Take a point and return its id."""
        self._queue.append(point)
        return point.id

    def as_done(self) -> Iterator[tuple[str, Status]]:
        """Compute the points in order; stops between two points when asked to."""
        while self._queue and not self._stop():
            point = self._queue.popleft()
            yield point.id, self._run(point)

    def close(self) -> None:
        """Forget what was not computed."""
        self._queue.clear()
