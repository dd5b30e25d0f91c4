"""The tables of a report: what is shown of each, in which order, and where its full precision lies."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, final

from evidentia.studies.harness.reporting.digest import alike, digest
from evidentia.studies.harness.reporting.findings import is_inclusion, is_structures
from evidentia.studies.harness.reporting.verdict import RULES, Check
from evidentia.studies.harness.storage.read_run import PointView
from evidentia.studies.harness.terminal.present import Shown, label, show_table

if TYPE_CHECKING:
    import pandas as pd

TOP, METRIC_ROWS, SIDE_BY_SIDE = 10, 26, 6
SHOWN_FIRST = (
    "structure",
    "op",
    "probability",
    "probability_se",
    "log_evidence",
    "standard_error",
    "kind",
    "num_parameters",
    "elpd_loo",
    "elpd_loo_se",
)


@final
class TableView(NamedTuple):
    """A table of the page with its caption."""

    caption: str
    shown: Shown
    source: str


@final
class Section(NamedTuple):
    """The tables of one point."""

    title: str
    tables: Sequence[TableView]


def metrics_views(table: pd.DataFrame | None, settings: Collection[str] = ()) -> Iterator[TableView]:
    """The result table of the run, or the first rows of each point; one table for each kind of row.

    Args:
        table: the result table.
        settings: its columns that are settings of points.
    """
    if table is None or not len(table):
        return
    for part in alike(table, settings):
        shown = digest(part, METRIC_ROWS)
        title = "One row for each result" if len(shown) == len(part) else "The first results of each point"
        if len(shown) < len(part):
            title += f": {len(shown)} of {len(part):,} rows"
        yield TableView(title, show_table(shown), "metrics.csv")


def sections(
    points: Sequence[PointView], tables: Mapping[str, Mapping[str, pd.DataFrame]], told: set[str]
) -> Iterator[Section]:
    """The tables of each point; inclusion is left out of those that were `told` side by side."""
    for point in points:
        views = [
            view
            for name, table in sorted(tables.get(point.id, {}).items(), key=_rank)
            if not (point.id in told and is_inclusion(table))
            for view in table_views(name, table, f"points/{point.id}/tables")
        ]
        if views:
            yield Section(point.label if len(points) > 1 else "", views)


def _rank(item: tuple[str, pd.DataFrame]) -> int:
    return 0 if is_structures(item[1]) else (1 if is_inclusion(item[1]) else 2)


def inclusion_views(
    points: Sequence[PointView], tables: Mapping[str, Mapping[str, pd.DataFrame]]
) -> tuple[list[TableView], set[str]]:
    """Inclusion probabilities side by side, for points that speak of the same operations.

    Returns:
        The tables, and the ids of the points that are in them.
    """
    found = [
        (point, table)
        for point in points
        for table in tables.get(point.id, {}).values()
        if is_inclusion(table)
    ]
    groups: dict[tuple[str, ...], list[tuple[PointView, pd.DataFrame]]] = {}
    for point, table in found:
        groups.setdefault(tuple(map(str, table["op"])), []).append((point, table))
    chosen = [group for group in groups.values() if 2 <= len(group) <= SIDE_BY_SIDE]
    return [side_by_side(group) for group in chosen], {point.id for group in chosen for point, _ in group}


def side_by_side(found: Sequence[tuple[PointView, pd.DataFrame]]) -> TableView:
    """One column for each point, one row for each operation."""
    columns: dict[str, list[str]] = {"op": [str(op) for op in found[0][1]["op"]]}
    for point, table in found:
        shown = show_table(table[[c for c in ("probability", "standard_error") if c in table.columns]])
        heading = point.label.partition(" = ")[2] if point.label.count(" = ") == 1 else point.label
        columns[heading if heading not in columns else point.id] = [row[0] for row in shown.rows]
    numeric = (False, *[True] * (len(columns) - 1))
    rows = tuple(zip(*columns.values(), strict=True))
    return TableView(
        "Posterior inclusion probability", Shown(tuple(columns), rows, numeric), "points/*/tables"
    )


def table_views(name: str, table: pd.DataFrame, place: str) -> Iterator[TableView]:
    """The top of one table, most probable rows first where it has probabilities."""
    if not len(table):
        return
    title = label(name).capitalize()
    if is_structures(table):
        table = table.sort_values("probability", ascending=False, kind="stable")
    top = len(table) if is_inclusion(table) and len(table) <= 64 else TOP
    kept = table.dropna(axis="columns", how="all")
    if is_structures(table) or is_inclusion(table):
        kept = kept[[column for column in SHOWN_FIRST if column in kept.columns]]
    yield TableView(rows_note(title, kept, top), show_table(kept, top), f"{place}/{name}.csv")


def rows_note(title: str, table: pd.DataFrame, top: int) -> str:
    """The title, saying how much of the table is shown."""
    return title if len(table) <= top else f"{title}: the first {top} of {len(table):,} rows"


def checks_view(checks: Sequence[tuple[PointView, Check]], limit: int = 60) -> TableView | None:
    """All checks, those that did not pass first."""
    import pandas as pd

    if not checks:
        return None
    several = len({point.id for point, _ in checks}) > 1
    rows = [
        {
            "result": "pass" if check.passed else "attention",
            "check": RULES[check.name].title if check.name in RULES else label(check.name),
            "value": check.value if check.value == check.value else "not computable",
            "asks for attention if": limit_of(check),
            "where": ", ".join(filter(None, (point.label if several else "", check.site))),
            "what to do": check.remedy,
        }
        for point, check in sorted(checks, key=lambda pair: pair[1].passed)
    ]
    table = pd.DataFrame(rows).astype({"value": object})
    return TableView(
        rows_note("Checks and their limits", table, limit), show_table(table, limit), "points/*/checks.json"
    )


def limit_of(check: Check) -> str:
    """When a check asks for attention, as a relation and a threshold."""
    return f"{RULES[check.name].relation} {check.threshold}" if check.name in RULES else str(check.threshold)
