"""From the values of a trial to a point of the study, and the points at the edges of a space."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from evidentia.studies.harness.declare.config import FrozenDict, revalidate
from evidentia.studies.harness.declare.points import Point, cells_of, resolve

if TYPE_CHECKING:
    from evidentia.studies.harness.declare.study import Study


def point_of(study: "Study", values: Mapping[str, Any]) -> Point:
    """The point that a trial asks for.

    Args:
        study: what is searched.
        values: for each path of the space, its value.

    Raises:
        StudyError: the values make no valid settings; the message names the search and the path (exit 2).
    """
    settings = resolve(study, values, "search path")
    (replicate,) = study.replicates
    point = revalidate(
        Point, settings | {"replicate": replicate, "study_seed": study.seed}, f"{study.name}.search"
    )
    return point.model_copy(update={"varied": FrozenDict(cells_of(point, list(values)))})


def edges(study: "Study") -> Iterator[Point]:
    """Points that show a fault of the space before anything is computed: the ends of each axis.

    One axis moves at a time; the others stay at their first value. Every option of a choice is among them.

    Raises:
        StudyError: a path or a value leads to no valid settings (exit 2).
    """
    if study.search is None:
        return
    space = study.search.space
    first = {path: axis.samples[0] for path, axis in space.items()}
    yield point_of(study, first)
    for path, axis in space.items():
        for value in axis.samples[1:]:
            yield point_of(study, first | {path: value})
