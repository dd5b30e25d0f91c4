"""What a run gives back: a table with one row per structure, and the draws and weights of each point."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from evidentia.studies.harness.declare.points import Point
from evidentia.studies.harness.errors import StudyError, did_you_mean

if TYPE_CHECKING:
    from pandas import DataFrame
    from torch import Tensor


class Result(NamedTuple):
    """The result of a study, in memory or backed by its run folder.

    Attributes:
        table: the rows of all points; columns carry their units.
        points: the points, in order.
        outcomes: id of a point -> its outcome, for points computed in this process.
        folder: the run folder, or None.
    """

    table: "DataFrame"
    points: tuple[Point, ...] = ()
    outcomes: Mapping[str, Any] = {}
    folder: Path | None = None

    def to_idata(self, point: Point | str | None = None) -> Any:
        """The ``InferenceData`` of a point.

        Args:
            point: a point or its id; may be left out when there is only one.

        Raises:
            StudyError: there is no such point, or it has no draws.
        """
        identity = self._id(point)
        idata = getattr(self.outcomes.get(identity), "idata", None)
        if idata is not None:
            return idata
        path = self._file(identity, "draws.nc")
        from evidentia.inference import diagnostics

        return diagnostics.load(path)  # type: ignore[attr-defined, unused-ignore]

    def state(self, point: Point | str | None = None) -> "dict[str, Tensor]":
        """The weights of a point as a flat mapping of tensors, like a ``state_dict``.

        Args:
            point: a point or its id; may be left out when there is only one.

        Raises:
            StudyError: there is no such point, or it has no weights.
        """
        identity = self._id(point)
        weights = getattr(self.outcomes.get(identity), "weights", None)
        if weights is not None:
            return dict(weights)
        from evidentia.studies.harness.storage.results import read_weights

        return read_weights(self._file(identity, "weights.safetensors"))

    def read(self, point: Point | str | None, name: str) -> "DataFrame":
        """A table of a point beside its rows, for example ``"inclusion"``.

        Args:
            point: a point or its id; None when there is only one.
            name: what the inference called the table.

        Raises:
            StudyError: there is no such point or table.
        """
        identity = self._id(point)
        outcome = self.outcomes.get(identity)
        if outcome is not None:
            if name not in outcome.tables:
                raise StudyError(
                    f"point {identity} has no table {name!r}. {did_you_mean(name, outcome.tables)}"
                )
            table: DataFrame = outcome.tables[name]
            return table
        from evidentia.studies.harness.storage.read_run import read_table

        return read_table(self._file(identity, f"tables/{name}.csv"))

    def _id(self, point: Point | str | None) -> str:
        names = [each.id for each in self.points]
        if point is None:
            if len(names) != 1:
                raise StudyError(
                    f"the result has {len(names)} points; say which one: {', '.join(names[:10])}"
                )
            return names[0]
        identity = point.id if isinstance(point, Point) else point
        if identity not in names:
            raise StudyError(f"no point {identity!r} in this result. {did_you_mean(identity, names)}")
        return identity

    def _file(self, identity: str, name: str) -> Path:
        path = self.folder / "points" / identity / name if self.folder else None
        if path is None or not path.is_file():
            raise StudyError(f"point {identity} has no {name}; its kind of inference keeps none.")
        return path
