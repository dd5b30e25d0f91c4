"""Signal and noise of a gradient, where both are known."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO

from evidentia.inference.fit import fit
from evidentia.inference.gradient_stats import gradient_stats


@pytest.fixture(autouse=True)
def double_precision():
    torch.set_default_dtype(torch.float64)


def model():
    pyro.sample("z", dist.Normal(0.0, 1.0))


def guide():
    pyro.sample("z", dist.Normal(pyro.param("loc", torch.tensor(2.0)), 2.0))


def test_mean_and_spread_are_the_known_ones():
    """-log w = z²/2 - ε²/2 with z = loc + 2 ε, so d/dloc = z: mean 2, sd 2."""
    stats = gradient_stats(Trace_ELBO(), (model, guide), num_draws=4000, seed=0)
    assert abs(float(stats.mean["loc"]) - 2.0) < 9 / math.sqrt(4000)
    assert float(stats.sd["loc"]) == pytest.approx(2.0, abs=9 / math.sqrt(8000))
    assert float(stats.standard_error["loc"]) == pytest.approx(float(stats.sd["loc"]) / math.sqrt(4000))
    assert float(stats.snr()["loc"]) == pytest.approx(1.0, abs=0.15)
    assert float(stats.snr({"loc": torch.tensor(-4.0)})["loc"]) == pytest.approx(2.0, abs=0.15)


def test_the_table_has_a_row_for_each_parameter_and_skips_entries_without_noise():
    def quiet():
        guide()
        pyro.factor("penalty", -pyro.param("vector", torch.ones(3)).square().sum(), has_rsample=True)

    stats = gradient_stats(Trace_ELBO(), (model, quiet), num_draws=10, seed=0)
    table = stats.table().set_index("parameter")
    assert list(table.index) == ["loc", "vector"]
    assert table.loc["vector", "entries"] == 3
    assert table.loc["vector", "sd"] == pytest.approx(0.0, abs=1e-12)
    assert math.isnan(table.loc["vector", "snr"])


def test_a_fit_is_measured_where_it_stands_and_gradients_are_left_alone():
    result = fit((model, guide), num_steps=400, learning_rate=0.05, seed=0)
    leaf = result.leaves["loc"]
    leaf.grad = torch.tensor(7.0)
    stats = gradient_stats(Trace_ELBO(), result, num_draws=400, seed=0)
    assert abs(float(stats.mean["loc"])) < 0.5
    assert float(leaf.grad) == 7.0


@pytest.mark.parametrize(
    ("objective", "programs", "draws", "message"),
    [
        (Trace_ELBO(), (model, guide), 1, "num_draws: a spread needs at least 2 draws, got 1"),
        (object(), (model, guide), 5, "objective: expected an object with differentiable_loss, got object"),
        (Trace_ELBO(), (model, model), 5, "pair: neither the model nor the guide has a parameter"),
    ],
)
def test_wrong_arguments_are_refused(objective, programs, draws, message):
    with pytest.raises(ValueError, match=message):
        gradient_stats(objective, programs, num_draws=draws)
