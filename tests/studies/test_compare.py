"""Compare: the formulas of posterior model probability and LOO, what is refused, and what is never ranked."""

from __future__ import annotations

import math

import numpy as np
import pytest

from evidentia.studies.harness.errors import StudyError
from evidentia.studies.harness.reporting.compare import Entry, compare_entries
from evidentia.studies.harness.reporting.predictive import (
    Pointwise,
    elpd_difference,
    elpd_total,
    stacking_weights,
)

DATA = "ab" * 32


def entry(name, value=math.nan, error=0.0, kind="exact", **changes):
    return Entry(name, DATA, value, error, kind)._replace(**changes)


def test_probabilities_and_their_errors_are_those_of_the_specification():
    value, error = (-100.0, -101.0, -103.0), (0.05, 0.1, 0.2)
    rows = [entry(n, v, e, "consistent estimate") for n, v, e in zip("cab", value, error, strict=True)]
    table, warnings = compare_entries(rows[::-1])
    assert table["model"].tolist() == ["c", "a", "b"]
    weights = np.exp(np.array(value) + 100)
    np.testing.assert_allclose(table["probability"], weights / weights.sum(), rtol=1e-12)
    np.testing.assert_allclose(table["probability_se"], (0.0216, 0.0214, 0.0069), rtol=0.03)
    np.testing.assert_allclose(table["delta"], (0.0, 1.0, 3.0), atol=1e-12)
    np.testing.assert_allclose(
        table["delta_se"][1:], np.sqrt(0.05**2 + np.array([0.1, 0.2]) ** 2), rtol=1e-12
    )
    assert warnings == ()


@pytest.mark.statistical
def test_the_error_of_a_probability_is_that_of_a_simulation():
    value, error = np.array([-100.0, -101.0, -103.0]), np.array([0.05, 0.1, 0.2])
    rows = [entry(n, v, e, "consistent estimate") for n, v, e in zip("abc", value, error, strict=True)]
    table, _ = compare_entries(rows)
    draws = value + error * np.random.default_rng(0).standard_normal((200_000, 3))
    p = np.exp(draws - draws.max(1, keepdims=True))
    simulated = (p / p.sum(1, keepdims=True)).std(0)
    np.testing.assert_allclose(table["probability_se"], simulated, rtol=0.03)


def test_a_model_prior_counts_only_if_all_have_one():
    both = [entry("a", -1.0, log_prior=math.log(0.25)), entry("b", -1.0, log_prior=math.log(0.75))]
    table, _ = compare_entries(both)
    assert dict(zip(table["model"], table["probability"].round(12), strict=True)) == {"a": 0.25, "b": 0.75}
    table, warnings = compare_entries([both[0], entry("b", -1.0)])
    assert table["probability"].tolist() == [0.5, 0.5]
    assert any("log prior" in line for line in warnings)


def test_different_data_is_refused_and_both_are_named():
    other = entry("right", -2.0, observations=49)._replace(data="cd" * 32)
    with pytest.raises(
        StudyError, match=r"left has sha256 abab.* and 50 observations.*right has cdcd.* 49 obs"
    ):
        compare_entries([entry("left", -1.0, observations=50), other])


def test_different_numbers_of_observations_are_refused():
    with pytest.raises(StudyError, match=r"left has 50, right has 49") as caught:
        compare_entries([entry("left", -1.0, observations=50), entry("right", -2.0, observations=49)])
    assert caught.value.exit_code == 2


def test_different_likelihood_dimensions_are_refused():
    with pytest.raises(StudyError, match=r"left has \(row\), right has \(row, pixel\)"):
        compare_entries([entry("left", -1.0, dims=("row",)), entry("right", -2.0, dims=("row", "pixel"))])


def test_an_unknown_hash_twins_and_single_models_are_refused():
    with pytest.raises(StudyError, match="no data hash"):
        compare_entries([entry("a", -1.0), entry("b", -1.0)._replace(data="")])
    with pytest.raises(StudyError, match="given twice"):
        compare_entries([entry("a", -1.0), entry("a", -1.0)])
    with pytest.raises(StudyError, match="at least two"):
        compare_entries([entry("a", -1.0)])


def test_a_bound_is_never_ranked_as_exact():
    rows = [entry("bound", -1.0, kind="lower bound"), entry("a", -5.0), entry("b", -6.0)]
    table, warnings = compare_entries(rows)
    assert table["model"].tolist() == ["a", "b", "bound"]
    assert table["probability"][:2].sum() == pytest.approx(1.0)
    assert table.loc[2, ["delta", "probability"]].isna().all()
    assert any("bound has only a lower bound: not ranked" in line for line in warnings)
    assert "≥ -1.00" in compare_entries(rows).text()


def test_bounds_alone_rank_with_a_warning_and_mixed_bounds_do_not_rank():
    table, warnings = compare_entries(
        [entry("a", -1.0, 0.1, "lower bound"), entry("b", -2.0, 0.1, "lower bound")]
    )
    assert table["probability"].notna().all()
    assert any("every value is a lower bound" in line for line in warnings)
    table, warnings = compare_entries(
        [entry("a", -1.0, 0.1, "lower bound"), entry("b", -2.0, 0.1, "upper bound")]
    )
    assert table["probability"].isna().all()
    assert any("mixed kinds" in line for line in warnings)


def test_exact_and_estimated_values_rank_together_with_a_warning():
    table, warnings = compare_entries([entry("a", -1.0), entry("b", -2.0, 0.1, "consistent estimate")])
    assert table["probability"].notna().all()
    assert any("mind the errors" in line for line in warnings)


def pointwise(values, k=0.1):
    values = np.asarray(values, dtype=float)
    return Pointwise(values, np.full(values.shape, k), ("data",), values.shape)


def test_loo_differences_have_the_error_of_the_pointwise_differences():
    rng = np.random.default_rng(0)
    shared = rng.normal(size=200)
    a, b = shared + 0.1, shared + 0.01 * rng.normal(size=200)
    table, warnings = compare_entries(
        [entry("b", -2.0, pointwise=pointwise(b)), entry("a", -1.0, pointwise=pointwise(a, k=0.9))]
    )
    row = table.set_index("model").loc["b"]
    assert row["elpd_diff"] == pytest.approx((a - b).sum())
    assert row["elpd_diff_se"] == pytest.approx(math.sqrt(200 * (a - b).var(ddof=1)))
    assert row["elpd_diff_se"] < 0.1 * row["elpd_loo_se"]  # not the root of the summed squares
    assert table.set_index("model").loc["a", "weight"] > 0.99
    assert table.set_index("model")["pareto_k_bad"].to_dict() == {"a": 200.0, "b": 0.0}
    assert any("a: k-hat > 0.7 for 200 observations" in line for line in warnings)


def test_an_improper_prior_beside_a_proper_one_is_a_warning():
    loose = pointwise([-1.0, -2.0])._replace(improper=True)
    firm = pointwise([-1.5, -2.0])
    _, warnings = compare_entries([entry("a", -1.0, pointwise=loose), entry("b", -2.0, pointwise=firm)])
    assert any("the prior of a is improper" in line for line in warnings)
    _, warnings = compare_entries([entry("a", -1.0, pointwise=loose), entry("b", -2.0, pointwise=loose)])
    assert warnings == ()


def test_stacking_agrees_with_a_grid_search():
    rng = np.random.default_rng(1)
    scores = np.log(rng.uniform(0.05, 1.0, size=(2, 300)))
    grid = np.linspace(0, 1, 20001)
    best = max(grid, key=lambda w: np.log(w * np.exp(scores[0]) + (1 - w) * np.exp(scores[1])).sum())
    assert stacking_weights(scores)[0] == pytest.approx(best, abs=1e-4)


def test_totals():
    assert elpd_total(np.array([1.0, 2.0, 3.0])) == (6.0, pytest.approx(math.sqrt(3.0)))
    assert elpd_difference(np.array([1.0, 2.0]), np.array([1.0, 2.0])) == (0.0, 0.0)
    assert math.isnan(elpd_total(np.array([1.0]))[1])


def test_csv_keeps_full_precision():
    result = compare_entries([entry("a", -1.23456789012345), entry("b", -2.0)])
    assert "-1.23456789012345" in result.text(csv=True)
    assert "-1.23 " in result.text()
