"""Tempered sequential Monte Carlo against exact evidences, a nested sampler, and its own error bar."""

import math

import path_posteriors
import pytest
import torch
from path_posteriors import HALF_LOG_2PI, Posterior, standard_eight_schools

from evidentia.inference.density.evaluation import tempered_of
from evidentia.inference.evidence import sweep
from evidentia.inference.evidence.smc import SMCResult, tempered_smc


def run(posterior: Posterior, *args, seed: int = 0, **settings) -> SMCResult:
    generator = torch.Generator().manual_seed(seed)
    return tempered_smc(
        posterior.density, *args, prior_draws=posterior.prior_draws, generator=generator, **settings
    )


# Largest standard error at this cost: a looser one would hide an error.
@pytest.mark.statistical
@pytest.mark.parametrize(
    ("name", "largest_error"),
    [("normal", 0.03), ("eight_schools", 0.03), ("bimodal", 0.05), ("ising", 0.04)],
)
def test_the_evidence_is_exact_within_its_error(name, largest_error):
    posterior = getattr(path_posteriors, name)()
    found = run(posterior, 256, num_copies=16, num_moves=3).log_evidence
    assert abs(found.value - posterior.log_evidence) < 4 * found.standard_error < 4 * largest_error
    assert found.kind == "consistent estimate"
    assert found.diagnostics["method"] == "tempered SMC"


@pytest.mark.statistical
def test_the_evidence_of_a_regression_of_twelve_dimensions():
    posterior = path_posteriors.normal_inverse_gamma()
    found = run(posterior, 256, num_copies=8)
    assert (
        abs(found.log_evidence.value - posterior.log_evidence) < 4 * found.log_evidence.standard_error < 0.6
    )
    assert 12 <= len(found.betas) - 1 <= 18
    assert float(found.acceptance.min()) > 0.5


def test_the_warm_start_is_cheap():
    found = run(path_posteriors.eight_schools(), 256)
    assert len(found.betas) - 1 == 2
    assert found.num_gradients < 30
    assert found.position.shape == (1024, 10)
    assert found.covariance.shape == (10, 10)
    assert 0.2 < float(found.step_size) < 1.5


@pytest.mark.statistical
def test_particles_are_draws_of_the_posterior():
    found = run(path_posteriors.normal(), 1024)
    draws = found.position
    # Precision 1 + 4, mean 4 / 5. Resampled particles are not independent: 4096 of them count as 1024.
    z = (draws.mean(0) - 0.8) / math.sqrt(0.2 / 1024)
    assert bool((z.abs() < 4.5).all()), z
    assert bool(((draws.var(0) / 0.2 - 1).abs() < 4.5 * math.sqrt(2 / 1024)).all())
    covariance = found.covariance - 0.2 * torch.eye(3, dtype=torch.float64)
    assert float(covariance.abs().max()) < 0.05


@pytest.mark.statistical
def test_the_error_bar_is_the_spread_of_repeated_runs():
    posterior = path_posteriors.normal()
    found = run(posterior, 64, num_copies=400, num_moves=3).log_evidence
    copies = torch.tensor(found.diagnostics["copies"]).view(50, 8)
    value = copies.logsumexp(-1) - math.log(8)
    z = (value - posterior.log_evidence) / (copies.std(-1) / math.sqrt(8))
    assert abs(float(z.mean())) < 0.5
    assert 0.7 < float(z.std()) < 1.4
    # The genealogy of the particles says the same, without copies.
    assert found.diagnostics["genealogical_error"] / found.diagnostics["copies_error"] == pytest.approx(
        1, abs=0.3
    )


@pytest.mark.statistical
def test_particles_that_hardly_move_have_a_larger_genealogical_error():
    posterior = path_posteriors.normal_inverse_gamma()
    few = run(posterior, 128, num_copies=24, num_moves=1).log_evidence.diagnostics
    assert 0.5 < few["genealogical_error"] / few["copies_error"] < 1.5
    assert len(few["stuck_betas"]) > 5
    assert any("forget" in warning for warning in few["warnings"])


@pytest.mark.statistical
@pytest.mark.parametrize("hole", [torch.nan, -torch.inf, torch.inf])
def test_a_likelihood_that_is_not_finite_has_weight_zero(hole):
    normal = path_posteriors.normal(dim=1)

    def log_likelihood(x):
        value = normal.log_likelihood(x)
        return torch.where(x[..., 0] > 0.8, value, value + hole)

    def log_prior(x):
        return -0.5 * x.square().sum(-1) - HALF_LOG_2PI

    # The posterior is N(0.8, 0.2): the half above its mean remains.
    posterior = normal._replace(
        density=tempered_of(log_prior, log_likelihood), log_evidence=normal.log_evidence - math.log(2)
    )
    found = run(posterior, 512, num_copies=8)
    assert (
        abs(found.log_evidence.value - posterior.log_evidence) < 4 * found.log_evidence.standard_error < 0.2
    )
    assert bool((found.position > 0.8).all())
    assert any("finite likelihood" in each for each in found.log_evidence.diagnostics["warnings"])


def test_one_copy_has_the_genealogical_error_and_says_so():
    found = run(path_posteriors.normal(), 256, num_copies=1).log_evidence
    assert found.standard_error == found.diagnostics["genealogical_error"] > 0
    assert any("copies" in warning for warning in found.diagnostics["warnings"])


def test_doubled_moves_report_a_drift():
    posterior = path_posteriors.normal()
    once = run(posterior, 128, num_copies=8, num_moves=2)
    twice = run(posterior, 128, num_copies=8, num_moves=2, double_moves=True)
    assert once.log_evidence.diagnostics["move_drift"] is None
    assert abs(twice.log_evidence.diagnostics["move_drift"]) < 0.2
    assert twice.log_evidence.value == once.log_evidence.value
    assert twice.num_gradients > 2.5 * once.num_gradients


def test_a_ladder_without_end_is_given_up(monkeypatch):
    monkeypatch.setattr(sweep, "next_beta", lambda value, beta, target: beta + 1e-6)
    monkeypatch.setattr(sweep, "_MOST_TEMPERATURES", 20)
    with pytest.raises(ValueError, match="after 20 temperatures"):
        run(path_posteriors.normal(dim=1), 2, num_copies=1, num_moves=1)


def test_separate_modes_are_reported():
    found = run(path_posteriors.bimodal(), 128)
    assert found.log_evidence.diagnostics["stuck_betas"][-1] == 1.0
    assert 0.4 < float((found.position[:, 0] > 0).double().mean()) < 0.6


def test_moves_go_on_until_the_ancestors_are_forgotten():
    easy = run(path_posteriors.normal(), 256, num_moves=None).log_evidence.diagnostics
    assert max(easy["num_moves"]) <= 5
    assert easy["stuck_betas"] == ()
    hard = run(path_posteriors.bimodal(), 64, num_moves=None).log_evidence.diagnostics
    assert max(hard["num_moves"]) == 12  # no number of moves takes a particle from mode to mode


def test_a_given_ladder_is_kept_and_single_precision_works():
    normal = path_posteriors.normal()
    betas = torch.tensor([0.0, 0.1, 0.4, 1.0])
    found = tempered_smc(
        normal.density,
        128,
        prior_draws=lambda num, generator: normal.prior_draws(num, generator).float(),
        betas=betas,
        generator=torch.Generator().manual_seed(0),
    )
    assert found.position.dtype == torch.float32
    assert found.betas.tolist() == pytest.approx(betas.tolist())
    assert found.log_increments.shape == (4, 3)
    assert abs(found.log_evidence.value - normal.log_evidence) < 4 * found.log_evidence.standard_error


def test_runs_repeat_and_leave_the_global_generator_alone():
    before = torch.get_rng_state()
    first, second = (run(path_posteriors.normal(), 32, seed=3) for _ in range(2))
    assert torch.equal(first.position, second.position)
    assert torch.equal(before, torch.get_rng_state())


def test_mistakes_are_explained():
    normal = path_posteriors.normal()
    with pytest.raises(ValueError, match="prior_draws"):
        tempered_smc(normal.density)
    with pytest.raises(ValueError, match="num_particles"):
        run(normal, 1)
    with pytest.raises(ValueError, match="num_moves"):
        run(normal, 16, num_moves=0)
    with pytest.raises(ValueError, match="betas"):
        run(normal, 16, betas=torch.tensor([0.0, 0.5]))
    nowhere = tempered_of(lambda x: -x.square().sum(-1), lambda x: x.sum(-1) * torch.nan)
    with pytest.raises(ValueError, match="finite"):
        tempered_smc(nowhere, 16, prior_draws=normal.prior_draws)


def nested_sampling(log_likelihood, dim: int, live: int, killed: int, generator) -> tuple[float, float]:
    """Nested sampling under a standard normal prior: the worst points start again from survivors.

    New points move on random ellipses through a survivor, whose bracket shrinks until the likelihood is above
    the threshold (elliptical slice sampling with a hard constraint); all at once.
    """
    point = torch.randn(live, dim, dtype=torch.float64, generator=generator)
    value = log_likelihood(point)
    log_volume, parts, heights, log_z = 0.0, [], [], -math.inf
    while float(value.max()) + log_volume > log_z - 4:
        order = value.argsort()
        dead, alive = order[:killed], order[killed:]
        # Each death leaves a fraction 1 - 1 / (points still alive) of the volume.
        left = torch.arange(live, live - killed, -1, dtype=torch.float64)
        ends = log_volume + torch.log1p(-1 / left).cumsum(0)
        starts = torch.cat([ends.new_tensor([log_volume]), ends[:-1]])
        parts.append(value[dead] + starts + torch.log(-torch.expm1(ends - starts)))
        heights.append(value[dead])
        threshold, log_volume = value[dead[-1]], float(ends[-1])
        pick = alive[torch.randint(len(alive), (killed,), generator=generator)]
        x = point[pick]
        for _ in range(6):
            x = elliptical_move(x, log_likelihood, threshold, generator)
        point[dead], value[dead] = x, log_likelihood(x)
        log_z = float(torch.cat(parts).logsumexp(0))
    parts.append(value - math.log(live) + log_volume)
    mass = torch.cat(parts)
    height = torch.cat([*heights, value])
    log_z = float(mass.logsumexp(0))
    information = float(mass.softmax(0) @ height) - log_z
    return log_z, math.sqrt(information / live)


def elliptical_move(x, log_likelihood, threshold, generator):
    direction = torch.randn(x.shape, dtype=x.dtype, generator=generator)
    angle = 2 * math.pi * torch.rand(len(x), 1, dtype=x.dtype, generator=generator)
    low, high = angle - 2 * math.pi, angle.clone()
    found, todo = x.clone(), torch.ones(len(x), dtype=torch.bool)
    for _ in range(40):
        proposal = x * angle.cos() + direction * angle.sin()
        good = (log_likelihood(proposal) > threshold) & todo
        found[good] = proposal[good]
        todo &= ~good
        if not bool(todo.any()):
            break
        low, high = torch.where(angle < 0, angle, low), torch.where(angle < 0, high, angle)
        angle = low + (high - low) * torch.rand(len(x), 1, dtype=x.dtype, generator=generator)
    return found


@pytest.mark.statistical
def test_a_nested_sampler_agrees_on_eight_schools():
    posterior = path_posteriors.eight_schools()
    generator = torch.Generator().manual_seed(5)
    nested, error = nested_sampling(standard_eight_schools, 10, 1000, 500, generator)
    found = run(posterior, 256, num_copies=16).log_evidence
    assert abs(nested - posterior.log_evidence) < 4 * error < 0.25
    assert abs(nested - found.value) < 4 * math.hypot(error, found.standard_error)
