"""Isokinetic paths are reversible and keep their energy; MAMS is exact, MCLMC has a bias of second order."""

import math
from itertools import pairwise

import pytest
import torch
from scipy import stats

from evidentia.inference.density.evaluation import Evaluation
from evidentia.inference.mcmc.isokinetic import draw_direction, isokinetic_path, refresh_direction, turn
from evidentia.inference.mcmc.mams import mams_step
from evidentia.inference.mcmc.metric import identity_metric, metric_of
from evidentia.inference.mcmc.microcanonical import MCLMC, mclmc_init, mclmc_step
from evidentia.inference.mcmc.points import evaluate_point

CHAINS = 200_000
COVARIANCE = torch.tensor([[0.9, 0.4], [0.4, 0.5]], dtype=torch.float64)


def skewed(x, beta=1.0):
    """log Gamma(1.5), and a normal around 0.7 of it."""
    first, rest = x[:, 0], x[:, 1] - 0.7 * x[:, 0]
    value = 1.5 * first - first.exp() - rest.square() / 0.72
    slope = -rest / 0.36
    return Evaluation(value, torch.stack([1.5 - first.exp() - 0.7 * slope, slope], -1), value)


def skewed_draws(generator):
    normal = torch.randn(CHAINS, 4, generator=generator, dtype=torch.float64)
    first = (0.5 * normal[:, :3].square().sum(-1)).log()
    return torch.stack([first, 0.7 * first + 0.6 * normal[:, 3]], -1)


def tall(x, beta=1.0):
    """Three dimensions: a half-normal scale in logs with two normals whose locations it moves."""
    square = (2 * x[:, 0]).exp()
    rest = x[:, 1:] + 0.5 * x[:, :1]
    value = x[:, 0] - 0.5 * square - 2.0 * rest.square().sum(-1)
    slope = -4.0 * rest
    gradient = torch.cat([(1.0 - square + 0.5 * slope.sum(-1))[:, None], slope], -1)
    return Evaluation(value, gradient, value)


def tall_draws(generator):
    normal = torch.randn(CHAINS, 3, generator=generator, dtype=torch.float64)
    first = normal[:, :1].abs().log()
    return torch.cat([first, -0.5 * first + 0.5 * normal[:, 1:]], -1)


TARGETS = {"skewed": (skewed, skewed_draws), "tall": (tall, tall_draws)}


def compare(found, exact, density):
    for name, project in {
        "first": lambda x: x[:, 0],
        "second": lambda x: x[:, 1],
        "difference": lambda x: x[:, 0] - x[:, 1],
        "log density": lambda x: density(x).log_density,
    }.items():
        p = stats.ks_2samp(project(found).numpy(), project(exact).numpy(), method="asymp").pvalue
        assert p > 1e-4, f"{name}: p = {p:.1e}"


@pytest.mark.statistical
@pytest.mark.parametrize("target", TARGETS)
def test_mams_leaves_the_exact_law(target):
    density, draws = TARGETS[target]
    generator = torch.Generator().manual_seed(1)
    metric = (
        metric_of(COVARIANCE) if target == "skewed" else metric_of(torch.tensor([0.9, 0.4, 0.5]).double())
    )
    point = evaluate_point(draws(generator), density)
    rate = 0.0
    for _ in range(2):
        point, info = mams_step(point, density, 1.1, 2, metric, generator=generator)
        rate += float(info.acceptance_rate.mean()) / 2
    assert 0.4 < rate < 0.93, "the accept step must matter"
    assert torch.equal(point.gradient, density(point.position).gradient)
    compare(point.position, draws(generator), density)


def test_a_path_is_undone_by_the_reversed_direction():
    generator = torch.Generator().manual_seed(0)
    start = tall_draws(generator)[:50]
    metric = metric_of(torch.tensor([[0.9, 0.4, 0.0], [0.4, 0.5, 0.1], [0.0, 0.1, 1.3]], dtype=torch.float64))
    point, u = evaluate_point(start, tall), draw_direction(start, generator)
    there = isokinetic_path(point, u, tall, 0.3, 6, metric)
    back = isokinetic_path(there.point, -there.direction, tall, 0.3, 6, metric)
    torch.testing.assert_close(back.point.position, start, rtol=0, atol=1e-10)
    torch.testing.assert_close(-back.direction, u, rtol=0, atol=1e-10)
    torch.testing.assert_close(back.energy_error, -there.energy_error, rtol=0, atol=1e-10)


def test_the_kinetic_change_is_minus_the_log_jacobian():
    """On the circle: d angle' / d angle by central differences."""
    angle = torch.linspace(0.1, 6.0, 40, dtype=torch.float64)
    gradient = torch.tensor([[0.8, -1.7]], dtype=torch.float64).expand(40, 2)

    def turned(shift):
        u = torch.stack([(angle + shift).cos(), (angle + shift).sin()], -1)
        return turn(u, gradient, 0.7)

    low, high = turned(-1e-6)[0], turned(1e-6)[0]
    sine = low[:, 0] * high[:, 1] - low[:, 1] * high[:, 0]
    torch.testing.assert_close((sine / 2e-6).log(), -turned(0.0)[1], rtol=1e-6, atol=1e-6)


def test_turns_compose_and_survive_the_tails():
    generator = torch.Generator().manual_seed(0)
    u = draw_direction(torch.zeros(20, 4, dtype=torch.float64), generator)
    g = torch.randn(20, 4, generator=generator, dtype=torch.float64)
    once, whole = turn(u, g, 0.8)
    half, first = turn(u, g, 0.5)
    twice, second = turn(half, g, 0.3)
    torch.testing.assert_close(once, twice)
    torch.testing.assert_close(whole, first + second)
    for value in turn(u, 1e8 * g, 1.0):
        assert value.isfinite().all()
    torch.testing.assert_close(turn(u, torch.zeros_like(g), 1.0)[0], u)


def test_the_energy_error_of_a_path_is_of_second_order():
    generator = torch.Generator().manual_seed(0)
    start = tall_draws(generator)[:500].clamp(min=-1.5)
    point, u = evaluate_point(start, tall), draw_direction(start, generator)
    errors = [
        isokinetic_path(point, u, tall, 0.4 / n, n, identity_metric(start))
        .energy_error.square()
        .mean()
        .sqrt()
        for n in (4, 8, 16)
    ]
    slopes = [math.log2(a / b) for a, b in pairwise(errors)]
    assert slopes == pytest.approx([2.0, 2.0], abs=0.1)


@pytest.mark.statistical
def test_directions_decorrelate_over_the_length():
    generator = torch.Generator().manual_seed(0)
    u = draw_direction(torch.zeros(4000, 50, dtype=torch.float64), generator)
    now = u
    for _ in range(10):
        now = refresh_direction(now, 0.5, 5.0, generator)
    # Ten steps of a tenth of the length: correlation 1/e, up to order 1/D.
    assert torch.linalg.vecdot(u, now).mean().item() == pytest.approx(math.exp(-1), abs=0.02)


@pytest.mark.statistical
def test_the_bias_of_mclmc_is_of_second_order():
    spread = torch.tensor([1.0, 0.6, 0.8, 1.3], dtype=torch.float64)

    def normal(x, beta=1.0):
        value = -0.5 * (x / spread).square().sum(-1)
        return Evaluation(value, -x / spread.square(), value)

    chains, averaged, biases = 20_000, 12, []
    for step in (0.9, 1.8):
        generator = torch.Generator().manual_seed(2)
        start = torch.randn(chains, 4, generator=generator, dtype=torch.float64) * spread
        state, total = mclmc_init(start, normal, generator=generator), 0.0
        metric = metric_of(spread.square())
        for number in range(36):
            state, _ = mclmc_step(state, normal, step, 2.0, metric, generator=generator)
            if number >= 36 - averaged:
                total += (state.position / spread).square().mean().item() / averaged
        biases.append(total - 1.0)
    error = math.sqrt(2 / (4 * chains))  # as if the averaged steps were one
    assert abs(biases[1]) > 15 * error, "the bias is visible"
    order = math.log2(biases[1] / biases[0])
    assert order == pytest.approx(2.0, abs=0.35)


@pytest.mark.statistical
def test_mclmc_finds_the_step_of_the_wanted_energy_variance():
    dim = 20
    spread = torch.logspace(-1, 1, dim, dtype=torch.float64)

    def normal(x, beta=1.0):
        value = -0.5 * (x / spread).square().sum(-1)
        return Evaluation(value, -x / spread.square(), value)

    kernel, generator = MCLMC(num_chains=64), torch.Generator().manual_seed(0)
    start = torch.randn(64, dim, generator=generator, dtype=torch.float64)
    state = kernel.start(normal, start, 300, generator)
    total, square = torch.zeros(dim, dtype=torch.float64), 0.0
    for step in range(600):
        state, info = kernel.advance(normal, state, generator)
        if step >= 300:
            total += (state.position / spread).square().mean(0) / 300
            square += info.energy_error.square().mean().item() / dim / 300
    assert square == pytest.approx(5e-4, rel=0.3)
    assert (total - 1).abs().max() < 0.15


def test_one_dimension_and_bad_settings_are_refused():
    with pytest.raises(ValueError, match="two or more dimensions"):
        mclmc_init(torch.zeros(3, 1), skewed)
    with pytest.raises(ValueError, match="energy_variance"):
        MCLMC(energy_variance=0.0)
    with pytest.raises(ValueError, match="metric"):
        MCLMC(metric="full")
