"""The journal of a search: the finished trials in Optuna's JournalFile format, one line for each.

A trial is written when its value is known, as one line, so no trial is ever half recorded: a killed run asks
for its last trial again, gets the same settings, and goes on in the same folder of the point.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from evidentia.studies.harness.errors import StudyError, shorten
from evidentia.studies.harness.search.optuna_access import quiet
from evidentia.studies.harness.storage import atomic

if TYPE_CHECKING:
    from types import ModuleType

    from optuna.study import Study
    from optuna.trial import FrozenTrial

JOURNAL = "search.log"
NAME = "search"
LIMIT = 64 * 2**20
CREATE_STUDY = 0


def check_lines(data: bytes, path: Path) -> int:
    """The number of bytes in whole lines; what follows them was cut off by a crash.

    Args:
        data: the contents of a journal.
        path: where they come from, for the message.

    Raises:
        StudyError: a whole line is no JSON object, or belongs to no search of ours (exit 2).

    Example:
        >>> check_lines(b'{"op_code": 0}\\n{"op_co', Path("search.log"))
        15
    """
    whole = data.rfind(b"\n") + 1
    for number, line in enumerate(data[:whole].splitlines(), 1):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            record = None
        if not isinstance(record, dict) or not _belongs(record, number == 1):
            raise StudyError(
                f"{path}, line {number}: given {shorten(line)}, expected a JSON object of this search. "
                "Restore the journal of the search, or remove it: the trials are then asked for again, and "
                "finished points are kept"
            )
    return whole


def _belongs(record: dict[str, Any], first: bool) -> bool:
    """Whether a line begins the one study of a journal, or speaks of it; Optuna skips any other silently."""
    operation, study, trial = (record.get(name) for name in ("op_code", "study_id", "trial_id"))
    if first or operation == CREATE_STUDY:
        return first and type(operation) is int and operation == CREATE_STUDY
    return type(operation) is int and ((type(study) is int and study == 0) or type(trial) is int)


@final
class Journal:
    """The journal in one run folder.

    Args:
        folder: the run folder.
        sign: 1 where the metric is maximised, -1 where it is minimised.
    """

    def __init__(self, folder: Path, sign: int) -> None:
        self.path = folder / JOURNAL
        self.direction = "maximize" if sign > 0 else "minimize"
        self._study: Study | None = None

    def read(self, repair: bool) -> list[FrozenTrial]:
        """The finished trials in the order in which they were asked; none where there is no journal.

        A trial that some other program left running is not counted.

        Args:
            repair: cut off a torn last line, as a crash leaves it; otherwise it is refused.

        Raises:
            StudyError: the file is not a journal of this search; nothing in it is executed (exit 2).
            StorageError: the disk refuses (exit 74).
        """
        if self.path.is_symlink():
            raise StudyError(f"{self.path} is a link. Links are not followed; remove it")
        if not self.path.exists():
            return []
        try:
            data = atomic.read_limited(self.path, LIMIT)
        except ValueError as error:
            raise StudyError(f"the journal of the search: {error}") from None
        whole = check_lines(data, self.path)
        if whole < len(data):
            if not repair:
                raise StudyError(f"{self.path} ends within a line. Restore it")
            atomic.write_bytes(self.path, data[:whole])
        return self._finished() if whole else []

    def _finished(self) -> list[FrozenTrial]:
        with quiet() as optuna:
            try:
                study = self._open(optuna)
                states = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.FAIL)
                direction, trials = study.direction.name.lower(), study.get_trials(states=states)
            except OSError as error:
                raise atomic.storage_error("read", self.path, error) from error
            except Exception as error:  # each kind of damage has another exception
                reason = f"{type(error).__name__}: {error}"[:300]
                raise StudyError(
                    f"{self.path} is not the journal of a search ({reason}). Restore it, or remove it: the "
                    "trials are then asked for again, and finished points are kept"
                ) from None
        if direction != self.direction:
            raise StudyError(f"{self.path} is of a search that would {direction}, expected {self.direction}")
        return list(trials)

    def append(self, trial: FrozenTrial) -> None:
        """Write a finished trial, as one line.

        Raises:
            StorageError: the disk refuses (exit 74).
        """
        with quiet() as optuna, atomic.storage("append to", self.path):
            self._open(optuna).add_trial(trial)

    def _open(self, optuna: ModuleType) -> Study:
        """The study in the file, begun where the file is empty; no file stays open."""
        if self._study is None:
            new = not self.path.exists() or self.path.stat().st_size == 0
            backend = optuna.storages.journal.JournalFileBackend(str(self.path), lock_obj=_Held())
            storage = optuna.storages.JournalStorage(backend)
            begin = {"direction": self.direction} if new else {}
            open_study = optuna.create_study if new else optuna.load_study
            self._study = open_study(study_name=NAME, storage=storage, **begin)
        return self._study


@final
class _Held:
    """The lock of the journal: that of the run folder is held already, and vanishes with a killed run."""

    def acquire(self) -> bool:
        return True

    def release(self) -> None:
        pass
