"""An evidence with its error bar and its kind: never a bare float."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple, get_args

from evidentia.inference.evidence.observed import check_same_data

Kind = Literal["exact", "lower bound", "upper bound", "consistent estimate"]
KINDS: tuple[Kind, ...] = get_args(Kind)


class LogEvidence(NamedTuple):
    """log p(data | model) in nats for the whole data set; the difference of two is a log Bayes factor.

    Attributes:
        value: the estimate.
        standard_error: Monte-Carlo standard error of `value`; 0 when exact.
        kind: "exact", "lower bound", "upper bound" or "consistent estimate".
        diagnostics: plain numbers of the estimator (effective sample size, k-hat …).

    References:
        Lotfi, Izmailov, Benton, Goldblum and Wilson, 2022. Bayesian model selection, the marginal
        likelihood, and generalization.

    Example:
        >>> print(LogEvidence.checked(-36.55, 0.01, "consistent estimate"))
        -36.5500 ± 0.0100 nats (consistent estimate)
    """

    value: float
    standard_error: float
    kind: Kind
    diagnostics: Mapping[str, Any]

    def __str__(self) -> str:
        count = len(self.diagnostics.get("warnings", ()))
        note = f"; {count} warning{'s' if count > 1 else ''}" if count else ""
        return f"{self.value:.4f} ± {self.standard_error:.4f} nats ({self.kind}{note})"

    def __sub__(self, other: LogEvidence) -> LogBayesFactor:
        """The log Bayes factor of this model against the other; see `log_bayes_factor`."""
        return log_bayes_factor(self, other)

    @classmethod
    def checked(
        cls,
        value: float,
        standard_error: float = 0.0,
        kind: Kind = "exact",
        diagnostics: Mapping[str, Any] | None = None,
    ) -> LogEvidence:
        """Build a checked LogEvidence.

        Raises:
            ValueError: NaN, negative standard error, unknown kind, or an exact value with a standard error.

        References:
            Lotfi, Izmailov, Benton, Goldblum and Wilson, 2022. Bayesian model selection, the marginal
            likelihood, and generalization.

        Example:
            >>> LogEvidence.checked(-3.0).kind
            'exact'
        """
        check_kind(kind)
        if math.isnan(value):
            raise ValueError(
                "LogEvidence: value is NaN; the estimator failed, look at its inputs before comparing"
            )
        if not standard_error >= 0:
            raise ValueError(f"LogEvidence: standard_error must be ≥ 0, got {standard_error}")
        if kind == "exact" and standard_error > 0:
            raise ValueError(
                f"LogEvidence: an exact value has no standard error, got {standard_error}; fix the kind"
            )
        return cls(float(value), float(standard_error), kind, dict(diagnostics or {}))


def check_kind(kind: str) -> None:
    """Raise ValueError unless `kind` is one of the four kinds.

    References:
        none; a guard.

    Example:
        >>> check_kind("exact")
    """
    if kind not in KINDS:
        raise ValueError(f"evidence kind must be one of {list(KINDS)}, got {kind!r}")


def common_kind(kinds: Iterable[Kind], *, mix: bool = False) -> Kind:
    """The one kind of all the evidences of a comparison.

    A lower bound beside an exact value is not a comparison: the bound's gap would count against its
    structure. With `mix=True` exact values may join consistent estimates (the result is a consistent
    estimate); bounds may never join anything else.

    Raises:
        ValueError: several kinds, or none.

    References:
        none; a rule of this library.

    Example:
        >>> common_kind(["exact", "consistent estimate"], mix=True)
        'consistent estimate'
    """
    found = [kind for kind in KINDS if kind in set(kinds := list(kinds))]
    for kind in kinds:
        check_kind(kind)
    if len(found) == 1:
        return found[0]
    if not found:
        raise ValueError("no evidence to compare: give at least one")
    if mix and set(found) == {"exact", "consistent estimate"}:
        return "consistent estimate"
    raise ValueError(
        f"cannot compare evidences of different kinds {found}: a bound is off by an unknown gap; "
        "compute one kind for every structure"
        + (" (exact and consistent estimates may be joined with mix=True)" if not mix else "")
    )


class LogBayesFactor(NamedTuple):
    """log p(data | first) - log p(data | second), nats.

    Attributes:
        value: positive when the first model is supported.
        standard_error: √(s₁² + s₂²), for independent estimates.
        kind: "exact", "consistent estimate", or "difference of lower bounds" (of upper bounds), which is
            neither a bound nor an estimate of the log Bayes factor.
        data_checked: whether both evidences say which data they are about (and it was the same).

    References:
        Kass and Raftery, 1995. Bayes factors.
    """

    value: float
    standard_error: float
    kind: str
    data_checked: bool

    def __str__(self) -> str:
        return f"{self.value:.4f} ± {self.standard_error:.4f} nats (log Bayes factor, {self.kind})"


def log_bayes_factor(first: LogEvidence, second: LogEvidence) -> LogBayesFactor:
    """l₁ - l₂ with standard error √(s₁² + s₂²), for independent estimates; also written `first - second`.

    An exact value may stand against a consistent estimate.

    Raises:
        ValueError: the kinds cannot be compared, the observed sites, shapes or digests in the diagnostics
            differ, or one is conditional on other data.

    References:
        Kass and Raftery, 1995. Bayes factors.

    Example:
        >>> one = LogEvidence.checked(-3.0, 0.3, "consistent estimate")
        >>> print(log_bayes_factor(one, LogEvidence.checked(-5.0, 0.4, "consistent estimate")))
        2.0000 ± 0.5000 nats (log Bayes factor, consistent estimate)
    """
    kind = common_kind([first.kind, second.kind], mix=True)
    check_comparable({"first": first, "second": second})
    return LogBayesFactor(
        first.value - second.value,
        math.hypot(first.standard_error, second.standard_error),
        kind if kind in ("exact", "consistent estimate") else f"difference of {kind}s",
        all(bool(evidence.diagnostics.get("observed")) for evidence in (first, second)),
    )


def check_comparable(evidences: Mapping[str, LogEvidence]) -> None:
    """Refuse evidences of different data, or evidence beside conditional evidence.

    Raises:
        ValueError: names the two models and what differs.

    References:
        none; a rule of this library.

    Example:
        >>> check_comparable({"a": LogEvidence.checked(-3.0), "b": LogEvidence.checked(-4.0)})
    """
    conditional = [name for name, evidence in evidences.items() if "conditioned_on" in evidence.diagnostics]
    if conditional and len(conditional) < len(evidences):
        others = [name for name in evidences if name not in conditional]
        raise ValueError(
            f"{conditional} are conditional evidences log p(y_rest | y_first), {others} evidences of all the "
            "data; they are different quantities. Fix: compare each kind with itself"
        )
    diagnostics = {name: evidence.diagnostics for name, evidence in evidences.items()}
    check_same_data(diagnostics)
    check_same_data(diagnostics, "conditioned_on")
