"""The verdict: thresholds as data, warnings with remedies, and what the last lines are."""

from __future__ import annotations

import json
import math

import pandas as pd
import pytest

from evidentia.studies.harness.reporting.claims import ClaimResult
from evidentia.studies.harness.reporting.verdict import (
    RULES,
    Check,
    Verdict,
    check,
    failed_checks,
    worst_checks,
)
from evidentia.studies.harness.terminal.present import show_number, show_table, text_table

AT_AND_BEYOND = [
    ("r_hat", 1.01, 1.0101),
    ("nested_r_hat", 1.01, 1.0101),
    ("ess_bulk", 400, 399.9),
    ("ess_tail", 400, 399.9),
    ("divergences", 0, 1),
    ("e_bfmi", 0.3, 0.299),
    ("unadjusted", 0, 1),
    ("k_hat", 0.7, 0.701),
    ("k_hat_loo", 0.7, 0.701),
    ("stop_reason", "converged", "max_steps"),
    ("skipped_updates", 0, 1),
]


def test_every_rule_is_tried_at_its_limit():
    assert [name for name, *_ in AT_AND_BEYOND] == list(RULES)


@pytest.mark.parametrize(("name", "good", "bad"), AT_AND_BEYOND)
def test_thresholds_and_remedies(name, good, bad):
    assert check(name, good).passed
    assert check(name, good).remedy == ""
    worse = check(name, bad, site="w/x->f")
    assert not worse.passed
    assert worse.remedy
    assert worse.remedy in worse.sentence()
    assert "w/x->f" in worse.sentence()


@pytest.mark.parametrize("name", [name for name in RULES if name != "stop_reason"])
def test_what_cannot_be_computed_does_not_pass(name):
    result = check(name, math.nan)
    assert not result.passed
    assert "not computable" in result.sentence()


def test_a_time_limit_says_that_bitwise_repetition_is_gone():
    assert "bitwise" in check("stop_reason", "max_seconds").remedy


def test_an_unknown_rule_names_the_rules():
    with pytest.raises(ValueError, match="r_hat, ess_bulk"):
        check("rhat", 1.0)


def test_checks_survive_json():
    for one in (check("r_hat", math.inf), check("divergences", 3), check("stop_reason", "max_steps")):
        text = json.dumps(one.as_dict(), allow_nan=False)
        assert Check.from_dict(json.loads(text)) == one
    assert not Check.from_dict({"name": "own"}).passed


def test_the_last_lines_are_claims_report_command():
    table = pd.DataFrame(
        {
            "structure": list("abc"),
            "log_evidence": [-1.0, -2.0, -3.123],
            "standard_error": 0.05,
            "kind": "exact",
        }
    )
    claims = [ClaimResult("a wins", True, 1.0), ClaimResult("b wins", False, -1.0, "FAIL", "expected > 0")]
    verdict = Verdict(
        table,
        [check("r_hat", 1.2), check("r_hat", 1.2)],
        claims,
        "r/report.html",
        "evidentia run s",
        ["p3: boom"],
    )
    lines = verdict.text(top=2).splitlines()
    assert lines[-5:] == [
        "claims",
        "  PASS  a wins (observed 1)",
        "  FAIL  b wins (observed -1; expected > 0)",
        "report  r/report.html",
        "repeat  evidentia run s",
    ]
    text = "\n".join(lines)
    assert "-2.00 ± 0.05" in text
    assert "-3.12" not in text
    assert "1 more row" in text
    assert text.count("R-hat") == 1
    assert "p3: boom" in text
    assert verdict.as_dict()["table"][2]["log_evidence"] == -3.123


def test_without_claims_the_verdict_says_so():
    text = Verdict(None, [], [], "", "evidentia run s").text()
    assert text == "claims: none declared\nreport  not written\nrepeat  evidentia run s"


def test_failed_checks_are_listed_once():
    assert failed_checks([check("r_hat", 1.0), check("divergences", 2), check("divergences", 2)]) == [
        check("divergences", 2)
    ]


@pytest.mark.parametrize(
    ("column", "value", "text"),
    [
        ("log_evidence", -36.5510321, "-36.55"),
        ("log_evidence", -0.0, "0.00"),
        ("probability", 0.28104, "0.2810"),
        ("probability", 1e-9, "1.0e-09"),
        ("inclusion_probability", 1.0, "1.0000"),
        ("seconds", 3.14159, "3.1"),
        ("units", 64.0, "64"),
        ("learning_rate", 0.001, "0.001"),
        ("log_evidence", math.nan, "–"),
        ("log_evidence", -math.inf, "-inf"),
        ("elbo", None, "–"),
        ("structure", "{sex, bmi}", "{sex, bmi}"),
        ("converged", True, "yes"),
    ],
)
def test_numbers_are_rounded_by_what_they_are(column, value, text):
    assert show_number(column, value) == text


def test_errors_sit_beside_values_and_bounds_are_marked():
    frame = pd.DataFrame(
        {
            "structure": ["a", "b", "c"],
            "log_evidence": [-1.0, -2.0, -3.0],
            "standard_error": [0.0, 0.123, 0.001],
            "kind": ["exact", "lower bound", "upper bound"],
            "probability": [0.5, 0.3, 0.2],
            "probability_se": [0.01, math.nan, 0.00001],
        }
    )
    shown = show_table(frame)
    assert shown.headers == ("structure", "log evidence (nats)", "kind", "probability")
    assert [row[1] for row in shown.rows] == ["-1.00", "≥ -2.00 ± 0.12", "≤ -3.00 ± 0.0010"]
    assert [row[3] for row in shown.rows] == ["0.5000 ± 0.0100", "0.3000", "0.2000 ± <0.0001"]
    assert shown.numeric == (False, True, False, True)
    assert len(text_table(shown).splitlines()) == 4


def test_repeated_failures_are_one_line_with_the_worst():
    checks = [
        check("r_hat", 1.1, "a"),
        check("r_hat", 1.3, "b"),
        check("ess_bulk", 50),
        check("ess_bulk", 20),
    ]
    assert [(item.value, count) for item, count in worst_checks(checks)] == [(1.3, 2), (20, 2)]
    assert worst_checks([check("r_hat", 9.0), check("r_hat", math.nan)])[0][1] == 2
    assert (
        worst_checks([check("r_hat", 9.0), check("r_hat", math.nan)])[0][0]
        .sentence(2)
        .startswith("R-hat (2 times, worst): not computable")
    )
    text = Verdict(None, checks, [], "", "c").text()
    assert "R-hat (2 times, worst): 1.3 (limit > 1.01) at b" in text
    assert len([line for line in text.splitlines() if line.startswith("  !")]) == 2


def test_the_record_is_strict_json_in_full_precision():
    table = pd.DataFrame({"a": [0.1 + 0.2, math.nan, math.inf], "n": [1, 2, 3], "s": ["x", None, "y"]})
    rows = json.loads(json.dumps(Verdict(table, [], [], "", "").as_dict(), allow_nan=False))["table"]
    assert rows[0] == {"a": 0.1 + 0.2, "n": 1, "s": "x"}
    assert rows[1] == {"a": None, "n": 2, "s": None}
    assert rows[2]["a"] == "inf"
