"""How numbers are shown to people: rounded, beside their error, with their unit. Files keep full precision.

The rules are few. A log evidence, bound, score or difference in nats has two decimals, a probability four; a
standard error sits beside its value and never in a column of its own; a bound is marked as a bound.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, final

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Shown", "error_column", "label", "show_number", "show_table", "text_table"]

LABELS: dict[str, str] = {
    "log_evidence": "log evidence (nats)",
    "conditional_log_evidence": "conditional log evidence (nats)",
    "log_prior": "log prior",
    "delta": "Δ log evidence (nats)",
    "elbo": "ELBO (nats)",
    "iwae": "IWAE bound (nats)",
    "bound": "bound (nats)",
    "elpd_loo": "elpd LOO (nats)",
    "elpd_diff": "Δ elpd LOO (nats)",
    "num_parameters": "parameters",
    "pareto_k_bad": "k-hat > 0.7",
    "seconds": "time (s)",
    "standard_error": "standard error",
}

NATS = re.compile(r"(^|_)(evidence|elbo|iwae|bound|elpd|delta|nats|log_prior|loss|lp)(_|$)")
PROBABILITY = re.compile(r"^weight$|(^|_)(probability|prob|inclusion|accuracy|fraction|coverage)(_|$)")
SIGN = {"lower bound": "≥ ", "upper bound": "≤ "}


@final
class Shown(NamedTuple):
    """A table ready for a terminal or a page: headers, rows of strings, and which columns hold numbers."""

    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: tuple[bool, ...]


def label(column: str) -> str:
    """The heading of a column: words for a name, with the unit where there is one.

    >>> label("log_evidence"), label("hidden_units")
    ('log evidence (nats)', 'hidden units')
    """
    return LABELS.get(column, column.replace("_", " "))


def decimals(column: str, value: float) -> int | None:
    """Decimals for a column; None leaves it to four significant digits."""
    if column.startswith("seconds"):
        return 1
    if PROBABILITY.search(column):
        return 4
    return 2 if NATS.search(column) else None


def show_number(column: str, value: Any) -> str:
    """One value as text; a missing one is an en dash.

    >>> show_number("log_evidence", -36.5510321), show_number("probability", 0.28104), show_number("n", 3)
    ('-36.55', '0.2810', '3')
    """
    if value is None or value != value:
        return "–"
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or type(value).__name__ == "bool":
        return "yes" if value else "no"
    try:
        number = float(value)
    except (TypeError, ValueError):
        return str(value)
    if math.isinf(number):
        return "inf" if number > 0 else "-inf"
    places = decimals(column, number)
    if places is None or 0 < abs(number) < 0.5 * 10**-places:
        if number.is_integer() and abs(number) < 1e15:
            return str(int(number))
        return f"{number:.4g}" if places is None else f"{number:.1e}"
    text = f"{number:.{places}f}"
    return text[1:] if float(text) == 0.0 and text.startswith("-") else text


def error_column(column: str, columns: Sequence[str]) -> str | None:
    """The column that holds the standard error of `column`, if the table has one.

    >>> error_column("elpd_loo", ["elpd_loo", "elpd_loo_se"])
    'elpd_loo_se'
    >>> error_column("log_evidence", ["log_evidence", "standard_error"])
    'standard_error'
    """
    if column + "_se" in columns:
        return column + "_se"
    # The plain name belongs to the first quantity of a table that has no error of its own by name.
    main = next((c for c in ("log_evidence", "probability", "inclusion") if c in columns), None)
    if column == main and "standard_error" in columns:
        return "standard_error"
    return None


def show_table(frame: pd.DataFrame, top: int | None = None) -> Shown:
    """Headers and rows of strings for a table; errors are folded into their values, bounds are marked.

    >>> import pandas as pd
    >>> table = pd.DataFrame({"structure": ["one"], "log_evidence": [-36.551], "standard_error": [0.004],
    ...                       "kind": ["lower bound"]})
    >>> show_table(table).rows
    (('one', '≥ -36.55 ± 0.0040', 'lower bound'),)
    """
    import pandas as pd

    frame = frame if top is None else frame.head(top)
    columns = [str(column) for column in frame.columns]
    errors = {column: error_column(column, columns) for column in columns}
    folded = {error for error in errors.values() if error is not None}
    kept = [column for column in columns if column not in folded]
    numeric = tuple(
        bool(pd.api.types.is_numeric_dtype(frame[c]) and not pd.api.types.is_bool_dtype(frame[c]))
        for c in kept
    )
    records = frame.set_axis(columns, axis="columns").to_dict("records")
    rows = tuple(tuple(cell(record, column, errors[column]) for column in kept) for record in records)
    return Shown(tuple(label(column) for column in kept), rows, numeric)


def cell(record: dict[Any, Any], column: str, error: str | None) -> str:
    """One cell: the value, a sign when it is only a bound, and its standard error."""
    text = show_number(column, record[column])
    if text == "–":
        return text
    if column in ("log_evidence", "log_evidence_bound"):
        text = SIGN.get(str(record.get("kind", "")), "") + text
    spread = None if error is None else record[error]
    if spread is None or spread != spread:
        return text
    if float(spread) == 0.0:
        return text
    return f"{text} ± {show_error(column, float(spread))}"


def show_error(column: str, spread: float) -> str:
    """A standard error with the decimals of its value, or two significant digits if that would print zero."""
    places = decimals(column, spread)
    if places is None:
        return f"{spread:.2g}"
    if spread < 1e-4:
        return "<0.0001"
    return f"{spread:.{places}f}" if spread >= 10**-places else f"{spread:#.2g}"


def text_table(shown: Shown, indent: str = "  ") -> str:
    """The table as aligned plain text: numbers to the right, words to the left.

    >>> print(text_table(Shown(("name", "n"), (("a", "1"), ("bb", "12")), (False, True)), indent=""))
    name   n
    a      1
    bb    12
    """
    widths = [max(len(row[i]) for row in (shown.headers, *shown.rows)) for i in range(len(shown.headers))]

    def line(row: Sequence[str]) -> str:
        parts = [
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(row, widths, shown.numeric, strict=True)
        ]
        return (indent + "  ".join(parts)).rstrip()

    return "\n".join([line(shown.headers), *(line(row) for row in shown.rows)])
