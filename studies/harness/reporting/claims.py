"""Claims of a study held against its result table: PASS, FAIL, or ERROR when a claim talks about nothing.

A claim selects rows by `where`, reduces one metric column, and compares it with a `value` or with other rows
(`than`):

    observed = reduce(metric[where])                      op  value
    observed = reduce(metric[where]) - reduce(metric[than])   op  value (0 if none is given)

Rows selected by `where` are never their own rivals, so `than={}` means "all the other rows". With
`reduce="all"` every pair must hold, so the worst pair is the one observed. `tolerance` loosens every
comparison, and for `==` it is the half-width. A selector that matches no row, or an unknown column, is an
ERROR and never a PASS.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, final

from evidentia.studies.harness.errors import did_you_mean
from evidentia.studies.harness.reporting.verdict import plain
from evidentia.studies.harness.terminal.present import show_number

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["ClaimLike", "ClaimResult", "check_claim", "check_claims", "claims_exit_code", "describe"]


class ClaimLike(Protocol):
    """What a claim has; `study.Claim` is one."""

    @property
    def metric(self) -> str:
        """Column of the result table."""

    @property
    def where(self) -> Mapping[str, Any]:
        """Column to value (or a tuple of values); empty selects every row."""

    @property
    def reduce(self) -> str:
        """One of all, mean, min, max."""

    @property
    def op(self) -> str:
        """One of > >= < <= == !=."""

    @property
    def value(self) -> float | str | None:
        """The number compared with (with `than`, the least lead), or a text for == and !=."""

    @property
    def than(self) -> Mapping[str, Any] | None:
        """Selector of the rows compared with; None compares with `value`."""

    @property
    def tolerance(self) -> float:
        """Slack in the units of the metric."""

    @property
    def text(self) -> str:
        """The claim in words."""


@final
class ClaimResult(NamedTuple):
    """The outcome of one claim. `status` is PASS, FAIL or ERROR; `reason` says why when it did not pass."""

    text: str
    passed: bool
    observed: float | str
    status: str = "PASS"
    reason: str = ""

    def sentence(self) -> str:
        """The claim, what was observed, and what went wrong, as one line."""
        if self.status == "ERROR":
            return f"{self.text} ({self.reason})"
        observed = "nothing" if self.observed != self.observed else show_number("", self.observed)
        return f"{self.text} (observed {observed}{'; ' + self.reason if self.reason else ''})"

    def as_dict(self) -> dict[str, Any]:
        """A JSON-able record."""
        return {key: plain(value) for key, value in self._asdict().items()}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> ClaimResult:
        """Read a record written by `as_dict`."""
        passed, seen = record.get("passed") is True, record.get("observed", "nan")
        return cls(
            str(record.get("text", "")),
            passed,
            float(seen) if seen in ("nan", "inf", "-inf") else seen,
            str(record.get("status", "PASS" if passed else "FAIL")),
            str(record.get("reason", "")),
        )


class _UnanswerableError(Exception):
    """A claim that the table cannot answer."""


OPS: Mapping[str, Callable[[float, float, float], bool]] = {
    ">": lambda seen, value, slack: seen > value - slack,
    ">=": lambda seen, value, slack: seen >= value - slack,
    "<": lambda seen, value, slack: seen < value + slack,
    "<=": lambda seen, value, slack: seen <= value + slack,
    "==": lambda seen, value, slack: abs(seen - value) <= slack,
    "!=": lambda seen, value, slack: abs(seen - value) > slack,
}


def check_claims(claims: Iterable[ClaimLike], table: pd.DataFrame) -> list[ClaimResult]:
    """Every claim against the result table, in order; never raises for a claim, so no result is lost.

    >>> import pandas as pd
    >>> from types import SimpleNamespace
    >>> table = pd.DataFrame({"structure": ["one", "full"], "log_evidence": [-36.6, -46.4]})
    >>> lead = dict(metric="log_evidence", where={"structure": "one"}, reduce="all", op=">", value=3.0,
    ...             than={}, tolerance=0.0, text="one wins by more than 3 nats")
    >>> check_claims([SimpleNamespace(**lead)], table)[0].sentence()
    'one wins by more than 3 nats (observed 9.8)'
    >>> check_claims([SimpleNamespace(**(lead | {"where": {"structure": "two"}}))], table)[0].status
    'ERROR'
    """
    return [check_claim(claim, table) for claim in claims]


def check_claim(claim: ClaimLike, table: pd.DataFrame) -> ClaimResult:
    """One claim against the table."""
    text = claim.text or describe(claim)
    try:
        if isinstance(claim.value, str):
            return _check_text(claim, table, text)
        observed, target = _observe(claim, table)
    except _UnanswerableError as error:
        return ClaimResult(text, False, math.nan, "ERROR", str(error))
    if math.isnan(observed):
        # Checked first: `!=` and a negated comparison would let NaN pass.
        return ClaimResult(text, False, observed, "FAIL", f"{claim.metric} holds a missing value")
    if claim.op == "==" and math.isinf(observed):
        passed = observed == target
    else:
        passed = OPS[claim.op](observed, target, claim.tolerance)
    reason = "" if passed else f"expected {claim.op} {show_number('', target)}"
    if reason and claim.tolerance:
        reason += f" within {show_number('', claim.tolerance)}"
    return ClaimResult(text, passed, observed, "PASS" if passed else "FAIL", reason)


def _check_text(claim: ClaimLike, table: pd.DataFrame, text: str) -> ClaimResult:
    """A claim about a column of words: every selected cell is, or is not, the text."""
    if claim.op not in ("==", "!="):
        raise _UnanswerableError(f"{claim.op} cannot compare with the text {claim.value!r}")
    if claim.than is not None:
        raise _UnanswerableError("a text and `than` are both given")
    cells = [str(cell) for cell in table.loc[_selected(claim, table), claim.metric]]
    wrong = [cell for cell in cells if (cell == claim.value) != (claim.op == "==")]
    reason = f"expected {claim.op} {claim.value}" if wrong else ""
    return ClaimResult(text, not wrong, (wrong or cells)[0], "FAIL" if wrong else "PASS", reason)


def claims_exit_code(results: Iterable[ClaimResult]) -> int:
    """0 if every claim holds, 1 if one fails, 2 if one cannot be answered (the study is at fault)."""
    return max(({"PASS": 0, "FAIL": 1}.get(result.status, 2) for result in results), default=0)


def describe(claim: ClaimLike) -> str:
    """A claim without text of its own, in words."""
    left = _selection(claim.where)
    subject = f"{claim.metric} of {left}" if left else claim.metric
    subject = subject if claim.reduce == "all" else f"{claim.reduce} {subject}"
    if claim.than is None:
        return f"{subject} {claim.op} {claim.value}"
    rival = _selection(claim.than) or "every other row"
    lead = f" {claim.value} more than" if claim.value else ""
    return f"{subject} {claim.op}{lead} that of {rival}"


def _selection(where: Mapping[str, Any]) -> str:
    return ", ".join(f"{column} = {value}" for column, value in where.items())


def _observe(claim: ClaimLike, table: pd.DataFrame) -> tuple[float, float]:
    """The observed number and the number it is compared with."""
    if claim.op not in OPS:
        raise _UnanswerableError(f"unknown op {claim.op!r}; one of {' '.join(OPS)}")
    if claim.reduce not in ("all", "mean", "min", "max"):
        raise _UnanswerableError(f"unknown reduce {claim.reduce!r}; one of all mean min max")
    left = _selected(claim, table)
    mine = _numbers(table, claim.metric, left)
    if claim.than is None:
        if claim.value is None:
            raise _UnanswerableError("neither a value nor `than` is given")
        return _single(mine, claim), float(claim.value)
    right = _rows(table, claim.than) & ~left
    if not right.any():
        what = _selection(claim.than) or "every other row"
        raise _UnanswerableError(f"no other row matches than: {what}")
    theirs = _numbers(table, claim.metric, right)
    return _lead(mine, theirs, claim), float(claim.value or 0.0)


def _selected(claim: ClaimLike, table: pd.DataFrame) -> Any:
    """The rows that the claim is about; at least one."""
    if claim.metric not in table.columns:
        raise _UnanswerableError(f"no column {claim.metric!r}. {_names(claim.metric, table)}")
    left = _rows(table, claim.where)
    if not left.any():
        raise _UnanswerableError(f"no row matches {_selection(claim.where) or 'an empty table'}")
    return left


def _numbers(table: pd.DataFrame, metric: str, rows: Any) -> list[float]:
    try:
        numbers = [float(value) for value in table.loc[rows, metric]]
    except (TypeError, ValueError):
        raise _UnanswerableError(f"column {metric!r} does not hold numbers") from None
    # One missing value makes the answer missing; `min` and `max` of Python would hide it.
    return [math.nan] if any(math.isnan(number) for number in numbers) else numbers


def _single(mine: list[float], claim: ClaimLike) -> float:
    """The value of `all` that is hardest on the claim, else the reduction."""
    if claim.reduce != "all":
        return _reduce(claim.reduce, mine)
    target, op = float(claim.value or 0.0), claim.op
    if op in (">", ">="):
        return min(mine)
    if op in ("<", "<="):
        return max(mine)
    distance = max if op == "==" else min
    return distance(mine, key=lambda value: abs(value - target))


def _lead(mine: list[float], theirs: list[float], claim: ClaimLike) -> float:
    if claim.reduce != "all":
        return _reduce(claim.reduce, mine) - _reduce(claim.reduce, theirs)
    leads = [a - b for a in mine for b in (min(theirs), max(theirs))]
    if claim.op in ("!=",):
        leads = [a - b for a in mine for b in theirs]
    return _single(leads, claim)


def _reduce(how: str, values: list[float]) -> float:
    if how == "mean":
        return math.fsum(values) / len(values)
    return min(values) if how == "min" else max(values)


def _rows(table: pd.DataFrame, where: Mapping[str, Any]) -> Any:
    """Boolean series of the rows that a selector picks."""
    import pandas as pd

    picked = pd.Series(True, index=table.index)
    for column, wanted in where.items():
        if column not in table.columns:
            raise _UnanswerableError(f"no column {column!r} to select by. {_names(column, table)}")
        picked &= pd.Series([_same(cell, wanted) for cell in table[column]], index=table.index, dtype=bool)
    return picked


def _names(name: str, table: pd.DataFrame) -> str:
    return did_you_mean(name, map(str, table.columns))


def _same(cell: Any, wanted: Any) -> bool:
    """Equality across a CSV round trip: numbers as numbers, else by text; a sequence is "any of"."""
    if isinstance(wanted, list | tuple | set | frozenset):
        return str(cell) == str(wanted) or any(_same(cell, one) for one in wanted)
    try:
        return math.isclose(float(cell), float(wanted), rel_tol=1e-12, abs_tol=0.0)
    except (TypeError, ValueError):
        return str(cell) == str(wanted)
