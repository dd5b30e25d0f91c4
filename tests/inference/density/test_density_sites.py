"""Sites of a model, and the errors that name the one that cannot work."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.distributions import constraints

from evidentia.inference.density.log_density import compile_density
from evidentia.inference.density.minibatch import MinibatchDensity
from evidentia.inference.density.sites import find_structure


def refused(match, model, *args, **settings):
    with pytest.raises(ValueError, match=match):
        compile_density(model, *args, num_chains=2, **settings)


def test_no_latent_site():
    refused("continuous latent site", lambda: pyro.sample("y", dist.Normal(0.0, 1.0), obs=torch.tensor(1.0)))


def test_a_discrete_site_without_an_enumeration():
    def model():
        a = pyro.sample("a", dist.Gamma(1.0, 1.0))
        pyro.sample("count", dist.Poisson(a))

    refused(r"site 'count'.*Poisson.*Fix: .*given", model)
    density = compile_density(model, num_chains=2, discrete="given")
    found = density.with_discrete({"count": torch.tensor([0.0, 3.0])}).evaluate(torch.zeros(2, 1))
    torch.testing.assert_close(found.log_density[1] - found.log_density[0], torch.tensor(-1.791759))


def test_a_subsampled_plate():
    def model():
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", 10, subsample_size=3):
            pyro.sample("y", dist.Normal(a, 1.0), obs=torch.zeros(3))

    refused("plate 'rows': 3 of 10", model)


def test_a_density_that_is_finite_nowhere():
    def model():
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
        pyro.sample("fine", dist.Normal(a, 1.0), obs=torch.tensor(0.0))
        pyro.sample("bad", dist.Uniform(0.0, 1 / (1 + a.exp())), obs=torch.tensor(2.0))

    refused("site 'bad': the log density is not finite", model)


def test_a_structure_that_depends_on_draws():
    def model():
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
        pyro.sample("b" if a > 0.5 else "c", dist.Normal(0.0, 1.0))

    # Seeds 0 and 1 draw 1.54 and 0.66; 2 and 3 draw 0.39 and 0.80.
    refused("sites .*'b'.*differ between two runs", model, seed=2)


def test_a_support_that_depends_on_a_latent():
    def model():
        a = pyro.sample("a", dist.Gamma(1.0, 1.0))
        pyro.sample("b", dist.Uniform(0.0, a))

    refused(r"sites \['b'\]: the support depends on another latent", model)


def test_a_support_that_depends_on_data():
    def model(top):
        pyro.sample("b", dist.Uniform(0.0, top))

    density = compile_density(model, torch.tensor(2.0), num_chains=2)
    with pytest.raises(ValueError, match="support depends on the data"):
        density.with_data(torch.tensor(3.0))


def test_a_random_operation_in_the_model():
    def model():
        a = pyro.sample("a", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        pyro.sample("y", dist.Normal(torch.nn.functional.dropout(a), 1.0).to_event(1), obs=torch.zeros(3))

    refused("after site 'a': a random operation", model)


@pytest.mark.filterwarnings("ignore:Singular sample")
def test_no_bijection():
    law = dist.Wishart(torch.tensor(60.0), covariance_matrix=torch.eye(2))
    with pytest.raises(ValueError, match=r"site 'm': the support of Wishart has no bijection"):
        find_structure(lambda: pyro.sample("m", law), (), {})


def test_words_and_numbers():
    def model():
        pyro.sample("a", dist.Normal(0.0, 1.0))

    refused("executor: expected", model, executor="xla")
    refused("discrete: expected", model, discrete="sample")
    with pytest.raises(ValueError, match="num_chains: expected"):
        compile_density(model, num_chains=0)
    density = compile_density(model, num_chains=2)
    with pytest.raises(ValueError, match="no site is given"):
        density.with_discrete({})


def test_an_improper_prior():
    def model():
        pyro.sample("a", dist.ImproperUniform(constraints.positive, (), ()))
        pyro.sample("y", dist.Normal(0.0, 1.0), obs=torch.tensor(0.0))

    density = compile_density(model, num_chains=2)
    assert not density.proper_prior
    torch.testing.assert_close(density.evaluate(torch.zeros(2, 1)).gradient, torch.ones(2, 1))
    with pytest.raises(ValueError, match="sites \\['a'\\]: the prior is improper"):
        density.prior_draws(3)


def test_the_random_stream_is_left_alone():
    def model():
        pyro.sample("a", dist.Normal(0.0, 1.0))

    before = torch.get_rng_state()
    compile_density(model, num_chains=2)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.statistical
def test_minibatches_are_unbiased_and_each_chain_has_its_own():
    y = torch.randn(20, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def model(y, size):
        a = pyro.sample("a", dist.Normal(y.new_tensor(0.0), 1.0))
        with pyro.plate("data", len(y), subsample_size=size) as rows:
            pyro.sample("y", dist.Normal(a, 1.0), obs=y[rows])

    whole = compile_density(model, y, 20, num_chains=1)
    density = MinibatchDensity(model, (y, 5), 5)
    generator = torch.Generator().manual_seed(2)
    position = torch.full((2000, 1), 0.3, dtype=torch.float64)
    value, gradient = density(position, generator)
    assert len(value.unique()) > 1500
    exact = whole.evaluate(position[:1])
    for estimate, truth in ((value, exact.log_density), (gradient[:, 0], exact.gradient[:, 0])):
        error = (estimate.mean() - truth) / (estimate.std() / 2000**0.5)
        assert abs(float(error)) < 4.5
    rows = density.rows(3, generator)
    got = density.density(3).with_discrete({"data": rows}).evaluate(position[:3])
    by_hand = -0.3 + 4.0 * (y[rows] - 0.3).sum(-1)
    torch.testing.assert_close(got.gradient[:, 0], by_hand)
    with pytest.raises(ValueError, match="batch_size: expected"):
        MinibatchDensity(model, (y, 5), 6)
    with pytest.raises(ValueError, match="one subsampled plate"):
        MinibatchDensity(model, (y, 20), 20)


@pytest.mark.parametrize(
    ("law", "data", "message"),
    [
        (dist.Poisson(1.0), [-1.0, 2.0], r"site 'obs': 1 of 2 .* support of Poisson, the first is -1.0"),
        (dist.Normal(0.0, 1.0), [0.0, float("nan")], r"1 of 2 .* support of Normal, the first is nan"),
        (dist.Bernoulli(0.5).expand([2]).to_event(1), [0.5, 1.0], r"1 of 1 .* the first is \[0.5, 1.0\]"),
    ],
)
def test_data_outside_the_support_are_named(law, data, message):
    def model(y):
        pyro.sample("mean", dist.Normal(0.0, 1.0))
        pyro.sample("obs", law.expand([2]) if not law.event_dim else law, obs=y)

    with pytest.raises(ValueError, match=message):
        find_structure(model, (torch.tensor(data),), {})


def test_masked_data_and_bounds_that_a_latent_moves_are_not_checked():
    def model(y):
        top = pyro.sample("top", dist.Exponential(1.0))
        with pyro.poutine.mask(mask=torch.tensor([True, False])):
            pyro.sample("seen", dist.Normal(0.0, 1.0).expand([2]), obs=y)
        pyro.sample("below", dist.Uniform(0.0, top), obs=torch.tensor(5.0))

    assert find_structure(model, (torch.tensor([0.5, float("nan")]),), {}).dim == 1
