"""Importance draws: resampling by datum or as a whole, smoothed weights, and the InferenceData of them."""

import math
import warnings

import arviz as az
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

from evidentia.inference import diagnostics
from evidentia.inference.evidence.importance import log_weights
from evidentia.inference.evidence.importance_draws import importance_draws, resampled_indices
from evidentia.inference.fit import fit

X = torch.tensor([2.0, -1.0, 0.4, 5.0])


def local(x):
    """Posterior of each z: N(x / 2, 1 / 2)."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("obs", dist.Normal(z, 1.0), obs=x)


def local_guide(scale, shift=0.0):
    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2 + shift, scale))

    return guide


def joint(x):
    """Posterior of the mean: precision 1 + n; of each z given the mean: N((x + mean) / 2, 1 / 2)."""
    mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(mean, 1.0))
        pyro.sample("obs", dist.Normal(z, 1.0), obs=x)


def joint_guide(x):
    mean = pyro.sample("mean", dist.Normal(0.5, 1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(0.4 * (x + mean), 0.8))


def weighted_error(log_weight: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Standard error of a self-normalised average, delta method, over the draws."""
    weight = log_weight.softmax(0)
    mean = (weight * values).sum(0)
    return (weight.square() * (values - mean).square()).sum(0).sqrt()


@pytest.mark.statistical
def test_each_datum_is_resampled_by_its_own_weights_to_its_own_posterior() -> None:
    # The guide is too wide and shifted, so that unweighted draws are far off.
    draws = importance_draws((local, local_guide(1.2, 0.5)), X, num_particles=20_000, seed=0)
    assert draws.plates == ("data",)
    count = 20_000
    picked, log_weight = draws.resample(count, torch.Generator().manual_seed(1))
    z = picked["z"].double()
    error = weighted_error(draws.log_weight, draws.samples["z"])
    error = (error.square() + 0.5 / count).sqrt()
    assert bool(((z.mean(0) - X / 2).abs() < 4.5 * error).all())
    square = (draws.samples["z"] - X / 2).square()
    error = (weighted_error(draws.log_weight, square).square() + 2 * 0.25 / count).sqrt()
    assert bool((((z - X / 2).square().mean(0) - 0.5).abs() < 4.5 * error).all())
    # Columns are picked apart: draws of different data stay uncorrelated.
    correlation = torch.corrcoef(z.T) - torch.eye(4)
    assert float(correlation.abs().max()) < 4.5 / math.sqrt(count / 2)
    # The weight kept is that of the value picked.
    expected = dist.Normal(0.0, 1.0).log_prob(picked["z"]) + dist.Normal(picked["z"], 1.0).log_prob(X)
    expected = expected - dist.Normal(X / 2 + 0.5, 1.2).log_prob(picked["z"])
    torch.testing.assert_close(log_weight, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.statistical
def test_with_a_global_latent_whole_draws_are_picked_by_the_joint_weight() -> None:
    draws = importance_draws((joint, joint_guide), X, num_particles=40_000, seed=0)
    assert draws.plates == ()
    assert draws.log_weight.shape == (40_000,)
    picked, _ = draws.resample(5_000, torch.Generator().manual_seed(1))
    precision = 1 + len(X) / 2  # the mean sees each x with variance 2
    exact = float(X.sum()) / 2 / precision
    error = weighted_error(draws.log_weight, draws.samples["mean"]).square() + 1 / precision / 5_000
    assert abs(float(picked["mean"].mean()) - exact) < 4.5 * float(error.sqrt())
    # z and the mean belong together: cov(z, mean) is half the variance of the mean.
    product = (draws.samples["mean"] - exact)[:, None] * (draws.samples["z"] - (X + exact) / 2)
    found = ((picked["mean"] - exact)[:, None] * (picked["z"] - (X + exact) / 2)).mean(0)
    error = weighted_error(draws.log_weight[:, None], product).square() + product.var(0) / 5_000
    assert bool(((found - 0.5 / precision).abs() < 4.5 * error.sqrt()).all())
    rows = torch.cat([draws.samples["mean"][:, None], draws.samples["z"]], 1)
    one = torch.cat([picked["mean"][:1], picked["z"][0]])
    assert bool((rows == one).all(1).any())


def test_systematic_resampling_picks_each_draw_its_share_of_times() -> None:
    weight = torch.tensor([[0.1, 0.0], [0.2, 0.7], [0.7, 0.3]])
    index = resampled_indices(weight.log() + torch.tensor([5.0, -800.0]), 1000)
    counts = torch.stack([(index == k).sum(0) for k in range(3)])
    assert float((counts - 1000 * weight).abs().max()) <= 1
    assert not torch.equal(index[:, 0].sort().values, index[:, 0])
    with pytest.raises(ValueError, match="column 1"):
        resampled_indices(torch.tensor([[0.0, -math.inf], [0.0, -math.inf]]), 3)
    with pytest.raises(ValueError, match="column 0"):
        resampled_indices(torch.tensor([[math.nan], [0.0]]), 3)
    with pytest.raises(ValueError, match="num_draws"):
        resampled_indices(weight.log(), 0)


def test_draws_and_weights_are_those_of_log_weights_and_chunks_add_up() -> None:
    pair = (local, local_guide(1.0))
    draws = importance_draws(pair, X, num_particles=7, seed=3)
    assert torch.equal(draws.log_weight, log_weights(pair, X, num_particles=7, seed=3))
    chunked = importance_draws(pair, X, num_particles=7, chunk_size=3, seed=3)
    assert chunked.samples["z"].shape == (7, 4)
    assert torch.equal(chunked.log_weight, log_weights(pair, X, num_particles=7, chunk_size=3, seed=3))
    assert importance_draws(pair, X, num_particles=1, seed=3).samples["z"].shape == (1, 4)


def test_plates_of_two_dimensions_and_events_are_picked_together() -> None:
    def program(observed):
        def run(x):
            with pyro.plate("row", 3, dim=-2), pyro.plate("column", 2, dim=-1):
                z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
                one = pyro.sample("one", dist.Normal(0.0, 1.0))
                if observed:
                    pyro.sample("obs", dist.Normal(z.sum(-1) + one, 1.0), obs=x)

        return run

    x = torch.randn(3, 2, generator=torch.Generator().manual_seed(0))
    draws = importance_draws((program(True), program(False)), x, num_particles=50, seed=0)
    assert draws.plates == ("row", "column")
    assert draws.log_weight.shape == (50, 3, 2)
    picked, log_weight = draws.resample(20, torch.Generator().manual_seed(0))
    assert picked["z"].shape == (20, 3, 2, 2)
    # Each element's draws are taken their share of times by its own weights, within one.
    counts = (picked["one"] == draws.samples["one"][:, None]).sum(1)
    assert float((counts - 20 * draws.log_weight.softmax(0)).abs().max()) <= 1
    # With the prior as guide the weight is the likelihood, entry by entry.
    expected = dist.Normal(picked["z"].sum(-1) + picked["one"], 1.0).log_prob(x)
    torch.testing.assert_close(log_weight, expected, rtol=1e-4, atol=1e-4)


def test_inference_data_of_local_draws_has_plates_as_dimensions_and_runs_everywhere() -> None:
    draws = importance_draws((local, local_guide(1.2)), X, num_particles=2_000, seed=0)
    idata = diagnostics.to_idata(draws, None, X, num_draws=500, prior_draws=10, seed=1)
    assert idata.posterior["z"].dims == ("chain", "draw", "data")
    assert idata.sample_stats["log_weight"].dims == ("chain", "draw", "data")
    assert list(idata.sample_stats) == ["log_weight"]
    assert idata.posterior["z"].shape == (1, 500, 4)
    assert idata.posterior.attrs["inference"] == "importance"
    assert idata.sample_stats.attrs["num_particles"] == 2_000
    assert diagnostics.pareto_k(idata) == idata.sample_stats.attrs["pareto_k"] < 0.7
    assert diagnostics.loo(idata).pareto_k.shape == (4,)
    again = diagnostics.to_idata(draws, None, X, num_draws=500, prior_draws=10, seed=1)
    assert all(idata[group].identical(again[group]) for group in idata.groups())
    error = weighted_error(draws.log_weight, draws.samples["z"]).square() + 0.5 / 500
    found = torch.as_tensor(idata.posterior["z"].values[0].mean(0))
    assert bool(((found - X / 2).abs() < 4.5 * error.sqrt()).all())


def test_a_fit_with_a_global_latent_is_compared_and_plotted(tmp_path) -> None:
    import matplotlib

    matplotlib.use("Agg")

    def model(x):
        mean = pyro.sample("mean", dist.Normal(0.0, 3.0))
        with pyro.plate("data", len(x)):
            pyro.sample("obs", dist.Normal(mean, 1.0), obs=x)

    def guide(x):
        loc = pyro.param("loc", torch.tensor(1.0))
        pyro.sample("mean", dist.Normal(loc, 0.8))

    result = fit((model, guide), X, num_steps=20, learning_rate=0.05, seed=0)
    draws = importance_draws(result, X, num_particles=2_000, seed=0)
    idata = diagnostics.to_idata(draws, None, X, num_draws=400, prior_draws=10)
    assert idata.posterior["mean"].shape == (1, 400)
    assert idata.sample_stats["log_weight"].dims == ("chain", "draw")
    fitted = diagnostics.to_idata(result, None, X, num_draws=400, prior_draws=10)
    assert set(diagnostics.compare({"importance": idata, "fit": fitted}).index) == {"importance", "fit"}
    diagnostics.save(idata, tmp_path / "draws.nc")
    assert diagnostics.load(tmp_path / "draws.nc").sample_stats.identical(idata.sample_stats)
    assert list(diagnostics.summary(idata).index) == ["mean"]
    with warnings.catch_warnings():
        # The plots are ArviZ's; what they say about matplotlib is not ours to judge.
        warnings.simplefilter("ignore")
        az.plot_ppc(idata, num_pp_samples=5)
    import matplotlib.pyplot as plt

    plt.close("all")
    # The resampled draws have the posterior's spread, not the guide's.
    variance = 1 / (len(X) + 1 / 9)
    square = (draws.samples["mean"] - float(X.sum()) * variance).square()
    error = weighted_error(draws.log_weight, square).square() + 2 * variance**2 / 400
    found = np.square(idata.posterior["mean"].values - float(X.sum()) * variance).mean()
    assert abs(float(found) - variance) < 4.5 * float(error.sqrt())


# -- smoothed weights


@pytest.mark.statistical
def test_weights_of_a_known_tail_have_its_index() -> None:
    # u ~ U(0, 1): u^-k is Pareto with index k. The spread of the estimate is about (1 + k) / sqrt(tail).
    indices = torch.tensor([0.1, 0.4, 0.9, 1.3])
    uniform = torch.rand(20_000, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = diagnostics.psis(-indices * uniform.log() + torch.tensor([0.0, 50.0, -900.0, 3.0]))
    tail = 3 * math.sqrt(20_000)
    assert found.pareto_k.shape == (4,)
    assert bool(((found.pareto_k - indices).abs() < 4.5 * (1 + indices) / math.sqrt(tail)).all())
    torch.testing.assert_close(found.log_weight.exp().sum(0), torch.ones(4, dtype=torch.float64))
    # Draws of an exponential law of rate a for one of rate b: w = exp((a - b) y), index 1 - b / a.
    wide, narrow = 3.0, 1.0
    y = torch.distributions.Exponential(wide).icdf(uniform[:, :1])
    k = float(diagnostics.psis((wide - narrow) * y).pareto_k)
    assert abs(k - (1 - narrow / wide)) < 4.5 * (2 - narrow / wide) / math.sqrt(tail)


def test_k_hat_is_small_for_the_exact_guide_and_large_for_a_narrow_one() -> None:
    exact = importance_draws((local, local_guide(0.5**0.5)), X.double(), num_particles=2_000, seed=0)
    assert bool((diagnostics.psis(exact.log_weight).pareto_k < 0.3).all())
    narrow = importance_draws((local, local_guide(0.25)), X, num_particles=5_000, seed=0)
    found = diagnostics.psis(narrow.log_weight)
    assert found.log_weight.shape == (5_000, 4)
    assert bool((found.pareto_k > 0.7).all())


def test_psis_keeps_the_layout_of_the_draws_and_refuses_what_is_no_weight() -> None:
    weight = torch.randn(60, 2, 3, generator=torch.Generator().manual_seed(0))
    whole = diagnostics.psis(weight)
    assert whole.pareto_k.shape == (2, 3)
    alone = diagnostics.psis(weight[:, 1, 2])
    torch.testing.assert_close(alone.log_weight, whole.log_weight[:, 1, 2])
    assert alone.pareto_k.shape == ()
    smooth, k = az.psislw(weight[:, 1, 2].double().numpy())
    assert float(alone.pareto_k) == pytest.approx(float(k))
    assert np.allclose(alone.log_weight.numpy(), smooth)
    flat = diagnostics.psis(torch.full((60,), -700.0))
    assert float(flat.pareto_k) == -math.inf
    assert float(flat.log_weight[0].exp()) == pytest.approx(1 / 60)
    with pytest.raises(ValueError, match="NaN"):
        diagnostics.psis(torch.tensor([0.0, math.nan]))
    with pytest.raises(ValueError, match="got shape"):
        diagnostics.psis(torch.tensor(0.0))
