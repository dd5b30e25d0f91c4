"""The sweep of a run: which points this process computes, and how each of them ended."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from evidentia.studies.harness.engine.executor import Executor, Status
from evidentia.studies.harness.engine.point import spoiled_by
from evidentia.studies.harness.errors import BAD_INPUT
from evidentia.studies.harness.storage import manifest, results, run_folder
from evidentia.studies.harness.storage.checkpoint import CheckpointError
from evidentia.studies.harness.terminal.progress import ProgressEvent, Reporter

if TYPE_CHECKING:
    from evidentia.studies.harness.declare.points import Point
    from evidentia.studies.harness.engine.source import PointSource
    from evidentia.studies.harness.storage.locks import Shard


@final
class Sweep:
    """Hands out the points of a source, round by round, and remembers what failed.

    Args:
        folder: the run folder.
        source: where the points come from.
        shard: the part of them that is computed here; None for all.
        show: shows how each point ends.
        notice: receives warnings for the user.
        ended: called with the id and the status of each point that was tried.
    """

    def __init__(
        self,
        folder: Path,
        source: PointSource,
        shard: Shard | None,
        show: Reporter,
        notice: Callable[[str], object],
        ended: Callable[[str, Status], object],
    ) -> None:
        self.folder, self.source, self.shard = folder, source, shard
        self.show, self.notice, self.ended = show, notice, ended
        self.failures: dict[str, str] = {}
        self.codes: set[int] = set()
        self.settled: set[str] = set()

    @property
    def mine(self) -> list[Point]:
        """The points that this process computes, as far as they are known."""
        return [p for i, p in enumerate(self.source.points) if self.shard is None or self.shard.owns(i)]

    @property
    def total(self) -> int:
        """How many points this process has, those included that are still to be asked for."""
        return len(self.mine) + self.source.waiting

    def run(self, executor: Executor) -> None:
        """Compute all points that are not done, unless a round is stopped."""
        for batch in self.source.rounds(self.rows):
            ids = {point.id for point in batch}
            mine = [point for point in self.mine if point.id in ids]
            self.hand_out(mine, executor)
            # A later round follows from this one, so it waits for the whole of it.
            if not all(point.id in self.settled for point in mine):
                break

    def hand_out(self, points: Sequence[Point], executor: Executor) -> None:
        """Compute those of ``points`` that are neither done nor known to fail."""
        for point in points:
            place = self.folder / "points" / point.id
            if manifest.is_done(place) and not spoiled_by(place):
                self.show.update(ProgressEvent(point=point.id, state="skipped"))
                self.settled.add(point.id)
            elif point.id not in self.failures:
                executor.submit(point)
        for identity, status in executor.as_done():
            self.record(identity, status)

    def rows(self, point: Point) -> list[dict[str, Any]] | None:
        """Return the rows of a computed point, None where it failed."""
        if point.id in self.failures:
            return None
        return results.read_rows(self.folder / "points" / point.id / "metrics.csv", keep_empty=True)

    def record(self, identity: str, status: Status) -> None:
        """Record how one point ended."""
        for text in status.notices:
            self.notice(text)
        message = ""
        if status.state == "failed" and status.error is not None:
            message = f"{status.error['type']}: {status.error['message']}"
            if status.error["type"] == "KilledWorker":
                path = self.folder / "points" / identity
                if path.is_dir():
                    before = run_folder.read_status(path)
                    failed = run_folder.Status(path / "status.json", before)
                    failed.set(state="failed", error=status.error)
        elif status.state == "busy":
            message = "another process is computing it"
        if message:
            self.failures[identity] = message
            self.codes.add(status.exit_code or BAD_INPUT)
        # These say nothing of the point's numbers: it was not computed to an end.
        lost = status.error is not None and status.error["type"] == CheckpointError.__name__
        if status.state not in ("stopped", "busy") and not lost:
            self.settled.add(identity)
        shown = "failed" if status.state == "busy" else status.state
        self.show.update(ProgressEvent(point=identity, state=shown, message=message))
        self.ended(identity, status)
