"""Arithmetic on evidences, the refusal of different data, and columns that are shown beside, never mixed."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch

from evidentia.inference.evidence.comparison import compare_evidence, conditional_evidence
from evidentia.inference.evidence.conjugate import normal_inverse_gamma_regression, normal_mean
from evidentia.inference.evidence.log_evidence import LogEvidence, log_bayes_factor
from evidentia.inference.evidence.observed import observed_of, observed_sites

Y = torch.tensor([0.3, -0.2, 0.5, 0.1])


def estimate(value, error=0.1, **diagnostics):
    return LogEvidence.checked(value, error, "consistent estimate", diagnostics)


def test_difference_of_two_estimates():
    found = estimate(-3.0, 0.3) - estimate(-5.0, 0.4)
    assert (found.value, found.standard_error) == pytest.approx((2.0, 0.5))
    assert found == log_bayes_factor(estimate(-3.0, 0.3), estimate(-5.0, 0.4))
    assert not found.data_checked
    assert "log Bayes factor" in str(found)


def test_warnings_are_counted_in_print():
    assert str(estimate(-3.0, 0.3)) == "-3.0000 ± 0.3000 nats (consistent estimate)"
    assert str(estimate(-3.0, 0.3, warnings=("a",))).endswith("(consistent estimate; 1 warning)")
    assert str(estimate(-3.0, 0.3, warnings=("a", "b"))).endswith("; 2 warnings)")


def test_exact_against_an_estimate_and_against_a_bound():
    found = normal_mean(Y) - normal_mean(Y, prior_scale=3.0)
    assert (found.kind, found.standard_error, found.data_checked) == ("exact", 0.0, True)
    observed = normal_mean(Y).diagnostics["observed"]
    assert (normal_mean(Y) - estimate(-4.0, observed=observed)).kind == "consistent estimate"
    bound = LogEvidence.checked(-5.0, 0.1, "lower bound")
    with pytest.raises(ValueError, match="different kinds"):
        normal_mean(Y) - bound
    assert (bound - bound).kind == "difference of lower bounds"


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (normal_mean(Y[:3]), r"site 'obs' has shape \(4,\) in 'first' and \(3,\) in 'second'"),
        (normal_mean(Y + 0.01), "site 'obs' has other values"),
        (normal_mean(Y, site="y"), r"observed sites \['obs'\] in 'first', \['y'\] in 'second'"),
    ],
)
def test_other_data_is_refused(other, message):
    with pytest.raises(ValueError, match=message):
        log_bayes_factor(normal_mean(Y), other)
    with pytest.raises(ValueError, match="not about the same data"):
        compare_evidence({"a": normal_mean(Y), "b": other})


def test_observed_sites_of_a_model_are_those_of_the_closed_form():
    def model(y):
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        pyro.factor("penalty", -mean.abs())
        pyro.deterministic("twice", 2 * mean)
        with pyro.plate("data", 4, subsample_size=4):
            pyro.sample("obs", dist.Normal(mean, 1.0), obs=y)

    before = torch.random.get_rng_state()
    found = observed_sites(model, (Y.double(),))
    assert found == normal_mean(Y).diagnostics["observed"]
    assert torch.equal(before, torch.random.get_rng_state())


def test_digest_sees_values_and_shape_only():
    assert observed_of(torch.tensor([True, False])) == observed_of(torch.tensor([1.0, 0.0]))
    assert observed_of(Y) != observed_of(Y.flip(0))
    assert observed_of(Y.double()) == observed_of(Y)


def test_conditional_evidence_is_the_predictive_density_of_the_rest():
    found = conditional_evidence(normal_mean(Y, 0.7, 0.4, 1.9), normal_mean(Y[:2], 0.7, 0.4, 1.9))
    precision = 1 / 1.9**2 + 2 / 0.7**2
    mean = (0.4 / 1.9**2 + Y[:2].sum() / 0.7**2) / precision
    covariance = 0.7**2 * torch.eye(2) + 1 / precision
    expected = dist.MultivariateNormal(mean.expand(2), covariance).log_prob(Y[2:])
    assert found.value == pytest.approx(float(expected), abs=1e-5)
    assert found.kind == "exact"


def test_conditional_evidence_adds_errors_and_refuses_nonsense():
    found = conditional_evidence(estimate(-5.0, 0.3), estimate(-3.0, 0.4))
    assert (found.value, found.standard_error) == pytest.approx((-2.0, 0.5))
    with pytest.raises(ValueError, match="fewer rows"):
        conditional_evidence(normal_mean(Y[:2]), normal_mean(Y))
    with pytest.raises(ValueError, match="fewer rows"):
        conditional_evidence(normal_mean(Y), normal_mean(Y))
    bound = LogEvidence.checked(-5.0, 0.1, "lower bound")
    with pytest.raises(ValueError, match="neither a bound nor an estimate"):
        conditional_evidence(bound, bound)


def test_other_columns_stand_beside_and_change_nothing():
    models = {"a": normal_mean(Y), "b": normal_mean(Y, prior_scale=3.0)}
    rest = {name: conditional_evidence(model, normal_mean(Y[:2])) for name, model in models.items()}
    plain = compare_evidence(models)
    table = compare_evidence(models, predictive={"b": (7.0, 0.5)}, conditional=rest)
    assert plain.equals(table[plain.columns.tolist()])
    assert table["model"].tolist() == ["a", "b"]
    assert math.isnan(table["elpd_loo"][0])
    assert (table["elpd_loo"][1], table["elpd_loo_se"][1]) == (7.0, 0.5)
    assert table["conditional"].tolist() == [rest["a"].value, rest["b"].value]
    assert table["conditional_se"].tolist() == [0.0, 0.0]


def test_conditional_and_whole_evidence_never_share_a_column():
    whole, rest = normal_mean(Y), conditional_evidence(normal_mean(Y), normal_mean(Y[:2]))
    with pytest.raises(ValueError, match="different quantities"):
        compare_evidence({"a": whole, "b": rest})
    with pytest.raises(ValueError, match="different quantities"):
        whole - rest
    with pytest.raises(ValueError, match="evidence of all the data"):
        compare_evidence({"a": whole}, conditional={"a": whole})
    other = conditional_evidence(whole, normal_mean(Y[:3]))
    with pytest.raises(ValueError, match="not about the same data"):
        compare_evidence({"a": whole, "b": whole}, conditional={"a": rest, "b": other})
    with pytest.raises(ValueError, match="predictive names"):
        compare_evidence({"a": whole}, predictive={"c": (0.0, 1.0)})


def test_regression_and_mean_of_one_response_can_be_compared():
    design = torch.ones(4, 1, dtype=torch.float64)
    found = normal_inverse_gamma_regression(design, Y.double()) - normal_mean(Y)
    assert found.data_checked
