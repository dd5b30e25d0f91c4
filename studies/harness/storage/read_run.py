"""Reading a finished or running run folder, trusting nothing in it: what report, compare and status share.

Only YAML, JSON, CSV and netCDF of ours are read, each with a size limit; nothing in a folder is executed, and
a file that is not what its name says is an error that names it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, final

from evidentia.studies.harness.errors import StudyError, shorten
from evidentia.studies.harness.reporting.digest import point_names
from evidentia.studies.harness.reporting.verdict import Check
from evidentia.studies.harness.storage import atomic
from evidentia.studies.harness.storage.manifest import MANIFEST, differing, is_done
from evidentia.studies.harness.storage.run_folder import SCHEMA, read_config, read_status

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["PointView", "RunView", "read_run", "read_table", "words"]

TABLE_LIMIT = 256 * 2**20
IMAGE_LIMIT = 32 * 2**20
HDF5 = b"\x89HDF\r\n\x1a\n"


@final
class PointView(NamedTuple):
    """One point as its folder shows it."""

    id: str
    folder: Path
    record: Mapping[str, Any]
    status: Mapping[str, Any]
    done: bool
    label: str = ""
    """The settings that tell this point from the others of its run, or its id."""

    @property
    def state(self) -> str:
        """Done only with the mark DONE, damaged where files changed since; else what the status file says."""
        if self.done and self.changed():
            return "damaged"
        claimed = str(self.status.get("state", "queued"))
        return "done" if self.done else ("unfinished" if claimed == "done" else claimed)

    @property
    def varied(self) -> dict[str, Any]:
        """The axes of the grid on which this point differs."""
        varied = self.record.get("varied")
        return dict(varied) if isinstance(varied, Mapping) else {}

    def metrics(self) -> pd.DataFrame | None:
        """The rows of the point, None before it has any."""
        path = self.folder / "metrics.csv"
        if not path.is_file():
            return None
        table = read_table(path)
        if "point" not in table.columns:
            # Any text parses as a table of one column, a pickle of protocol 0 among them.
            raise StudyError(f"{path} is not the result of a point: it has no column 'point'")
        return table

    def changed(self) -> list[str]:
        """Files that differ from the manifest written when the point finished."""
        return differing(self.folder) if (self.folder / MANIFEST).is_file() else []

    def tables(self) -> dict[str, pd.DataFrame]:
        """Name -> table, by name."""
        return read_tables(self.folder / "tables")

    def checks(self) -> list[Check]:
        """The checks of the point's verdict."""
        path = self.folder / "checks.json"
        if not path.is_file():
            return []
        record = read_record(path)
        listed = record.get("checks", []) if isinstance(record, Mapping) else record
        if not isinstance(listed, list) or not all(isinstance(each, Mapping) for each in listed):
            raise StudyError(f"{path}: expected a list of checks, given {shorten(record)}")
        return [Check.from_dict(each) for each in listed]

    def draws(self) -> Path | None:
        """The path of draws.nc, after a look at its first bytes; None if there is none.

        Raises:
            StudyError: the file is not HDF5, whatever else it may be.
        """
        path = self.folder / "draws.nc"
        if not path.is_file():
            return None
        with path.open("rb") as stream:
            if stream.read(len(HDF5)) != HDF5:
                raise StudyError(f"{path} is not a netCDF file of ours (no HDF5 signature). It was not read")
        return path


@final
class RunView(NamedTuple):
    """One run as its folder shows it."""

    folder: Path
    config: Mapping[str, Any]
    environment: Mapping[str, Any]
    status: Mapping[str, Any]
    points: tuple[PointView, ...]

    @property
    def name(self) -> str:
        """Study and folder name: what messages call the run."""
        return f"{self.config['name']}/{self.folder.name}"

    def table(self) -> pd.DataFrame | None:
        """The result table of the run; None before it is written."""
        path = self.folder / "metrics.csv"
        return read_table(path) if path.is_file() else None

    def tables(self) -> dict[str, pd.DataFrame]:
        """Run-level tables by name."""
        return read_tables(self.folder / "tables")

    def conclusions(self) -> list[str]:
        """The study's own sentences; none where it has none.

        Raises:
            StudyError: the file is not what its name says (exit 2).
        """
        path = self.folder / "conclusions.json"
        record = read_record(path) if path.is_file() else {"sentences": []}
        found = record.get("sentences") if isinstance(record, Mapping) else None
        if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
            raise StudyError(f"{path}: expected a list of sentences, given {shorten(record)}")
        return found

    def figures(self) -> list[Path]:
        """The figures, by name: PNG and SVG; one name in both forms counts once, as PNG."""
        found: dict[str, Path] = {}
        for suffix in (".png", ".svg"):
            for path in regular(self.folder / "figures", suffix):
                found.setdefault(path.stem, path)
        return [found[name] for name in sorted(found)]


def read_run(folder: Path) -> RunView:
    """Read the outline of a run folder.

    Raises:
        StudyError: it is no run folder, or a newer version wrote it (exit 2).
    """
    folder = Path(folder)
    try:
        there = folder.is_dir()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise StudyError(f"{shorten(str(folder))} is not a run folder: {reason}") from None
    if not there:
        raise StudyError(
            f"{shorten(str(folder))} is not a run folder: there is no such folder. Give runs/<study>/<run>"
        )
    config = read_config(folder)
    path = folder / "environment.json"
    environment = read_record(path) if path.is_file() else {}
    if not isinstance(environment, Mapping):
        raise StudyError(f"{path}: expected an object, given {shorten(environment)}")
    root = folder / "points"
    inside = sorted(root.iterdir()) if root.is_dir() and not root.is_symlink() else []
    points = [read_point(path) for path in inside if path.is_dir() and not path.is_symlink()]
    order = declared_order(folder)
    points.sort(key=lambda point: (order.get(point.id, len(order)), point.id))
    settings = [
        {key: words(value) for key, value in point.varied.items() if value is not None} for point in points
    ]
    named = zip(points, point_names(settings), strict=True)
    labelled = tuple(point._replace(label=name or point.id) for point, name in named)
    return RunView(folder, config, environment, read_status(folder), labelled)


def declared_order(folder: Path) -> dict[str, int]:
    """Id of a point -> its place in the result table, which is that of the study."""
    path = folder / "metrics.csv"
    try:
        table = read_table(path) if path.is_file() else None
    except StudyError:
        return {}  # whoever needs the table will say what is wrong with it
    if table is None or "point" not in table.columns:
        return {}
    return {str(point): place for place, point in enumerate(table["point"].drop_duplicates())}


def read_point(folder: Path) -> PointView:
    """Read the outline of a point's folder."""
    path = folder / "point.json"
    record = read_record(path) if path.is_file() else {}
    return PointView(
        folder.name,
        folder,
        record if isinstance(record, Mapping) else {},
        read_status(folder),
        is_done(folder),
    )


def read_record(path: Path) -> Any:
    """A JSON value of ours.

    Raises:
        StudyError: it is unreadable, or a newer version wrote it (exit 2).
    """
    try:
        record = atomic.read_json(path)
    except ValueError as error:
        raise StudyError(f"{error}. Expected a file written by a run") from None
    schema = record.get("schema", SCHEMA) if isinstance(record, Mapping) else SCHEMA
    if not isinstance(schema, int) or schema > SCHEMA:
        raise StudyError(f"{path} has schema {schema!r}; this version reads {SCHEMA}. Update evidentia")
    return record


def read_table(path: Path) -> pd.DataFrame:
    """A CSV table of ours, in full precision.

    Raises:
        StudyError: the file is too large or no table; a pickle is refused unread (exit 2).
    """
    import pandas as pd

    try:
        data = atomic.read_limited(path, TABLE_LIMIT)
        text = data.decode("utf-8")
        if "\0" in text:
            raise ValueError(f"{path} holds NUL bytes")
    except ValueError as error:
        raise StudyError(f"{path} is not a CSV table: {error}") from None
    from io import StringIO

    try:
        # Only the empty field is missing: a structure may be called "None" or "NA".
        return pd.read_csv(
            StringIO(text),
            dtype={"point": str},  # an id may have no letter in it
            keep_default_na=False,
            na_values=[""],
        )
    except pd.errors.EmptyDataError:
        return pd.DataFrame()
    except (ValueError, pd.errors.ParserError) as error:
        raise StudyError(f"{path} is not a CSV table: {error}") from None


def read_tables(folder: Path) -> dict[str, pd.DataFrame]:
    """Every CSV table of a folder, by name."""
    return {path.stem: read_table(path) for path in regular(folder, ".csv")}


def read_image(path: Path) -> bytes:
    """The bytes of a figure, within the limit.

    Raises:
        StudyError: it is too large or unreadable (exit 2).
    """
    try:
        return atomic.read_limited(path, IMAGE_LIMIT)
    except ValueError as error:
        raise StudyError(f"figure: {error}") from None


def regular(folder: Path, suffix: str) -> Iterator[Path]:
    """Visible regular files of a folder with a suffix, sorted; links are not followed."""
    if not folder.is_dir() or folder.is_symlink():
        return
    for path in sorted(folder.iterdir()):
        if path.suffix == suffix and path.is_file() and not path.is_symlink() and path.name[0] != ".":
            yield path


def words(value: Any) -> str:
    """A setting in words: a registry key with its parameters, a list in parentheses.

    Example:
        >>> words({"key": "tanh", "params": {"n": 50}}), words([1, 2])
        ('tanh(n=50)', '(1, 2)')
    """
    if isinstance(value, Mapping) and "key" in value:
        params = value.get("params") or {}
        inside = ", ".join(f"{name}={words(each)}" for name, each in params.items())
        return f"{value['key']}({inside})" if inside else str(value["key"])
    if isinstance(value, list | tuple):
        return "(" + ", ".join(map(words, value)) + ")"
    return str(value)
