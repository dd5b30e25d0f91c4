"""Kernels started in the exact law stay in it; detailed balance where the proposal density is known."""

import math

import pytest
import torch
from scipy import stats

from evidentia.inference.density.evaluation import Evaluation
from evidentia.inference.mcmc.barker import barker_init, barker_proposal, barker_step
from evidentia.inference.mcmc.hmc import hmc_init, hmc_step
from evidentia.inference.mcmc.langevin import langevin_init, langevin_proposal, mala_step, ula_step
from evidentia.inference.mcmc.metric import identity_metric, metric_of
from evidentia.inference.mcmc.random_walk import random_walk_init, random_walk_proposal, random_walk_step

CHAINS = 200_000
METRICS = {
    "dense": torch.tensor([[0.9, 0.4], [0.4, 0.5]], dtype=torch.float64),
    "diagonal": torch.tensor([0.9, 0.4], dtype=torch.float64),
}


def skewed(x, beta=1.0):
    """log Gamma(1.5), and a normal around 0.7 of it: gradients written out."""
    first, rest = x[:, 0], x[:, 1] - 0.7 * x[:, 0]
    value = 1.5 * first - first.exp() - rest.square() / 0.72
    slope = -rest / 0.36
    return Evaluation(value, torch.stack([1.5 - first.exp() - 0.7 * slope, slope], -1), value)


def skewed_draws(generator):
    # Gamma(1.5) is half a chi-square with three degrees of freedom.
    normal = torch.randn(CHAINS, 4, generator=generator, dtype=torch.float64)
    first = (0.5 * normal[:, :3].square().sum(-1)).log()
    return torch.stack([first, 0.7 * first + 0.6 * normal[:, 3]], -1)


def constrained(x, beta=1.0):
    """A half-normal scale in logs, Jacobian included, and a log-normal whose location it moves."""
    square, rest = (2 * x[:, 0]).exp(), x[:, 1] + 0.5 * x[:, 0]
    value = x[:, 0] - 0.5 * square - 2.0 * rest.square()
    slope = -4.0 * rest
    return Evaluation(value, torch.stack([1.0 - square + 0.5 * slope, slope], -1), value)


def constrained_draws(generator):
    normal = torch.randn(CHAINS, 2, generator=generator, dtype=torch.float64)
    first = normal[:, 0].abs().log()
    return torch.stack([first, -0.5 * first + 0.5 * normal[:, 1]], -1)


TARGETS = {"skewed": (skewed, skewed_draws), "constrained": (constrained, constrained_draws)}
KERNELS = {
    "hmc": (hmc_init, lambda s, d, m, g: hmc_step(s, d, 0.6, 3, m, generator=g)),
    "mala": (langevin_init, lambda s, d, m, g: mala_step(s, d, 0.9, m, generator=g)),
    "barker": (barker_init, lambda s, d, m, g: barker_step(s, d, 1.2, m, generator=g)),
    "random walk": (random_walk_init, lambda s, d, m, g: random_walk_step(s, d, 1.2, m, generator=g)),
}


@pytest.mark.statistical
@pytest.mark.parametrize(("target", "metric"), [("skewed", "dense"), ("constrained", "diagonal")])
@pytest.mark.parametrize("kernel", KERNELS)
def test_a_step_leaves_the_exact_law(kernel, target, metric):
    density, draws = TARGETS[target]
    init, step = KERNELS[kernel]
    generator = torch.Generator().manual_seed(1)
    state = init(draws(generator), density)
    rates = []
    for _ in range(3):
        state, info = step(state, density, metric_of(METRICS[metric]), generator)
        rates.append(info.acceptance_rate.mean())
    assert 0.15 < torch.stack(rates).mean() < 0.97, "the accept step must matter"
    fresh = draws(generator)
    assert torch.equal(state.log_density, density(state.position).log_density)
    assert torch.equal(state.gradient, density(state.position).gradient)
    projections = {
        "first": lambda x: x[:, 0],
        "second": lambda x: x[:, 1],
        "difference": lambda x: x[:, 0] - x[:, 1],
        "radius": lambda x: x.square().sum(-1),
        "log density": lambda x: density(x).log_density,
    }
    for name, project in projections.items():
        p = stats.ks_2samp(project(state.position).numpy(), project(fresh).numpy(), method="asymp").pvalue
        assert p > 1e-4, f"{name}: p = {p:.1e}"


def lopsided(x, beta=1.0):
    """log Gamma(1.5) in one dimension."""
    value = (1.5 * x - x.exp())[:, 0]
    return Evaluation(value, 1.5 - x.exp(), value)


def normal_density(value, scale):
    return torch.exp(-0.5 * (value / scale).square()) / (scale * math.sqrt(2 * math.pi))


@pytest.mark.parametrize("kernel", ["mala", "barker", "random walk"])
def test_detailed_balance_on_a_grid(kernel):
    grid = torch.linspace(-4.0, 2.5, 40, dtype=torch.float64)
    x, y = (part.reshape(-1, 1) for part in torch.meshgrid(grid, grid, indexing="ij"))
    step, scale = 0.7, 1.3
    metric = metric_of(torch.tensor([scale**2], dtype=torch.float64))
    gradient = lopsided(x).gradient
    if kernel == "mala":
        noise = (y - x - 0.5 * step**2 * scale**2 * gradient) / (step * scale)
        state = langevin_init(x, lopsided)
        proposed, error = langevin_proposal(state, noise / scale, lopsided, step, metric)
        proposal = normal_density(noise, 1.0) / (step * scale)
    elif kernel == "barker":
        increment = (y - x) / scale
        proposed, error = barker_proposal(barker_init(x, lopsided), increment, lopsided, metric)
        sign = torch.sigmoid(increment * scale * gradient)
        proposal = 2 * normal_density(increment, step) * sign / scale
    else:
        noise = (y - x) / (step * scale)
        state = random_walk_init(x, lopsided)
        proposed, error = random_walk_proposal(state, noise, lopsided, step, metric)
        proposal = normal_density(noise, 1.0) / (step * scale)
    torch.testing.assert_close(proposed.position, y, rtol=0, atol=1e-12)
    flow = lopsided(x).log_density.exp() * proposal[:, 0] * torch.exp(-error.clamp(min=0))
    flow = flow.reshape(40, 40)
    torch.testing.assert_close(flow, flow.mT, rtol=1e-9, atol=1e-300)


@pytest.mark.statistical
def test_unadjusted_langevin_has_the_known_bias():
    scale, step = torch.tensor([1.0, 0.5], dtype=torch.float64), 0.6

    def normal(x, beta=1.0):
        value = -0.5 * (x / scale).square().sum(-1)
        return Evaluation(value, -x / scale.square(), value)

    expected = scale.square() / (1 - step**2 / (4 * scale.square()))
    generator = torch.Generator().manual_seed(2)
    # Start in the claimed law: one step must leave it, and thirty must not drift.
    start = torch.randn(100_000, 2, generator=generator, dtype=torch.float64) * expected.sqrt()
    state = langevin_init(start, normal)
    for _ in range(30):
        state, _ = ula_step(state, normal, step, generator=generator)
    z = (state.position.var(0) / expected - 1) / math.sqrt(2 / 100_000)
    assert z.abs().max() < 4.5
    assert ((expected / scale.square() - 1) / math.sqrt(2 / 100_000)).min() > 20, "the bias is visible"


def test_the_drift_goes_uphill():
    state = langevin_init(torch.tensor([[2.0]], dtype=torch.float64), lopsided)
    proposed, _ = langevin_proposal(
        state, torch.zeros_like(state.position), lopsided, 0.3, identity_metric(state.position)
    )
    expected = state.position + 0.045 * state.gradient
    torch.testing.assert_close(proposed.position, expected)


@pytest.mark.parametrize("beta", [0.3, torch.tensor([0.3, 1.0, 2.0])])
@pytest.mark.statistical
def test_beta_may_differ_between_chains(beta):
    def normal(x, beta=1.0):
        value = -0.5 * x.square().sum(-1)
        column = beta[:, None] if isinstance(beta, torch.Tensor) else beta
        return Evaluation(beta * value, -column * x, value)

    repeats = 20_000
    each = beta.double().repeat(repeats) if isinstance(beta, torch.Tensor) else beta
    count = 3 * repeats
    generator = torch.Generator().manual_seed(3)
    start = torch.randn(count, 1, generator=generator, dtype=torch.float64)
    per_chain = torch.as_tensor(each, dtype=torch.float64).expand(count)
    state = hmc_init(start / per_chain.sqrt()[:, None], normal, each)
    for _ in range(3):
        state, _ = hmc_step(state, normal, 0.8, 2, identity_metric(start), beta=each, generator=generator)
    variance = (state.position[:, 0].square() * per_chain).reshape(repeats, 3).mean(0)
    assert ((variance - 1) / math.sqrt(2 / repeats)).abs().max() < 4.5
    torch.testing.assert_close(state.log_density, per_chain * state.log_likelihood)
