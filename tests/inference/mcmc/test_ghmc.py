"""Generalised HMC keeps its extended law; MEADS finds step sizes and damping from folds."""

import pytest
import torch
from scipy import stats

from evidentia.inference.density.evaluation import Evaluation
from evidentia.inference.mcmc.ghmc import GHMCState, ghmc_init, ghmc_step
from evidentia.inference.mcmc.meads import MEADS, _under, largest_variance
from evidentia.inference.mcmc.metric import identity_metric, metric_of

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


def constrained(x, beta=1.0):
    """A half-normal scale in logs, Jacobian included, and a log-normal whose location it moves."""
    square, rest = (2 * x[:, 0]).exp(), x[:, 1] + 0.5 * x[:, 0]
    slope = -4.0 * rest
    value = x[:, 0] - 0.5 * square - 2.0 * rest.square()
    return Evaluation(value, torch.stack([1.0 - square + 0.5 * slope, slope], -1), value)


def constrained_draws(generator):
    normal = torch.randn(CHAINS, 2, generator=generator, dtype=torch.float64)
    first = normal[:, 0].abs().log()
    return torch.stack([first, -0.5 * first + 0.5 * normal[:, 1]], -1)


@pytest.mark.statistical
@pytest.mark.parametrize("target", ["skewed", "constrained"])
def test_steps_leave_the_extended_law(target):
    density, draws = {
        "skewed": (skewed, skewed_draws),
        "constrained": (constrained, constrained_draws),
    }[target]
    generator = torch.Generator().manual_seed(1)
    metric = metric_of(COVARIANCE if target == "skewed" else COVARIANCE.diagonal())
    state = ghmc_init(draws(generator), density, metric, generator=generator)
    rate = 0.0
    for _ in range(4):
        state, info = ghmc_step(state, density, 0.9, 0.7, metric, drift=0.3, generator=generator)
        rate += float(info.acceptance_rate.mean()) / 4
    assert 0.4 < rate < 0.93, "the accept step must matter"
    assert torch.equal(state.log_density, density(state.position).log_density)
    fresh = draws(generator)
    for name, project in {
        "first": lambda x: x[:, 0],
        "second": lambda x: x[:, 1],
        "log density": lambda x: density(x).log_density,
    }.items():
        p = stats.ks_2samp(project(state.position).numpy(), project(fresh).numpy(), method="asymp").pvalue
        assert p > 1e-4, f"{name}: p = {p:.1e}"
    white = state.momentum @ metric.factor if metric.is_dense else state.momentum * metric.factor
    for name, value, law in (
        ("momentum", white[:, 0], stats.norm()),
        ("momentum", white[:, 1], stats.norm()),
        ("slice", state.slice, stats.uniform(-1, 2)),
    ):
        assert stats.kstest(value.numpy(), law.cdf).pvalue > 1e-4, name
    # Slice and momentum stay independent of the position.
    for value in (state.slice, state.slice.abs(), white[:, 0], white.square().sum(-1)):
        for other in (state.position[:, 0], state.position[:, 1], state.log_density):
            assert abs(float(torch.corrcoef(torch.stack([value, other]))[0, 1])) < 4.5 / CHAINS**0.5


def test_without_damping_and_rejection_it_is_a_leapfrog_path():
    start = torch.tensor([[0.3, -0.2]], dtype=torch.float64)
    metric = identity_metric(start)
    state = ghmc_init(start, skewed, metric)
    state = GHMCState(state.point, state.momentum, torch.zeros(1, dtype=torch.float64))
    there = state
    for _ in range(5):
        there, _ = ghmc_step(there, skewed, 0.1, 0.0, metric, drift=0.0)
    assert not torch.allclose(there.position, start)
    back = there._replace(momentum=-there.momentum)
    for _ in range(5):
        back, _ = ghmc_step(back, skewed, 0.1, 0.0, metric, drift=0.0)
    torch.testing.assert_close(back.position, start)


def test_a_rejection_turns_round_and_keeps_the_slice():
    start = torch.zeros(1, 2, dtype=torch.float64)
    metric = identity_metric(start)
    state = GHMCState(
        ghmc_init(start, skewed, metric).point,
        torch.tensor([[3.0, 3.0]], dtype=torch.float64),
        torch.tensor([0.999], dtype=torch.float64),
    )
    moved, info = ghmc_step(state, skewed, 1.5, 0.0, metric, drift=0.0)
    assert info.acceptance_rate < 0.9
    torch.testing.assert_close(moved.momentum, -state.momentum)
    assert torch.equal(moved.position, start)
    torch.testing.assert_close(moved.slice, state.slice)


def test_largest_variance_is_that_of_a_dominant_direction():
    generator = torch.Generator().manual_seed(0)
    value = torch.randn(2, 4000, 3, generator=generator) * torch.tensor([5.0, 0.1, 0.1])
    torch.testing.assert_close(
        largest_variance(value), torch.full((2,), 25.0, dtype=torch.float64), rtol=0.08, atol=0
    )


def test_a_new_metric_keeps_the_whitened_momentum():
    generator = torch.Generator().manual_seed(0)
    old, new = metric_of(COVARIANCE), metric_of(torch.tensor([4.0, 0.3], dtype=torch.float64))
    noise = torch.randn(5, 2, generator=generator, dtype=torch.float64)
    carried = _under(new, old, noise @ old.inverse)
    torch.testing.assert_close(carried * new.factor, noise)
    torch.testing.assert_close(_under(old, new, carried) @ old.factor, noise)


@pytest.mark.statistical
def test_small_folds_do_not_look_stretched():
    generator = torch.Generator().manual_seed(0)
    value = torch.randn(400, 8, 30, generator=generator, dtype=torch.float64)
    assert largest_variance(value).mean().item() == pytest.approx(1.0, abs=0.1)


@pytest.mark.statistical
def test_meads_tunes_a_badly_scaled_gaussian():
    spread = torch.logspace(-1.5, 1.5, 8, dtype=torch.float64)

    def density(x, beta=1.0):
        value = -0.5 * (x / spread).square().sum(-1)
        return Evaluation(value, -x / spread.square(), value)

    kernel, generator = MEADS(num_chains=64), torch.Generator().manual_seed(0)
    start = torch.randn(64, 8, generator=generator, dtype=torch.float64)
    state = kernel.start(density, start, 400, generator)
    total, rates = torch.zeros(8, dtype=torch.float64), []
    for step in range(800):
        state, info = kernel.advance(density, state, generator)
        if step >= 400:
            total += (state.position / spread).square().mean(0) / 400
            rates.append(info.acceptance_rate.mean())
    assert 0.9 < torch.stack(rates).mean() < 0.98
    assert (total - 1).abs().max() < 0.12
    found = kernel.adaptation(state)
    assert 0.1 < found["step_size"] < 1.5
    assert 0.2 < found["damping"] < 2.0


def test_settings_out_of_range_are_refused():
    for settings, match in (
        ({"target_accept_prob": 1.0}, "target_accept_prob"),
        ({"folds": 1}, "folds"),
        ({"metric": "full"}, "metric"),
    ):
        with pytest.raises(ValueError, match=match):
            MEADS(**settings)
