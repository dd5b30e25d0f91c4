"""Metrics and tables as Parquet, column types included (extra `parquet`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from evidentia.studies.harness.errors import StudyError
from evidentia.studies.harness.extras import require
from evidentia.studies.harness.storage.read_run import PointView, RunView

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["write_tables"]


def write_tables(run: RunView, points: Sequence[PointView], whole: bool, folder: Path) -> list[str]:
    """Write `metrics.parquet` and one file per table into `folder`.

    Raises:
        StudyError: the extra is unusable, or a column mixes types that Parquet keeps apart (exit 2).

    References:
        none; bookkeeping.
    """
    require("parquet", "pyarrow", "pyarrow.parquet")
    tables = {} if not whole else {"metrics": run.table(), **run.tables()}
    for name, table in tables.items():
        _write(table, folder / f"{name}.parquet")
    for point in points:
        place = folder / "points" / point.id
        place.mkdir(parents=True)
        for name, table in {"metrics": point.metrics(), **point.tables()}.items():
            _write(table, place / f"{name}.parquet")
    if whole and tables["metrics"] is None:
        return ["the run is not finished, so it has no table of its own"]
    return []


def _write(table: pd.DataFrame | None, path: Path) -> None:
    if table is None:
        return
    arrow = require("parquet", "pyarrow")
    try:
        table.to_parquet(path, engine="pyarrow", index=False)
    except arrow.ArrowException as error:
        reason = str(error).partition("\n")[0]
        raise StudyError(f"export: table {path.stem}: {reason}. Use its CSV file instead") from None
