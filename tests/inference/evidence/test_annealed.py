"""Annealed importance sampling both ways: unbiased weights, bounds on simulated data, and the guard."""

import math

import path_posteriors
import pytest
import torch
from path_posteriors import HALF_LOG_2PI

from evidentia.inference.density.evaluation import tempered_of
from evidentia.inference.evidence import annealed
from evidentia.inference.evidence.annealed import (
    annealed_importance,
    annealed_log_weights,
    reverse_annealed_importance,
)
from evidentia.inference.evidence.ladder import sigmoidal_schedule
from evidentia.inference.evidence.moves import Path
from evidentia.inference.evidence.sandwich import bidirectional
from evidentia.inference.evidence.smc import pilot_path, tempered_smc


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def plain_path(num_steps: int, dim: int, step: float = 0.7) -> Path:
    """Unit metric: a poor kernel, which unbiasedness must not mind."""
    betas = sigmoidal_schedule(num_steps, width=3.0)
    one = torch.ones(num_steps + 1, dtype=torch.float64)
    return Path(betas, one.unsqueeze(-1).expand(-1, dim), step * one)


def normal_posterior(num: int, generator) -> torch.Tensor:
    """Exact draws of `path_posteriors.normal()`: precision 1 + 4, mean 4 / 5."""
    return 0.8 + math.sqrt(0.2) * torch.randn(num, 3, dtype=torch.float64, generator=generator)


@pytest.mark.statistical
@pytest.mark.parametrize("step", [0.7, 0.25])
def test_weights_are_unbiased(generator, step):
    normal = path_posteriors.normal()
    start = normal.prior_draws(4000, generator)
    weight = annealed_log_weights(normal.density, start, plain_path(12, 3, step), generator=generator)
    ratio = (weight - normal.log_evidence).exp()
    error = float(ratio.std()) / math.sqrt(len(ratio))
    assert abs(float(ratio.mean()) - 1) < 4 * error < 0.2
    assert float(weight.mean()) < normal.log_evidence  # Jensen: a bound from below


@pytest.mark.statistical
def test_reverse_weights_are_unbiased_for_the_inverse_evidence(generator):
    normal = path_posteriors.normal()
    start = normal_posterior(4000, generator)
    path = plain_path(30, 3)
    weight = annealed_log_weights(normal.density, start, path, reverse=True, generator=generator)
    ratio = (normal.log_evidence - weight).exp()
    error = float(ratio.std()) / math.sqrt(len(ratio))
    assert abs(float(ratio.mean()) - 1) < 4 * error < 0.2
    assert float(weight.mean()) > normal.log_evidence


@pytest.mark.statistical
def test_five_hundred_short_runs_on_eight_schools_have_mean_weight_one(generator):
    schools = path_posteriors.eight_schools()
    path = pilot_path(
        schools.density, sigmoidal_schedule(20), prior_draws=schools.prior_draws, generator=generator
    )
    weight = annealed_log_weights(
        schools.density, schools.prior_draws(500, generator), path, generator=generator
    )
    ratio = (weight - schools.log_evidence).exp()
    assert abs(float(ratio.mean()) - 1) < 4 * float(ratio.std()) / math.sqrt(500) < 0.25


@pytest.mark.statistical
def test_the_exact_evidence_of_simulated_data_lies_between_the_directions(generator):
    """One data set per chain: the latent that generated it is its exact posterior draw."""
    count, scale = 1500, 0.5
    latent = torch.randn(count, 3, dtype=torch.float64, generator=generator)
    y = latent + scale * torch.randn(count, 3, dtype=torch.float64, generator=generator)

    def log_prior(x):
        return -0.5 * x.square().sum(-1) - 3 * HALF_LOG_2PI

    def log_likelihood(x):
        return (-0.5 * ((y - x) / scale).square() - HALF_LOG_2PI - math.log(scale)).sum(-1)

    density = tempered_of(log_prior, log_likelihood)
    variance = 1 + scale**2
    exact = (-0.5 * y.square() / variance - HALF_LOG_2PI - 0.5 * math.log(variance)).sum(-1)
    path = plain_path(15, 3)
    prior = torch.randn(count, 3, dtype=torch.float64, generator=generator)
    forward = annealed_log_weights(density, prior, path, generator=generator) - exact
    reverse = annealed_log_weights(density, latent, path, reverse=True, generator=generator) - exact
    for below in (forward, -reverse):
        assert float(below.mean()) < -4 * float(below.std()) / math.sqrt(count)
        ratio = below.exp()
        assert abs(float(ratio.mean()) - 1) < 4 * float(ratio.std()) / math.sqrt(count) < 0.25


@pytest.mark.statistical
@pytest.mark.parametrize(
    ("name", "steps", "largest_error"),
    [("eight_schools", 50, 0.05), ("ising", 60, 0.08), ("bimodal", 60, 0.1)],
)
def test_the_evidence_is_exact_within_its_error(generator, name, steps, largest_error):
    posterior = getattr(path_posteriors, name)()
    found = annealed_importance(
        posterior.density, 256, prior_draws=posterior.prior_draws, betas=steps, generator=generator
    )
    assert abs(found.value - posterior.log_evidence) < 4 * found.standard_error < 4 * largest_error
    assert found.kind == "consistent estimate"
    assert found.diagnostics["ess"] > 50
    assert found.diagnostics["warnings"] == ()


def test_collapsed_weights_have_no_error_bar(generator):
    """Oracle 31: fifty temperatures are too few for the regression of twelve dimensions."""
    posterior = path_posteriors.normal_inverse_gamma()
    found = annealed_importance(
        posterior.density, 256, prior_draws=posterior.prior_draws, betas=50, generator=generator
    )
    assert found.standard_error == math.inf
    assert found.kind == "lower bound"
    assert found.diagnostics["ess"] < 10
    assert "collapsed" in found.diagnostics["warnings"][0]
    assert "inf" in str(found)


@pytest.mark.parametrize(("share", "refused"), [(0.29, False), (0.31, True)])
def test_one_heavy_weight_is_enough_to_refuse(share, refused):
    """Two thousand equal weights and one of the given share: the effective size stays above ten."""
    log_weight = torch.zeros(2001, dtype=torch.float64)
    log_weight[0] = math.log(2000 * share / (1 - share))
    found = annealed._evidence(log_weight, 1, "test", sign=1.0)
    assert found.diagnostics["ess"] == pytest.approx(1 / (share**2 + (1 - share) ** 2 / 2000))
    assert found.diagnostics["ess"] > 10
    assert found.diagnostics["largest_share"] == pytest.approx(share)
    assert math.isinf(found.standard_error) == refused
    assert found.kind == ("lower bound" if refused else "consistent estimate")


@pytest.mark.parametrize(("count", "refused"), [(9, True), (11, False)])
def test_few_equal_weights_are_refused_for_their_effective_size(count, refused):
    log_weight = torch.full((50,), -torch.inf, dtype=torch.float64)
    log_weight[:count] = 0.0
    found = annealed._evidence(log_weight, 1, "test", sign=-1.0)
    assert found.diagnostics["ess"] == pytest.approx(count)
    assert math.isinf(found.standard_error) == refused
    assert found.kind == "upper bound"


@pytest.mark.statistical
def test_the_sandwich_closes_around_the_evidence(generator):
    normal = path_posteriors.normal()
    gaps = []
    for steps in (10, 80):
        found = bidirectional(
            normal.density,
            normal_posterior(256, generator),
            256,
            prior_draws=normal.prior_draws,
            betas=steps,
            generator=generator,
        )
        assert found.lower.value - 4 * found.lower.standard_error < normal.log_evidence
        assert normal.log_evidence < found.upper.value + 4 * found.upper.standard_error
        assert found.upper.kind == "upper bound"
        assert found.gap == found.upper.value - found.lower.value
        assert f"gap {found.gap:.4f}" in str(found)
        gaps.append(found.gap)
    assert abs(gaps[1]) < 0.1


def test_the_gap_says_that_a_run_has_not_converged(generator):
    """The error bar of a short run cannot say so."""
    posterior = path_posteriors.normal_inverse_gamma()
    start = tempered_smc(
        posterior.density, 64, prior_draws=posterior.prior_draws, num_moves=3, generator=generator
    )
    found = bidirectional(
        posterior.density,
        start.position,
        exact=False,
        path=start.path.at(sigmoidal_schedule(25)),
        prior_draws=posterior.prior_draws,
        generator=generator,
    )
    assert found.gap > 1.5
    assert found.lower.value < posterior.log_evidence < found.upper.value
    assert any("chain" in warning for warning in found.upper.diagnostics["warnings"])


def test_nothing_adapts_inside_a_run(generator, monkeypatch):
    """Every transition gets the step size and the metric of the path, whatever the acceptance was."""
    normal = path_posteriors.normal()
    path = Path(
        sigmoidal_schedule(6),
        torch.linspace(1.0, 0.4, 7, dtype=torch.float64).unsqueeze(-1).expand(7, 3).contiguous(),
        torch.linspace(3.0, 0.1, 7, dtype=torch.float64),  # from hopeless to timid
    )
    seen = []
    move = annealed.jittered_move

    def record(state, density, step_size, metric, beta, **settings):
        seen.append((step_size.clone(), metric.covariance.clone(), beta))
        return move(state, density, step_size, metric, beta, **settings)

    monkeypatch.setattr(annealed, "jittered_move", record)
    annealed_log_weights(normal.density, normal.prior_draws(32, generator), path, generator=generator)
    annealed_log_weights(
        normal.density, normal_posterior(32, generator), path, reverse=True, generator=generator
    )
    for (step, covariance, beta), k in zip(seen, [1, 2, 3, 4, 5, 5, 4, 3, 2, 1], strict=True):
        assert torch.equal(step, path.step_size[k])
        assert torch.equal(covariance, path.covariance[k])
        assert beta == float(path.betas[k])


def test_the_path_between_two_temperatures_is_exact_for_gaussians():
    """The precision of normal() at beta is 1 + 4 beta."""
    betas = torch.tensor([0.0, 1.0], dtype=torch.float64)
    ends = torch.stack([torch.eye(2, dtype=torch.float64), 0.2 * torch.eye(2, dtype=torch.float64)])
    path = Path(betas, ends, torch.tensor([1.0, 0.5], dtype=torch.float64))
    found = path.at(torch.tensor([0.0, 0.25, 1.0], dtype=torch.float64))
    assert found.covariance[1].tolist() == [[pytest.approx(0.5), 0.0], [0.0, pytest.approx(0.5)]]
    assert found.step_size.tolist() == pytest.approx([1.0, 0.875, 0.5])


def test_a_likelihood_that_is_not_finite_has_weight_zero(generator):
    normal = path_posteriors.normal(dim=1)
    density = tempered_of(
        lambda x: -0.5 * x.square().sum(-1) - HALF_LOG_2PI,
        lambda x: torch.where(x[..., 0] > 0.8, normal.log_likelihood(x), torch.nan),
    )
    start = normal.prior_draws(4000, generator)
    weight = annealed_log_weights(density, start, plain_path(12, 1), generator=generator)
    ratio = (weight - normal.log_evidence).exp()  # half of the mass of N(0.8, 0.2) is left
    assert abs(float(ratio.mean()) - 0.5) < 4 * float(ratio.std()) / math.sqrt(4000) < 0.2


@pytest.mark.parametrize(("draws", "chains", "used"), [(3, 6, [0, 0, 1, 1, 2, 2]), (6, 3, [0, 2, 4])])
def test_draws_are_spread_over_the_chains(monkeypatch, draws, chains, used):
    def starts(density, position, path, **settings):
        assert settings["reverse"]
        return position[:, 0]

    monkeypatch.setattr(annealed, "annealed_log_weights", starts)
    position = torch.arange(float(draws), dtype=torch.float64).unsqueeze(-1)
    found = reverse_annealed_importance(None, position, exact=True, num_chains=chains, path=plain_path(3, 1))
    assert found.diagnostics["log_weight"].tolist() == used


def test_mistakes_are_explained(generator):
    normal = path_posteriors.normal()
    with pytest.raises(ValueError, match="prior_draws"):
        annealed_importance(normal.density)
    with pytest.raises(ValueError, match="num_chains"):
        reverse_annealed_importance(normal.density, torch.zeros(0, 3), exact=True, num_chains=10)
    with pytest.raises(ValueError, match="betas"):
        annealed_importance(normal.density, prior_draws=normal.prior_draws, betas=torch.tensor([0.0, 0.5]))
