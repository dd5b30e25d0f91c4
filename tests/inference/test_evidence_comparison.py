"""Evidence with a kind, and model probabilities with errors by the delta method."""

import math

import oracles
import pytest
import torch

from evidentia.inference.evidence.comparison import compare_evidence, posterior_probabilities
from evidentia.inference.evidence.log_evidence import LogEvidence, common_kind


def test_delta_method_errors_of_the_golden_case():
    values = [torch.tensor(v) for v in (oracles.COMPARISON_LOG_EVIDENCE, oracles.COMPARISON_ERROR)]
    error = posterior_probabilities(*values).standard_error
    assert error.tolist() == pytest.approx(oracles.COMPARISON_PROBABILITY_SE, abs=6e-5)


def test_delta_method_equals_the_double_sum_and_the_jacobian():
    torch.manual_seed(0)
    value, error, prior = torch.randn(6).double(), torch.rand(6).double(), torch.randn(6).double()
    got = posterior_probabilities(value, error, prior)
    p = torch.softmax(value + prior, 0)
    torch.testing.assert_close(got.probability, p)
    double_sum = p * (((torch.eye(6) - p).square() * error.square()).sum(1)).sqrt()
    torch.testing.assert_close(got.standard_error, double_sum)
    jacobian = torch.autograd.functional.jacobian(lambda v: torch.softmax(v + prior, 0), value)
    torch.testing.assert_close(got.standard_error, ((jacobian * error).square().sum(1)).sqrt())


@pytest.mark.statistical
def test_delta_method_agrees_with_simulated_evidences():
    value, error = torch.tensor(oracles.COMPARISON_LOG_EVIDENCE), torch.tensor(oracles.COMPARISON_ERROR)
    noisy = value + error * torch.randn(200_000, 3)
    simulated = torch.softmax(noisy, -1).std(0)
    torch.testing.assert_close(
        posterior_probabilities(value, error).standard_error.float(), simulated, rtol=0.03, atol=0
    )


def test_exact_values_have_no_error_and_the_prior_counts_with_its_sign():
    got = posterior_probabilities(torch.zeros(2), log_prior=torch.tensor([math.log(0.75), math.log(0.25)]))
    assert got.probability.tolist() == pytest.approx([0.75, 0.25])
    assert got.standard_error.tolist() == [0.0, 0.0]


def test_very_different_evidences_do_not_overflow():
    got = posterior_probabilities(torch.tensor([-1e6, -1e6 - 800.0, -math.inf]))
    assert got.probability.tolist() == [1.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.zeros(2), torch.zeros(3)), r"standard_error has shape \(3,\)"),
        ((torch.zeros(0),), "0 of 0 log evidences"),
        ((torch.tensor([0.0, math.nan]),), "1 of 2 log evidences are NaN"),
        ((torch.tensor([-math.inf]),), "every structure has probability zero"),
    ],
)
def test_impossible_comparisons_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        posterior_probabilities(*arguments)


def test_table_of_two_models():
    table = compare_evidence(
        {
            "a": LogEvidence.checked(-3.0, 0.3, "consistent estimate"),
            "b": LogEvidence.checked(-1.0, 0.4, "consistent estimate"),
        },
        {"a": 0.0, "b": 0.0},
    )
    assert table["model"].tolist() == ["b", "a"]
    assert table["difference_se"].tolist() == pytest.approx([0.0, 0.5])
    assert table["probability"].tolist() == pytest.approx([1 / (1 + math.exp(-2)), 1 / (1 + math.exp(2))])


def test_kinds_are_never_mixed_silently():
    mixed = {"a": LogEvidence.checked(-3.0), "b": LogEvidence.checked(-4.0, 0.1, "lower bound")}
    with pytest.raises(ValueError, match="different kinds"):
        compare_evidence(mixed)
    with pytest.raises(ValueError, match="different kinds"):
        compare_evidence(mixed, mix=True)
    joined = {"a": LogEvidence.checked(-3.0), "b": LogEvidence.checked(-4.0, 0.1, "consistent estimate")}
    with pytest.raises(ValueError, match="mix=True"):
        compare_evidence(joined)
    assert compare_evidence(joined, mix=True)["kind"].tolist() == ["exact", "consistent estimate"]
    with pytest.raises(ValueError, match="log_prior lacks"):
        compare_evidence({"a": LogEvidence.checked(-3.0)}, {})
    with pytest.raises(ValueError, match="at least one"):
        common_kind([])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((math.nan,), "value is NaN"),
        ((0.0, -1.0, "lower bound"), "standard_error must be"),
        ((0.0, 0.1), "exact value has no standard error"),
        ((0.0, 0.1, "about right"), "kind must be one of"),
    ],
)
def test_evidence_is_checked(arguments, message):
    with pytest.raises(ValueError, match=message):
        LogEvidence.checked(*arguments)
