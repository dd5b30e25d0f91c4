"""Claims against a result table: what passes, what fails, and what cannot be answered."""

from __future__ import annotations

from types import SimpleNamespace

import pandas as pd
import pytest

from evidentia.studies.harness.reporting.claims import (
    ClaimResult,
    check_claim,
    check_claims,
    claims_exit_code,
)

TABLE = pd.DataFrame(
    {
        "structure": ["const", "one", "full", "one"],
        "replicate": [0, 0, 0, 1],
        "log_evidence": [-68.4149, -36.551, -46.45, -36.60],
        "width": [1.0, 2.0, 12.0, 2.0],
    }
)


def claim(**changes):
    fields = {
        "metric": "log_evidence",
        "where": {},
        "reduce": "all",
        "op": ">",
        "value": None,
        "than": None,
        "tolerance": 0.0,
        "text": "",
    }
    return SimpleNamespace(**(fields | changes))


def status(**changes) -> str:
    return check_claim(claim(**changes), TABLE).status


def test_all_takes_the_row_hardest_on_the_claim():
    assert status(where={"structure": "one"}, op=">", value=-36.58) == "FAIL"
    assert status(where={"structure": "one"}, op=">", value=-36.61) == "PASS"
    assert status(where={"structure": "one"}, op="<", value=-36.58) == "FAIL"
    assert status(where={"structure": "one"}, op="==", value=-36.55, tolerance=0.01) == "FAIL"
    assert status(where={"structure": "one"}, op="==", value=-36.55, tolerance=0.06) == "PASS"
    assert status(where={"structure": "one"}, op="!=", value=-36.60) == "FAIL"


@pytest.mark.parametrize(("reduce", "observed"), [("mean", -36.5755), ("min", -36.6), ("max", -36.551)])
def test_reductions(reduce, observed):
    result = check_claim(claim(where={"structure": "one"}, reduce=reduce, op="<", value=0.0), TABLE)
    assert result.observed == pytest.approx(observed)


def test_a_lead_over_other_rows_is_the_worst_pair():
    result = check_claim(claim(where={"structure": "one"}, value=3.0, than={}), TABLE)
    assert result.passed
    assert result.observed == pytest.approx(-36.60 + 46.45)
    assert status(where={"structure": "one"}, value=9.87, than={"structure": "full"}) == "FAIL"
    assert status(where={"structure": "one"}, value=9.87, than={"structure": "full"}, reduce="mean") == "PASS"
    assert status(where={"structure": "full"}, than={}, op="<") == "FAIL"  # it beats const
    assert status(where={"structure": "const"}, than={}, op="<") == "PASS"


def test_rows_are_not_their_own_rivals():
    result = check_claim(claim(where={}, than={}), TABLE)
    assert result.status == "ERROR"
    assert "no other row" in result.reason


def test_selectors_compare_numbers_as_numbers_and_sequences_as_any_of():
    assert status(where={"width": 2}, op=">", value=-40.0) == "PASS"
    assert status(where={"width": "2"}, op=">", value=-40.0) == "PASS"
    assert status(where={"structure": ("const", "full")}, op="<", value=-40.0) == "PASS"
    assert status(where={"structure": "one", "replicate": 1}, op="==", value=-36.6) == "PASS"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"where": {"structure": "planted"}, "value": -1e9}, "no row matches structure = planted"),
        ({"where": {"structur": "one"}, "value": -1e9}, "no column 'structur' to select by"),
        ({"metric": "evidence", "value": -1e9}, "no column 'evidence'"),
        ({"metric": "structure", "value": -1e9}, "does not hold numbers"),
        ({}, "neither a value nor"),
        ({"op": "~", "value": 0.0}, "unknown op"),
        ({"reduce": "median", "value": 0.0}, "unknown reduce"),
        ({"where": {"structure": "one"}, "than": {"structure": "two"}}, "no other row matches than"),
    ],
)
def test_a_claim_about_nothing_is_an_error_and_never_a_pass(changes, reason):
    result = check_claim(claim(**changes), TABLE)
    assert (result.status, result.passed) == ("ERROR", False)
    assert reason in result.reason
    assert claims_exit_code([result]) == 2


def test_an_empty_table_is_an_error():
    assert check_claim(claim(value=-1e9), TABLE.iloc[:0]).status == "ERROR"


@pytest.mark.parametrize("op", [">", ">=", "<", "<=", "==", "!="])
def test_a_missing_value_never_passes(op):
    holed = TABLE.assign(log_evidence=[-68.0, float("nan"), -46.0, -36.0])
    for reduce in ("all", "min", "max", "mean"):
        result = check_claim(claim(op=op, value=0.0, reduce=reduce, tolerance=1e9), holed)
        assert result.status == "FAIL"
        assert "missing" in result.reason


def test_tolerance_loosens_in_the_right_direction():
    assert status(where={"structure": "full"}, op=">=", value=-46.4, tolerance=0.1) == "PASS"
    assert status(where={"structure": "full"}, op=">=", value=-46.3, tolerance=0.1) == "FAIL"
    assert status(where={"structure": "full"}, op="<=", value=-46.5, tolerance=0.1) == "PASS"
    assert status(where={"structure": "full"}, op="<=", value=-46.6, tolerance=0.1) == "FAIL"


def test_exit_codes_and_round_trip():
    results = check_claims([claim(op="<", value=0.0), claim(op=">", value=0.0)], TABLE)
    assert [result.status for result in results] == ["PASS", "FAIL"]
    assert claims_exit_code(results) == 1
    assert claims_exit_code(results[:1]) == claims_exit_code([]) == 0
    assert [ClaimResult.from_dict(result.as_dict()) for result in results] == results
    assert results[0].text == "log_evidence < 0.0"


def test_claims_about_words():
    best = {"metric": "structure", "where": {"replicate": 1}}
    assert status(**best, op="==", value="one") == "PASS"
    assert status(**best, op="!=", value="one") == "FAIL"
    result = check_claim(claim(metric="structure", op="==", value="one"), TABLE)
    assert (result.status, result.observed) == ("FAIL", "const")
    assert status(**best, op=">", value="one") == "ERROR"
    assert status(metric="structure", where={"replicate": 9}, op="!=", value="one") == "ERROR"
