"""What a running study shows: one protocol, and its plain, quiet and JSON forms (`bars` has the terminal's).

The engine reports `ProgressEvent`s and never prints. The trend matters more than the bar, so every form shows
a smoothed ELBO and its change, or the draws and divergences, with iterations per second and the time left.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import IO, TYPE_CHECKING, Any, Protocol, final, runtime_checkable

from evidentia.studies.harness.terminal.trend import Clock, Trend, bars_of
from evidentia.studies.harness.terminal.trend import ProgressEvent as ProgressEvent

if TYPE_CHECKING:
    from evidentia.studies.harness.reporting.verdict import Verdict

__all__ = ["JsonReporter", "PlainReporter", "ProgressEvent", "QuietReporter", "Reporter", "make_reporter"]


@runtime_checkable
class Reporter(Protocol):
    """What the engine talks to: `start` once, then `update` and `notice`, then `finish` once."""

    def start(self, header: Mapping[str, str], total_points: int) -> None:
        """Open: the header has the study, run id, folder, device, seed … in the order to print them."""

    def update(self, event: ProgressEvent) -> None:
        """A point went on, or ended (`event.state` is not "running")."""

    def notice(self, message: str) -> None:
        """Something harmless that the user should know."""

    def finish(self, verdict: Verdict | None) -> None:
        """Close; None when there is no result, for example after a signal."""


@final
class PlainReporter:
    """Plain lines for logs and pipes: a first report, then one every `interval` seconds, and the end.

    Example:
        >>> import sys
        >>> reporter = PlainReporter(sys.stdout)
        >>> reporter.start({"study": "tanh", "seed": "0"}, total_points=1)
        study  tanh
        seed   0
        >>> reporter.update(ProgressEvent(10, 100, "svi", elbo=-42.0, point="a1"))
        a1 svi 10/100  ELBO -42.00
        >>> reporter.update(ProgressEvent(point="a1", state="done"))
        [1/1] a1 done
    """

    def __init__(self, stream: IO[str], interval: float = 10.0, clock: Clock = time.monotonic) -> None:
        self._stream, self._interval, self._clock = stream, interval, clock
        self._trends: dict[str, Trend] = {}
        self._last: dict[str, float] = {}
        self._ended: set[str] = set()
        self._total = 0

    def _line(self, text: str) -> None:
        self._stream.write(text + "\n")
        self._stream.flush()

    def start(self, header: Mapping[str, str], total_points: int) -> None:
        """Print the header."""
        self._total = total_points
        self._line(header_text(header))

    def update(self, event: ProgressEvent) -> None:
        """Print a line if it is time for one, and one when a point ends."""
        if event.state != "running":
            self._end(event)
            return
        key = event.bar
        trend = self._trends.setdefault(key, Trend(clock=self._clock))
        trend.add(event)
        now = self._clock()
        if key in self._last and now - self._last[key] < self._interval:
            return
        self._last[key] = now
        total = "" if event.total is None else f"/{event.total}"
        phase = f" {event.phase}" if event.phase else ""
        self._line(f"{key}{phase} {event.step}{total}  {trend.text(event)}".rstrip())

    def _end(self, event: ProgressEvent) -> None:
        self._ended.add(event.point)
        for key in bars_of(event.point, self._trends):
            self._trends.pop(key, None)
            self._last.pop(key, None)
        message = f": {event.message}" if event.message else ""
        self._line(f"[{len(self._ended)}/{self._total}] {event.point} {event.state}{message}")

    def notice(self, message: str) -> None:
        """Print a notice."""
        self._line(f"notice: {message}")

    def finish(self, verdict: Verdict | None) -> None:
        """Print the verdict."""
        if verdict is not None:
            self._line("\n" + verdict.text())


@final
class QuietReporter:
    """Only the verdict; the notices are in `log.jsonl`."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def start(self, header: Mapping[str, str], total_points: int) -> None:
        """Say nothing."""

    def update(self, event: ProgressEvent) -> None:
        """Say nothing."""

    def notice(self, message: str) -> None:
        """Say nothing."""

    def finish(self, verdict: Verdict | None) -> None:
        """Print the verdict."""
        if verdict is not None:
            self._stream.write(verdict.text() + "\n")
            self._stream.flush()


@final
class JsonReporter:
    """One JSON document on `stdout` at the end; header, progress and notices go to `stderr`."""

    def __init__(
        self, stdout: IO[str], stderr: IO[str], interval: float = 10.0, clock: Clock = time.monotonic
    ) -> None:
        self._stdout = stdout
        self._lines = PlainReporter(stderr, interval, clock)
        self._header: dict[str, Any] = {}

    def start(self, header: Mapping[str, str], total_points: int) -> None:
        """Print the header on stderr and keep it for the document."""
        self._header = dict(header)
        self._lines.start(header, total_points)

    def update(self, event: ProgressEvent) -> None:
        """Print a line on stderr if it is time for one."""
        self._lines.update(event)

    def notice(self, message: str) -> None:
        """Print a notice on stderr."""
        self._lines.notice(message)

    def finish(self, verdict: Verdict | None) -> None:
        """Print the document: the run's header and the verdict's record, null where there is no result."""
        record = {"run": self._header, "verdict": None if verdict is None else verdict.as_dict()}
        self._stdout.write(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n")
        self._stdout.flush()


def make_reporter(
    stdout: IO[str],
    stderr: IO[str],
    *,
    quiet: bool = False,
    as_json: bool = False,
    clock: Clock = time.monotonic,
) -> Reporter:
    """The reporter for these streams and switches: JSON, quiet, bars on a terminal, else plain lines.

    Example:
        >>> import io
        >>> type(make_reporter(io.StringIO(), io.StringIO())).__name__
        'PlainReporter'
    """
    if as_json:
        return JsonReporter(stdout, stderr, clock=clock)
    if quiet:
        return QuietReporter(stdout)
    if stdout.isatty():
        from evidentia.studies.harness.terminal.bars import RichReporter

        return RichReporter.on(stdout, clock=clock)
    return PlainReporter(stdout, clock=clock)


def header_text(header: Mapping[str, str]) -> str:
    """The header as aligned lines."""
    width = max((len(key) for key in header), default=0)
    return "\n".join(f"{key:<{width}}  {value}" for key, value in header.items())
