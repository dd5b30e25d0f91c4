"""Tempering: both modes in the right proportion, exact swaps, exact tempered transitions."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import integrate, stats

from evidentia.inference.density.evaluation import Evaluation, as_tempered
from evidentia.inference.mcmc.hmc import hmc_init, hmc_step
from evidentia.inference.mcmc.ladder import equalised_ladder, first_ladder, swap_partners
from evidentia.inference.mcmc.metric import identity_metric
from evidentia.inference.mcmc.parallel_tempering import ParallelTempering
from evidentia.inference.mcmc.points import evaluate_point
from evidentia.inference.mcmc.sample import sample
from evidentia.inference.mcmc.tempering import swap_step, tempered_transition_step

SHIFT = 0.3  # prior mean of the first coordinate: makes the two modes unequal


def bimodal(x, beta=1.0):
    """x ~ N((SHIFT, 0, …), I), y ~ N(x_0^2, .2), y = 2: modes near ±sqrt(2)."""
    centred = x.clone()
    centred[:, 0] -= SHIFT
    miss = 2.0 - x[:, 0].square()
    likelihood = -0.5 * (miss / 0.2).square()
    gradient = -centred
    gradient[:, 0] += beta * 2.0 * x[:, 0] * miss / 0.04
    return Evaluation(-0.5 * centred.square().sum(-1) + beta * likelihood, gradient, likelihood)


def weight_of_the_right_mode():
    def f(v):
        return math.exp(-0.5 * (v - SHIFT) ** 2 - 0.5 * ((2 - v * v) / 0.2) ** 2)

    right = integrate.quad(f, 0, 6, points=[math.sqrt(2)])[0]
    return right / (right + integrate.quad(f, -6, 0, points=[-math.sqrt(2)])[0])


@pytest.mark.statistical
def test_parallel_tempering_finds_both_modes_where_hmc_stays():
    chains, generator = 64, torch.Generator().manual_seed(0)
    start = 0.1 * torch.randn(chains, 5, generator=generator, dtype=torch.float64)
    start[:, 0] += math.sqrt(2)
    exact = weight_of_the_right_mode()
    assert exact == pytest.approx(0.70, abs=0.05)
    state, metric = hmc_init(start, bimodal), identity_metric(start)
    for _ in range(50):
        state, _ = hmc_step(state, bimodal, 0.08, 10, metric, generator=generator)
    assert (state.position[:, 0] > 0).double().mean() > 0.97, "HMC does not cross the valley"
    kernel = ParallelTempering(num_chains=chains, num_temperatures=8, lowest_beta=0.0)
    run, share = kernel.start(bimodal, start, 120, generator), []
    for step in range(370):
        run, info = kernel.advance(bimodal, run, generator)
        if step >= 120:
            share.append((run.position[:, 0] > 0).double())
    share = torch.stack(share).mean(0)  # of each chain: chains are independent
    z = (share.mean() - exact) / (share.std() / math.sqrt(chains))
    assert abs(z) < 4.5
    assert share.std() / math.sqrt(chains) < 0.03
    rows = run.betas.repeat_interleave(chains)
    for mine, fresh in zip(
        (run.ladder.log_density, run.ladder.gradient, run.log_density),
        (*bimodal(run.ladder.position, rows)[:2], bimodal(run.position).log_density),
        strict=True,
    ):
        assert torch.equal(mine, fresh), "what is kept belongs to the position and its temperature"
    found = kernel.adaptation(run)
    rate = found["swap_rate"]
    assert rate.min() > 0.3
    assert rate.max() - rate.min() < 0.25, "swap rates are about equal"
    assert found["betas"][[0, -1]].tolist() == [1.0, 0.0]
    assert (found["betas"].diff() < 0).all()
    assert info.acceptance_rate.shape == (chains,)


def test_the_first_rungs_are_equalised():
    assert (first_ladder(8, 0.02).diff() < 0).all()
    betas = torch.tensor([1.0, 0.6, 0.1, 0.0], dtype=torch.float64)
    equal = torch.full((3,), 0.7, dtype=torch.float64)
    torch.testing.assert_close(equalised_ladder(betas, equal), betas)
    # A pair that hardly swaps gets its rungs closer together.
    moved = equalised_ladder(betas, torch.tensor([0.9, 0.1, 0.9]))
    assert 0.6 > moved[1] > moved[2] > 0.1
    with pytest.raises(ValueError, match="num_temperatures"):
        first_ladder(1, 0.0)
    with pytest.raises(ValueError, match="lowest_beta"):
        ParallelTempering(lowest_beta=1.0)


def test_every_pair_is_asked_in_two_rounds():
    for levels in (2, 3, 6, 7):
        both = torch.cat([swap_partners(levels, 4), swap_partners(levels, 5)]).sort().values
        assert both.tolist() == list(range(levels - 1))


def lopsided(x, beta=1.0):
    """Prior N(0, 2²), likelihood a mixture of two narrow normals with weights 0.3 and 0.7: one dimension."""
    part = torch.stack(
        [math.log(0.3) - 0.5 * ((x[:, 0] + 2) / 0.4) ** 2, math.log(0.7) - 0.5 * ((x[:, 0] - 1.5) / 0.4) ** 2]
    )
    likelihood = part.logsumexp(0)
    slope = (part.softmax(0) * torch.stack([-(x[:, 0] + 2) / 0.16, -(x[:, 0] - 1.5) / 0.16])).sum(0)
    column = beta[:, None] if isinstance(beta, torch.Tensor) and beta.ndim else beta
    return Evaluation(
        -0.125 * x[:, 0].square() + beta * likelihood, -0.25 * x + column * slope[:, None], likelihood
    )


def lopsided_draws(count, generator, beta=1.0):
    """By inversion on a fine grid."""
    grid = torch.linspace(-9, 9, 20001, dtype=torch.float64)[:, None]
    weight = lopsided(grid, beta).log_density.softmax(0)
    uniform = torch.rand(count, generator=generator, dtype=torch.float64)
    index = torch.searchsorted(weight.cumsum(0), uniform).clamp(max=len(grid) - 1)
    jitter = torch.rand(count, 1, generator=generator, dtype=torch.float64) - 0.5
    return grid[index] + jitter * 18 / 20000


@pytest.mark.statistical
def test_tempered_transitions_leave_a_bimodal_law():
    chains, generator = 200_000, torch.Generator().manual_seed(1)
    start = lopsided_draws(chains, generator)
    state = evaluate_point(start, lopsided)
    moved, info = tempered_transition_step(
        state, lopsided, [0.5, 0.2, 0.05], [0.5, 0.8, 1.2], 2, identity_metric(start), generator=generator
    )
    rate = float(info.acceptance_rate.mean())
    assert 0.1 < rate < 0.9, "the accept step must matter"
    crossed = (moved.position[:, 0] > 0) != (start[:, 0] > 0)
    assert crossed.double().mean() > 0.05, "modes are exchanged"
    fresh = lopsided_draws(chains, generator)
    p = stats.ks_2samp(moved.position[:, 0].numpy(), fresh[:, 0].numpy(), method="asymp").pvalue
    assert p > 1e-4
    # Detailed balance, not only invariance: as many cross one way as the other.
    right = ((start[:, 0] < 0) & (moved.position[:, 0] > 0)).sum().double()
    left = ((start[:, 0] > 0) & (moved.position[:, 0] < 0)).sum().double()
    assert abs((right - left) / (right + left).sqrt()) < 4.5
    # From one mode only, the same moves reach the exact weight in the end.
    torch.testing.assert_close(moved.log_density, lopsided(moved.position).log_density)


@pytest.mark.statistical
def test_swaps_leave_every_temperature_exact():
    count, generator = 100_000, torch.Generator().manual_seed(2)
    betas = torch.tensor([1.0, 0.3, 0.05], dtype=torch.float64)
    rows = torch.cat([lopsided_draws(count, generator, float(beta)) for beta in betas])
    for step in range(4):
        value = as_tempered(lopsided)(rows, betas.repeat_interleave(count)).log_likelihood
        swap = swap_step(rows, value, betas, step, generator)
        rows = swap.position
        assert swap.rate.isnan().tolist() == ([False, True] if step % 2 == 0 else [True, False])
        assert 0.1 < float(swap.rate.nansum()) < 0.95
    assert swap.order.sort().values.tolist() == list(range(3 * count)), "nothing is lost or doubled"
    for level, beta in enumerate(betas):
        fresh = lopsided_draws(count, generator, float(beta))
        found = rows[level * count : (level + 1) * count]
        assert stats.ks_2samp(found[:, 0].numpy(), fresh[:, 0].numpy(), method="asymp").pvalue > 1e-4


def test_a_ladder_that_does_not_decrease_is_refused():
    state = evaluate_point(torch.zeros(2, 1, dtype=torch.float64), lopsided)
    for betas in ([], [0.5, 0.5], [1.0, 0.5], [0.2, -0.1]):
        with pytest.raises(ValueError, match="betas"):
            tempered_transition_step(state, lopsided, betas, 0.5, 2, identity_metric(state.position))
    with pytest.raises(ValueError, match="step_size"):
        tempered_transition_step(state, lopsided, [0.5, 0.1], [0.5], 2, identity_metric(state.position))


@pytest.mark.slow
@pytest.mark.statistical
def test_the_front_end_tempers_a_model():
    def model(y):
        x = pyro.sample("x", dist.Normal(torch.tensor([SHIFT, 0.0, 0.0]), 1.0).to_event(1))
        pyro.sample("y", dist.Normal(x[0] ** 2, 0.2), obs=y)

    draws = sample(
        model, torch.tensor(2.0), kernel="tempering", num_chains=64, warmup_steps=150, num_draws=300,
        seed=0, start={"x": torch.tensor([1.4, 0.0, 0.0])}, dtype=torch.float64, check=False,
    )  # fmt: skip
    share = (draws.samples["x"][..., 0] > 0).double().mean(1)
    z = (share.mean() - weight_of_the_right_mode()) / (share.std() / 8)
    assert abs(z) < 4.5
    assert draws.sampler == "tempering"
    assert draws.adjusted
