"""Progress on a terminal: rich bars, one per chain or point, and the verdict below them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import IO, TYPE_CHECKING, Self, final

from evidentia.studies.harness.terminal.progress import header_text
from evidentia.studies.harness.terminal.trend import Clock, ProgressEvent, Trend, bars_of

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

    from evidentia.studies.harness.reporting.verdict import Verdict

__all__ = ["RichReporter"]

MARKS = {"failed": "✗", "stopped": "■"}


@final
class RichReporter:
    """Bars on a terminal: one per chain or point, plus one over the points when there are several.

    A finished bar leaves, so a sweep of thousands of points never fills the screen; a failure leaves a line.
    """

    def __init__(self, console: Console, clock: Clock = time.monotonic) -> None:
        self._console, self._clock = console, clock
        self._trends: dict[str, Trend] = {}
        self._tasks: dict[str, TaskID] = {}
        self._ended: set[str] = set()
        self._progress: Progress | None = None
        self._overall: TaskID | None = None

    @classmethod
    def on(cls, stream: IO[str], clock: Clock = time.monotonic) -> Self:
        """Bars on a stream that is a terminal."""
        from rich.console import Console

        return cls(Console(file=stream), clock)

    def start(self, header: Mapping[str, str], total_points: int) -> None:
        """Print the header and open the bars."""
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        self._say(header_text(header))
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[trend]}", markup=False),
            console=self._console,
            transient=True,
            refresh_per_second=8,
        )
        self._progress.start()
        if total_points > 1:
            self._overall = self._progress.add_task("points", total=total_points, trend="")

    def update(self, event: ProgressEvent) -> None:
        """Move the bar of the point, or of its chain; open it when it is new; drop it when the point ends."""
        progress = self._progress
        if progress is None:
            return
        if event.state != "running":
            self._end(progress, event)
            return
        key = event.bar
        trend = self._trends.setdefault(key, Trend(clock=self._clock))
        trend.add(event)
        name = f"{key} {event.phase}".rstrip()
        if key not in self._tasks:
            self._tasks[key] = progress.add_task(name, total=event.total, trend="")
        progress.update(
            self._tasks[key],
            completed=event.step,
            total=event.total,
            description=name,
            trend=trend.text(event),
        )

    def _end(self, progress: Progress, event: ProgressEvent) -> None:
        for key in bars_of(event.point, self._tasks):
            progress.remove_task(self._tasks.pop(key))
            self._trends.pop(key, None)
        if self._overall is not None and event.point not in self._ended:
            progress.advance(self._overall)
        self._ended.add(event.point)
        if event.state in MARKS:
            self._say(f"{MARKS[event.state]} {event.point} {event.state} {event.message}".rstrip())

    def notice(self, message: str) -> None:
        """Print above the bars."""
        self._say(f"notice: {message}")

    def finish(self, verdict: Verdict | None) -> None:
        """Close the bars and print the verdict."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
        if verdict is not None:
            self._say("\n" + verdict.text())

    def _say(self, text: str) -> None:
        # No wrapping: a wrapped path or command cannot be copied. No markup: a name may hold brackets.
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)
