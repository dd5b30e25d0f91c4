"""Importance sampling of the evidence, against linear-Gaussian models whose evidence is known."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.distributions import MultivariateNormal

from evidentia.inference.evidence.importance import estimate, log_evidence, log_weights
from evidentia.inference.fit import fit

WEIGHT = torch.tensor([[1.0, 0.5], [0.0, -1.0], [0.7, 0.2]], dtype=torch.float64)
NOISE = 0.6
ROWS = 40


@pytest.fixture(autouse=True)
def double_precision():
    torch.set_default_dtype(torch.float64)


def rows(count: int = ROWS) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(count, 2, generator=generator)
    return z @ WEIGHT.T + NOISE * torch.randn(count, 3, generator=generator)


def exact(x: torch.Tensor) -> torch.Tensor:
    covariance = WEIGHT @ WEIGHT.T + NOISE**2 * torch.eye(3)
    return MultivariateNormal(torch.zeros(3), covariance).log_prob(x)


def model(x, size=None):
    with pyro.plate("data", len(x) if size is None else size, subsample=torch.arange(len(x))):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        mean = (z.unsqueeze(-2) * WEIGHT).sum(-1)
        pyro.sample("obs", dist.Normal(mean, NOISE).to_event(1), obs=x)


def guide(x, size=None, widen=1.0):
    precision = torch.eye(2) + WEIGHT.T @ WEIGHT / NOISE**2
    covariance = precision.inverse()
    loc = x @ WEIGHT @ covariance / NOISE**2
    with pyro.plate("data", len(x) if size is None else size, subsample=torch.arange(len(x))):
        pyro.sample("z", dist.MultivariateNormal(loc, widen * covariance))


def wide(x, size=None):
    guide(x, size, widen=1.8)


def chi2(widen: float) -> float:
    """χ²(N(m, C) ‖ N(m, widen C)) in two dimensions."""
    return widen / (2 - 1 / widen) - 1


def test_the_exact_posterior_gives_the_exact_evidence_at_every_draw():
    x = rows()
    weight = log_weights((model, guide), x, num_particles=7, seed=0)
    assert weight.shape == (7, ROWS)
    torch.testing.assert_close(weight, exact(x).expand(7, ROWS), rtol=0, atol=1e-10)
    found = log_evidence((model, guide), x, num_particles=100, seed=0)
    assert found.value == pytest.approx(float(exact(x).sum()), abs=1e-9)
    assert found.standard_error < 1e-9
    assert found.kind == "lower bound"
    assert found.diagnostics["pareto_k"] == -math.inf


def test_a_wider_guide_is_right_within_its_error_once_the_bias_is_added():
    x, count = rows(), 2000
    found = log_evidence((model, wide), x, num_particles=count, seed=3)
    known = -ROWS * chi2(1.8) / (2 * count)
    assert found.diagnostics["bias"] == pytest.approx(known, rel=0.2)
    error = found.value - known - float(exact(x).sum())
    assert abs(error) < 4.5 * found.standard_error
    # The error bar is of the right size: over the data the standardised errors have unit spread.
    each = found.diagnostics["per_datum"]
    spread = ((each.value - exact(x)) / each.standard_error).square().mean()
    assert 0.4 < float(spread) < 1.9
    assert found.diagnostics["ess"] < count


def test_the_particles_may_come_in_chunks():
    x = rows(5)
    whole = log_evidence((model, wide), x, num_particles=400, seed=1)
    parts = log_evidence((model, wide), x, num_particles=400, seed=1, chunk_size=150)
    error = math.hypot(whole.standard_error, parts.standard_error)
    assert parts.value == pytest.approx(whole.value, abs=4.5 * error)
    assert log_weights((model, wide), x, num_particles=7, chunk_size=3).shape == (7, 5)


def test_a_minibatch_is_scaled_and_its_error_has_the_sampling_of_the_rows():
    x = rows(400)
    whole = float(exact(x).sum())
    generator = torch.Generator().manual_seed(0)
    errors = []
    for _ in range(200):
        batch = x[torch.randperm(400, generator=generator)[:50]]
        found = log_evidence((model, guide), batch, num_particles=2, size=400)
        errors.append((found.value - whole) / found.standard_error)
    errors = torch.tensor(errors)
    assert abs(float(errors.mean())) < 4.5 / math.sqrt(200)
    assert 0.8 < float(errors.std()) < 1.25


def test_a_seed_repeats_the_draws_and_leaves_the_callers_stream_alone():
    x = rows(3)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = log_weights((model, wide), x, num_particles=4, seed=2)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, log_weights((model, wide), x, num_particles=4, seed=2))


def test_global_latents_give_one_joint_estimate():
    def whole(x):
        loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("obs", dist.Normal(loc, 1.0), obs=x)

    def posterior(x):
        variance = 1 / (1 + len(x))
        pyro.sample("loc", dist.Normal(variance * x.sum(), variance**0.5))

    x = torch.tensor([0.3, -0.2, 1.1])
    found = log_evidence((whole, posterior), x, num_particles=10)
    truth = MultivariateNormal(torch.zeros(3), torch.eye(3) + 1).log_prob(x)
    assert found.value == pytest.approx(float(truth), abs=1e-10)
    assert found.diagnostics["per_datum"].value.shape == ()


def test_a_fit_lends_its_parameters():
    def shifted(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(pyro.param("loc", torch.tensor(0.0)), 1.0))

    def unit(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("obs", dist.Normal(z, 1.0), obs=x)

    x = torch.full((3,), 2.0)
    result = fit((unit, shifted), x, num_steps=300, learning_rate=0.05, seed=0)
    trained = log_evidence(result, x, num_particles=500, seed=0)
    fresh = log_evidence((unit, shifted), x, num_particles=500, seed=0)
    assert trained.standard_error < fresh.standard_error / 2
    assert float(pyro.param("loc").detach()) == 0.0


def test_weights_that_are_all_zero_are_minus_infinity_and_not_nan():
    found = estimate(torch.tensor([[0.0, -math.inf], [0.5, -math.inf]]))
    assert found.value[1] == -math.inf
    assert found.value[0].isfinite()


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"num_particles": 1}, "num_particles: an error bar needs at least 2 draws, got 1"),
        ({"chunk_size": 0}, "chunk_size: expected a number >= 1, got 0"),
    ],
)
def test_wrong_settings_are_refused(keywords, message):
    with pytest.raises(ValueError, match=message):
        log_evidence((model, guide), rows(2), **keywords)


def test_log_weights_refuses_no_particle():
    with pytest.raises(ValueError, match="num_particles: expected a number >= 1, got 0"):
        log_weights((model, guide), rows(2), num_particles=0)


def test_the_error_of_the_draws_is_scaled_like_the_value():
    x = rows(1)
    one = log_evidence((model, wide), x, num_particles=50, seed=0)
    four = log_evidence((model, wide), x, num_particles=50, seed=0, size=4)
    assert four.value == pytest.approx(4 * one.value)
    assert four.standard_error == pytest.approx(4 * one.standard_error)
