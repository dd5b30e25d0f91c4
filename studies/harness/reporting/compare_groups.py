"""What may stand in one table: models of the same data and the same number of observations, a group each.

The points of one run may be fitted to several data sets. Each data set with two models or more has a table of
its own; a value of one table says nothing about a value of another. Who names single points, or runs that
share no data, asked for a comparison that does not exist, and is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, final

from evidentia.studies.harness.reporting.compare import Comparison, compare_entries, refuse_unequal
from evidentia.studies.harness.reporting.compare_entries import Entry, is_point, read_entries

__all__ = ["Group", "compare_runs", "comparisons", "groups"]


@final
class Group(NamedTuple):
    """The models of one data set, compared."""

    heading: str
    data: str
    comparison: Comparison


def compare_runs(folders: Sequence[Path], csv: bool = False) -> str:
    """The comparison of run folders (or of points, runs/…/points/<id>) as text, one table per data set.

    Args:
        folders: two or more folders, or one run with several models.
        csv: full precision as CSV in place of the tables for people: one document, whose last columns,
            `data` and `data_sha256`, tell the data sets apart.

    Raises:
        StudyError: a path is no run folder, a file is not what its name says, nothing is finished, or there
            are no two models of the same data (exit 2).
    """
    found, alone = comparisons(folders)
    if csv:
        import pandas as pd

        return pd.concat(
            [group.comparison.table.assign(data=group.heading, data_sha256=group.data) for group in found]
        ).to_csv(index=False)
    if len(found) == 1 and not alone:
        return found[0].comparison.text()
    blocks = [f"data: {group.heading}\n{group.comparison.text().rstrip()}" for group in found]
    blocks += [f"! not compared, the only model of its data: {_said(entry)}" for entry in alone]
    return "\n\n".join(blocks)


def comparisons(folders: Sequence[Path]) -> tuple[list[Group], list[Entry]]:
    """As `compare_runs`, as data: the groups, and the models that are the only ones of their data."""
    folders = [Path(folder) for folder in folders]
    given = [read_entries(folder, len(folders) > 1) for folder in folders]
    entries = [entry for each in given for entry in each]
    found = groups(entries)
    if any(map(is_point, folders)) or not any(len(group) > 1 for group in found):
        return [_group(entries)], []  # refused there, with the two that differ
    for mine in given if len(given) > 1 else ():
        shared = [group for group in found if set(map(id, group)) & set(map(id, mine))]
        if all(set(map(id, group)) <= set(map(id, mine)) for group in shared):
            refuse_unequal([*mine[:1], *(entry for other in given if other is not mine for entry in other)])
    return [_group(group) for group in found if len(group) > 1], [
        group[0] for group in found if len(group) == 1
    ]


def groups(entries: Sequence[Entry]) -> list[list[Entry]]:
    """The models by data hash and number of observations, in the order of their first appearance.

    A model that does not say its number of observations belongs to the group of its data hash, where there is
    only one.

    Example:
        >>> found = groups([Entry("a", "d1"), Entry("b", "d2"), Entry("c", "d1", observations=9)])
        >>> [[entry.name for entry in group] for group in found]
        [['a', 'c'], ['b']]
    """
    counts: dict[str, set[int]] = {}
    for entry in entries:
        counts.setdefault(entry.data, set()).update(
            () if entry.observations is None else (entry.observations,)
        )
    found: dict[tuple[str, int | None], list[Entry]] = {}
    for entry in entries:
        known = counts[entry.data]
        number = next(iter(known)) if len(known) == 1 else entry.observations
        found.setdefault((entry.data, number), []).append(entry)
    return list(found.values())


def _group(entries: Sequence[Entry]) -> Group:
    compared = compare_entries(entries)
    return Group(_heading(entries), entries[0].data, compared)


def _heading(entries: Sequence[Entry]) -> str:
    """The name of the data set, its hash, and the number of observations."""
    names = list(dict.fromkeys(entry.dataset for entry in entries if entry.dataset))
    number = next((entry.observations for entry in entries if entry.observations is not None), None)
    rest = f"sha256 {entries[0].data[:12] or 'unknown'}" + (
        "" if number is None else f", {number} observations"
    )
    return f"{' or '.join(names) or 'unnamed'} ({rest})"


def _said(entry: Entry) -> str:
    return f"{entry.name}, of {_heading([entry])}"
