"""The part of a result that is worth showing: names of points that tell them apart, a few rows of each."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["alike", "digest", "point_names", "telling"]

KEPT = ("kind", "structure", "stopped")
"""Words that belong to a row and not to the settings of its point."""


def telling(settings: Sequence[Mapping[str, str]], always: Sequence[str] = ()) -> list[str]:
    """The fewest and shortest settings that tell the points apart as well as all of them do.

    What follows from the rest is dropped, longest first: a model's full specification is no name for it where
    its prior is one.

    Args:
        settings: for each point, setting -> its value in words; "" where it has none.
        always: settings that are shown anyway.

    Example:
        >>> telling([{"prior": "g", "model": "subset(prior=g)"}, {"prior": "n", "model": "subset(prior=n)"}])
        ['prior']
    """
    names = list(dict.fromkeys(name for point in settings for name in point))

    def kinds(kept: Sequence[str]) -> int:
        return len({tuple(point.get(name, "") for name in kept) for point in settings})

    def length(name: str) -> int:
        return max(len(point.get(name, "")) for point in settings)

    kept = list(names)
    for name in sorted(names, key=lambda name: (-length(name), -names.index(name))):
        fewer = [other for other in kept if other != name]
        if name not in always and kinds(fewer) == kinds(names):
            kept = fewer
    return kept


def digest(table: pd.DataFrame, top: int) -> pd.DataFrame:
    """At most `top` rows, shared evenly among the points, and only columns that tell something.

    Left out are empty columns, words that are the same in every row, and settings of points that follow from
    other settings. The file keeps everything.

    Args:
        table: the result table of a run; the rows of one point are together, best first, and its settings are
            the columns on the left.
        top: how many rows to show.

    Example:
        >>> import pandas as pd
        >>> table = pd.DataFrame({"point": list("aabb"), "prior": list("ggnn"), "data": "tanh",
        ...                       "log_evidence": [-1.0, -2.0, -3.0, -4.0]})
        >>> digest(table, 2)
          prior  log_evidence
        0     g          -1.0
        2     n          -3.0
    """
    if "point" not in table.columns:
        return table.head(top).dropna(axis="columns", how="all")
    groups = table.groupby("point", sort=False)
    rows = table
    if len(table) > top:
        rows = table[groups.cumcount() < max(1, top // max(groups.ngroups, 1))].head(top)
    rows = rows.dropna(axis="columns", how="all")
    columns = [str(name) for name in rows.columns if name != "point"]
    words = [column for column in columns if column not in KEPT and _words(table, column)]
    steady = groups[columns].nunique(dropna=False).max() if columns else None
    words = [column for column in words if steady is not None and steady[column] == 1]
    last = max((columns.index(column) for column in words), default=-1)
    numbers = [c for c in columns[: last + 1] if c not in words and c not in KEPT]
    firsts = groups.first().reindex(columns=[*words, *numbers])
    settings = [
        {str(key): "" if cell != cell or cell is None else str(cell) for key, cell in record.items()}
        for record in firsts.to_dict("records")
    ]
    told = telling(settings, always=numbers)
    apart = len({tuple(point[name] for name in told) for point in settings}) == len(settings)
    kept = [column for column in columns if column not in words or column in told]
    return rows[kept if apart else ["point", *kept]]


def alike(table: pd.DataFrame, settings: Collection[str] = ()) -> list[pd.DataFrame]:
    """The result table cut into tables of points with the same kinds of results, in order of appearance.

    Args:
        table: the result table of a run.
        settings: columns that are settings of points; whether they are filled makes no difference.

    Example:
        >>> import pandas as pd
        >>> table = pd.DataFrame({"point": list("abc"), "log_evidence": [-1.0, None, -3.0],
        ...                       "test_mse": [None, 0.5, None]})
        >>> [list(part["point"]) for part in alike(table)]
        [['a', 'c'], ['b']]
        >>> len(alike(table, settings=["log_evidence", "test_mse"]))
        1
    """
    if "point" not in table.columns:
        return [table]
    results = table[[column for column in table.columns if column not in settings]]
    filled = results.notna().groupby(table["point"], sort=False).any()
    kinds = filled.apply(lambda row: tuple(row), axis="columns")
    places: dict[tuple[bool, ...], list[Any]] = {kind: [] for kind in kinds}
    for point, kind in kinds.items():
        places[kind].append(point)
    return [table[table["point"].isin(points)] for points in places.values()]


def _words(table: pd.DataFrame, column: str) -> bool:
    return bool(table[column].map(lambda cell: cell is None or isinstance(cell, str) or cell != cell).all())


def point_names(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """A short name for each point: the settings that tell it apart, "" where nothing does.

    Example:
        >>> point_names([{"prior": "g"}, {"method": "lasso"}])
        ['prior = g', 'method = lasso']
    """
    words = [{key: str(value) for key, value in point.items()} for point in settings]
    told = telling(words)
    names = []
    for point in words:
        shown = [key for key in told if point.get(key)]
        if not shown:
            # It is told apart by what it lacks; name it by what only it has.
            own = [key for key in point if sum(other.get(key) == point[key] for other in words) == 1]
            shown = sorted(own, key=lambda key: len(point[key]))[:1] if len(words) > 1 else []
        names.append(", ".join(f"{key} = {point[key]}" for key in shown))
    return names
