"""Training curves for MLflow, in an SQLite file of the run; MLflow 3.17 refuses its plain file store."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, final

from evidentia.studies.harness.errors import StudyError
from evidentia.studies.harness.extras import quiet, require
from evidentia.studies.harness.loggers.scalars import ScalarLogger
from evidentia.studies.harness.storage import atomic
from evidentia.studies.harness.storage.locks import hold

__all__ = ["MLflow", "sqlite_uri"]

_NOISY = ("mlflow", "alembic")
_SQLITE = "sqlite:///"


def sqlite_uri(file: Path | str) -> str:
    """The address of an SQLite file, as MLflow writes it.

    Example:
        >>> sqlite_uri("/tmp/runs/mlflow.db")
        'sqlite:////tmp/runs/mlflow.db'
    """
    return f"{_SQLITE}{Path(file).absolute()}"


@final
class MLflow(ScalarLogger):
    """Writes loss, smoothed loss, learning rate and held-out loss as metrics of an MLflow run (extra
    `mlflow`).

    A resumed training goes on in the run of the same name that has not finished, after its last step.

    Args:
        uri: `sqlite:///FILE`, or the address of a server; `mlflow ui --backend-store-uri URI` shows it.
        experiment: name of the experiment; created where there is none.
        run: name of the run in it.
        tags: further tags of the run, name -> text.
        every: steps between two entries.

    Raises:
        StudyError: the extra is unusable, or MLflow refuses the address (exit 2).

    References:
        none; bookkeeping.
    """

    def __init__(
        self,
        uri: str,
        experiment: str = "evidentia",
        run: str = "fit",
        tags: Mapping[str, str] | None = None,
        every: int = 10,
    ) -> None:
        super().__init__(every)
        # No training may speak to anyone but the store it was given.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        require("mlflow", "mlflow.tracking", "mlflow.entities")
        if uri.startswith("file:") or not re.match(r"[a-z+]+://", uri):
            raise StudyError(
                f"uri: given {uri!r}, expected sqlite:///FILE or the address of a server; MLflow keeps no "
                f"plain folders any more. Fix: {sqlite_uri('mlflow.db')}"
            )
        self.uri, self.experiment, self.run, self.tags = (
            uri,
            experiment,
            run.replace("'", ""),
            dict(tags or {}),
        )
        self._client: Any = None
        self._id = ""
        self._last = 0
        self._waiting: list[Any] = []

    def open(self, step: int) -> None:
        """Find or begin the run."""
        with self._asking(), self._alone():
            self._client = require("mlflow", "mlflow.tracking").MlflowClient(tracking_uri=self.uri)
            found = self._client.get_experiment_by_name(self.experiment)
            number = found.experiment_id if found else self._new_experiment()
            named = f"attributes.run_name = '{self.run}' and attributes.status = 'RUNNING'"
            runs = self._client.search_runs([number], named) if step > 1 else []
            mine = next((run for run in runs if self.tags.items() <= run.data.tags.items()), None)
            self._last = 0
            if mine is None:
                mine = self._client.create_run(number, tags=self.tags, run_name=self.run)
            else:
                history = self._client.get_metric_history(mine.info.run_id, "learning_rate")
                self._last = max((each.step for each in history), default=0)
            self._id = mine.info.run_id

    def _alone(self) -> contextlib.AbstractContextManager[None]:
        """Keep other processes out while a database is made: two that start together would both make it."""
        if not self.uri.startswith(_SQLITE):
            return contextlib.nullcontext()
        folder = Path(self.uri.removeprefix(_SQLITE)).parent
        return hold(
            folder / ".lock-mlflow", f"{folder}: another process has held its MLflow file for a minute", 60
        )

    def _new_experiment(self) -> str:
        if not self.uri.startswith(_SQLITE):
            return str(self._client.create_experiment(self.experiment))
        # Files of runs would else go to the working directory.
        place = Path(self.uri.removeprefix(_SQLITE)).parent / "mlflow-files"
        return str(self._client.create_experiment(self.experiment, artifact_location=place.as_uri()))

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Keep the numbers until the next flush; what an interrupted attempt has written stays."""
        if step <= self._last:
            return
        metric = require("mlflow", "mlflow.entities").Metric
        now = int(time.time() * 1000)
        self._waiting += [metric(name, value, now, step) for name, value in scalars.items()]
        if len(self._waiting) >= 400:  # one transaction for many steps
            self.flush()

    def flush(self) -> None:
        """Send what is waiting."""
        if self._waiting:
            with self._asking():
                self._client.log_batch(self._id, metrics=self._waiting)
            self._waiting = []

    def close(self, complete: bool) -> None:
        """Send the rest and mark the run as finished, unless it will go on."""
        self.flush()
        if complete:
            with self._asking():
                self._client.set_terminated(self._id)

    @contextlib.contextmanager
    def _asking(self) -> Iterator[None]:
        """Keep MLflow from the terminal; turn its faults into ours."""
        levels = {name: logging.getLogger(name).level for name in _NOISY}
        try:
            for name in _NOISY:
                logging.getLogger(name).setLevel(logging.ERROR)
            with quiet():
                yield
        except StudyError:
            raise
        except OSError as error:
            raise atomic.storage_error("write", Path(self.uri), error) from error
        except Exception as error:  # a server that is not there, a database of a newer version …
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            raise StudyError(f"MLflow at {self.uri}: {reason}. Fix: give another uri") from error
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)
