"""The compiled density: chunks, data, temperatures, leapfrogs, packing, prior draws."""

import posteriors
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

from evidentia.inference.density.log_density import compile_density

F64 = torch.float64


@pytest.fixture(scope="module")
def schools():
    model, args = posteriors.eight_schools()
    return compile_density(model, *args, num_chains=4)


def positions(density, number, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(number, density.dim, generator=generator, dtype=density.dtype)


def pyro_joint(model, args, values):
    """Log prior and log likelihood of constrained values, by Pyro alone."""
    nodes = poutine.trace(poutine.condition(model, values)).get_trace(*args)
    nodes.compute_log_prob()
    terms = {
        n: s["log_prob_sum"] for n, s in nodes.nodes.items() if s["type"] == "sample" and "log_prob" in s
    }
    prior = sum(value for name, value in terms.items() if name in values)
    return prior, sum(value for name, value in terms.items() if name not in values)


def test_the_facts_of_eight_schools(schools):
    assert (schools.level, schools.executor, schools.notices) == ("fx-vmap", "jit", ())
    assert [site.name for site in schools.sites] == ["mu", "tau", "t"]
    assert schools.sites[2].plates == ("schools",)
    assert (schools.dim, schools.num_chains, schools.dtype) == (10, 4, F64)
    assert schools.proper_prior
    assert schools.has_likelihood
    assert "mu[]" in repr(schools)


@pytest.mark.parametrize("number", [1, 3, 4, 5, 9])
def test_any_number_of_chains(schools, number):
    position = positions(schools, 9)
    whole = schools.evaluate(position)
    part = schools.evaluate(position[:number])
    for one, two in zip(part, whole, strict=True):
        assert one.shape == two[:number].shape
        torch.testing.assert_close(one, two[:number], rtol=1e-14, atol=1e-13)


def test_prior_and_likelihood_are_split_as_in_pyro(schools):
    model, args = posteriors.eight_schools()
    position = positions(schools, 4)
    beta = torch.tensor([0.0, 0.3, 1.0, 2.0], dtype=F64)
    found = schools.evaluate(position, beta)
    for row in range(4):
        values = schools.unpack(position[row])
        prior, likelihood = pyro_joint(model, args, values)
        jacobian = position[row, 1]  # tau = exp(x)
        expected = prior + jacobian + beta[row] * likelihood
        torch.testing.assert_close(found.log_density[row], expected, rtol=1e-12, atol=0)
        torch.testing.assert_close(found.log_likelihood[row], likelihood, rtol=1e-12, atol=0)
    torch.testing.assert_close(schools(position, beta), found.log_density)
    assert torch.equal(schools.evaluate(position, 0.3).log_density[1], found.log_density[1])
    value, gradient = schools.target(0.3)(position)
    assert torch.equal(value[1], found.log_density[1])
    assert torch.equal(gradient[1], found.gradient[1])


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("per_chain", [False, True])
@pytest.mark.parametrize("number", [4, 6])
def test_leapfrog_is_the_formula(schools, dense, per_chain, number):
    q, p = positions(schools, number), positions(schools, number, 2)
    covariance = torch.rand(10, dtype=F64) + 0.5
    covariance = torch.diag(covariance) + 0.1 if dense else covariance
    step = torch.full((number, 1), 0.1, dtype=F64) if per_chain else torch.tensor(0.1, dtype=F64)
    start = schools.evaluate(q, 0.7)
    leap = schools.leapfrog(q, p, start.gradient, step, covariance, 0.7)
    middle = p + step / 2 * start.gradient
    new = q + step * (middle @ covariance if dense else middle * covariance)
    end = schools.evaluate(new, 0.7)
    torch.testing.assert_close(leap.position, new, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(leap.momentum, middle + step / 2 * end.gradient, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(leap.gradient, end.gradient, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(leap.log_density, end.log_density, rtol=1e-13, atol=0)
    torch.testing.assert_close(leap.log_likelihood, end.log_likelihood, rtol=1e-13, atol=0)
    # There and back.
    back = schools.leapfrog(leap.position, -leap.momentum, leap.gradient, step, covariance, 0.7)
    torch.testing.assert_close(back.position, q, rtol=0, atol=1e-10)


def test_other_data_are_followed_without_a_new_recording(schools):
    model, (y, scale) = posteriors.eight_schools()
    other = schools.with_data(y.flip(0) + 1.0, scale * 2.0)
    fresh = compile_density(model, y.flip(0) + 1.0, scale * 2.0, num_chains=4)
    position = positions(schools, 4)
    before = schools.evaluate(position).log_density
    assert torch.equal(other.evaluate(position).log_density, fresh.evaluate(position).log_density)
    assert torch.equal(other.evaluate(position).gradient, fresh.evaluate(position).gradient)
    assert torch.equal(schools.evaluate(position).log_density, before)
    assert other._bound.chosen.program is schools._bound.chosen.program
    with pytest.raises(ValueError, match="shapes"):
        schools.with_data(y[:7], scale[:7])


def test_stale_data_are_noticed():
    def model(y):
        number = float(y.numpy().sum())  # invisible to a recording
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(z, 1.0), obs=torch.tensor(number))

    density = compile_density(model, torch.ones(2), num_chains=4)
    other = density.with_data(torch.zeros(2))
    assert other._bound.chosen.program is not density._bound.chosen.program
    assert float(other.evaluate(torch.zeros(4, 1)).gradient[0]) == 0.0
    assert float(density.evaluate(torch.zeros(4, 1)).gradient[0]) == 2.0


def test_one_data_set_for_each_chain(schools):
    _, (y, scale) = posteriors.eight_schools()
    sets = y + torch.arange(4, dtype=F64)[:, None]
    many = schools.with_data_batch(sets, scale)
    position = positions(schools, 4)
    found = many.evaluate(position)
    for row in range(4):
        single = schools.with_data(sets[row], scale).evaluate(position)
        torch.testing.assert_close(found.log_density[row], single.log_density[row], rtol=1e-13, atol=0)
        torch.testing.assert_close(found.gradient[row], single.gradient[row], rtol=1e-12, atol=1e-13)
    again = schools.with_data_batch(sets + 1.0, scale)
    assert again._bound.chosen.program is many._bound.chosen.program
    assert not torch.equal(again.evaluate(position).log_density, found.log_density)
    with pytest.raises(ValueError, match="one for each data set"):
        many.evaluate(position[:2])
    with pytest.raises(ValueError, match="data tensor 0"):
        schools.with_data_batch(sets[:3], scale)


def test_pack_undoes_unpack(schools):
    position = positions(schools, 6).reshape(2, 3, 10)
    values = schools.unpack(position)
    assert values["t"].shape == (2, 3, 8)
    torch.testing.assert_close(schools.pack(values), position)
    with pytest.raises(ValueError, match="site 'tau'"):
        schools.pack({"mu": values["mu"]})


@pytest.mark.statistical
def test_prior_draws_have_the_prior_and_leave_the_stream(schools):
    generator = torch.Generator().manual_seed(5)
    before = torch.get_rng_state()
    draws = schools.prior_draws(4000, generator)
    assert torch.equal(before, torch.get_rng_state())
    values = schools.unpack(draws)
    assert abs(float(values["mu"].mean())) < 4.5 * 5 / 4000**0.5
    assert abs(float((values["tau"] < 5.0).double().mean()) - 0.5) < 4.5 * 0.5 / 4000**0.5
    assert abs(float(values["t"].var()) - 1.0) < 4.5 * (2 / 32000) ** 0.5
    torch.manual_seed(3)
    one = schools.prior_draws(3)
    torch.manual_seed(3)
    assert torch.equal(schools.prior_draws(3), one)
    assert not torch.equal(schools.prior_draws(3), one)


@pytest.mark.parametrize("name", ["eight_schools", "logistic", "gaussian"])
def test_float32(name):
    model, args = getattr(posteriors, name)(torch.float32)
    _, wide = getattr(posteriors, name)()
    narrow = compile_density(model, *args, num_chains=4)
    exact = compile_density(model, *wide, num_chains=4, dtype=F64)
    assert narrow.dtype == torch.float32
    position = positions(narrow, 4) * 0.3
    one, two = narrow.evaluate(position), exact.evaluate(position.double())
    torch.testing.assert_close(one.log_density.double(), two.log_density, rtol=2e-5, atol=1e-4)
    scale = two.gradient.abs().amax()
    assert float((one.gradient.double() - two.gradient).abs().amax() / scale) < 2e-5


def test_a_model_of_constants_takes_the_type_it_is_told():
    def model():
        pyro.sample("z", dist.Normal(0.0, 1.0))

    density = compile_density(model, num_chains=2, dtype=F64)
    found = density.evaluate(torch.ones(2, 1, dtype=F64))
    assert found.log_density.dtype == F64
    assert found.log_likelihood.tolist() == [0.0, 0.0]
    assert torch.get_default_dtype() == torch.float32
    assert not density.has_likelihood
    torch.testing.assert_close(found.gradient, -torch.ones(2, 1, dtype=F64))


def test_given_discrete_sites_are_inputs():
    def model(y):
        mean = pyro.sample("mean", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        with pyro.plate("data", len(y)):
            which = pyro.sample("which", dist.Categorical(torch.tensor([0.3, 0.7])))
            pyro.sample("y", dist.Normal(mean[which], 1.0), obs=y)

    y = torch.tensor([0.5, -1.0, 2.0])
    density = compile_density(model, y, num_chains=2, discrete="given")
    assert density.discrete == {"which": (3,)}
    which = torch.tensor([[0, 1, 1], [1, 0, 0]])
    position = positions(density, 2)
    found = density.with_discrete({"which": which}).evaluate(position)
    for row in range(2):
        values = {**density.unpack(position[row]), "which": which[row]}
        prior, likelihood = pyro_joint(model, (y,), values)
        torch.testing.assert_close(found.log_density[row], prior + likelihood)
        torch.testing.assert_close(found.log_likelihood[row], likelihood)
    with pytest.raises(ValueError, match="site 'which'"):
        density.with_discrete({})


def test_summed_sites_split_into_prior_and_likelihood():
    """Spike and slab: both parts by hand, over the two values of the switch."""

    def model(y):
        on = pyro.sample("on", dist.Bernoulli(0.3), infer={"enumerate": "parallel"})
        beta = pyro.sample("beta", dist.Normal(0.0, 0.1 + on))
        pyro.sample("y", dist.Normal(beta + on, 1.0), obs=y)

    y = torch.tensor(0.7, dtype=F64)
    density = compile_density(model, y, num_chains=2)
    position = positions(density, 2)
    found = density.evaluate(position, 0.5)
    beta, on = position, torch.tensor([[0.0, 1.0]], dtype=F64)
    terms = torch.tensor([[0.7, 0.3]], dtype=F64).log() + dist.Normal(0.0, 0.1 + on).log_prob(beta)
    prior = terms.logsumexp(-1)
    likelihood = (terms + dist.Normal(beta + on, 1.0).log_prob(y)).logsumexp(-1) - prior
    torch.testing.assert_close(found.log_likelihood, likelihood, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(found.log_density, prior + 0.5 * likelihood, rtol=1e-10, atol=1e-10)


def test_factors_are_likelihood_unless_tagged():
    def model(tag):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("pull", dist.Unit(-(z**2)), obs=torch.empty(0), infer={"prior": tag})
        pyro.deterministic("twice", 2 * z)

    position = torch.full((2, 1), 2.0)
    for tag, likelihood in ((False, -4.0), (True, 0.0)):
        density = compile_density(model, tag, num_chains=2)
        assert density.has_likelihood is (not tag)
        found = density.evaluate(position, 0.0)
        assert found.log_likelihood.tolist() == [likelihood] * 2
        expected = dist.Normal(0.0, 1.0).log_prob(position[:, 0]) + (-4.0 if tag else 0.0)
        torch.testing.assert_close(found.log_density, expected)


def test_a_wrong_position_is_named(schools):
    with pytest.raises(ValueError, match="position: expected"):
        schools.evaluate(torch.zeros(4, 3, dtype=F64))
    with pytest.raises(ValueError, match="position: expected"):
        schools.evaluate(torch.zeros(4, 10))
