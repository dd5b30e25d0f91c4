"""The bridge to ArviZ: groups, shapes, log likelihoods, LOO and plots, netCDF."""

import hashlib
import math
import time
import warnings
from pathlib import Path

import arviz as az
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoDelta, AutoMultivariateNormal, AutoNormal

from evidentia.inference import diagnostics
from evidentia.inference.evidence.log_evidence import LogEvidence
from evidentia.inference.fit import fit
from evidentia.inference.idata.draw_layout import inspect_model
from evidentia.inference.idata.draws import Draws
from evidentia.inference.idata.guide_draws import guide_draws
from evidentia.inference.idata.log_likelihood import log_likelihood, shaped
from evidentia.inference.idata.predictive import predictive
from evidentia.inference.mcmc.nuts import nuts
from evidentia.models.linear.priors import GPrior, NormalPrior
from evidentia.models.regression import SubsetRegression

MANDATORY = {
    "posterior", "sample_stats", "log_likelihood", "posterior_predictive", "prior", "prior_predictive",
    "observed_data", "constant_data",
}  # fmt: skip
GENERATOR = torch.Generator().manual_seed(7)
X = torch.randn(20, 3, generator=GENERATOR)
Y = X @ torch.tensor([1.0, -1.0, 0.5]) + 0.3 * torch.randn(20, generator=GENERATOR)


def prior():
    return pyro.sample("b", dist.Normal(torch.zeros(3), 1.0).to_event(1))


def compact(x, y=None):
    b = prior()
    with pyro.plate("data", len(x)):
        return pyro.sample("obs", dist.Normal((b.unsqueeze(-2) * x).sum(-1), 0.3), obs=y)


def plain(x, y=None):
    b = prior()
    with pyro.plate("data", len(x)):
        return pyro.sample("obs", dist.Normal((b * x).sum(-1), 0.3), obs=y)


def matmul(x, y=None):
    b = prior()
    with pyro.plate("data", len(x)):
        return pyro.sample("obs", dist.Normal(x @ b, 0.3), obs=y)


def branching(x, y=None):
    b = prior()
    mean = x @ b if bool(b[0] > 0) else (x * b).sum(-1)
    with pyro.plate("data", len(x)):
        return pyro.sample("obs", dist.Normal(mean, 0.3), obs=y)


FORMS = {"compact": compact, "plain": plain, "matmul": matmul, "branching": branching}


def fitted(model, guide=AutoNormal, steps: int = 60):
    return fit((model, guide(model)), X, Y, num_steps=steps, learning_rate=0.05, seed=0)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("guide", [AutoNormal, AutoMultivariateNormal])
def test_draws_of_a_guide_have_no_plate_dimensions(form: str, guide) -> None:
    model = FORMS[form]
    result = fitted(model, guide)
    idata = diagnostics.to_idata(result, model, X, Y, num_draws=200, prior_draws=10, notice=lambda text: None)
    assert idata.posterior["b"].shape == (1, 200, 3)
    assert idata.log_likelihood["obs"].dims == ("chain", "draw", "data")
    assert set(idata.groups()) == MANDATORY
    # The mean log weight over the guide's draws is the bound that was trained.
    bound = float((idata.sample_stats["lp"] - idata.sample_stats["log_guide"]).mean())
    with result.scope():
        losses = [pyro.infer.Trace_ELBO().loss(model, result.pair[1], X, Y) for _ in range(200)]
    error = (np.var(losses) / 200 + float((idata.sample_stats["lp"]).var()) / 200) ** 0.5
    assert abs(bound + np.mean(losses)) < 4.5 * error
    assert diagnostics.pareto_k(idata) < 2.0


def exact(draws: torch.Tensor) -> torch.Tensor:
    return dist.Normal(draws.double() @ X.double().T, 0.3).log_prob(Y.double())


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("count", [1, 3, 20, 50])
def test_every_way_to_write_the_model_gives_the_same_log_likelihood(form: str, count: int) -> None:
    notices: list[str] = []
    draws = torch.randn(count, 3)
    found = log_likelihood(FORMS[form], {"b": draws}, X, Y, notice=notices.append)["obs"]
    assert found.dtype == torch.float64
    assert torch.allclose(found, exact(draws), rtol=1e-4, atol=1e-3)
    assert len(notices) == (1 if form == "branching" and count > 1 else 0) or count == 1
    for notice in notices:
        assert "'obs'" in notice
        assert "branches" in notice


def test_as_many_draws_and_features_as_data_cannot_fool_the_shape_check() -> None:
    x, y = X[:3], Y[:3]
    for model in FORMS.values():
        draws = torch.randn(3, 3)
        found = log_likelihood(model, {"b": draws}, x, y, notice=lambda text: None)["obs"]
        expected = dist.Normal(draws @ x.T, 0.3).log_prob(y).double()
        assert torch.allclose(found, expected, rtol=1e-4, atol=1e-3)


def test_two_draws_of_two_features_of_two_rows_are_told_apart_by_their_values() -> None:
    # `x @ b` of draws (2, 2) is a (2, 2) array with the draws in the wrong place: its shape is right.
    x, y, draws = (
        torch.tensor([[1.0, 2.0], [-1.0, 0.5]]),
        torch.zeros(2),
        torch.tensor([[1.0, 0.0], [3.0, 1.0]]),
    )

    def model(x, y):
        b = pyro.sample("b", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        with pyro.plate("data", 2):
            pyro.sample("obs", dist.Normal(x @ b, 1.0), obs=y)

    found = log_likelihood(model, {"b": draws}, x, y, notice=lambda text: None)["obs"]
    assert torch.allclose(found, dist.Normal(draws @ x.T, 1.0).log_prob(y).double(), atol=1e-5)


def test_predictive_draws_of_a_program_for_one_draw_are_its_own() -> None:
    sites = inspect_model(matmul, (X, Y))
    draws = {"b": torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]).repeat_interleave(4000, 0)}
    torch.manual_seed(0)
    found = predictive(matmul, sites, (X, Y), draws=draws, layout="mapped")["obs"]
    assert found.shape == (8000, 20)
    rest = found - draws["b"] @ X.T
    assert abs(float(rest.std()) / 0.3 - 1) < 0.01  # |z| < 4: 160,000 independent numbers
    assert abs(float((rest[0::2] * rest[1::2]).mean())) < 4.5 * 0.09 / 80_000**0.5
    torch.manual_seed(0)
    prior_draws = predictive(matmul, sites, (X, Y), num_draws=4000, layout="mapped")
    assert float((prior_draws["b"].var(0) - 1).abs().max()) < 4.5 * (2 / 4000) ** 0.5
    assert torch.allclose((prior_draws["obs"] - prior_draws["b"] @ X.T).std(), torch.tensor(0.3), rtol=0.02)


def test_a_wrong_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="expected"):
        shaped(torch.zeros(4, 4, 3), (4, 3), "obs")
    with pytest.raises(ValueError, match="expected"):
        shaped(torch.zeros(3, 4), (4, 3), "obs")


@pytest.mark.parametrize("form", FORMS)
def test_models_that_vectorise_run_a_handful_of_times(form: str) -> None:
    calls = []

    def counted(x, y=None):
        calls.append(1)
        return FORMS[form](x, y)

    log_likelihood(counted, {"b": torch.randn(100, 3)}, X, Y, notice=lambda text: None)
    assert (len(calls) > 100) == (form == "branching")
    calls.clear()
    guide = AutoNormal(FORMS[form])
    guide(X, Y)
    drawn = guide_draws(counted, guide, inspect_model(FORMS[form], (X, Y)), (X, Y), num_draws=100)
    assert (len(calls) > 50) == (form != "plain")
    alone = [
        pyro.poutine.trace(pyro.condition(FORMS[form], {"b": b})).get_trace(X, Y).log_prob_sum()
        for b in drawn.samples["b"][:3]
    ]
    assert torch.allclose(drawn.log_joint[:3], torch.stack(alone).double(), rtol=1e-4)


def test_the_notice_goes_to_the_logger(caplog) -> None:
    log_likelihood(branching, {"b": torch.randn(5, 3)}, X, Y)
    assert [record.name for record in caplog.records] == ["evidentia"]


def test_a_model_that_fails_names_the_site_and_nothing_is_dropped() -> None:
    def fragile(x, y=None):
        b = prior()
        if bool((b > 5).any()):
            raise RuntimeError("too large")
        with pyro.plate("data", len(x)):
            pyro.sample("obs", dist.Normal(x @ b, 0.3), obs=y)

    draws = torch.zeros(4, 3)
    with pytest.raises(ValueError, match=r"'obs'.*draw 0 alone"):
        log_likelihood(fragile, {"b": draws + 9}, X, Y, obs="obs")
    draws[2] = 9.0
    with pytest.raises(ValueError, match=r"'obs'.*draw 2 alone.*too large"):
        log_likelihood(fragile, {"b": draws}, X, Y, notice=lambda text: None)
    with pytest.raises(ValueError, match="no draws of the latent sites"):
        log_likelihood(compact, {}, X, Y)
    with pytest.raises(ValueError, match="not observed"):
        log_likelihood(compact, {"b": torch.zeros(2, 3)}, X, Y, obs="other")
    with pytest.raises(ValueError, match="not observed"):
        log_likelihood(compact, {"b": torch.zeros(2, 3)}, X)


def test_a_plate_that_draws_its_rows_is_refused() -> None:
    def random_rows(x, y):
        b = prior()
        with pyro.plate("data", len(x), subsample_size=5) as rows:
            pyro.sample("obs", dist.Normal((b * x[rows]).sum(-1), 0.3), obs=y[rows])

    with pytest.raises(ValueError, match=r"plate 'data' draws 5 of 20 rows.*data_plate"):
        log_likelihood(random_rows, {"b": torch.zeros(4, 3)}, X, Y)


def test_masked_data_do_not_count() -> None:
    def masked(x, y):
        b = prior()
        with pyro.plate("data", len(x)), pyro.poutine.mask(mask=torch.arange(len(x)) > 4):
            pyro.sample("obs", dist.Normal((b * x).sum(-1), 0.3), obs=y)

    found = log_likelihood(masked, {"b": torch.randn(4, 3)}, X, Y)["obs"]
    assert bool((found[:, :5] == 0).all())
    assert bool((found[:, 5:] != 0).all())


@pytest.fixture(scope="module")
def chains():
    pyro.enable_validation(True)
    return nuts(compact, X, Y, num_draws=100, warmup_steps=60, num_chains=2, seed=0, max_tree_depth=4)


def test_markov_chains_have_every_group_and_every_arviz_call_runs(chains, tmp_path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    idata = diagnostics.to_idata(
        chains, compact, X, Y, prior_draws=30, dims={"b": ["feature"], "x": ["feature"]},
        coords={"feature": ["age", "sex", "bmi"]}, attrs={"study": "test", "point": "abc"},
    )  # fmt: skip
    assert set(idata.groups()) == MANDATORY | {"log_prior"}
    assert idata.posterior["b"].shape == (2, 100, 3)
    prior_of = dist.Normal(0.0, 1.0).log_prob(chains.samples["b"]).sum(-1)
    assert np.allclose(idata.log_prior["b"].values, prior_of.numpy(), atol=1e-4)
    assert list(idata.posterior.feature.values) == ["age", "sex", "bmi"]
    assert idata.constant_data["x"].dims == ("data", "feature")
    assert idata.posterior.attrs["study"] == "test"
    assert idata.sample_stats.attrs["lp_space"] == "unconstrained"
    assert {"lp", "energy", "diverging", "acceptance_rate", "step_size"} <= set(idata.sample_stats)
    assert np.array_equal(idata.observed_data["obs"].values, Y.numpy())
    expected = exact(chains.samples["b"].reshape(-1, 3)).reshape(2, 100, 20).numpy()
    assert np.allclose(idata.log_likelihood["obs"].values, expected, rtol=1e-4, atol=1e-3)
    svi = diagnostics.to_idata(fitted(compact, steps=300), compact, X, Y, num_draws=200, prior_draws=30)
    table = diagnostics.compare({"nuts": idata, "svi": svi})
    assert set(table.index) == {"nuts", "svi"}
    assert abs(table["elpd_loo"].diff().iloc[1]) < 3
    assert diagnostics.loo(idata).pareto_k.shape == (20,)
    assert {d.name for d in diagnostics.mcmc_checks(idata)} >= {"r_hat", "divergences", "e_bfmi"}
    assert list(diagnostics.summary(idata).index) == ["b[age]", "b[sex]", "b[bmi]"]
    with warnings.catch_warnings():
        # The plots are ArviZ's; what they say about matplotlib is not ours to judge.
        warnings.simplefilter("ignore")
        az.plot_loo_pit(idata, y="obs")
        az.plot_energy(idata)
        az.plot_compare(table)
        az.plot_ppc(idata)
        assert float(az.psens(idata, component="prior")["b"].max()) < 0.1
        import matplotlib.pyplot as plt

        plt.close("all")


def test_of_many_chains_some_of_every_superchain_are_kept() -> None:
    generator = torch.Generator().manual_seed(0)
    unconstrained = torch.randn(96, 5, 3, generator=generator)
    run = Draws(
        {"b": unconstrained}, {"lp": torch.arange(96.0)[:, None].expand(96, 5)}, {}, "max_steps", "hmc",
        superchains=16, unconstrained=unconstrained, warmup={"step_size": torch.tensor([0.1, 0.2])},
        log_evidence=LogEvidence.checked(-3.0, 0.5, "consistent estimate"),
    )  # fmt: skip
    idata = diagnostics.to_idata(run, matmul, X, Y, prior_draws=5)
    assert idata.posterior["b"].shape == (64, 5, 3)
    assert idata.sample_stats["lp"].values[:, 0].tolist()[:9] == [0, 1, 2, 3, 6, 7, 8, 9, 12]
    assert np.array_equal(idata.unconstrained_posterior["position"].values, idata.posterior["b"].values)
    assert idata.warmup_sample_stats["step_size"].values.tolist() == pytest.approx([0.1, 0.2])
    assert idata.sample_stats.attrs["superchains"] == 16
    assert idata.posterior.attrs["chains_run"] == 96
    assert idata.posterior.attrs["log_evidence_smc"] == -3.0
    assert (
        diagnostics.to_idata(run, matmul, X, Y, prior_draws=5, max_chains=None).posterior["b"].shape[0] == 96
    )


def test_saved_twice_are_the_same_bytes_and_read_back_equal(chains, tmp_path: Path) -> None:
    digests = []
    for name in ("a", ".b.tmp"):
        idata = diagnostics.to_idata(chains, compact, X, Y, prior_draws=5)
        diagnostics.save(idata, tmp_path / name)
        digests.append(hashlib.sha256((tmp_path / name).read_bytes()).hexdigest())
        time.sleep(1.1)
    assert digests[0] == digests[1]
    back = diagnostics.load(tmp_path / "a")
    (tmp_path / "a").unlink()
    assert back.groups() == idata.groups()
    for group in idata.groups():
        assert back[group].identical(idata[group])


def test_foreign_files_are_refused(chains, tmp_path: Path) -> None:
    path = tmp_path / "draws.nc"
    path.write_bytes(b"\x80\x04cposix\nsystem\n(S'touch marker'\ntR.")
    with pytest.raises(ValueError, match="HDF5"):
        diagnostics.load(path)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="HDF5"):
        diagnostics.load(path)
    idata = diagnostics.to_idata(chains, compact, X, Y, prior_draws=5)
    diagnostics.save(idata, path)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"no whole netCDF|draws"):
        diagnostics.load(path)
    idata.posterior.attrs["schema"] = 99
    idata.to_netcdf(str(path), engine="h5netcdf")
    with pytest.raises(ValueError, match="newer"):
        diagnostics.load(path)
    with pytest.raises(FileNotFoundError):
        diagnostics.load(tmp_path / "none.nc")


def test_a_missing_group_is_an_error_when_it_is_saved(chains, tmp_path: Path) -> None:
    idata = diagnostics.to_idata(chains, compact, X, Y, prior_draws=5)
    del idata.log_likelihood
    with pytest.raises(ValueError, match="log_likelihood"):
        diagnostics.save(idata, tmp_path / "x.nc")


def test_compare_names_the_culprit(chains) -> None:
    one = diagnostics.to_idata(chains, compact, X, Y, prior_draws=5)
    half = nuts(compact, X[:9], Y[:9], num_draws=10, warmup_steps=5, num_chains=1, seed=0, max_tree_depth=3)
    two = diagnostics.to_idata(half, compact, X[:9], Y[:9], prior_draws=5)
    with pytest.raises(ValueError, match=r"'a' has observations \(20,\), but 'b' has \(9,\)"):
        diagnostics.compare({"a": one, "b": two})
    three = diagnostics.to_idata(chains, compact, X, Y + 1, prior_draws=5)
    with pytest.raises(ValueError, match="different data"):
        diagnostics.compare({"a": one, "c": three})


# -- local and discrete latents


def schools(sigma, y=None):
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfNormal(5.0))
    with pyro.plate("schools", len(sigma)):
        theta = pyro.sample("theta", dist.Normal(mu, tau))
        return pyro.sample("obs", dist.Normal(theta, sigma), obs=y)


def test_a_hierarchy_says_what_its_log_likelihood_conditions_on() -> None:
    sigma, y = torch.tensor([15.0, 10.0, 16.0, 11.0]), torch.tensor([28.0, 8.0, -3.0, 7.0])
    draws = nuts(schools, sigma, y, num_draws=30, warmup_steps=40, num_chains=2, seed=0, max_tree_depth=4)
    idata = diagnostics.to_idata(draws, schools, sigma, y, prior_draws=10)
    assert idata.log_likelihood.attrs["local_latents"] == "conditioned on"
    assert set(idata.posterior) == {"mu", "tau"}
    assert idata.posterior.attrs["local_latents_left_out"] == "theta"
    whole = diagnostics.to_idata(draws, schools, sigma, y, prior_draws=10, local=True)
    assert whole.posterior["theta"].dims == ("chain", "draw", "schools")
    theta = draws.samples["theta"].double()
    expected = dist.Normal(theta, sigma.double()).log_prob(y.double())
    assert np.allclose(whole.log_likelihood["obs"].values, expected.numpy(), atol=1e-4)
    assert idata.constant_data["sigma"].dims == ("schools",)
    guided = fit((schools, AutoNormal(schools)), sigma, y, num_steps=20, seed=0)
    assert diagnostics.to_idata(guided, schools, sigma, y, num_draws=20, local=True).posterior[
        "theta"
    ].shape == (1, 20, 4)


def test_discrete_latents_are_summed_out_or_drawn() -> None:
    y = torch.tensor([-2.0, -1.8, 2.2, 1.9, 0.1])

    def mixture(y):
        loc = pyro.sample("loc", dist.Normal(torch.tensor([-2.0, 2.0]), 0.3).to_event(1))
        with pyro.plate("data", len(y)):
            k = pyro.sample("k", dist.Categorical(torch.tensor([0.3, 0.7])))
            pyro.sample("obs", dist.Normal(loc[k], 0.5), obs=y)

    draws = nuts(mixture, y, num_draws=12, warmup_steps=20, num_chains=1, seed=0, max_tree_depth=3)
    idata = diagnostics.to_idata(draws, mixture, y, prior_draws=5, local=True)
    loc = draws.samples["loc"][0].double()
    parts = dist.Normal(loc[:, None, :], 0.5).log_prob(y.double()[:, None]) + torch.tensor([0.3, 0.7]).log()
    assert np.allclose(idata.log_likelihood["obs"].values[0], parts.logsumexp(-1).numpy(), atol=1e-3)
    assert idata.log_likelihood.attrs["local_latents"] == "integrated out"
    assert list(idata.posterior["k"].values[0, :, :4].mean(0)) == [0, 0, 1, 1]

    def switch(y):
        on = pyro.sample("on", dist.Bernoulli(0.5))
        loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(y)):
            pyro.sample("obs", dist.Normal(loc + 4.0 * on, 0.5), obs=y)

    draws = nuts(switch, y + 3, num_draws=12, warmup_steps=20, num_chains=1, seed=0, max_tree_depth=3)
    idata = diagnostics.to_idata(draws, switch, y + 3, prior_draws=5)
    assert set(idata.posterior) == {"on", "loc"}
    assert idata.log_likelihood.attrs["local_latents"] == "none"


def test_a_point_guide_and_a_guide_that_lacks_a_site() -> None:
    result = fitted(compact, AutoDelta)
    idata = diagnostics.to_idata(result, compact, X, Y, num_draws=10, prior_draws=5)
    assert diagnostics.pareto_k(idata) == -math.inf
    with pytest.raises(ValueError, match=r"no site \['b'\]"):
        guide_draws(compact, lambda x, y: None, inspect_model(compact, (X, Y)), (X, Y))


def test_seed_fixes_everything_and_leaves_the_caller_alone(chains) -> None:
    state = torch.get_rng_state()
    one = diagnostics.to_idata(chains, compact, X, Y, prior_draws=5, seed=1)
    two = diagnostics.to_idata(chains, compact, X, Y, prior_draws=5, seed=1)
    assert torch.equal(state, torch.get_rng_state())
    assert all(one[group].identical(two[group]) for group in one.groups())
    other = diagnostics.to_idata(chains, compact, X, Y, prior_draws=5, seed=2)
    assert not one.posterior_predictive.identical(other.posterior_predictive)


def test_bad_requests_are_named(chains) -> None:
    with pytest.raises(ValueError, match="coords"):
        diagnostics.to_idata(chains, compact, X, Y, dims={"b": ["f"]}, coords={"f": ["one"]})
    with pytest.raises(ValueError, match="event dimensions"):
        diagnostics.to_idata(chains, compact, X, Y, dims={"b": ["f", "g", "h"]})
    with pytest.raises(ValueError, match="pass the model"):
        diagnostics.to_idata(chains)
    with pytest.raises(ValueError, match="expected a Fit"):
        diagnostics.to_idata(3, compact, X, Y)
    with pytest.raises(ValueError, match="log_guide"):
        diagnostics.pareto_k(diagnostics.to_idata(chains, compact, X, Y, prior_draws=5))


# -- posteriors over structures


def subset(prior) -> SubsetRegression:
    return SubsetRegression(["a", "b", "c"], prior)


@pytest.mark.parametrize("how", ["enumerate", "gibbs"])
@pytest.mark.parametrize("prior", [NormalPrior(1.0, noise_scale=0.3), GPrior()], ids=["normal", "g"])
def test_structures_are_named_coordinates_with_joint_draws(how: str, prior, tmp_path: Path) -> None:
    from evidentia.inference.structure.enumerate import enumerate_structures
    from evidentia.inference.structure.gibbs import structure_gibbs

    x, y = X.double(), Y.double()
    model = subset(prior)
    posterior = (
        enumerate_structures(model, x, y)
        if how == "enumerate"
        else structure_gibbs(model, x, y, num_sweeps=50, warmup_sweeps=5, num_chains=2)
    )
    idata = diagnostics.to_idata(posterior, model, x, y, num_draws=100, prior_draws=10)
    expected = MANDATORY | {"structures"}
    if isinstance(prior, GPrior):
        expected -= {"prior", "prior_predictive"}
        assert idata.posterior.attrs["prior"].startswith("improper")
    assert set(idata.groups()) == expected
    assert idata.posterior["gate"].dims == ("chain", "draw", "gate_name")
    assert idata.posterior["gate"].shape == ((1, 100, 3) if how == "enumerate" else (2, 50, 3))
    assert list(idata.posterior.gate_name.values) == ["x->f/a", "x->f/b", "x->f/c"]
    assert "gamma.x->f.a" not in idata.posterior
    table = idata["structures"]
    best = posterior.table(top=1).iloc[0]
    assert table.structure.values[0] == best["structure"]
    assert float(table["log_evidence"][0]) == pytest.approx(best["log_evidence"])
    rows = idata.posterior["structure_index"].values
    assert np.array_equal(table["structure_gate"].values[rows], idata.posterior["gate"].values)
    assert np.allclose(table["log_evidence"].values[rows], idata.posterior["log_evidence"].values)
    assert math.isfinite(diagnostics.loo(idata).elpd_loo)
    names = {d.name for d in diagnostics.mcmc_checks(idata)}
    assert {"r_hat", "ess_bulk", "ess_tail"} <= names
    diagnostics.save(idata, tmp_path / "x.nc")
    assert diagnostics.load(tmp_path / "x.nc")["structures"].identical(table)


def weak() -> tuple[torch.Tensor, torch.Tensor]:
    """Data that leave the structure open."""
    generator = torch.Generator().manual_seed(9)
    x = torch.randn(15, 3, generator=generator, dtype=torch.float64)
    return x, x @ torch.tensor([0.6, -0.3, 0.1], dtype=torch.float64) + torch.randn(
        15, generator=generator, dtype=torch.float64
    )


@pytest.mark.statistical
def test_averaged_over_structures_the_draws_predict_the_exact_loo() -> None:
    from evidentia.inference.structure.enumerate import enumerate_structures

    x, y = weak()
    model = subset(NormalPrior(1.0, noise_scale=1.0))
    posterior = enumerate_structures(model, x, y)
    assert float(posterior.probability.max()) < 0.6
    idata = diagnostics.to_idata(posterior, model, x, y, num_draws=4000, prior_draws=5)
    # Every draw's log likelihood belongs to its own structure and weights.
    gate, weight = idata.posterior["gate"].values[0], idata.posterior["w.x->f"].values[0]
    mean = torch.as_tensor(gate * weight) @ x.T
    expected = dist.Normal(mean, 1.0).log_prob(y).numpy()
    assert np.allclose(idata.log_likelihood["obs"].values[0], expected)
    frequency = torch.as_tensor(gate).double().mean(0)
    inclusion = torch.tensor(posterior.inclusion()["probability"].tolist(), dtype=torch.float64)
    assert bool(((frequency - inclusion).abs() < 4.5 * (inclusion * (1 - inclusion) / 4000).sqrt()).all())
    # Given its structure a weight follows the conjugate posterior.
    full = torch.eye(3, dtype=torch.float64) + x.T @ x
    own = weight[gate.sum(1) == 3]
    error = full.inverse().diag().div(len(own)).sqrt().numpy()
    assert (abs(own.mean(0) - torch.linalg.solve(full, x.T @ y).numpy()) < 4.5 * error).all()
    # Exact leave-one-out of the averaged model: p(y_i | y_-i) = p(y) / p(y_-i).
    exact_loo = 0.0
    whole = (posterior.log_evidence + posterior.log_prior).logsumexp(0)
    for i in range(len(y)):
        keep = torch.arange(len(y)) != i
        left = enumerate_structures(model, x[keep], y[keep], conditional=False)
        exact_loo += float(whole - (left.log_evidence + left.log_prior).logsumexp(0))
    assert float(diagnostics.loo(idata).elpd_loo) == pytest.approx(exact_loo, abs=0.15)


@pytest.mark.parametrize(
    ("domain", "noise", "guide"),
    [
        ("simplex_vertex", "fixed", "mean_field"),
        ("simplex", "learned", "full_covariance"),
        ("cube_vertex", "latent", "mean_field"),
        ("cube", "latent", "full_covariance"),
    ],
)
def test_networks_draw_their_weights_from_the_guide_of_the_structure(domain, noise, guide) -> None:
    from evidentia.inference.structure.enumerate import enumerate_structures
    from evidentia.models.hyper import Hyper
    from evidentia.models.likelihood import Gaussian
    from evidentia.models.structure.family import Family
    from evidentia.models.structure.ops import GLM, Constant
    from evidentia.models.structure.weights import ARD

    scale = {"fixed": 0.3, "learned": Hyper(0.3), "latent": dist.LogNormal(-1.0, 0.3)}[noise]
    ops = {"flat": Constant(), "line": GLM(activation="tanh")}
    family = Family(3).edge("x", "f", ops=ops, domain=domain)
    model = family.model(likelihood=Gaussian(scale), weight_prior=ARD(1.0))
    posterior = enumerate_structures(
        model, X, Y, evidence="elbo", guide=guide, num_steps=100, evidence_particles=5, evidence_batches=4
    )
    idata = diagnostics.to_idata(posterior, model, X, Y, num_draws=400, prior_draws=8)
    assert set(idata.groups()) == MANDATORY | {"structures"}
    values = {name: torch.as_tensor(v.values[0].astype(float)) for name, v in idata.posterior.items()}
    gate, flat, line = values["gate"], values["w.x->f.flat.weight"], values["w.x->f.line.weight"]
    mean = gate[:, :1] * flat + gate[:, 1:] * (line @ X.double().T).tanh()
    assert ("noise" in values) == (noise != "fixed")
    sd = values.get("noise", torch.full((400,), 0.3, dtype=torch.float64))[:, None]
    expected = dist.Normal(mean, sd).log_prob(Y.double())
    assert np.allclose(idata.log_likelihood["obs"].values[0], expected.numpy(), rtol=1e-3, atol=1e-3)
    # The weights of one structure have the moments of its guide.
    row = int(posterior.probability.argmax())
    own = (gate == posterior.gates[row]).all(1)
    loc, spread = posterior.network.weights(row)["x->f/line/weight"]
    error = spread.double() / float(own.sum()) ** 0.5
    assert bool(((line[own].mean(0) - loc.double()).abs() < 4.5 * error).all())
    assert torch.allclose(line[own].std(0), spread.double(), rtol=0.4)
