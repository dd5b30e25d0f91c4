"""NUTS through one call: exact resume, energies, enumeration, the right posterior."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.distributions import constraints

from evidentia.inference.idata.draws import Draws
from evidentia.inference.mcmc.nuts import nuts


def data(n: int = 60) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(n, 4, generator=generator)
    y = x @ torch.tensor([1.0, -2.0, 0.5, 0.0]) + 0.5 * torch.randn(n, generator=generator)
    return x, y


def regression(x, y=None):
    b = pyro.sample("b", dist.Normal(torch.zeros(4), 1.0).to_event(1))
    s = pyro.sample("s", dist.HalfNormal(1.0))
    with pyro.plate("data", len(x)):
        return pyro.sample("obs", dist.Normal(x @ b, s), obs=y)


OPTIONS = {"warmup_steps": 100, "num_chains": 1, "max_tree_depth": 4}


def same(one: Draws, two: Draws) -> bool:
    return all(
        mine.keys() == other.keys() and all(torch.equal(mine[key], other[key]) for key in mine)
        for mine, other in ((one.samples, two.samples), (one.stats, two.stats))
    )


@pytest.mark.slow
def test_resume_after_the_warmup_is_bitwise() -> None:
    x, y = data()
    whole = nuts(regression, x, y, num_draws=80, seed=5, **OPTIONS)
    part = nuts(regression, x, y, num_draws=30, seed=5, **OPTIONS)
    assert torch.equal(whole.samples["b"][:, :30], part.samples["b"])
    torch.randn(7)
    resumed = nuts(regression, x, y, num_draws=80, state=part.state, **OPTIONS)
    assert same(whole, resumed)
    for mutant in ("rng/torch", "step_size", "mass/0"):
        bent = dict(part.state)
        old = bent[f"chain/0/{mutant}"]
        bent[f"chain/0/{mutant}"] = (
            torch.Generator().manual_seed(3).get_state() if mutant == "rng/torch" else old * 1.01
        )
        assert not same(whole, nuts(regression, x, y, num_draws=80, state=bent, **OPTIONS))


@pytest.mark.parametrize("stop_at", [(0, 10), (0, 22), (1, 7), (1, 25)])
def test_a_stop_at_any_transition_resumes_to_the_same_draws(stop_at: tuple[int, int]) -> None:
    x, y = data(20)
    options = {"warmup_steps": 20, "num_chains": 2, "num_draws": 8, "max_tree_depth": 4}
    whole = nuts(regression, x, y, seed=1, **options)
    told = nuts(
        regression, x, y, seed=1, **options,
        callbacks=[lambda s: "signal" if (s.chain, s.step) == stop_at else None],
    )  # fmt: skip
    assert told.stopped == "signal"
    assert told.num_draws < 8
    assert same(whole, nuts(regression, x, y, state=told.state, **options))
    assert whole.stopped == "max_steps"


def test_full_mass_resumes_too() -> None:
    x, y = data(20)
    options = {"warmup_steps": 30, "num_chains": 1, "full_mass": True, "max_tree_depth": 4}
    whole = nuts(regression, x, y, seed=1, num_draws=8, **options)
    part = nuts(regression, x, y, seed=1, num_draws=3, **options)
    assert part.state["chain/0/mass/0"].shape == (5, 5)
    assert same(whole, nuts(regression, x, y, state=part.state, num_draws=8, **options))


def test_statistics_are_what_they_say() -> None:
    x, y = data()
    draws = nuts(regression, x, y, num_draws=40, seed=5, **OPTIONS)
    assert {k: tuple(v.shape) for k, v in draws.samples.items()} == {"b": (1, 40, 4), "s": (1, 40)}
    assert set(draws.stats) == {
        "lp", "energy", "acceptance_rate", "step_size", "diverging", "n_steps", "tree_depth",
    }  # fmt: skip
    for i in (0, 39):
        b, s = draws.samples["b"][0, i], draws.samples["s"][0, i]
        trace = pyro.poutine.trace(pyro.condition(regression, {"b": b, "s": s})).get_trace(x, y)
        # On the unconstrained space log s has the Jacobian s.
        assert float(trace.log_prob_sum() + s.log()) == pytest.approx(
            float(draws.stats["lp"][0, i]), rel=1e-5
        )
    # The energy is that of the start of the transition: the kinetic part of five momenta is half a
    # chi-square.
    kinetic = draws.stats["energy"][0, 1:] + draws.stats["lp"][0, :-1]
    assert bool((kinetic > 0).all())
    assert abs(float((kinetic.mean() - 2.5) / (2.5 / len(kinetic)) ** 0.5)) < 4.5
    assert bool((draws.stats["acceptance_rate"] <= 1).all())
    assert draws.stats["step_size"].unique().numel() == 1


def test_divergences_are_marked() -> None:
    def funnel():
        v = pyro.sample("v", dist.Normal(0.0, 3.0))
        pyro.sample("w", dist.Normal(torch.zeros(8), (v / 2).exp()).to_event(1))

    draws = nuts(funnel, num_draws=80, warmup_steps=40, num_chains=1, seed=3, target_accept_prob=0.3)
    assert draws.stats["diverging"].dtype == torch.bool
    assert int(draws.stats["diverging"].sum()) > 0


@pytest.mark.slow
@pytest.mark.statistical
def test_draws_follow_a_conjugate_posterior() -> None:
    y = torch.tensor([0.5, 1.5, 3.0])

    def model(y):
        z = pyro.sample("z", dist.Normal(0.0, 2.0))
        with pyro.plate("data", len(y)):
            pyro.sample("obs", dist.Normal(z, 1.0), obs=y)

    variance = 1 / (0.25 + 3)
    mean = variance * float(y.sum())
    draws = nuts(model, y, num_draws=250, warmup_steps=60, num_chains=2, seed=0, max_tree_depth=4)
    z = draws.samples["z"].double()
    error = (variance / (z.numel() / 4)) ** 0.5
    assert abs(float(z.mean() - mean)) < 4.5 * error
    assert float(z.var()) == pytest.approx(variance, rel=0.3)
    assert not torch.equal(z[0], z[1])


def test_discrete_latents_are_summed_out() -> None:
    y = torch.tensor([-2.0, -2.1, 2.2, 1.9])

    def mixture(y):
        loc = pyro.sample("loc", dist.Normal(torch.tensor([-2.0, 2.0]), 0.3).to_event(1))
        with pyro.plate("data", len(y)):
            k = pyro.sample("k", dist.Categorical(torch.tensor([0.5, 0.5])))
            pyro.sample("obs", dist.Normal(loc[k], 0.5), obs=y)

    draws = nuts(mixture, y, num_draws=20, warmup_steps=30, num_chains=1, seed=0, max_tree_depth=4)
    assert set(draws.samples) == {"loc"}
    assert abs(float(draws.samples["loc"][..., 0].mean()) + 2.0) < 0.6


def test_parameters_come_from_the_store_and_stay_put() -> None:
    def model():
        scale = pyro.param("scale", torch.tensor(1.0), constraint=constraints.positive)
        pyro.sample("z", dist.Normal(0.0, scale))

    pyro.param("scale", torch.tensor(100.0), constraint=constraints.positive)
    state = torch.get_rng_state()
    draws = nuts(model, num_draws=20, warmup_steps=30, num_chains=1, seed=0)
    assert float(draws.samples["z"].abs().max()) > 10
    assert float(pyro.param("scale").detach()) == pytest.approx(100.0)
    assert torch.equal(state, torch.get_rng_state())


def test_bad_settings_and_states_are_named() -> None:
    x, y = data(20)
    with pytest.raises(ValueError, match="num_draws"):
        nuts(regression, x, y, num_draws=0)
    with pytest.raises(ValueError, match="target_accept_prob"):
        nuts(regression, x, y, target_accept_prob=1.0)
    state = nuts(regression, x, y, num_draws=1, warmup_steps=5, num_chains=1, seed=0).state
    with pytest.raises(ValueError, match="warmup_steps=5"):
        nuts(regression, x, y, num_draws=2, warmup_steps=6, num_chains=1, state=state)

    def other(x, y):
        pyro.sample("b", dist.Normal(torch.zeros(3), 1.0).to_event(1))

    with pytest.raises(ValueError, match="the same model"):
        nuts(other, x, y, num_draws=2, warmup_steps=5, num_chains=1, state=state)
    with pytest.raises(ValueError, match="no continuous latent"):
        nuts(lambda: None, num_draws=1, warmup_steps=1)
