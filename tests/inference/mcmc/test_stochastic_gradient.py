"""Stochastic gradient samplers on a conjugate normal mean: their known inflation, and control variates."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

from evidentia.inference.density.minibatch import MinibatchDensity
from evidentia.inference.mcmc.control_variate import ControlVariate, climb, full_batch
from evidentia.inference.mcmc.sample_minibatch import sample_minibatch
from evidentia.inference.mcmc.sghmc import sghmc_init, sghmc_step
from evidentia.inference.mcmc.stochastic_gradient import (
    decreasing_step_size,
    psgld_init,
    psgld_step,
    sgld_init,
    sgld_step,
)

CHAINS, ROWS, BATCH = 50_000, 100, 10
Y = torch.randn(ROWS, generator=torch.Generator().manual_seed(7), dtype=torch.float64) * 1.3 + 0.5
PRECISION = 1.0 + ROWS  # prior N(0, 1), unit noise
MEAN = float(Y.sum()) / PRECISION
# Rows without replacement: variance of N times the mean of a batch.
TAU2 = ROWS**2 / BATCH * float(Y.var()) * (1 - BATCH / ROWS)


def exact(x, generator):
    """Minibatch gradients of the normal mean without Pyro: Gaussian noise of the batch's variance."""
    noise = math.sqrt(TAU2) * torch.randn(x.shape, generator=generator, dtype=x.dtype)
    gradient = -PRECISION * (x - MEAN) + noise
    return -0.5 * PRECISION * (x[:, 0] - MEAN).square(), gradient


def model(y):
    mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(y), subsample_size=BATCH) as rows:
        pyro.sample("obs", dist.Normal(mean, 1.0), obs=y[rows])


def from_law(variance, seed):
    generator = torch.Generator().manual_seed(seed)
    start = MEAN + math.sqrt(variance) * torch.randn(CHAINS, 1, generator=generator, dtype=torch.float64)
    return start, generator


def z_of_variance(x, variance):
    return (x.var() / variance - 1) / math.sqrt(2 / (len(x) - 1))


@pytest.mark.statistical
def test_sgld_has_the_known_inflation():
    for h in (1e-3, 4e-3):
        expected = (1 + h * TAU2 / 2) / (PRECISION * (1 - h * PRECISION / 2))
        start, generator = from_law(expected, 0)
        state = sgld_init(start, exact, generator)
        for _ in range(40):
            state, diverging = sgld_step(state, exact, h, generator=generator)
        assert abs(z_of_variance(state.position[:, 0], expected)) < 4.5
        assert expected * PRECISION > 1.5, "far from the posterior"
        assert not diverging.any()


@pytest.mark.statistical
def test_the_inflation_of_sgld_is_of_first_order():
    def inflation(h):
        state = sgld_init(from_law(1 / PRECISION, 1)[0], exact, generator)
        for _ in range(int(4 / (h * PRECISION))):
            state, _ = sgld_step(state, exact, h, generator=generator)
        return float(state.position.var()) * PRECISION - 1

    generator = torch.Generator().manual_seed(1)
    one, two = inflation(4e-4), inflation(8e-4)
    assert math.log2(two / one) == pytest.approx(1.0, abs=0.15)


def sghmc_variance(h, friction, estimate):
    """Stationary variance of x from the discrete Lyapunov equation of (x, v)."""
    q = 2 * (friction - estimate) * h + h**2 * TAU2
    a = np.array([[1 - h * PRECISION, 1 - friction], [-h * PRECISION, 1 - friction]])
    noise = q * np.ones((2, 2))
    law = np.linalg.solve(np.eye(4) - np.kron(a, a), noise.ravel()).reshape(2, 2)
    return law


@pytest.mark.statistical
@pytest.mark.parametrize("known", [False, True])
def test_sghmc_has_the_known_variance(known):
    h, friction = 1e-4, 0.3
    estimate = h * TAU2 / 2 if known else 0.0
    law = sghmc_variance(h, friction, estimate)
    generator = torch.Generator().manual_seed(2)
    factor = torch.linalg.cholesky(torch.tensor(law))
    start = torch.randn(CHAINS, 2, generator=generator, dtype=torch.float64) @ factor.mT
    state = sghmc_init(start[:, :1] + MEAN, exact, h, generator=generator)._replace(momentum=start[:, 1:])
    for _ in range(60):
        state, _ = sghmc_step(
            state, exact, h, friction=friction, noise_estimate=estimate, generator=generator
        )
    assert abs(z_of_variance(state.position[:, 0], law[0, 0])) < 4.5
    assert abs(z_of_variance(state.momentum[:, 0], law[1, 1])) < 4.5
    inflation = law[0, 0] * PRECISION - 1
    # Friction that knows the noise takes nearly all of the inflation away.
    assert inflation < 0.02 if known else inflation > 0.1


@pytest.mark.statistical
def test_psgld_scales_its_steps():
    """Two coordinates of very different spread get the same relative moves, and their own variances."""
    spread = torch.tensor([0.01, 10.0], dtype=torch.float64)

    def estimate(x, generator):
        return -0.5 * (x / spread).square().sum(-1), -x / spread.square()

    generator = torch.Generator().manual_seed(3)
    start = torch.randn(5000, 2, generator=generator, dtype=torch.float64) * spread
    # A step of 0.02 in the units of 1/G = spread (rms of the gradient is 1/spread).
    for coordinate in range(2):
        state = psgld_init(start, estimate, generator)
        state = state._replace(square=torch.ones_like(start) / spread.square())
        for _ in range(300):
            h = 0.1 * float(spread[coordinate])
            state, _ = psgld_step(state, estimate, h, decay=0.999, generator=generator)
        ratio = state.position[:, coordinate].var() / spread[coordinate] ** 2
        assert ratio == pytest.approx(1 / (1 - 0.05), rel=0.1)


def test_a_step_that_is_not_finite_stays():
    def estimate(x, generator):
        value = torch.where(x[:, 0] > 0, 0.0, torch.nan)
        return value, value[:, None].expand_as(x)

    start = torch.full((100, 1), 0.1)
    generator = torch.Generator().manual_seed(0)
    for init, step in (
        (sgld_init(start, estimate), sgld_step),
        (psgld_init(start, estimate)._replace(square=torch.ones(100, 1)), psgld_step),
        (sghmc_init(start, estimate, 0.1, generator=generator), sghmc_step),
    ):
        state, diverging = step(init, estimate, 0.1, generator=generator)
        assert diverging.any()
        assert (state.position > 0).all()
        assert torch.equal(state.position[diverging], init.position[diverging])


def test_full_batches_are_exact():
    minibatch = MinibatchDensity(model, (Y,), BATCH, num_chains=400)
    at = torch.tensor([0.2], dtype=torch.float64)
    value, gradient = full_batch(minibatch, at)
    torch.testing.assert_close(gradient, -PRECISION * (at - MEAN))
    expected = dist.Normal(0.0, 1.0).log_prob(at).sum() + dist.Normal(at, 1.0).log_prob(Y).sum()
    torch.testing.assert_close(value, expected)


@pytest.mark.statistical
def test_control_variates_lower_the_variance():
    y = torch.randn(60, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 0.7

    def heavy(y):
        loc = pyro.sample("loc", dist.Normal(0.0, 2.0))
        with pyro.plate("data", len(y), subsample_size=7) as rows:
            pyro.sample("obs", dist.StudentT(3.0, loc, 0.5), obs=y[rows])

    minibatch = MinibatchDensity(heavy, (y,), 7, num_chains=500)
    generator = torch.Generator().manual_seed(0)
    start = torch.zeros(500, 1, dtype=torch.float64)
    mode = climb(minibatch, start, steps=200, generator=generator).median(0).values
    controlled = ControlVariate(minibatch, mode)
    assert controlled.gradient.abs() < 10, "near the mode"
    away = mode + 0.05
    _, exact_gradient = full_batch(minibatch, away)
    position = away.expand(500, 1).contiguous()
    plain = torch.cat([minibatch(position, generator)[1] for _ in range(4)])
    better = torch.cat([controlled(position, generator)[1] for _ in range(4)])
    for found in (plain, better):
        assert abs((found.mean() - exact_gradient) / (found.std() / len(found) ** 0.5)) < 4.5
    assert better.var() < 0.05 * plain.var()
    # At the mode itself there is no noise left.
    at_mode = controlled(mode.expand(500, 1).contiguous(), generator)[1]
    torch.testing.assert_close(at_mode, controlled.gradient.expand_as(at_mode))


@pytest.mark.slow
@pytest.mark.statistical
@pytest.mark.parametrize("method", ["sgld", "sghmc"])
@pytest.mark.parametrize("control_variate", [False, True])
def test_the_front_end_has_the_known_variance(method, control_variate):
    h = 1e-3
    draws = sample_minibatch(
        model, Y, batch_size=BATCH, step_size=h, method=method, num_chains=64, warmup_steps=100,
        num_draws=400, seed=0, control_variate=control_variate,
        settings={"friction": 0.3} if method == "sghmc" else {},
    )  # fmt: skip
    tau2 = 0.0 if control_variate else TAU2  # the curvature is the same for every row
    if method == "sgld":
        expected = (1 + h * tau2 / 2) / (PRECISION * (1 - h * PRECISION / 2))
    else:
        a = np.array([[1 - h * PRECISION, 0.7], [-h * PRECISION, 0.7]])
        q = 2 * 0.3 * h + h**2 * tau2
        expected = np.linalg.solve(np.eye(4) - np.kron(a, a), q * np.ones(4))[0]
    x = draws.samples["mean"]
    square = (x - MEAN).square().mean(1)
    z = (square.mean() - expected) / (square.std() / 8)
    assert abs(z) < 4.5
    assert abs((x.mean() - MEAN) / (x.mean(1).std() / 8)) < 4.5
    assert not draws.adjusted
    assert draws.stats["lp"].shape == (64, 400)


def test_numbers_out_of_range_are_refused():
    for settings, match in (
        ({"method": "adam"}, "method"),
        ({"step_size": 0.0}, "step_size"),
        ({"thinning": 0}, "thinning"),
    ):
        with pytest.raises(ValueError, match=match):
            sample_minibatch(model, Y, **({"batch_size": BATCH, "step_size": 1e-3} | settings))
    state = sghmc_init(torch.zeros(2, 1, dtype=torch.float64), exact, 0.1)
    with pytest.raises(ValueError, match="noise_estimate"):
        sghmc_step(state, exact, 0.1, friction=0.1, noise_estimate=0.2)
    assert decreasing_step_size(0, 0.3) == 0.3
