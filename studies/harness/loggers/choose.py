"""The loggers of a run by the names that `--log` takes, and where in the run folder each writes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from evidentia.studies.harness.errors import StudyError, did_you_mean
from evidentia.studies.harness.loggers.mlflow import MLflow, sqlite_uri
from evidentia.studies.harness.loggers.scalars import ScalarLogger
from evidentia.studies.harness.loggers.tensorboard import TensorBoard
from evidentia.studies.harness.storage.read_run import words

if TYPE_CHECKING:
    from evidentia.studies.harness.declare.points import Point

__all__ = ["FILES", "LOGGERS", "check_loggers", "open_loggers"]

LOGGERS = ("mlflow", "tensorboard")
FILES = ("mlflow.db", "mlflow-files", "tensorboard")
"""What they write at the top of a run folder; it is for looking at, and no result is read from it."""


def check_loggers(names: Sequence[str]) -> tuple[str, ...]:
    """The names, each once, after trying that each logger can be used.

    Raises:
        StudyError: a name is unknown, or its extra is unusable (exit 2).

    Example:
        >>> check_loggers(["tensorbord"])
        Traceback (most recent call last):
        evidentia.studies.harness.errors.StudyError: --log: unknown logger 'tensorbord'. \
Did you mean 'tensorboard'?
    """
    for name in names:
        if name not in LOGGERS:
            raise StudyError(f"--log: unknown logger {name[:80]!r}. {did_you_mean(name, LOGGERS)}")
        _make(name, Path(), "", {})
    return tuple(dict.fromkeys(names))


def open_loggers(names: Sequence[str], folder: Path, point: Point) -> tuple[ScalarLogger, ...]:
    """The callbacks for the training of one point.

    Args:
        names: some of `LOGGERS`.
        folder: the run folder.
        point: whose training is written; its id names its curve.
    """
    settings = {key: words(value) for key, value in point.varied.items() if value is not None}
    return tuple(_make(name, folder, point.id, settings) for name in names)


def _make(name: str, folder: Path, point: str, settings: dict[str, str]) -> ScalarLogger:
    if name == "tensorboard":
        return TensorBoard(folder / "tensorboard" / point)
    return MLflow(sqlite_uri(folder / "mlflow.db"), folder.name or "evidentia", point or "fit", settings)
