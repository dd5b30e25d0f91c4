"""Results on the disk: the files of a finished point, and the table that is put together from them."""

from __future__ import annotations

import contextlib
import csv
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evidentia.studies.harness.errors import StudyError
from evidentia.studies.harness.storage import atomic
from evidentia.studies.harness.storage.checkpoint import pack, unpack

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

    from evidentia.studies.harness.declare.points import Point
    from evidentia.studies.harness.engine.outcome import Outcome

SCHEMA = 1
TABLE_LIMIT = 256 * 2**20
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


def scalar(value: Any) -> Any:
    """Return a cell of the table: tensors and numpy scalars become plain numbers.

    Raises:
        StudyError: if ``value`` is not a scalar.
    """
    if hasattr(value, "item") and getattr(value, "size", None) is not None:
        try:
            value = value.item()
        except (ValueError, RuntimeError):
            text = repr(value)[:80]
            raise StudyError(f"a cell of the table must be one number or text, got {text}") from None
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise StudyError(f"a cell of the table must be one number or text, got {type(value).__name__}")


def data_spec(data: Any) -> dict[str, Any]:
    """Return shapes and dtypes of a data set, so that a guide can be loaded without the data."""
    spec: dict[str, Any] = {"names": list(data.names)}
    for name in ("x", "y"):
        part = getattr(data, name)
        if part is not None:
            spec[name] = {"shape": list(part.shape), "dtype": str(part.dtype).removeprefix("torch.")}
    return spec


def safe_name(name: str, what: str) -> str:
    """Return ``name`` if it can be the name of a file.

    Raises:
        StudyError: if it has other characters than letters, digits, dot, dash and underscore, or is too long.
    """
    if not _NAME.fullmatch(name):
        raise StudyError(
            f"{what} {name[:80]!r} cannot be a file name: use letters, digits, '_', '-' and '.', at most 64"
        )
    return name


def table_bytes(table: pd.DataFrame) -> bytes:
    """Return a table as CSV; its numbers are written so that they read back exactly."""
    text: str = table.to_csv(index=False, lineterminator="\n")
    return text.encode("utf-8")


def write_point(folder: Path, point: Point, outcome: Outcome, seconds: float) -> None:
    """Write the files of a finished point, each atomically; DONE is not among them.

    Raises:
        StorageError: if the disk refuses (exit 74).
        StudyError: if a table has a name that cannot be a file name.
    """
    import pandas as pd

    from evidentia.studies.harness.reporting.verdict import Check

    spec = outcome.extra.get("data_spec", {})
    if outcome.weights:
        # One entry only: safetensors writes several in no fixed order, and equal weights are equal bytes.
        header = json.dumps({"schema": SCHEMA, "point": point.id, "data": spec}, sort_keys=True)
        atomic.write_bytes(folder / "weights.safetensors", pack(outcome.weights, {"evidentia": header}))
    if outcome.idata is not None:
        from evidentia.inference import diagnostics

        atomic.write_with(folder / "draws.nc", lambda path: diagnostics.save(outcome.idata, path))
    if outcome.tables:
        atomic.make_folder(folder / "tables")
    for name, table in outcome.tables.items():
        atomic.write_bytes(folder / "tables" / f"{safe_name(name, 'table')}.csv", table_bytes(table))
    checks = [check.as_dict() for check in outcome.checks if isinstance(check, Check)]
    atomic.write_json(folder / "checks.json", {"schema": SCHEMA, "checks": checks})
    rows = [{"point": point.id, **row} for row in outcome.rows]
    for row in rows:
        row.setdefault("seconds", seconds)
    atomic.write_bytes(folder / "metrics.csv", table_bytes(pd.DataFrame(rows)))
    atomic.write_json(
        folder / "point.json",
        {
            "schema": SCHEMA,
            "id": point.id,
            "seed": point.seed,
            "settings": json.loads(point.canon),
            "varied": json.loads(json.dumps(point.varied)),
            "data": spec,
        },
    )


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a `weights.safetensors`.

    Raises:
        StudyError: if the file is truncated or is no safetensors file; nothing in it is executed (exit 2).
    """
    try:
        return unpack(atomic.read_limited(path, limit=2**40), path)
    except ValueError as error:
        raise StudyError(str(error)) from None


def table_of(points: Iterable[Point], rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> pd.DataFrame:
    """Return the table of a run: for each point, in order, its varied settings and its rows."""
    import pandas as pd

    lines = [{"point": point.id, **point.varied, **row} for point in points for row in rows.get(point.id, ())]
    return pd.DataFrame(lines)


def read_rows(path: Path, keep_empty: bool = False) -> list[dict[str, Any]]:
    """Return the rows of a point's `metrics.csv` with exact numbers.

    Whole numbers stay whole, which a data frame with a missing cell would not keep.

    Args:
        path: the file.
        keep_empty: give an empty cell as None; otherwise it is left out.

    Raises:
        StudyError: if the file is not a table of ours (exit 2).
    """
    try:
        text = atomic.read_limited(path, TABLE_LIMIT).decode("utf-8")
        rows = list(csv.DictReader(StringIO(text, newline=""), strict=True))
    except (ValueError, csv.Error) as error:
        raise StudyError(f"{path} is not a table of ours: {error}") from None
    if any(None in row or None in row.values() for row in rows):
        raise StudyError(f"{path} is not a table of ours: a line has another number of cells than the header")
    return [
        {name: _cell(value) if value else None for name, value in row.items() if value or keep_empty}
        for row in rows
    ]


def _cell(text: str) -> Any:
    if text in ("True", "False"):
        return text == "True"
    for kind in () if "_" in text else (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text


def collect(folder: Path, points: Sequence[Point]) -> pd.DataFrame:
    """Return the table of the finished points of a run folder."""
    from evidentia.studies.harness.storage.manifest import is_done

    rows: dict[str, list[dict[str, Any]]] = {}
    for point in points:
        place = folder / "points" / point.id
        if is_done(place):
            # The id is taken from the folder: one without a letter in it would be read as a number.
            rows[point.id] = [{**row, "point": point.id} for row in read_rows(place / "metrics.csv")]
    return table_of(points, rows)
