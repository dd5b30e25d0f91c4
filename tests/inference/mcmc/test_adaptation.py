"""Adaptation: dual averaging, ensemble moments, trajectory length; each against what it must be."""

import math

import pytest
import torch

from evidentia.inference.density.evaluation import Evaluation
from evidentia.inference.mcmc.adaptation.halton import halton
from evidentia.inference.mcmc.adaptation.mass import (
    final_metric,
    init_moments,
    prefers_dense,
    shrunk_covariance,
    update_moments,
)
from evidentia.inference.mcmc.adaptation.step_size import (
    final_step_size,
    init_step_size,
    search_step_size,
    update_step_size,
)
from evidentia.inference.mcmc.adaptation.trajectory import (
    chees,
    init_trajectory,
    principal_direction,
    snaper,
    update_trajectory,
)
from evidentia.inference.mcmc.barker import Barker
from evidentia.inference.mcmc.hmc_kernel import HMC
from evidentia.inference.mcmc.langevin import MALA
from evidentia.inference.mcmc.metric import draw_momentum, metric_of, velocity
from evidentia.inference.mcmc.random_walk import RandomWalk


def gaussian(precision):
    def density(x, beta=1.0):
        gradient = -(x @ precision) if precision.ndim == 2 else -x * precision
        value = 0.5 * torch.linalg.vecdot(x, gradient)
        return Evaluation(value, gradient, value)

    return density


ISOTROPIC = gaussian(torch.ones(10, dtype=torch.float64))


def test_dual_averaging_reaches_its_target():
    for target in (0.234, 0.574, 0.75):
        state = init_step_size(30.0)
        for _ in range(400):
            step = math.exp(state.log_step)
            state = update_step_size(state, 2 / (1 + math.exp(step)), target)
        assert abs(2 / (1 + math.exp(final_step_size(state))) - target) < 0.01


def test_dual_averaging_survives_a_flat_density_and_nan():
    state = init_step_size(1.0)
    for _ in range(5000):
        state = update_step_size(state, 1.0, 0.75)
    assert math.isfinite(math.exp(state.log_step))
    assert update_step_size(init_step_size(1.0), math.nan, 0.75).log_step < 0


def test_search_crosses_the_target_from_both_sides():
    def acceptance(step):
        return math.nan if step > 100 else math.exp(-step)

    for initial in (1e3, 1e-5):
        found = search_step_size(acceptance, initial, 0.5)
        assert 0.25 < found <= 0.7


@pytest.mark.parametrize("step_size", [0.0, -1.0, math.nan, math.inf])
def test_a_step_size_that_is_none_is_refused(step_size):
    with pytest.raises(ValueError, match="step_size: expected a positive"):
        init_step_size(step_size)


@pytest.mark.parametrize("dense", [True, False])
def test_moments_are_the_weighted_moments(dense):
    chains, dim, forgetting = 12, 3, 0.9
    seen = [torch.randn(chains, dim, dtype=torch.float64) + 0.3 * t for t in range(30)]
    state = init_moments(seen[0], dense=dense)
    weights = torch.zeros(0, dtype=torch.float64)
    for t, position in enumerate(seen):
        state = update_moments(state, position, forgetting=forgetting)
        weight = max(2 / (t + 2), 1 - forgetting)
        weights = torch.cat([(1 - weight) * weights, torch.tensor([weight], dtype=torch.float64)])
    assert abs(weights.sum().item() - 1) < 1e-12
    every = torch.cat(seen)
    each = (weights / chains).repeat_interleave(chains)
    mean = each @ every
    centred = every - mean
    covariance = centred.mT @ (centred * each[:, None])
    torch.testing.assert_close(state.mean, mean)
    torch.testing.assert_close(state.covariance, covariance if dense else covariance.diagonal())


def test_shrinkage_is_the_stated_one_and_keeps_the_diagonal():
    covariance = torch.tensor([[2.0, 0.9, 0.3], [0.9, 1.0, 0.1], [0.3, 0.1, 0.5]])
    shrunk = shrunk_covariance(covariance, count=30)
    weight = 3 / (3 + 15)
    torch.testing.assert_close(shrunk.diagonal(), covariance.diagonal())
    torch.testing.assert_close(shrunk[0, 1], (1 - weight) * covariance[0, 1])
    # A singular ensemble (fewer positions than dimensions) becomes a metric all the same.
    few = torch.randn(4, 9, dtype=torch.float64)
    singular = (few - few.mean(0)).mT @ (few - few.mean(0)) / 4
    assert torch.linalg.eigvalsh(shrunk_covariance(singular, 4)).min() > 0


def test_a_metric_is_found_only_when_there_is_one():
    assert prefers_dense(20, 10)
    assert not prefers_dense(19, 10)
    assert not prefers_dense(1000, 301)
    same = torch.ones(64, 2, dtype=torch.float64)
    assert final_metric(update_moments(init_moments(same, dense=True), same), same) is None
    spread = torch.randn(64, 2)
    metric = final_metric(update_moments(init_moments(spread, dense=True), spread), spread)
    assert metric.factor.dtype == torch.float32


def test_halton_fills_the_interval():
    values = [halton(n) for n in range(1, 256)]
    assert sorted(values) == [k / 256 for k in range(1, 256)]
    assert [round(halton(n, 3), 6) for n in (1, 2, 3)] == [0.333333, 0.666667, 0.111111]
    with pytest.raises(ValueError, match="index >= 0"):
        halton(-1)


PRECISION = torch.tensor([[1.0, 0.4], [0.4, 3.0]], dtype=torch.float64)
CRITERION_METRIC = metric_of(torch.tensor([[0.8, 0.1], [0.1, 0.5]], dtype=torch.float64))


def exact_flow(position, momentum, metric, time):
    """Hamiltonian flow of a Gaussian, by the matrix exponential."""
    covariance = metric.covariance if metric.is_dense else torch.diag(metric.covariance)
    top = torch.cat([torch.zeros_like(covariance), covariance], 1)
    bottom = torch.cat([-PRECISION, torch.zeros_like(covariance)], 1)
    flow = torch.matrix_exp(time * torch.cat([top, bottom]))
    return (torch.cat([position, momentum], -1) @ flow.mT).split(2, -1)


@pytest.mark.parametrize("kind", ["chees", "snaper"])
@pytest.mark.parametrize("dense", [True, False])
def test_criterion_gradients_against_finite_differences(kind, dense):
    metric = CRITERION_METRIC if dense else metric_of(CRITERION_METRIC.covariance.diagonal().clone())
    position = torch.randn(50, 2, dtype=torch.float64) * 1.5 + 0.3
    momentum = draw_momentum(metric, position)
    weight = torch.rand(50, dtype=torch.float64) + 0.1
    direction = torch.tensor([0.6, 0.8], dtype=torch.float64)

    def criterion(time):
        after, end = exact_flow(position, momentum, metric, time)
        extra = (direction,) if kind == "snaper" else ()
        return (snaper if kind == "snaper" else chees)(position, after, end, weight, metric, *extra)

    step = 1e-5
    for time in (0.3, 0.9, 1.7):
        numeric = (criterion(time + step).value - criterion(time - step).value) / (2 * step)
        assert abs(numeric) > 1e-3
        torch.testing.assert_close(criterion(time).derivative, numeric, rtol=1e-6, atol=1e-8)


def test_the_criterion_is_that_of_whitened_space():
    position = torch.randn(40, 2, dtype=torch.float64)
    momentum = draw_momentum(CRITERION_METRIC, position)
    after, end = exact_flow(position, momentum, CRITERION_METRIC, 0.7)
    weight = torch.ones(40, dtype=torch.float64)
    white = metric_of(torch.ones(2, dtype=torch.float64))
    inverse, factor = CRITERION_METRIC.inverse, CRITERION_METRIC.factor
    same = chees(position @ inverse.mT, after @ inverse.mT, end @ factor, weight, white)
    for one, two in zip(chees(position, after, end, weight, CRITERION_METRIC), same, strict=True):
        torch.testing.assert_close(one, two)


def test_a_lost_trajectory_does_not_spoil_the_criterion():
    position, after, momentum = torch.randn(3, 20, 2, dtype=torch.float64)
    weight = torch.rand(20, dtype=torch.float64)
    weight[3] = 0.0
    after[3], momentum[3] = math.nan, math.nan
    found = chees(position, after, momentum, weight, CRITERION_METRIC)
    assert all(part.isfinite() for part in found)
    # One chain without weight moves only the mean of the starts.
    state = update_trajectory(init_trajectory(), math.nan, 1.0, 1.0)
    assert state == init_trajectory()


def test_the_principal_direction_is_found():
    axis = torch.tensor([0.6, 0.8], dtype=torch.float64)
    metric = metric_of(torch.ones(2, dtype=torch.float64))
    direction = torch.tensor([1.0, 0.0], dtype=torch.float64)
    for count in range(40):
        position = torch.randn(64, 1, dtype=torch.float64) * 3 * axis + 0.5 * torch.randn(64, 2).double()
        direction = principal_direction(direction, position, metric, count)
    assert abs(direction @ axis) > 0.99


def run(kernel, density, position, warmup_steps, draws=0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    state = kernel.start(density, position, warmup_steps, generator)
    infos, states = [], []
    for _ in range(warmup_steps + draws):
        state, info = kernel.advance(density, state, generator)
        if state.step > warmup_steps:
            infos.append(info)
            states.append(state.position)
    return state, states, infos


@pytest.mark.statistical
@pytest.mark.parametrize("criterion", ["chees", "snaper"])
def test_trajectory_length_on_an_isotropic_gaussian(criterion):
    # With t = 2hT the mean of sin²(t), over T^r, is greatest at T = 1.0 (r = 0.3): no trajectory is longer
    # than 2T, and without jitter the best is pi/2. Rounding up the leapfrogs adds half a step to T.
    grid = torch.linspace(0.3, 1.5, 2000, dtype=torch.float64)
    best = grid[((1 - torch.sin(4 * grid) / (4 * grid)) / grid**0.3).argmax()].item()
    assert 0.9 < best < 1.1
    density = gaussian(torch.ones(50, dtype=torch.float64))
    position = torch.randn(128, 50, dtype=torch.float64)
    for first in (0.2, 1.5):  # past 1.9 begins the basin of the second maximum, 2.7
        kernel = HMC(num_chains=128, criterion=criterion, trajectory_length=first, metric="identity")
        state, _, _ = run(kernel, density, position, 150)
        record = kernel.adaptation(state)
        found = (record["trajectory_length"] + 0.5 * record["step_size"]).item()
        assert 0.75 * best < found < 1.4 * best, (first, found)


@pytest.mark.statistical
@pytest.mark.parametrize(
    ("kernel", "target"),
    [(HMC, 0.75), (MALA, 0.574), (Barker, 0.40), (RandomWalk, 0.234)],
)
def test_acceptance_reaches_its_target_and_stays_frozen(kernel, target):
    position = torch.randn(64, 10, dtype=torch.float64)
    one = kernel(num_chains=64)
    state, _, infos = run(one, ISOTROPIC, position, 150, draws=60)
    rate = torch.stack([info.acceptance_rate for info in infos]).mean().item()
    assert abs(rate - target) < 0.06
    before = one.adaptation(state)
    generator = torch.Generator().manual_seed(5)
    for _ in range(5):
        state, _ = one.advance(ISOTROPIC, state, generator)
    after = one.adaptation(state)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_two_runs_are_bitwise_the_same():
    position = torch.randn(32, 10, dtype=torch.float64)
    one, two = (run(HMC(num_chains=32), ISOTROPIC, position, 40, draws=5)[0] for _ in range(2))
    assert torch.equal(one.position, two.position)
    assert one.tuning.step_size == two.tuning.step_size


def test_a_bad_start_is_safe():
    position = 1e3 * torch.randn(32, 10, dtype=torch.float64)
    state, _, infos = run(HMC(num_chains=32), ISOTROPIC, position, 100, draws=20)
    assert state.position.abs().max() < 10
    assert not torch.stack([info.diverging for info in infos]).any()
    assert max(int(info.num_steps) for info in infos) <= 16


def test_velocity_in_the_criterion_is_that_of_the_flow():
    position = torch.randn(5, 2, dtype=torch.float64)
    momentum = draw_momentum(CRITERION_METRIC, position)
    step = 1e-6
    after, _ = exact_flow(position, momentum, CRITERION_METRIC, step)
    before, _ = exact_flow(position, momentum, CRITERION_METRIC, -step)
    numeric = (after - before) / (2 * step)
    torch.testing.assert_close(velocity(CRITERION_METRIC, momentum), numeric, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"criterion": "nuts"}, "criterion"),
        ({"target_accept_prob": 1.5}, "target_accept_prob"),
        ({"max_leapfrogs": 0}, "max_leapfrogs"),
        ({"num_chains": 0}, "num_chains"),
    ],
)
def test_settings_out_of_range_are_refused(settings, word):
    with pytest.raises(ValueError, match=f"{word}: expected"):
        HMC(**settings)
    with pytest.raises(ValueError, match="metric: expected one of"):
        MALA(metric="cubic")


@pytest.mark.statistical
def test_scales_from_a_hundredth_to_a_hundred_are_learned():
    scale = torch.logspace(-2, 2, 10, dtype=torch.float64)
    position = 4 * torch.rand(64, 10, dtype=torch.float64) - 2
    kernel = HMC(num_chains=64)
    state, _, infos = run(kernel, gaussian(scale**-2), position, 200, draws=40)
    record = kernel.adaptation(state)
    assert (record["covariance"].diagonal().sqrt() / scale - 1).abs().max() < 0.25
    # Without a second beginning the length stays where the first metric had driven it (4.9).
    assert 0.4 < record["trajectory_length"] < 1.8
    assert abs(torch.stack([info.acceptance_rate for info in infos]).mean() - 0.75) < 0.08
