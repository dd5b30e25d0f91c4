"""`sample`: right draws, honest starts, resumed bitwise, and every mistake named."""

import math

import arviz as az
import pyro
import pyro.distributions as dist
import pytest
import torch
from posteriors import eight_schools

from evidentia.inference import diagnostics
from evidentia.inference.density.log_density import compile_density
from evidentia.inference.mcmc.chain_mcmc import ChainMCMC
from evidentia.inference.mcmc.choose_kernel import kernel_classes, kernel_of
from evidentia.inference.mcmc.hmc_kernel import HMC
from evidentia.inference.mcmc.sample import sample
from evidentia.inference.mcmc.sampling_run import SamplingRun
from evidentia.inference.mcmc.warm_start import first_positions, superchain_count

Y = torch.tensor([0.4, 1.9, -0.3, 1.1], dtype=torch.float64)


def normal(y=None):
    """Mean and log scale; the posterior of `mean` given `scale` is not needed, only that of `mean`."""
    mean = pyro.sample("mean", dist.Normal(torch.zeros(2, dtype=Y.dtype), 1.0).to_event(1))
    with pyro.plate("data", 4):
        pyro.sample("obs", dist.Normal(mean[0] + mean[1], 0.5), obs=y)


def exact():
    """Mean and covariance of the two summands."""
    ones = torch.ones(4, 2, dtype=Y.dtype)
    covariance = torch.linalg.inv(torch.eye(2, dtype=Y.dtype) + 4 * ones.T @ ones)
    return covariance @ (4 * ones.T @ Y), covariance


@pytest.mark.parametrize("start", ["smc", "prior", "uniform"])
def test_draws_follow_the_posterior_from_every_start(start: str) -> None:
    draws = sample(normal, Y, num_chains=64, num_draws=60, warmup_steps=60, seed=1, start=start)
    mean, covariance = exact()
    x = draws.samples["mean"]
    assert x.shape == (64, 60, 2)
    assert x.dtype == Y.dtype
    chain_means = x.mean(1)
    z = (chain_means.mean(0) - mean) / (chain_means.std(0) / 8)  # chains are independent
    assert float(z.abs().max()) < 4.5
    found = torch.cov(x.reshape(-1, 2).T)
    assert torch.allclose(found, covariance, rtol=0.15, atol=0.03)
    assert set(draws.stats) == {"lp", "energy", "acceptance_rate", "diverging", "n_steps", "step_size"}
    assert (draws.log_evidence is not None) == (start == "smc")
    assert draws.superchains == 16
    assert len(draws.warmup["step_size"]) == 60
    density = compile_density(normal, Y, num_chains=64)
    assert torch.allclose(density(draws.unconstrained[:, -1]), draws.stats["lp"][:, -1])
    assert torch.equal(draws.samples["mean"], draws.unconstrained)  # the real line needs no transform


class StopAt:
    """Stops at a transition and keeps the last checkpoint."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step(self, step):
        assert step.num_steps == 12 + 2 * 6
        assert step.warmup == (step.step <= 12)
        return "signal" if step.step == self.step else None


@pytest.mark.parametrize("kernel", kernel_classes())
@pytest.mark.parametrize("stop", [5, 17])
def test_an_interrupted_run_continues_bitwise(kernel: str, stop: int) -> None:
    settings = {"kernel": kernel, "num_draws": 6, "warmup_steps": 12, "num_chains": 32, "thinning": 2}
    whole = sample(normal, Y, seed=3, check=False, **settings)
    part = sample(normal, Y, seed=3, check=False, callbacks=[StopAt(stop)], **settings)
    assert part.stopped == "signal"
    assert part.num_draws == max(0, (stop - 12) // 2)
    torch.randn(3)  # the caller's stream must not matter
    rest = sample(normal, Y, check=False, state=part.state, **settings)
    assert torch.equal(rest.samples["mean"], whole.samples["mean"])
    for name, value in whole.stats.items():
        assert torch.equal(rest.stats[name], value), name
    for name, path in whole.warmup.items():
        assert torch.equal(rest.warmup[name], path), name
    assert rest.log_evidence.value == whole.log_evidence.value
    more = sample(normal, Y, check=False, state=whole.state, **(settings | {"num_draws": 9}))
    assert torch.equal(more.samples["mean"][:, :6], whole.samples["mean"])
    assert more.num_draws == 9


def test_checkpoints_come_when_asked_for_and_hold_only_tensors_and_scalars() -> None:
    kept = []

    class Keep:
        def on_checkpoint(self, state):
            kept.append(state)

    sample(normal, Y, num_draws=4, warmup_steps=6, num_chains=8, seed=0, check=False, callbacks=[Keep()],
           checkpoint_every=5)  # fmt: skip
    assert [state["step"] for state in kept] == [5, 10]
    assert all(
        isinstance(value, torch.Tensor | int | float | str) for state in kept for value in state.values()
    )


def test_thinning_keeps_every_other_draw_and_no_divergence_is_lost() -> None:
    settings = {"num_chains": 16, "warmup_steps": 10, "seed": 5, "check": False}
    every = sample(normal, Y, num_draws=8, **settings)
    second = sample(normal, Y, num_draws=4, thinning=2, **settings)
    assert torch.equal(second.samples["mean"], every.samples["mean"][:, 1::2])
    density = compile_density(normal, Y, num_chains=4)
    run = SamplingRun(density, kernel_of("hmc"), 2, 0, 3, 0)
    run.begin("uniform", 0)
    advance = run.kernel.advance

    def second_transition_diverges(*given):
        state, info = advance(*given)
        return state, info._replace(diverging=torch.tensor([run.step == 1, False, False, run.step == 5]))

    run.kernel.advance = second_transition_diverges
    for _ in range(6):
        run.advance()
    assert run.recording.stats["diverging"].tolist() == [
        [True, False, False, False],
        [False, False, False, True],
    ]


def test_superchains_share_their_start_and_the_rest_is_spread() -> None:
    density = compile_density(normal, Y, num_chains=64)
    run = SamplingRun(density, kernel_of("hmc"), 1, 10, 1, 0)
    run.begin("auto", 16)
    position = run.state.position.reshape(16, 4, 2)
    assert torch.equal(position, position[:, :1].expand(16, 4, 2))
    assert len(torch.unique(position[:, 0], dim=0)) == 16
    found = first_positions(density, "auto", 64, torch.Generator().manual_seed(0)).position
    assert torch.equal(position[:, 0], found[::4])  # some of every tempered copy
    assert superchain_count(64, None) == 16
    assert superchain_count(250, None) == 10
    for wrong in (3, 1):
        with pytest.raises(ValueError, match="divides 64"):
            superchain_count(64, wrong)


def test_a_given_start_is_taken_as_it_is() -> None:
    density = compile_density(normal, Y, num_chains=3)
    generator = torch.Generator().manual_seed(0)
    value = torch.tensor([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]], dtype=Y.dtype)
    assert torch.equal(first_positions(density, {"mean": value}, 3, generator).position, value)
    assert torch.equal(first_positions(density, value, 3, generator).position, value)
    one = first_positions(density, {"mean": value[1]}, 3, generator).position
    assert torch.equal(one, value[1].expand(3, 2))
    with pytest.raises(ValueError, match=r"no value for \['mean'\]"):
        first_positions(density, {"other": value}, 3, generator)
    with pytest.raises(ValueError, match=r"'mean' has shape \(4,\)"):
        first_positions(density, {"mean": torch.zeros(4)}, 3, generator)
    with pytest.raises(ValueError, match=r"positions have shape \(3, 5\)"):
        first_positions(density, torch.zeros(3, 5), 3, generator)
    with pytest.raises(ValueError, match="chain 1 is"):
        first_positions(density, value * torch.tensor([[1.0], [math.inf], [1.0]]), 3, generator)
    with pytest.raises(ValueError, match="start: expected one of"):
        first_positions(density, "map", 3, generator)


def nothing(y):
    pyro.sample("obs", dist.Normal(0.0, 1.0), obs=y)


def counts(y):
    rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
    hidden = pyro.sample("hidden", dist.Poisson(rate))
    pyro.sample("obs", dist.Normal(hidden, 1.0), obs=y)


def broken(y):
    mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
    pyro.sample("obs", dist.Normal(mean, 1.0), obs=y * float("nan"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_draws": 0}, "num_draws: expected a number >= 1, got 0. Fix"),
        ({"warmup_steps": -1}, "warmup_steps: expected a number >= 0"),
        ({"num_chains": 0}, "num_chains: expected a number >= 1"),
        ({"thinning": 0}, "thinning: expected a number >= 1"),
        ({"kernel": "hcm"}, "kernel='hmc'"),
        ({"kernel": "nuts", "thinning": 2}, "thinning: not with kernel='nuts'"),
        ({"model": nothing}, "expected a continuous latent site"),
        ({"model": counts}, "site 'hidden'.*cannot be enumerated"),
        ({"model": broken}, "obs"),
        ({"start": "somewhere"}, "start: expected one of"),
        ({"num_superchains": 7}, "num_superchains"),
    ],
)  # fmt: skip
def test_mistakes_are_named(settings: dict, message: str) -> None:
    options = {"model": normal, "num_chains": 64, "num_draws": 2, "warmup_steps": 2, "seed": 0} | settings
    with pytest.raises(ValueError, match=message):
        sample(options.pop("model"), Y, **options)


def test_a_state_of_other_settings_or_another_model_is_refused() -> None:
    settings = {"num_draws": 2, "warmup_steps": 2, "num_chains": 8, "check": False}
    state = sample(normal, Y, seed=0, **settings).state
    for change in ({"kernel": "mala"}, {"num_chains": 16}, {"warmup_steps": 3}, {"thinning": 2}):
        with pytest.raises(ValueError, match=f"{next(iter(change))}="):
            sample(normal, Y, state=state, **(settings | change))
    model, args = eight_schools()
    with pytest.raises(ValueError, match="positions have shape"):
        sample(model, *args, state=state, **settings)


def test_failed_checks_are_logged_with_a_remedy(caplog) -> None:
    sample(normal, Y, num_draws=4, warmup_steps=0, num_chains=8, seed=0, start=torch.full((8, 2), 9.0))
    assert any("ess_bulk" in record.message and "more draws" in record.message for record in caplog.records)


def test_a_compiled_density_is_taken_as_it_is() -> None:
    density = compile_density(normal, Y, num_chains=8)
    again = sample(density, num_draws=3, warmup_steps=3, seed=4, check=False)
    fresh = sample(normal, Y, num_chains=8, num_draws=3, warmup_steps=3, seed=4, check=False)
    assert torch.equal(again.samples["mean"], fresh.samples["mean"])
    with pytest.raises(ValueError, match="has its 8 chains and its data"):
        sample(density, Y, num_draws=3)


def test_few_chains_start_from_enough_particles() -> None:
    density = compile_density(normal, Y, num_chains=2)
    start = first_positions(density, "smc", 2, torch.Generator().manual_seed(0))
    assert start.position.shape == (2, 2)
    assert start.log_evidence.standard_error < 1


def test_where_no_prior_draw_fits_the_start_is_uniform_and_said(caplog) -> None:
    def far(y):
        mean = pyro.sample("mean", dist.Normal(torch.zeros((), dtype=Y.dtype), 1e-3))
        outside = torch.where(mean.abs() > 0.1, 0.0, -math.inf)
        pyro.factor("inside", outside - 0.5 * mean**2)
        pyro.sample("obs", dist.Normal(mean, 1.0), obs=y[0])

    density = compile_density(far, Y, num_chains=8)
    start = first_positions(density, "auto", 8, torch.Generator().manual_seed(0))
    assert start.how == "uniform"
    assert "no tempered start" in caplog.text
    with pytest.raises(ValueError, match="prior"):
        first_positions(density, "smc", 8, torch.Generator().manual_seed(0))


def test_pyros_nuts_runs_through_the_same_call() -> None:
    draws = sample(normal, Y, kernel="nuts", num_draws=5, warmup_steps=5, num_chains=2, seed=0, check=False)
    assert draws.sampler == "nuts"
    assert draws.samples["mean"].shape == (2, 5, 2)


def test_eight_schools_end_with_a_verdict_and_every_group() -> None:
    model, args = eight_schools()
    draws = sample(model, *args, num_draws=100, warmup_steps=80, num_chains=64, seed=2, check=False)
    found = {check.name: check for check in diagnostics.verdict(draws).checks}
    assert found["nested_r_hat"].value < 1.01
    assert found["ess_bulk"].value > 1000
    idata = diagnostics.to_idata(draws, model, *args, prior_draws=20)
    assert {"log_prior", "unconstrained_posterior", "warmup_sample_stats", "log_likelihood"} <= set(
        idata.groups()
    )
    assert abs(draws.log_evidence.value + 31.31135) < 4.5 * draws.log_evidence.standard_error
    assert abs(float(idata.posterior["mu"].mean()) - 4.4) < 0.3  # NUTS reference 4.40


def test_chains_inside_a_kernel_are_chains_to_pyro() -> None:
    mcmc = ChainMCMC(HMC(normal, num_chains=16, seed=0), 30, warmup_steps=40, disable_progbar=True)
    mcmc.run(Y)
    x = mcmc.get_samples(group_by_chain=True)["mean"]
    assert x.shape == (16, 30, 2)
    z = (x.mean((0, 1)) - exact()[0]) / (x.mean(1).std(0) / 4)
    assert float(z.abs().max()) < 4.5
    assert list(mcmc.diagnostics()["divergences"]) == [f"chain {i}" for i in range(16)]
    assert mcmc.diagnostics()["mean"]["r_hat"].max() < 1.2
    idata = az.from_pyro(mcmc, num_chains=16, log_likelihood=False)
    assert idata.posterior["mean"].shape == (16, 30, 2)
    assert idata.sample_stats["diverging"].shape == (16, 30)
    mcmc.run(Y)
    assert mcmc.get_samples(group_by_chain=True)["mean"].shape == (16, 30, 2)
    with pytest.raises(ValueError, match="num_chains"):
        ChainMCMC(HMC(normal), 5, num_chains=2)
    with pytest.raises(ValueError, match="BatchedKernel"):
        ChainMCMC(pyro.infer.NUTS(normal), 5)
