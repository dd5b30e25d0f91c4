"""Stacked training: exact evidences, the worked example, independence of rows, resumption, failures."""

import math

import pytest
import torch
from torch.distributions import LogNormal, MultivariateNormal

from evidentia.inference.structure.stacked.evidence import estimate
from evidentia.inference.structure.stacked.guide import GUIDES, deal
from evidentia.inference.structure.stacked.state import as_dict, from_dict, init
from evidentia.inference.structure.stacked.target import Target
from evidentia.inference.structure.stacked.training import Schedule, train
from evidentia.models.structure.weights import ARD

pytestmark = pytest.mark.slow

LOG_2PI = math.log(2 * math.pi)


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)


def gaussian(residual, scale):
    return -0.5 * (residual / scale).square().sum(-1) - residual.shape[-1] * (math.log(scale) + 0.5 * LOG_2PI)


def linear_target(masks, n=20, scale=0.7, seed=3):
    """Subsets of the columns of a design: the evidence is exact."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, masks.shape[1], generator=generator)
    x[:, 1] += 0.8 * x[:, 0]
    y = x[:, 0] - 0.5 * x[:, 2] + scale * torch.randn(n, generator=generator)

    def log_likelihood(latents, log_noise, rows):
        return gaussian(y - latents @ x.T, scale)

    law = [MultivariateNormal(torch.zeros(n), scale**2 * torch.eye(n) + x[:, m] @ x[:, m].T) for m in masks]
    return Target(log_likelihood, masks), torch.stack([each.log_prob(y) for each in law])


def run(target, guide="mean_field", seed=0, variance=1.0, particles=50, batches=20, **schedule):
    schedule = Schedule(**{"num_steps": 600, **schedule})
    family, (structures, dim) = GUIDES[guide], target.active.shape
    raw = torch.randn(dim, generator=torch.Generator().manual_seed(seed))
    theta = family.initial(0.1 * deal(raw, target.active), torch.full((structures, dim), 0.1))
    if target.learn_noise:
        theta = torch.cat([theta, torch.zeros(structures, 1)], -1)
    start = init(theta, torch.full((structures, target.num_weights), variance), seed)
    state, stopped = train(target, family, schedule, start)
    return state, estimate(target, family, state, schedule, particles, batches, seed + 1), stopped


MASKS = torch.tensor([[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0], [0, 0, 1, 0]], dtype=torch.bool)


@pytest.mark.statistical
def test_full_covariance_reaches_the_exact_evidence_of_linear_models():
    target, exact = linear_target(MASKS)
    _, found, _ = run(target, "full_covariance", num_steps=1500)
    # The guide contains the posterior: the weights are constant at the optimum, so the bound is exact.
    torch.testing.assert_close(found.iwae, exact, atol=2e-4, rtol=0)
    torch.testing.assert_close(found.elbo, exact, atol=2e-3, rtol=0)
    assert ((found.iwae - exact).abs() < 4.5 * found.iwae_se + 1e-6).all()


@pytest.mark.statistical
def test_mean_field_bounds_are_ordered():
    target, exact = linear_target(MASKS)
    _, found, _ = run(target, num_steps=1000, particles=100)
    assert (found.elbo <= found.iwae + 1e-12).all()
    assert (found.elbo - exact < 4.5 * found.elbo_se + 1e-6).all()
    assert (found.iwae - exact < 4.5 * found.iwae_se + 1e-6).all()
    # The gap of the best mean-field guide: its precisions are the diagonal of the posterior precision.
    assert (exact - found.elbo)[1] > 0.05
    # One weight, or none: mean-field is exact.
    torch.testing.assert_close(found.elbo[[0, 3, 4]], exact[[0, 3, 4]], atol=2e-3, rtol=0)


def test_mean_field_optimum_is_the_closed_form():
    target, exact = linear_target(MASKS)
    state, found, _ = run(target, num_steps=1500, num_particles=8)
    _, scale = GUIDES["mean_field"].moments(state.theta, target.active)
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(20, 4, generator=generator)
    x[:, 1] += 0.8 * x[:, 0]
    for row, mask in enumerate(MASKS):
        precision = x[:, mask].T @ x[:, mask] / 0.49 + torch.eye(int(mask.sum()))
        torch.testing.assert_close(scale[row, mask], precision.diagonal().rsqrt(), atol=0, rtol=0.02)
        gap = 0.5 * (precision.diagonal().log().sum() - precision.logdet())
        assert abs(found.elbo[row] - (exact[row] - gap)) < 4.5 * found.elbo_se[row] + 2e-3


def test_results_do_not_depend_on_neighbours_or_chunks():
    target, _ = linear_target(MASKS)
    schedule = {"num_steps": 200, "gradient_clip": 1.0}
    state, found, _ = run(target, **schedule)
    small, in_chunks, _ = run(target, chunk_size=2, **schedule)
    torch.testing.assert_close(small.theta, state.theta, atol=1e-9, rtol=0)
    torch.testing.assert_close(in_chunks.iwae, found.iwae, atol=1e-9, rtol=0)
    for row in range(len(MASKS)):
        alone, bound, _ = run(target._replace(active=MASKS[row : row + 1]), **schedule)
        torch.testing.assert_close(alone.theta[0], state.theta[row], atol=1e-9, rtol=0)
        torch.testing.assert_close(bound.iwae[0], found.iwae[row], atol=1e-9, rtol=0)


def test_same_seed_same_numbers_and_another_seed_others():
    target, _ = linear_target(MASKS)
    first, again, other = (run(target, seed=seed, num_steps=50)[1] for seed in (0, 0, 1))
    assert torch.equal(first.iwae, again.iwae)
    assert not torch.equal(first.iwae, other.iwae)


def test_identical_structures_have_equal_evidence_wherever_their_weights_lie():
    copies = torch.tensor([[1, 1, 0, 0], [0, 0, 1, 1]], dtype=torch.bool)
    x, y = torch.randn(20, 2), torch.randn(20)

    def log_likelihood(latents, log_noise, rows):
        return gaussian(y - torch.tanh(latents @ torch.cat([x, x], 1).T), 0.5)

    _, found, _ = run(Target(log_likelihood, copies), num_steps=200)
    for values in (found.elbo, found.iwae, found.importance):
        assert abs(values[0] - values[1]) < 1e-10


def test_resumes_bitwise():
    target, _ = linear_target(MASKS)
    schedule = Schedule(num_steps=120, window=25, tolerance=1e-3)
    theta = GUIDES["mean_field"].initial(torch.zeros(5, 4), torch.full((5, 4), 0.1))
    start = init(theta, torch.ones(5, 4), 0)
    whole, _ = train(target, GUIDES["mean_field"], schedule, start)
    kept = {}

    def stop_at_70(progress):
        kept["state"] = progress.state()
        return progress.step == 70

    _, reason = train(target, GUIDES["mean_field"], schedule, start, stop_at_70)
    assert reason == "callback"
    resumed, reason = train(target, GUIDES["mean_field"], schedule, from_dict(kept["state"]))
    assert reason == "num_steps"
    for name, value in as_dict(whole).items():
        assert torch.equal(value, as_dict(resumed)[name]), name
    with pytest.raises(ValueError, match=r"state: .*theta"):
        from_dict({name: value for name, value in as_dict(whole).items() if name != "theta"})


def test_a_failing_structure_does_not_touch_the_others():
    target, _ = linear_target(MASKS)
    _, clean, _ = run(target, num_steps=100)

    def poisoned(latents, log_noise, rows):
        value = target.log_likelihood(latents, log_noise, rows)
        return value * torch.where(rows == 1, math.nan, 1.0)

    state, found, _ = run(target._replace(log_likelihood=poisoned), num_steps=100)
    others = torch.tensor([0, 2, 3, 4])
    assert torch.equal(found.iwae[others], clean.iwae[others])
    assert found.iwae[1].isnan()
    assert state.taken.tolist() == [100, 0, 100, 100, 100]
    assert state.theta.isfinite().all()


def test_tolerance_stops_each_structure_by_itself():
    target, exact = linear_target(MASKS)
    options = {"num_steps": 4000, "tolerance": 0.05, "window": 50, "decay": 1.0}
    state, found, stopped = run(target, "full_covariance", **options)
    assert stopped == "tolerance"
    assert int(state.step) < 4000
    assert state.steps[3] < state.steps[2]
    torch.testing.assert_close(found.iwae, exact, atol=0.02, rtol=0)
    alone, _, _ = run(target._replace(active=MASKS[:1]), "full_covariance", **options)
    assert alone.steps[0] == state.steps[0]


@pytest.mark.statistical
def test_latent_noise_is_integrated_out():
    masks = torch.tensor([[1, 0, 1, 0, 1], [0, 0, 0, 0, 1]], dtype=torch.bool)
    x, y = torch.randn(25, 4), torch.randn(25)
    prior = LogNormal(-0.2, 0.4)

    def log_likelihood(latents, log_noise, rows):
        residual = y - latents[..., :4] @ x.T
        squares = residual.square().sum(-1)
        return -0.5 * squares * (-2 * log_noise).exp() - len(y) * (log_noise + 0.5 * LOG_2PI)

    target = Target(log_likelihood, masks, lambda v: prior.log_prob(v.exp()) + v)
    _, found, _ = run(target, "full_covariance", num_steps=1500, particles=200)
    grid = torch.linspace(-3.0, 2.0, 2001)
    for row, mask in enumerate(masks[:, :4]):
        gram = x[:, mask] @ x[:, mask].T
        values = MultivariateNormal(
            torch.zeros(25), gram + (2 * grid).exp()[:, None, None] * torch.eye(25)
        ).log_prob(y)
        exact = torch.logsumexp(values + prior.log_prob(grid.exp()) + grid, 0) + math.log(5 / 2000)
        assert abs(found.importance[row] - exact) < 4.5 * found.importance_se[row] + 1e-4
        assert found.elbo[row] < exact + 4.5 * found.elbo_se[row]


def test_learned_noise_and_variances_maximise_the_evidence():
    # One Gaussian mean: y ~ N(0, noise² + a) jointly exchangeable; type-II maximum by a grid.
    y = 1.0 + 0.4 * torch.randn(40)

    def log_likelihood(latents, log_noise, rows):
        squares = (y - latents).square().sum(-1)
        return -0.5 * squares * (-2 * log_noise).exp() - len(y) * (log_noise + 0.5 * LOG_2PI)

    target = Target(log_likelihood, torch.ones(1, 1, dtype=torch.bool), learn_noise=True)
    shape, rate = 1.5, 2.0
    state, found, _ = run(
        target, num_steps=1000, num_particles=4, variance_update=ARD(shape=shape, rate=rate).map_variance
    )
    noise, variance = torch.meshgrid(
        torch.linspace(0.3, 0.6, 61), torch.linspace(0.4, 2.0, 81), indexing="ij"
    )
    covariance = noise[..., None, None] ** 2 * torch.eye(40) + variance[..., None, None]
    exact = MultivariateNormal(torch.zeros(40), covariance).log_prob(y)
    best = (exact + torch.distributions.InverseGamma(shape, rate).log_prob(variance)).argmax()
    assert abs(state.theta[0, -1].exp() - noise.flatten()[best]) < 0.02
    assert abs(state.variance[0, 0] - variance.flatten()[best]) < 0.06
    assert abs(found.elbo[0] - exact.flatten()[best]) < 0.02
