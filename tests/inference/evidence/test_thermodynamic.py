"""Thermodynamic integration, stepping-stone sampling and WBIC: on exact power posteriors and on chains."""

import math

import path_posteriors
import pytest
import torch
from path_posteriors import HALF_LOG_2PI
from torch import Tensor

from evidentia.inference.evidence.ladder import power_schedule
from evidentia.inference.evidence.power_posteriors import PowerPosteriors, _whitened, power_posteriors
from evidentia.inference.evidence.thermodynamic import (
    prior_tail,
    stepping_stone,
    thermodynamic_integration,
    wbic,
)


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def mean_log_likelihood(beta: Tensor, dim: int = 3, scale: float = 0.5) -> Tensor:
    """Of `path_posteriors.normal()` at beta: x ~ N(m, v) per dimension with v = 1 / (1 + beta / scale²)."""
    v = 1 / (1 + beta / scale**2)
    m = v * beta / scale**2
    return dim * (-0.5 * ((1 - m).square() + v) / scale**2 - math.log(scale) - HALF_LOG_2PI)


def exact_power(betas: Tensor, generator, chains: int = 20, draws: int = 100) -> PowerPosteriors:
    """Independent draws of the power posteriors of `path_posteriors.normal()`, without a chain."""
    normal = path_posteriors.normal()
    v = (1 / (1 + 4 * betas)).view(-1, 1, 1, 1)
    m = v * 4 * betas.view(-1, 1, 1, 1)
    noise = torch.randn(len(betas), chains, draws, 3, dtype=torch.float64, generator=generator)
    prior = normal.log_likelihood(normal.prior_draws(4 * chains * draws, generator))
    value = normal.log_likelihood(m + v.sqrt() * noise)
    return PowerPosteriors(betas, value, prior, torch.ones(len(betas)))


@pytest.mark.statistical
@pytest.mark.parametrize("first_step", ["importance", "trapezoid"])
def test_thermodynamic_integration_on_exact_draws(generator, first_step):
    found = thermodynamic_integration(exact_power(power_schedule(32), generator), first_step=first_step)
    exact = path_posteriors.normal().log_evidence
    assert abs(found.value - exact) < 4 * found.diagnostics["monte_carlo_error"] < 0.1
    assert found.diagnostics["quadrature_error"] < 0.03
    assert found.standard_error >= found.diagnostics["monte_carlo_error"]


@pytest.mark.statistical
def test_the_correction_takes_most_of_the_quadrature_error_away_and_the_rest_is_in_the_error_bar(generator):
    found = thermodynamic_integration(
        exact_power(power_schedule(6), generator, draws=2000), first_step="trapezoid"
    )
    exact = path_posteriors.normal().log_evidence
    trapezoid = found.diagnostics["trapezoid"] - exact
    assert trapezoid < -0.15
    assert abs(found.value - exact) < 0.6 * abs(trapezoid)
    assert abs(found.value - exact) < 2 * found.standard_error


@pytest.mark.statistical
def test_the_monte_carlo_error_is_the_spread_of_repeated_integrals(generator):
    betas = power_schedule(8)
    found = [
        thermodynamic_integration(exact_power(betas, generator, 10, 30), first_step="trapezoid")
        for _ in range(60)
    ]
    spread = torch.tensor([each.value for each in found]).std()
    error = torch.tensor([each.diagnostics["monte_carlo_error"] for each in found]).square().mean().sqrt()
    assert float(error / spread) == pytest.approx(1, abs=0.3)


@pytest.mark.statistical
def test_stepping_stone_on_exact_draws_and_its_error(generator):
    exact = path_posteriors.normal().log_evidence
    found = [stepping_stone(exact_power(power_schedule(6), generator, 10, 30)) for _ in range(60)]
    z = torch.tensor([(each.value - exact) / each.standard_error for each in found])
    assert abs(float(z.mean())) < 0.5
    assert 0.7 < float(z.std()) < 1.4
    assert found[0].standard_error < 0.2


@pytest.mark.statistical
def test_chains_at_every_temperature_have_the_exact_mean(generator):
    normal = path_posteriors.normal()
    power = power_posteriors(
        normal.density,
        12,
        num_chains=64,
        num_draws=30,
        prior_draws=normal.prior_draws,
        generator=generator,
    )
    chains = power.log_likelihood.mean(-1)
    z = (chains.mean(-1) - mean_log_likelihood(power.betas)) / (chains.std(-1) / 8)
    assert power.log_likelihood.shape == (13, 64, 30)
    assert bool((z.abs() < 4.5).all()), z
    assert bool(((power.acceptance > 0.6) & (power.acceptance <= 1)).all())


@pytest.mark.parametrize("dense", [True, False])
def test_the_whitened_density_has_the_gradient_of_its_value(generator, dense):
    """u with x = L u, one L for each of two temperatures of three chains."""
    schools = path_posteriors.eight_schools()
    u = torch.randn(6, 10, dtype=torch.float64, generator=generator)
    factor = (
        torch.eye(10, dtype=torch.float64)
        + 0.2 * torch.rand(2, 10, 10, dtype=torch.float64, generator=generator).tril()
    )
    factor = factor if dense else factor.diagonal(dim1=1, dim2=2)
    beta = torch.tensor([0.1, 0.1, 0.1, 0.7, 0.7, 0.7], dtype=torch.float64)
    found = _whitened(schools.density, factor, 3)
    whitened = found(u, beta)
    row = factor.repeat_interleave(3, 0)
    x = (row @ u.unsqueeze(-1)).squeeze(-1) if dense else row * u
    direct = schools.density(x, beta)
    assert torch.allclose(whitened.log_density, direct.log_density)
    assert torch.allclose(whitened.log_likelihood, direct.log_likelihood)
    small = 1e-6
    for d in range(10):
        shift = torch.zeros(10, dtype=torch.float64)
        shift[d] = small
        slope = (found(u + shift, beta).log_density - found(u - shift, beta).log_density) / (2 * small)
        assert torch.allclose(whitened.gradient[:, d], slope, rtol=1e-5, atol=1e-5)


@pytest.mark.statistical
@pytest.mark.parametrize("name", ["eight_schools", "ising", "normal_inverse_gamma"])
def test_stepping_stones_on_the_adaptive_ladder(generator, name):
    posterior = getattr(path_posteriors, name)()
    power = power_posteriors(
        posterior.density, "adaptive", num_draws=40, prior_draws=posterior.prior_draws, generator=generator
    )
    found = stepping_stone(power)
    assert abs(found.value - posterior.log_evidence) < 4 * found.standard_error < 1.6
    assert found.diagnostics["ess_fraction"] > 0.25
    assert found.diagnostics["warnings"] == ()


@pytest.mark.statistical
def test_a_heavy_prior_is_refused_by_the_trapezoid_and_not_needed(generator):
    """With a half-Cauchy scale the mean log likelihood of the prior does not exist."""
    posterior = path_posteriors.eight_schools()
    power = power_posteriors(
        posterior.density, 32, num_draws=40, prior_draws=posterior.prior_draws, generator=generator
    )
    with pytest.raises(ValueError, match="does not exist"):
        thermodynamic_integration(power, first_step="trapezoid")
    found = thermodynamic_integration(power)
    assert abs(found.value - posterior.log_evidence) < 4 * found.standard_error < 0.5
    assert any("heavy prior" in warning for warning in found.diagnostics["warnings"])
    # What the refusal prevents: with a first step of half the way the integral is far off.
    few = [0, 28, 32]
    plain = torch.trapezoid(power.log_likelihood[few].mean((1, 2)), power.betas[few])
    assert float(plain) < posterior.log_evidence - 20


def test_a_ladder_without_the_prior_uses_an_importance_step(generator):
    power = exact_power(power_schedule(16)[3:], generator)
    exact = path_posteriors.normal().log_evidence
    for found in (thermodynamic_integration(power), stepping_stone(power)):
        assert abs(found.value - exact) < 4 * found.standard_error < 0.3
    with pytest.raises(ValueError, match="starts at"):
        thermodynamic_integration(power, first_step="trapezoid")


def test_few_temperatures_are_reported(generator):
    posterior = path_posteriors.normal_inverse_gamma()
    power = power_posteriors(
        posterior.density,
        4,
        num_chains=4,
        num_draws=10,
        prior_draws=posterior.prior_draws,
        generator=generator,
    )
    assert any("effective" in each for each in stepping_stone(power).diagnostics["warnings"])
    found = thermodynamic_integration(power)
    assert any("quadrature" in each for each in found.diagnostics["warnings"])
    assert found.standard_error > 1


def test_the_prior_tail_tells_whether_a_mean_exists(generator):
    heavy, light = path_posteriors.eight_schools(), path_posteriors.normal_inverse_gamma()
    assert prior_tail(heavy.log_likelihood(heavy.prior_draws(4000, generator))) > 1.3
    assert prior_tail(light.log_likelihood(light.prior_draws(4000, generator))) < 0.5
    assert prior_tail(torch.tensor([0.0, -torch.inf])) == math.inf


@pytest.mark.statistical
def test_wbic_is_the_mean_log_likelihood_at_one_over_log_n(generator):
    normal = path_posteriors.normal()
    found = wbic(
        normal.density, 20, num_chains=64, num_draws=80, prior_draws=normal.prior_draws, generator=generator
    )
    exact = float(mean_log_likelihood(torch.tensor(1 / math.log(20), dtype=torch.float64)))
    assert abs(found.value - exact) < 4 * found.standard_error < 0.3
    assert found.diagnostics["warnings"]
    with pytest.raises(ValueError, match="num_data"):
        wbic(normal.density, 2, prior_draws=normal.prior_draws)


def test_mistakes_are_explained():
    normal = path_posteriors.normal()
    with pytest.raises(ValueError, match="num_chains"):
        power_posteriors(normal.density, prior_draws=normal.prior_draws, num_chains=2)
    with pytest.raises(ValueError, match="adaptive"):
        power_posteriors(normal.density, "auto", prior_draws=normal.prior_draws)
    with pytest.raises(ValueError, match="prior_draws"):
        power_posteriors(normal.density)
