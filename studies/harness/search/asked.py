"""The points of a search as a run sees them: those asked for so far, and one more whenever one has ended."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from evidentia.studies.harness.errors import StudyError
from evidentia.studies.harness.search.cells import point_of
from evidentia.studies.harness.search.trials import Trials, score

if TYPE_CHECKING:
    from evidentia.studies.harness.declare.points import Point
    from evidentia.studies.harness.declare.study import Study
    from evidentia.studies.harness.search.spec import SearchSpec


@final
class Asked:
    """A source of points (see `evidentia.studies.harness.engine.source`) that asks a sampler.

    Args:
        study: what is run.
        spec: its search.

    Raises:
        StudyError: Optuna is not installed (exit 2).
    """

    packages: tuple[str, ...] = ("optuna",)

    def __init__(self, study: Study, spec: SearchSpec) -> None:
        self.study, self.spec = study, spec
        self._trials = Trials(spec, study.seed)
        self._points: dict[str, Point] = {}
        self._asked = 0

    @property
    def points(self) -> tuple[Point, ...]:
        """The points asked for so far, in order; settings that were asked for twice are one point."""
        return tuple(self._points.values())

    @property
    def waiting(self) -> int:
        """How many trials are still to be asked for."""
        return self.spec.num_trials - self._asked

    def extends(self, old: Study) -> bool:
        """Whether this search goes on where the one of ``old`` ended."""
        return old.search is not None and old.search.num_trials <= self.spec.num_trials

    def recall(self, folder: Path, finished: bool) -> None:
        """Take over the trials of a run folder.

        Args:
            folder: the run folder.
            finished: it is complete, so that nothing may be missing and nothing is repaired.

        Raises:
            StudyError: the journal is missing, damaged, or of another search (exit 2).
        """
        for values in self._trials.recall(folder, repair=not finished):
            self._know(values)
        if finished and self.waiting:
            raise StudyError(
                f"{folder}: the journal has {self._asked} of {self.spec.num_trials} trials, though the run "
                "is complete. Restore it, or run again into another --out"
            )

    def rounds(
        self, rows: Callable[[Point], Sequence[Mapping[str, Any]] | None]
    ) -> Iterator[Sequence[Point]]:
        """Yield what was recalled, then one point after the other, each asked for when its turn comes."""
        if self._points:
            yield self.points
        while self.waiting:
            point = self._know(self._trials.ask())
            yield (point,)
            found = rows(point)
            self._trials.tell(None if found is None else score(found, self.spec, f"point {point.id}"))

    def _know(self, values: Mapping[str, Any]) -> Point:
        point = point_of(self.study, values)
        self._asked += 1
        return self._points.setdefault(point.id, point)
