"""The effective sample size: against ArviZ, against the exact one of an AR(1) process, and at its edges."""

import math

import arviz as az
import pytest
import torch

from evidentia.inference.evidence.effective_size import effective_size


def autoregressive(coefficient, chains=4, draws=500, events=3, seed=0):
    random = torch.Generator().manual_seed(seed)
    noise = torch.randn(chains, draws, events, generator=random, dtype=torch.float64)
    series = noise.clone()
    series[:, 0] /= math.sqrt(1 - coefficient**2)
    for n in range(1, draws):
        series[:, n] = coefficient * series[:, n - 1] + noise[:, n]
    return series


@pytest.mark.parametrize("coefficient", [-0.9, -0.3, 0.0, 0.5, 0.95])
@pytest.mark.parametrize(("chains", "draws"), [(1, 8), (1, 333), (4, 25), (3, 100), (16, 50)])
def test_equals_arviz(coefficient, chains, draws):
    series = autoregressive(coefficient, chains, draws, events=6, seed=chains)
    expected = [az.ess(series[..., k].numpy(), method="mean") for k in range(6)]
    torch.testing.assert_close(
        effective_size(series), torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=0
    )


@pytest.mark.statistical
@pytest.mark.parametrize("coefficient", [-0.5, 0.0, 0.6])
def test_time_of_an_autoregressive_series(coefficient):
    series = autoregressive(coefficient, chains=64, draws=1000, events=4)
    tau = 64_000 / effective_size(series)
    # The error of a sum of correlations is absolute: at -0.5 the truth is a third.
    assert tau.tolist() == pytest.approx([(1 + coefficient) / (1 - coefficient)] * 4, rel=0.06, abs=0.06)


def test_chains_that_disagree_are_worth_little():
    series = autoregressive(0.0, chains=8, draws=200, events=1) + 3.0 * torch.arange(8.0)[:, None, None]
    assert effective_size(series).item() < 20


def test_event_shape_and_single_precision():
    series = autoregressive(0.5, events=6)
    result = effective_size(series.reshape(4, 500, 2, 3).float())
    assert result.shape == (2, 3)
    torch.testing.assert_close(result.reshape(-1), effective_size(series), rtol=1e-4, atol=0)


def test_constant_and_broken_series():
    series = autoregressive(0.0, chains=2, draws=50, events=3)
    series[..., 1] = 2.0
    series[0, 3, 2] = math.nan
    result = effective_size(series)
    assert result[1] == 100
    assert result.isnan().tolist() == [False, False, True]


@pytest.mark.parametrize("shape", [(10,), (2, 7)])
def test_too_little_is_refused(shape):
    with pytest.raises(ValueError, match="at least 8 draws"):
        effective_size(torch.zeros(shape))
