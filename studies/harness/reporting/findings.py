"""What the tables of a run support, as sentences with no more certainty than the numbers have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from evidentia.studies.harness.declare.points import columns_of
from evidentia.studies.harness.terminal.present import label, show_number

if TYPE_CHECKING:
    import pandas as pd

    from evidentia.studies.harness.search.spec import SearchSpec

__all__ = [
    "evidence_sentence",
    "inclusion_sentence",
    "is_inclusion",
    "is_structures",
    "search_sentence",
    "structure_sentence",
    "winners_sentence",
]

SETTLED, LIKELY, UNLIKELY = 0.95, 0.9, 0.1
COVER = 0.95


def is_structures(table: pd.DataFrame) -> bool:
    """Whether a table is a posterior over structures."""
    return {"structure", "probability"} <= set(table.columns) and len(table) > 0


def is_inclusion(table: pd.DataFrame) -> bool:
    """Whether a table holds inclusion probabilities of operations."""
    return {"op", "probability"} <= set(table.columns) and len(table) > 0


def structure_sentence(table: pd.DataFrame) -> str:
    """Which structure a posterior supports, how firmly, and what else remains.

    Example:
        >>> import pandas as pd
        >>> structure_sentence(pd.DataFrame({"structure": ["one", "full"], "probability": [0.97, 0.03]}))
        'The data support one: posterior probability 0.9700 among 2 structures. The next is full with 0.0300.'
    """
    rows = table.sort_values("probability", ascending=False, kind="stable")
    best = rows.iloc[0]
    name, top = str(best["structure"]), float(best["probability"])
    shown = _with_error(best)
    # A table that holds less than everything is the top of a longer one.
    complete = float(rows["probability"].sum()) > 1 - 1e-6
    among = f" among {len(rows):,} structure{'s' if len(rows) > 1 else ''}" if complete else ""
    if top >= SETTLED:
        text = f"The data support {name}: posterior probability {shown}{among}."
    elif top >= 0.5:
        text = f"The data favour {name} without settling the question: posterior probability {shown}{among}."
    else:
        text = f"No single structure is supported: the most probable, {name}, has probability {shown}{among}."
    if len(rows) > 1:
        second = rows.iloc[1]
        text += f" The next is {second['structure']} with {_with_error(second)}."
        text += _tie(best, second)
    holding = int((rows["probability"].cumsum() < COVER).sum()) + 1
    if top < SETTLED and holding <= len(rows):
        total = float(rows["probability"].sum())
        if total >= COVER:
            text += f" It takes {holding:,} structures to hold {COVER:.0%} of the probability."
    return text + _kind_note(rows)


def _with_error(row: Mapping[str, Any] | pd.Series) -> str:
    text = show_number("probability", row["probability"])
    error = row.get("probability_se")
    if error is None or error != error or not error > 0:
        return text
    return f"{text} ± {show_number('probability', error)}"


def _tie(best: pd.Series, second: pd.Series) -> str:
    """A warning when the lead is not clear of its own error."""
    if "probability_se" in best and best["probability_se"] > 0:
        gap = float(best["probability"]) - float(second["probability"])
        spread = sum(float(row["probability_se"]) ** 2 for row in (best, second)) ** 0.5
        if gap < 2 * spread:
            return " Their order is not certain: the difference is within its error."
    if not {"log_evidence", "standard_error"} <= set(best.index):
        return ""
    lead = float(best["log_evidence"]) - float(second["log_evidence"])
    spread = (float(best["standard_error"]) ** 2 + float(second["standard_error"]) ** 2) ** 0.5
    if spread > 0 and abs(lead) < 2 * spread:
        return f" Their order is not certain: the log evidences differ by {lead:.2f} ± {spread:.2f} nats."
    return ""


def _kind_note(rows: pd.DataFrame) -> str:
    if "kind" not in rows:
        return ""
    kinds = sorted({str(kind) for kind in rows["kind"].dropna()})
    if len(kinds) > 1:
        return f" Beware: the evidences are of mixed kinds ({', '.join(kinds)})."
    if kinds and kinds[0].endswith("bound"):
        return f" The probabilities are made of {kinds[0]}s and are as good as the bounds are tight."
    return ""


def inclusion_sentence(table: pd.DataFrame) -> str:
    """Which operations are in, out and undecided.

    Example:
        >>> import pandas as pd
        >>> inclusion_sentence(pd.DataFrame({"op": ["bmi", "s1", "age"], "probability": [0.999, 0.57, 0.05]}))
        'Included with probability above 0.9: bmi. Undecided: s1 (0.57). Below 0.1: age.'
    """
    probability = {str(op): float(p) for op, p in zip(table["op"], table["probability"], strict=True)}
    groups = [
        ("Included with probability above 0.9", [op for op, p in probability.items() if p > LIKELY]),
        (
            "Undecided",
            [
                f"{op} ({p:.2f})"
                for op, p in sorted(probability.items(), key=lambda item: -item[1])
                if UNLIKELY <= p <= LIKELY
            ],
        ),
        ("Below 0.1", [op for op, p in probability.items() if p < UNLIKELY]),
    ]
    return " ".join(f"{name}: {_listed(ops)}." for name, ops in groups if ops)


def _listed(words: Sequence[str], limit: int = 12) -> str:
    if len(words) > limit:
        return ", ".join(words[:limit]) + f" and {len(words) - limit} more"
    return ", ".join(words)


def winners_sentence(points: Sequence[Mapping[str, pd.DataFrame]], limit: int = 3) -> str:
    """Which structures are the most probable in how many of many points."""
    winners: dict[str, int] = {}
    for tables in points:
        for table in tables.values():
            if is_structures(table):
                best = str(table["structure"].iloc[int(table["probability"].argmax())])
                winners[best] = winners.get(best, 0) + 1
    total = sum(winners.values())
    ranked = sorted(winners.items(), key=lambda item: -item[1])
    told = [f"{name} in {count}" for name, count in ranked[:limit]]
    more = f"; {len(ranked) - limit} other structures lead elsewhere" if len(ranked) > limit else ""
    return f"The most probable structure is, of {total} posteriors: {', '.join(told)}{more}."


def evidence_sentence(table: pd.DataFrame, names: Sequence[str]) -> str:
    """Which row of a result table has the highest log evidence, and how clear of the next; empty if unknown.

    Args:
        table: rows with log_evidence and, optionally, standard_error and kind.
        names: one name for each row.
    """
    if "log_evidence" not in table or len(table) < 2:
        return ""
    rows = table.assign(name=list(names)).dropna(subset="log_evidence")
    kinds = {str(kind) for kind in rows["kind"].dropna()} if "kind" in rows else set()
    bounds = sorted(kind for kind in kinds if kind.endswith("bound"))
    if len(rows) < 2 or (bounds and len(kinds) > 1):
        return (
            ""
            if len(rows) < 2
            else f"The evidences are of mixed kinds ({', '.join(sorted(kinds))}): not ranked."
        )
    rows = rows.sort_values("log_evidence", ascending=False, kind="stable")
    best, second = rows.iloc[0], rows.iloc[1]
    lead = float(best["log_evidence"]) - float(second["log_evidence"])
    column = "standard_error" if "standard_error" in rows else "log_evidence_se"
    errors = [float(row.get(column, 0.0) or 0.0) for row in (best, second)]
    spread = sum(error**2 for error in errors if error == error) ** 0.5
    by = f"{lead:.2f}" + (f" ± {spread:.2f}" if spread > 0 else "")
    what = f"highest {bounds[0]} on the log evidence" if bounds else "highest log evidence"
    clear = "" if lead >= 2 * spread else " The lead is within its error."
    return f"The {what} is that of {best['name']}, {by} nats above {second['name']}.{clear}"


def search_sentence(table: pd.DataFrame, spec: SearchSpec) -> str:
    """Which of the settings tried is the best by the metric of the search; empty where none has a value.

    Args:
        table: the result table, with a column for each setting.
        spec: what was searched.

    Example:
        >>> import pandas as pd
        >>> from evidentia.studies.harness.search.spec import SearchSpec
        >>> space = {"inference.rate": {"kind": "float", "low": 0, "high": 1}}
        >>> spec = SearchSpec(metric="error", direction="minimise", space=space)
        >>> table = pd.DataFrame({"point": ["a", "b"], "rate": [0.1, 0.2], "error": [3.0, 2.0]})
        >>> search_sentence(table, spec)
        'The best of 2 settings tried is rate = 0.2, with the lowest error: 2.'
    """
    if spec.metric not in table:
        return ""
    rows = table.dropna(subset=spec.metric)
    if not len(rows):
        return ""
    best = rows.iloc[int((spec.sign * rows[spec.metric].astype(float)).argmax())]
    columns = [column for column in columns_of(list(spec.space)).values() if column in table]
    name = ", ".join(f"{label(column)} = {show_number(column, best[column])}" for column in columns)
    most = "highest" if spec.sign > 0 else "lowest"
    number = rows["point"].nunique()
    value = show_number(spec.metric, best[spec.metric])
    among = f"best of {number:,} settings tried" if number > 1 else "only setting tried"
    return f"The {among} is {name}, with the {most} {label(spec.metric)}: {value}."


def sentences(tables: Mapping[str, pd.DataFrame]) -> Iterator[str]:
    """The sentences of one point's tables, structures first."""
    for table in tables.values():
        if is_structures(table):
            yield structure_sentence(table)
    for table in tables.values():
        if is_inclusion(table):
            yield inclusion_sentence(table)
