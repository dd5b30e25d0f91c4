"""Where the points of a run come from: declared up front by a grid, or asked for one by one by a search."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, final

from evidentia.studies.harness.errors import StudyError

if TYPE_CHECKING:
    from evidentia.studies.harness.declare.points import Point
    from evidentia.studies.harness.declare.study import Study


class PointSource(Protocol):
    """What a run needs to know of its points.

    Args:
        packages: optional packages that decide which points there are.
    """

    packages: tuple[str, ...]

    @property
    def points(self) -> tuple[Point, ...]:
        """The points known by now, in order, each id once."""

    @property
    def waiting(self) -> int:
        """How many are still to be asked for."""

    def extends(self, old: Study) -> bool:
        """Whether every point of ``old``, the same study in smaller, is or will be among the points."""

    def recall(self, folder: Path, finished: bool) -> None:
        """Learn from a run folder which points were asked for before."""

    def rounds(
        self, rows: Callable[[Point], Sequence[Mapping[str, Any]] | None]
    ) -> Iterator[Sequence[Point]]:
        """Yield points to compute, round by round.

        Args:
            rows: the rows of a point of the last round, None where it failed. A round that was not computed
                to its end must be the last one that is taken.
        """


@final
class Declared:
    """The points of a grid: all of them are known, and all are one round."""

    packages: tuple[str, ...] = ()
    waiting = 0

    def __init__(self, points: tuple[Point, ...]) -> None:
        self.points = points

    def extends(self, old: Study) -> bool:
        """Whether the grid has every point of the old one."""
        return {point.id for point in old.points()} <= {point.id for point in self.points}

    def recall(self, folder: Path, finished: bool) -> None:
        """Nothing: a grid needs no memory."""

    def rounds(
        self, rows: Callable[[Point], Sequence[Mapping[str, Any]] | None]
    ) -> Iterator[Sequence[Point]]:
        """Yield all points at once."""
        yield self.points


def source_of(study: Study, parallel: bool = False) -> PointSource:
    """The source of a study's points.

    Args:
        study: what is to run.
        parallel: the points are to be shared among processes.

    Raises:
        StudyError: a search is to be shared among processes, or Optuna is not installed (exit 2).
    """
    if study.search is None:
        return Declared(tuple(study.points()))
    if parallel:
        raise StudyError(
            f"{study.name}: the trials of a search follow from one another, so it runs in one process. Leave "
            "out --workers and --shard, or declare a grid"
        )
    from evidentia.studies.harness.search.asked import Asked

    return Asked(study, study.search)
