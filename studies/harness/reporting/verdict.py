"""The verdict at the end of a run: what was checked, what to do, which claims hold, how to repeat it.

The thresholds are data (`RULES`), so that the terminal, `status.json` and the report say the same thing.

References:
    Rank-normalization, folding, and localization: An improved R-hat (Vehtari et al., 2021);
    Diagnosing suboptimal cotangent disintegrations in Hamiltonian Monte Carlo (Betancourt, 2016);
    Pareto smoothed importance sampling (Vehtari et al., 2024).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, final

from evidentia.studies.harness.reporting.digest import alike, digest
from evidentia.studies.harness.terminal.present import show_number, show_table, text_table

if TYPE_CHECKING:
    import pandas as pd

    from evidentia.studies.harness.reporting.claims import ClaimResult

__all__ = ["RULES", "Check", "Rule", "Verdict", "check", "failed_checks", "worst_checks"]

Value = float | int | str


@final
class Rule(NamedTuple):
    """One row of the table of diagnostics: it warns when `value <relation> threshold`."""

    name: str
    title: str
    relation: str
    threshold: Value
    remedy: str


@final
class Check(NamedTuple):
    """A diagnostic that was computed: its value, the limit, whether it passed, and what to do if not.

    `site` names the worst site, or the observations, that the value belongs to.
    """

    name: str
    value: Value
    threshold: Value
    passed: bool
    remedy: str = ""
    site: str = ""

    def as_dict(self) -> dict[str, Any]:
        """A JSON-able record; a value that is not finite becomes the string JSON has no number for."""
        return {key: plain(value) for key, value in self._asdict().items()}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Check:
        """Read a record written by `as_dict`; unknown keys are ignored, missing ones are empty."""
        known = {field: record[field] for field in cls._fields if field in record}
        value = known.get("value", "")
        if isinstance(value, str) and value in ("nan", "inf", "-inf"):
            known["value"] = float(value)
        defaults = {"name": "?", "value": "", "threshold": "", "passed": False}
        return cls(**{**defaults, **known})

    def sentence(self, count: int = 1) -> str:
        """The warning as one line: title, value, limit, culprit, remedy.

        Args:
            count: how many checks of this name failed, this being the worst of them.
        """
        rule = RULES.get(self.name)
        title = rule.title if rule else self.name.replace("_", " ")
        place = f" at {self.site}" if self.site else ""
        value = "not computable" if self.value != self.value else show_number(self.name, self.value)
        limit = f" (limit {rule.relation} {self.threshold})" if rule and rule.relation != "is not" else ""
        if rule and rule.relation == "is not":
            limit = f" (expected: {self.threshold})"
        worst = f" ({count} times, worst)" if count > 1 else ""
        return f"{title}{worst}: {value}{limit}{place}" + (f" – {self.remedy}" if self.remedy else "")


def _rules(*rules: Rule) -> dict[str, Rule]:
    return {rule.name: rule for rule in rules}


LONGER = "longer warm-up, more draws, or reparameterise the worst site"
RICHER = "a richer guide, more particles, or MCMC"

RULES: Mapping[str, Rule] = _rules(
    Rule("r_hat", "R-hat", ">", 1.01, LONGER),
    Rule("nested_r_hat", "nested R-hat", ">", 1.01, LONGER),
    Rule("ess_bulk", "bulk ESS", "<", 400, "more draws, or a better kernel"),
    Rule("ess_tail", "tail ESS", "<", 400, "more draws, or a better kernel"),
    Rule(
        "divergences",
        "divergences",
        ">",
        0,
        "raise target_accept_prob, take a smaller step_size, or use the non-centred form",
    ),
    Rule(
        "e_bfmi", "E-BFMI", "<", 0.3, "heavy tails or a funnel: reparameterise the model, or a longer warm-up"
    ),
    Rule(
        "unadjusted",
        "no Metropolis correction",
        ">",
        0,
        "the kernel has a bias of the order of its step; use its Metropolis-adjusted form",
    ),
    Rule("k_hat", "Pareto k-hat of the guide", ">", 0.7, RICHER),
    Rule(
        "k_hat_loo",
        "Pareto k-hat of LOO",
        ">",
        0.7,
        f"look at the observations named; {RICHER}, or exact refits without them",
    ),
    Rule(
        "stop_reason",
        "why the fit stopped",
        "is not",
        "converged",
        "raise max_steps, or loosen the tolerance knowingly",
    ),
    Rule("skipped_updates", "skipped updates", ">", 0, "lower the learning rate, and check the priors"),
)

FAILS: Mapping[str, Callable[[Any, Any], bool]] = {
    ">": lambda value, threshold: not value <= threshold,  # written so that NaN fails
    "<": lambda value, threshold: not value >= threshold,
    "is not": lambda value, threshold: bool(value != threshold),
}


def check(name: str, value: Value, site: str = "") -> Check:
    """Hold a value against its rule. A value that could not be computed (NaN) does not pass.

    Args:
        name: a key of `RULES`.
        value: a number, or for `stop_reason` the reason in one word.
        site: the worst site, or the observations, the value belongs to.

    Raises:
        ValueError: there is no such rule.

    References:
        Rank-normalization, folding, and localization: An improved R-hat (Vehtari et al., 2021).

    >>> check("r_hat", 1.004).passed
    True
    >>> check("skipped_updates", 2).sentence()
    'skipped updates: 2 (limit > 0) – lower the learning rate, and check the priors'
    """
    if name not in RULES:
        raise ValueError(f"check: there is no rule named {name!r}; the rules are {', '.join(RULES)}")
    rule = RULES[name]
    passed = not FAILS[rule.relation](value, rule.threshold)
    remedy = "" if passed else rule.remedy
    if name == "stop_reason" and value == "max_seconds":
        # A wall-clock stop falls on a different step each time.
        remedy = (
            f"the time limit ended the fit, so a repeat is not bitwise equal; raise max_seconds, or {remedy}"
        )
    return Check(name, value, rule.threshold, passed, remedy, site)


def failed_checks(checks: Iterable[Check]) -> list[Check]:
    """The checks that did not pass, each different one once, in their order."""
    return list(dict.fromkeys(item for item in checks if not item.passed))


def worst_checks(checks: Iterable[Check]) -> list[tuple[Check, int]]:
    """For each name that failed, the worst failure and how many there are, in order of appearance.

    Example:
        >>> [(one.value, n) for one, n in worst_checks([check("r_hat", 1.1), check("r_hat", 1.3)])]
        [(1.3, 2)]
    """
    groups: dict[str, list[Check]] = {}
    for item in failed_checks(checks):
        groups.setdefault(item.name, []).append(item)
    return [(min(group, key=_badness), len(group)) for group in groups.values()]


def _badness(item: Check) -> float:
    """Smaller is worse; what could not be computed is worst."""
    if isinstance(item.value, str) or item.value != item.value:
        return -math.inf
    rule = RULES.get(item.name)
    return float(item.value) if rule is not None and rule.relation == "<" else -float(item.value)


@final
class Verdict(NamedTuple):
    """What the end of a run says: the metric table, warnings, claims, the report, the repeat command."""

    table: pd.DataFrame | None
    checks: Sequence[Check]
    claims: Sequence[ClaimResult]
    report: str
    command: str
    failures: Sequence[str] = ()
    """One line for each point that did not finish."""
    conclusions: Sequence[str] = ()
    """What the study itself says of its result."""
    settings: Sequence[str] = ()
    """The columns of the table that are settings of points."""

    def text(self, top: int = 20) -> str:
        """The verdict as plain text. The last lines are always claims, report, repeat."""
        blocks: list[str] = []
        if self.table is not None and len(self.table):
            parts = alike(self.table, self.settings)
            shown = [digest(part, max(top // len(parts), min(top, 10))) for part in parts]
            rest = len(self.table) - sum(map(len, shown))
            blocks += [text_table(show_table(part)) for part in shown]
            if rest > 0:
                blocks[-1] += f"\n  … and {rest} more row{'s' if rest > 1 else ''} in metrics.csv"
        if self.conclusions:
            blocks.append("\n".join(["conclusions", *(f"  {line}" for line in self.conclusions)]))
        if self.failures:
            blocks.append("\n".join(["failed", *(f"  ✗ {line}" for line in self.failures)]))
        warnings = [item.sentence(count) for item, count in worst_checks(self.checks)]
        if warnings:
            blocks.append("\n".join(["warnings", *(f"  ! {line}" for line in warnings)]))
        elif self.checks:
            blocks.append(f"checks: all {len(self.checks)} passed")
        blocks.append("\n".join(self.last_lines()))
        return "\n\n".join(blocks)

    def last_lines(self) -> list[str]:
        """Claims PASS/FAIL, then the path of the report, then the command that repeats the run."""
        claims = [f"  {item.status}  {item.sentence()}" for item in self.claims]
        head = ["claims", *claims] if claims else ["claims: none declared"]
        return [*head, f"report  {self.report or 'not written'}", f"repeat  {self.command}"]

    def as_dict(self) -> dict[str, Any]:
        """A JSON-able record of the verdict; full precision, NaN as null."""
        rows: list[Any] = []
        if self.table is not None:
            rows = [
                {str(key): None if value != value else plain(value) for key, value in row.items()}
                for row in self.table.astype(object).to_dict("records")
            ]
        return {
            "schema": 1,
            "table": rows,
            "checks": [item.as_dict() for item in self.checks],
            "claims": [item.as_dict() for item in self.claims],
            "failures": list(self.failures),
            "conclusions": list(self.conclusions),
            "report": self.report,
            "command": self.command,
        }


def plain(value: Any) -> Any:
    """A value JSON can hold: numpy scalars become Python's, non-finite floats become strings."""
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
