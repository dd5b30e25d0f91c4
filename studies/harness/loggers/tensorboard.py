"""Training curves for TensorBoard, written by its own event writer, without torch.utils or TensorFlow."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

from evidentia.studies.harness.extras import quiet, require
from evidentia.studies.harness.loggers.scalars import ScalarLogger
from evidentia.studies.harness.storage import atomic

__all__ = ["TensorBoard"]

_WRITER = "tensorboard.summary.writer.event_file_writer"
_EVENT = "tensorboard.compat.proto.event_pb2"
_SUMMARY = "tensorboard.compat.proto.summary_pb2"


@final
class TensorBoard(ScalarLogger):
    """Writes loss, smoothed loss, learning rate and held-out loss as TensorBoard events (extra `tb`).

    A resumed training goes on in the same folder; the steps that it takes again replace the old ones.

    Args:
        folder: where the event files go; `tensorboard --logdir FOLDER` shows it.
        every: steps between two entries.

    Raises:
        StudyError: the extra is unusable (exit 2).
        StorageError: the folder cannot be made (exit 74).

    References:
        none; bookkeeping.

    Example:
        >>> import tempfile
        >>> from evidentia.inference.training.callbacks import Step, notify
        >>> place = Path(tempfile.mkdtemp())
        >>> logger = TensorBoard(place / "curves", every=1)
        >>> notify([logger], "on_step", Step(1, 1, 2.5, 2.5, 0.01, 0, None))
        >>> logger.finish()
        >>> len(list((place / "curves").glob("events.out.tfevents.*")))
        1
    """

    def __init__(self, folder: Path | str, every: int = 10) -> None:
        super().__init__(every)
        require("tb", _WRITER, _EVENT, _SUMMARY)
        self.folder = Path(folder)
        self._writer: Any = None

    def open(self, step: int) -> None:
        """Open an event file; its first event takes back what an interrupted attempt wrote from `step` on."""
        atomic.make_folder(self.folder, parents=True)
        with atomic.storage("write", self.folder), quiet():
            self._writer = require("tb", _WRITER).EventFileWriter(str(self.folder))
        event = require("tb", _EVENT)
        start = event.SessionLog(status=event.SessionLog.START)
        self._writer.add_event(event.Event(wall_time=time.time(), step=step, session_log=start))

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Add one event."""
        summary = require("tb", _SUMMARY).Summary
        values = [summary.Value(tag=name, simple_value=value) for name, value in scalars.items()]
        event = require("tb", _EVENT).Event(wall_time=time.time(), step=step, summary=summary(value=values))
        self._writer.add_event(event)

    def flush(self) -> None:
        """Bring the events to the disk."""
        with atomic.storage("write", self.folder):
            self._writer.flush()

    def close(self, complete: bool) -> None:
        """Close the event file."""
        del complete
        with atomic.storage("write", self.folder):
            self._writer.close()
