"""The front door: every word of the table, draws of every form, and what is refused or warned about."""

import math
from types import SimpleNamespace

import evidence_toys
import posteriors
import pyro
import pyro.distributions as dist
import pytest
import torch

from evidentia.inference.density.log_density import compile_density
from evidentia.inference.evidence.conjugate import normal_mean
from evidentia.inference.evidence.guards import EvidenceWarning
from evidentia.inference.evidence.log_evidence import LogEvidence
from evidentia.inference.evidence.methods import METHODS
from evidentia.inference.evidence.model_evidence import model_evidence
from evidentia.inference.idata.draws import Draws

Y = torch.tensor([0.3, -0.2, 1.5, 0.8], dtype=torch.float64)
EXACT = normal_mean(Y, 0.7, 0.5, 2.0)


def mean_model(y):
    mean = pyro.sample("mean", dist.Normal(torch.tensor(0.5, dtype=y.dtype), 2.0))
    with pyro.plate("data", len(y)):
        pyro.sample("obs", dist.Normal(mean, 0.7), obs=y)


@pytest.fixture(scope="module")
def density():
    return compile_density(mean_model, Y, num_chains=16, dtype=torch.float64)


@pytest.fixture(scope="module")
def positions():
    return evidence_toys.normal_mean().chains(16, 200, 0)


def result_of(positions, rough=None, adjusted=True):
    lp = torch.zeros(positions.shape[:2])
    return Draws(
        {"mean": positions[..., 0]},
        {"lp": lp},
        {},
        "max_steps",
        "hmc",
        unconstrained=positions,
        adjusted=adjusted,
        log_evidence=rough,
    )


def estimate(value, error=0.1, **diagnostics):
    return LogEvidence.checked(value, error, "consistent estimate", {"warnings": (), **diagnostics})


def test_default_samples_by_itself():
    found = model_evidence(mean_model, Y, num_chains=32, num_draws=40, warmup_steps=30, seed=0)
    assert abs(found.value - EXACT.value) < 4.5 * found.standard_error
    assert found.standard_error < 0.02
    assert abs(found.value - found.diagnostics["smc"].value) < 1
    assert found.diagnostics["warnings"] == ()
    again = model_evidence(mean_model, Y, num_chains=32, num_draws=40, warmup_steps=30, seed=0)
    assert again.value == found.value


@pytest.mark.slow
def test_default_on_eight_schools():
    model, arguments = posteriors.eight_schools()
    found = model_evidence(model, *arguments, num_chains=64, num_draws=100, warmup_steps=60, seed=0)
    exact = posteriors.schools_log_evidence()
    assert abs(found.value - exact) < 0.02
    assert abs(found.value - exact) < 4.5 * found.standard_error
    assert abs(found.diagnostics["smc"].value - exact) < 0.6
    assert found.diagnostics["observed"]["obs"].shape == (8,)
    assert found.diagnostics["warnings"] == ()


SMALL = {
    "smc": {"num_particles": 256, "num_copies": 4},
    "ais": {"num_chains": 128, "betas": 30},
    "stepping": {"num_chains": 8, "num_draws": 40},
    "thermodynamic": {"num_chains": 8, "num_draws": 40, "betas": 16},
}


@pytest.mark.filterwarnings("ignore::evidentia.inference.evidence.guards.EvidenceWarning")
@pytest.mark.parametrize("method", list(METHODS))
def test_every_word_of_the_table(method, density, positions):
    found = model_evidence(density, method=method, draws=positions, seed=1, options=SMALL.get(method))
    assert abs(found.value - EXACT.value) < 4.5 * found.standard_error + 1e-6
    assert found.standard_error < 0.2
    assert found.diagnostics["seed"] == 1
    assert isinstance(found.diagnostics["warnings"], tuple)


def test_draws_of_every_form_give_the_same(density, positions):
    forms = [positions, {"mean": positions[..., 0]}, result_of(positions)]
    values = {model_evidence(density, method="warp", draws=form, seed=3).value for form in forms}
    assert len(values) == 1
    other = model_evidence(density, method="warp", draws=positions, seed=4).value
    assert other not in values


def test_a_model_knows_its_data(positions):
    found = model_evidence(mean_model, Y, method="warp", draws=positions, seed=0)
    assert abs((found - EXACT).value) < 4.5 * found.standard_error
    assert (found - EXACT).data_checked
    with pytest.raises(ValueError, match="not about the same data"):
        found - normal_mean(Y + 1)


def test_disagreement_with_the_rough_value_is_a_warning(density, positions):
    with pytest.warns(EvidenceWarning, match=r"tempered SMC .* differ by more than 1.00 nats"):
        found = model_evidence(density, draws=result_of(positions, estimate(EXACT.value + 1.5)), seed=0)
    assert len(found.diagnostics["warnings"]) == 1
    assert found.diagnostics["smc"].value == EXACT.value + 1.5
    for rough in (
        estimate(EXACT.value + 0.9),  # within a nat
        estimate(EXACT.value + 2.5, 1.0),  # within 3 standard errors
        estimate(EXACT.value + 2.5, 0.1, copies=(0.0, 3.0, 6.0, 9.0)),  # the copies are no better
    ):
        assert (
            model_evidence(density, draws=result_of(positions, rough), seed=0).diagnostics["warnings"] == ()
        )


def test_biased_draws_are_a_warning(density, positions):
    with pytest.warns(EvidenceWarning, match="not Metropolis-adjusted"):
        model_evidence(density, method="warp", draws=result_of(positions, adjusted=False), seed=0)


def test_an_improper_prior_is_a_warning(positions):
    def flat_model(y):
        mean = pyro.sample("mean", dist.ImproperUniform(dist.constraints.real, (), ()))
        with pyro.plate("data", len(y)):
            pyro.sample("obs", dist.Normal(mean, 0.7), obs=y)

    draws = Y.mean() + 0.35 * (positions - positions.mean()) / positions.std()
    with pytest.warns(EvidenceWarning, match="improper"):
        found = model_evidence(flat_model, Y, method="warp", draws=draws, seed=0)
    exact = -1.5 * math.log(2 * math.pi * 0.49) - 0.5 * math.log(4) - 1.5 * float(Y.var()) / 0.49
    assert found.value == pytest.approx(exact, abs=0.01)
    assert found.diagnostics["observed"] == EXACT.diagnostics["observed"]


@pytest.mark.parametrize("reason", ["infinite variance", "bridge sampling", "21 too high", "'importance'"])
def test_harmonic_mean_is_refused_with_its_reason(reason):
    with pytest.raises(ValueError, match=reason):
        model_evidence(mean_model, Y, method="harmonic")


def test_what_cannot_be_computed_is_refused(density, positions):
    with pytest.raises(ValueError, match=r"expected method in .*'stepping'.* got 'nested'"):
        model_evidence(density, method="nested")
    with pytest.raises(ValueError, match="has its data already"):
        model_evidence(density, Y, method="warp")
    with pytest.raises(ValueError, match="'warp' needs draws"):
        model_evidence(SimpleNamespace(evaluate=evidence_toys.regression().density, dim=12), method="warp")
    with pytest.raises(ValueError, match=r"expected \(chains, draws, 1\) positions, got \(16, 200, 2\)"):
        model_evidence(density, method="warp", draws=torch.zeros(16, 200, 2))


def test_harmonic_mean_is_twenty_nats_wrong():
    """The pitfall itself: on the regression the harmonic mean looks steady and is far too high."""
    toy = evidence_toys.regression()
    draws = toy.chains(8, 3200, 0).reshape(8, 3200, 12)
    values = []
    for chain in draws:
        log_likelihood = toy.density(chain, 1.0).log_likelihood
        values.append(math.log(3200) - float((-log_likelihood).logsumexp(0)))
    values = torch.tensor(values)
    assert ((values - toy.log_evidence) > 17).all()
    assert ((values - toy.log_evidence) < 27).all()
    assert values.std() < 3  # the repeats agree with each other, not with the truth
