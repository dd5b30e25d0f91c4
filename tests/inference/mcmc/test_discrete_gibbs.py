"""Discrete sites that are kept: exact against enumeration and summation, through `sample` and under Pyro."""

import itertools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import MCMC
from scipy import stats

from evidentia.inference.density.discrete import DiscreteSite, discrete_sites, pack_discrete, unpack_discrete
from evidentia.inference.density.log_density import compile_density
from evidentia.inference.diagnostics import to_idata
from evidentia.inference.mcmc.discrete_gibbs import gibbs_element, gibbs_sweep, walk_element
from evidentia.inference.mcmc.gibbs_kernel import DiscreteGibbs
from evidentia.inference.mcmc.sample import sample

DATA = torch.tensor([-1.2, 0.3, 1.9, 0.8, -0.4, 2.2], dtype=torch.float64)
WEIGHTS, SPREAD, NOISE = (0.35, 0.65), (1.5, 0.8), 0.8
CENTRE = (-1.0, 1.2)


def mixture(y):
    loc = pyro.sample("loc", dist.Normal(torch.tensor(CENTRE), torch.tensor(SPREAD)).to_event(1))
    with pyro.plate("data", len(y)):
        k = pyro.sample("k", dist.Categorical(torch.tensor(WEIGHTS)))
        pyro.sample("y", dist.Normal(loc[k], NOISE), obs=y)


def exact_mixture():
    """Assignment probabilities and posterior means of the locations over all 2^6 assignments."""
    log_weights, share, means = [], [], []
    for each in itertools.product((0, 1), repeat=len(DATA)):
        k = torch.tensor(each)
        total, mean = torch.tensor(WEIGHTS).double()[k].log().sum(), []
        for j in range(2):
            y = DATA[k == j]
            precision = SPREAD[j] ** -2 + len(y) / NOISE**2
            centre = (CENTRE[j] / SPREAD[j] ** 2 + y.sum() / NOISE**2) / precision
            mean.append(float(centre))
            # Marginal of the group's data, constants common to all assignments left out.
            total = total - 0.5 * math.log(precision * SPREAD[j] ** 2) - 0.5 * y.square().sum() / NOISE**2
            total = total + 0.5 * precision * centre**2 - 0.5 * CENTRE[j] ** 2 / SPREAD[j] ** 2
        log_weights.append(total)
        share.append(k.double())
        means.append(torch.tensor(mean, dtype=torch.float64))
    weight = torch.stack([torch.as_tensor(w) for w in log_weights]).softmax(0)
    return weight @ torch.stack(share), weight @ torch.stack(means)


def z_of(values, exact):
    """values (C, N, …): chains are independent."""
    mean = values.double().mean(1)
    return ((mean.mean(0) - exact) / (mean.std(0) / math.sqrt(len(mean)))).abs().max()


@pytest.mark.slow
@pytest.mark.statistical
def test_a_mixture_agrees_with_enumeration():
    draws = sample(
        mixture, DATA, kernel="gibbs", num_chains=128, warmup_steps=60, num_draws=120, seed=0, check=False
    )
    share, means = exact_mixture()
    assert draws.samples["k"].shape == (128, 120, 6)
    assert draws.samples["k"].dtype == torch.long
    assert z_of(draws.samples["k"], share) < 4.5
    assert z_of(draws.samples["loc"], means) < 4.5
    assert (draws.samples["k"].double().mean((0, 1)) - share).abs().max() < 0.03
    assert draws.stats["n_steps"].min() > 12
    assert draws.log_evidence is None


def counts(y):
    rate = pyro.sample("rate", dist.Gamma(3.0, 0.7))
    n = pyro.sample("n", dist.Poisson(rate))
    pyro.sample("y", dist.Normal(n, 1.5), obs=y)


def exact_count(y=4.2):
    """n is negative binomial under the prior: probabilities on 0…80."""
    n = torch.arange(81, dtype=torch.float64)
    prior = torch.tensor(stats.nbinom(3.0, 0.7 / 1.7).logpmf(n.numpy()))
    weight = (prior - 0.5 * ((y - n) / 1.5) ** 2).softmax(0)
    return n, weight, weight @ ((3.0 + n) / 1.7)


@pytest.mark.slow
@pytest.mark.statistical
def test_a_poisson_latent_agrees_with_summation():
    kernel = DiscreteGibbs(sweeps=3)
    draws = sample(
        counts, torch.tensor(4.2, dtype=torch.float64), kernel=kernel, num_chains=128, warmup_steps=60,
        num_draws=150, seed=1, check=False,
    )  # fmt: skip
    n, weight, rate = exact_count()
    found = draws.samples["n"]
    assert found.dtype == torch.float64, "as the model draws it"
    assert found.min() >= 0
    assert z_of(found, weight @ n) < 4.5
    assert z_of(draws.samples["rate"], rate) < 4.5
    for value in (0, 2, 5, 9):
        assert z_of(found == value, weight[value]) < 4.5
    assert 0.3 < float(draws.state["kernel/walk_rate"]) < 0.99


def joint(position, values):
    """x ~ N(0, 1), a in {0, 1, 2}, b = 0, 1, 2, …: coupled, and wrong below zero on purpose."""
    x, a, b = position[:, 0], values[:, 0], values[:, 1]
    log_rate = 0.3 * x + 0.2 * a
    return -0.5 * x.square() + 0.5 * a * x + b * log_rate - log_rate.exp() - torch.lgamma(b.abs() + 1)


def joint_draws(count, generator):
    grid = torch.linspace(-7, 7, 1401, dtype=torch.float64)
    cells = torch.cartesian_prod(grid, torch.arange(3.0).double(), torch.arange(40.0).double())
    weight = joint(cells[:, :1], cells[:, 1:]).softmax(0)
    uniform = torch.rand(count, generator=generator, dtype=torch.float64)
    index = torch.searchsorted(weight.cumsum(0), uniform).clamp(max=len(cells) - 1)
    return cells[index, :1], cells[index, 1:]


@pytest.mark.statistical
def test_a_sweep_leaves_the_exact_law():
    generator, count = torch.Generator().manual_seed(0), 200_000
    zero, one = torch.zeros(1, dtype=torch.float64), torch.full((1,), math.inf, dtype=torch.float64)
    sites = (
        DiscreteSite("a", (), torch.arange(3.0), zero, zero + 2, zero),
        DiscreteSite("b", (), None, zero, one, zero),
    )
    position, values = joint_draws(count, generator)
    for jump in (1, 2):
        sweep = gibbs_sweep(
            position, values, joint(position, values), sites, joint, jump=jump, generator=generator
        )
        values = sweep.values
        torch.testing.assert_close(sweep.log_density, joint(position, values))
        assert 0.3 < sweep.acceptance.mean() < 0.97
        assert sweep.evaluations == 4
    _, fresh = joint_draws(count, generator)
    label = (values[:, 0] * 6 + values[:, 1].clamp(max=5)).long()
    expected = (fresh[:, 0] * 6 + fresh[:, 1].clamp(max=5)).long()
    table = torch.stack([label.bincount(minlength=18), expected.bincount(minlength=18)]).numpy()
    assert stats.chi2_contingency(table).pvalue > 1e-4
    # The position did not move, so its law given a value must still be the exact one.
    other, given = joint_draws(count, generator)
    for a in range(3):
        mine, exact = position[values[:, 0] == a, 0], other[given[:, 0] == a, 0]
        assert stats.ks_2samp(mine.numpy(), exact.numpy(), method="asymp").pvalue > 1e-4, a


def test_an_impossible_element_stays():
    def nowhere(position, values):
        return torch.full((len(values),), -torch.inf)

    values = torch.tensor([[1.0], [2.0]])
    position, before = torch.zeros(2, 1), torch.tensor([0.5, 0.7])
    after, log_density = gibbs_element(position, values, before, 0, torch.arange(3.0), nowhere)
    assert torch.equal(after, values)
    assert torch.equal(log_density, before)
    bounds = (torch.tensor(0.0), torch.tensor(math.inf))
    zero = torch.zeros(500, 1)
    after, _, rate = walk_element(
        zero, zero, zero[:, 0], 0, bounds, lambda q, d: -d[:, 0], torch.Generator().manual_seed(0)
    )
    assert after.min() == 0, "a finite density below the support is never asked for"
    assert sorted(set(rate.tolist())) == pytest.approx([0.0, math.exp(-1)])


def several(y):
    loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
    flag = pyro.sample("flag", dist.Bernoulli(torch.tensor([0.2, 0.7])).to_event(1))
    total = pyro.sample("total", dist.Binomial(torch.tensor([2.0, 5.0]), 0.5).to_event(1))
    n = pyro.sample("n", dist.Geometric(0.4))
    pyro.sample("y", dist.Normal(loc + flag.sum() + total.sum() + n, 1.0), obs=y)


def test_sites_tell_their_supports():
    density = compile_density(several, torch.tensor(3.0), num_chains=4, discrete="given")
    flag, total, n = discrete_sites(density)
    assert (flag.name, total.name, n.name) == ("flag", "total", "n")
    assert flag.values.tolist() == [0.0, 1.0]
    assert total.values is None, "elements with different supports walk"
    assert total.upper.tolist() == [2.0, 5.0]
    assert (n.lower.item(), n.upper.item()) == (0.0, math.inf)
    values = torch.arange(10.0, dtype=torch.float64).reshape(2, 5)
    sites = (flag, total, n)
    assert torch.equal(pack_discrete(sites, unpack_discrete(sites, values)), values)

    def one_hot(y):
        loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
        k = pyro.sample("k", dist.OneHotCategorical(torch.ones(3)))
        pyro.sample("y", dist.Normal(loc + k[0], 1.0), obs=y)

    with pytest.raises(ValueError, match=r"site 'k': OneHotCategorical"):
        discrete_sites(compile_density(one_hot, torch.tensor(0.0), num_chains=2, discrete="given"))


def test_a_stopped_run_continues_bitwise_with_its_discrete_draws():
    settings = {
        "kernel": "gibbs", "num_chains": 8, "warmup_steps": 6, "num_draws": 8, "check": False,
    }  # fmt: skip
    whole = sample(several, torch.tensor(3.0), seed=4, **settings)
    states = []

    class Keep:
        def on_checkpoint(self, state):
            states.append(state)

    sample(several, torch.tensor(3.0), seed=4, callbacks=[Keep()], checkpoint_every=9, **settings)
    resumed = sample(several, torch.tensor(3.0), state=states[0], **settings)
    for name in ("loc", "flag", "total", "n"):
        assert torch.equal(whole.samples[name], resumed.samples[name]), name
    assert whole.samples["total"].max(1).values.max(0).values.tolist() <= [2, 5]


@pytest.mark.slow
def test_discrete_draws_reach_arviz():
    data = torch.tensor(4.2, dtype=torch.float64)
    settings = {"kernel": "gibbs", "num_chains": 4, "warmup_steps": 5, "num_draws": 6, "check": False}
    whole = to_idata(sample(counts, data, seed=0, **settings), counts, data)
    assert whole.posterior["n"].shape == (4, 6)
    assert whole.log_likelihood["y"].shape == (4, 6)
    local = to_idata(sample(mixture, DATA, seed=0, **settings), mixture, DATA, local=True)
    assert local.posterior["k"].shape == (4, 6, 6)


def test_under_pyro_samples_have_the_discrete_sites():
    mcmc = MCMC(
        DiscreteGibbs(mixture, seed=0), num_samples=10, warmup_steps=5, num_chains=1, disable_progbar=True
    )
    mcmc.run(DATA)
    found = mcmc.get_samples()
    assert found["k"].shape == (10, 6)
    assert set(found["k"].flatten().tolist()) <= {0.0, 1.0}
    assert found["loc"].shape == (10, 2)


def test_settings_out_of_range_are_refused():
    with pytest.raises(ValueError, match="'smc' tempers continuous sites only"):
        sample(several, torch.tensor(3.0), kernel="gibbs", num_chains=8, start="smc")
    for word in ("sweeps", "jump", "max_leapfrogs"):
        with pytest.raises(ValueError, match=word):
            DiscreteGibbs(**{word: 0})
