"""The Pyro program of subset regression: its integral over weights and structures is the exact evidence."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import MCMC, NUTS, Predictive, Trace_ELBO, TraceEnum_ELBO, config_enumerate

from evidentia.models.linear.chosen import ChosenRegression, ExactGuide
from evidentia.models.regression import GPrior, NormalInverseGamma, NormalPrior, SubsetRegression
from evidentia.models.structure.priors import Bernoulli, BetaBinomial

PRIORS = {
    "g, unknown noise": GPrior(g=5.0),
    "g, proper": GPrior(g=5.0, noise_shape=2.0, noise_rate=1.0, intercept=False),
    "normal": NormalPrior(0.8, 0.6),
    "normal, intercept": NormalPrior(0.8, 0.6, intercept=True),
    "normal-inverse-gamma": NormalInverseGamma(0.8, 2.0, 1.0),
}


@pytest.fixture
def data():
    torch.manual_seed(5)
    x = torch.randn(7, 2, dtype=torch.float64)
    return x, 0.7 * x[:, 0] + 0.4 * torch.randn(7, dtype=torch.float64)


def gibbs_sites(gates):
    return {f"gamma/x->f/{name}": gates[i] for i, name in enumerate("ab")}


def integrate(model, x, y, gates):
    """log ∫ p(y, u, α, σ | γ) over every continuous site, by importance sampling from a wide proposal."""
    draws = 200_000
    problem = model.conjugate(x, y)
    generator = torch.Generator().manual_seed(0)
    sample = problem.sample_weights(gates[None].expand(draws, 2), generator)
    # proposal: heavy-tailed around the posterior, independent of the formula under test
    loc, scale = sample.weight.mean(0), 1.5 * sample.weight.std(0)
    weight = dist.StudentT(5.0, loc, scale).to_event(1)
    sites = {"w/x->f": weight.sample((draws, 1))}
    log_q = weight.log_prob(sites["w/x->f"])
    if model.prior.intercept:
        law = dist.StudentT(5.0, sample.intercept.mean(), 1.5 * sample.intercept.std())
        sites["intercept"] = law.sample((draws, 1))
        log_q = log_q + law.log_prob(sites["intercept"])
    if model.prior.noise.scale is None:
        log_variance = 2 * sample.noise_scale.log()
        law = dist.StudentT(5.0, log_variance.mean(), 1.5 * log_variance.std())
        value = law.sample((draws, 1))
        log_q = log_q + law.log_prob(value)
        if model.prior.noise.proper:
            sites["variance"], log_q = value.exp(), log_q - value
        else:
            sites["log_variance"] = value
    sites |= {name: gate.expand(draws, 1) for name, gate in gibbs_sites(gates).items()}
    with pyro.plate("draws", draws, dim=-2):
        trace = poutine.trace(poutine.condition(model, sites)).get_trace(x, y)
    trace.compute_log_prob()
    log_joint = 0.0
    for name, site in trace.nodes.items():
        if (
            site["type"] == "sample"
            and not name.startswith(("gamma", "arch"))
            and name not in ("data", "draws")
        ):
            part = site["log_prob"]
            log_joint = log_joint + part.sum(-1) if name == "obs" else log_joint + part.reshape(-1)
    log_weight = log_joint - log_q.reshape(-1)
    estimate = torch.logsumexp(log_weight, 0) - math.log(draws)
    relative = (log_weight - log_weight.max()).exp()
    return float(estimate), float(relative.std() / relative.mean() / math.sqrt(draws))


@pytest.mark.statistical
@pytest.mark.parametrize("name", PRIORS)
@pytest.mark.parametrize("gates", [(0.0, 0.0), (1.0, 0.0), (1.0, 1.0)])
def test_integral_of_the_pyro_program_is_the_exact_evidence(name, gates, data):
    model, gates = SubsetRegression("ab", PRIORS[name]), torch.tensor(gates, dtype=torch.float64)
    exact = float(model.conjugate(*data).log_evidence(gates[None])[0])
    estimate, error = integrate(model, *data, gates)
    assert error < 0.02
    assert abs(estimate - exact) < 4.5 * error


@pytest.mark.parametrize("name", PRIORS)
@pytest.mark.parametrize("model_prior", [Bernoulli(0.3), BetaBinomial(1.0, 2.0)], ids=repr)
def test_enumerating_the_gates_sums_the_four_structures(name, model_prior, data):
    x, y = data
    model = SubsetRegression("ab", PRIORS[name], model_prior)
    fixed = {
        "w/x->f": torch.tensor([0.3, -0.2], dtype=torch.float64),
        "intercept": torch.tensor(0.1, dtype=torch.float64),
        "variance": torch.tensor(0.5, dtype=torch.float64),
        "log_variance": torch.tensor(-0.3, dtype=torch.float64),
    }
    conditioned = poutine.condition(model, fixed)
    elbo = TraceEnum_ELBO(max_plate_nesting=1)
    got = -elbo.loss(config_enumerate(conditioned), lambda x, y: None, x, y)
    joint = []
    for gates in model.family.vertices().double():
        trace = poutine.trace(poutine.condition(model, fixed | gibbs_sites(gates))).get_trace(x, y)
        assert float(sum(trace_log_prob(trace, "gamma/x->f/"))) == pytest.approx(
            float(model.family.log_prior(gates)), abs=1e-6
        )
        joint.append(trace.log_prob_sum())
    assert got == pytest.approx(float(torch.logsumexp(torch.stack(joint), 0)), rel=1e-6)


def trace_log_prob(trace, prefix):
    trace.compute_log_prob()
    return [site["log_prob_sum"] for name, site in trace.nodes.items() if name.startswith(prefix)]


@pytest.mark.parametrize("name", ["g, proper", "normal", "normal-inverse-gamma"])
def test_prior_predictive_has_the_shape_of_the_data_and_runs_vectorised(name, data):
    x, _ = data
    model = SubsetRegression("ab", PRIORS[name])
    assert model(x).shape == (7,)
    for parallel in (False, True):
        draws = Predictive(model, num_samples=5, parallel=parallel)(x)
        assert draws["obs"].shape == (5, 7)
    assert Predictive(model, num_samples=5, parallel=True)(x)["w/x->f"].shape[-1] == 2


def test_vectorised_draws_give_the_log_likelihood_of_each(data):
    x, y = data
    model = SubsetRegression("ab", GPrior(g=5.0))
    torch.manual_seed(0)
    gates, weight, intercept = (
        torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]]),
        torch.randn(3, 2),
        torch.randn(3),
    )
    sites = {"w/x->f": weight[:, None], "intercept": intercept[:, None], "log_variance": torch.zeros(3, 1)}
    sites |= {name: value[:, None] for name, value in gibbs_sites(gates.T).items()}
    with pyro.plate("draws", 3, dim=-2):
        trace = poutine.trace(poutine.condition(model, sites)).get_trace(x, y)
    loc = trace.nodes["obs"]["fn"].mean
    torch.testing.assert_close(loc, intercept[:, None] + (gates * weight).double() @ x.T)


def test_an_improper_site_cannot_be_drawn_and_says_so(data):
    with pytest.raises(ValueError, match="site 'log_variance' has a flat prior"):
        SubsetRegression("ab", GPrior())(data[0])
    with pytest.raises(ValueError, match="site 'intercept' has a flat prior"):
        SubsetRegression("ab", NormalPrior(intercept=True))(data[0])
    for parallel in (False, True):
        with pytest.raises(ValueError, match="site 'log_variance' has a flat prior"):
            Predictive(SubsetRegression("ab"), num_samples=3, parallel=parallel)(data[0])


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (torch.zeros(3, 3), None, r"expected x \(n, 2\) with columns \['a', 'b'\], got \(3, 3\)"),
        (torch.zeros(3, 2), torch.zeros(3, 1), r"'y' has shape \(3, 1\), expected \(3,\)"),
    ],
)
def test_wrong_shapes_are_named(x, y, message):
    with pytest.raises(ValueError, match=message):
        SubsetRegression("ab", NormalPrior())(x, y)


@pytest.mark.slow
@pytest.mark.statistical
def test_nuts_on_the_conditioned_program_agrees_with_the_exact_posterior(data):
    x, y = data
    model = SubsetRegression("ab", NormalPrior(0.8, 0.6))
    open_gates = torch.ones(2, dtype=torch.float64)
    conditioned = poutine.condition(model, gibbs_sites(open_gates))
    mcmc = MCMC(NUTS(conditioned), num_samples=1500, warmup_steps=300, disable_progbar=True)
    mcmc.run(x, y)
    draws = mcmc.get_samples()["w/x->f"]
    exact = model.conjugate(x, y).posterior_mean(open_gates[None]).weight[0]
    assert bool(((draws.mean(0) - exact).abs() < 4.5 * draws.std(0) / math.sqrt(500)).all())


def test_print_tells_the_prior():
    assert "GPrior(g=None" in repr(SubsetRegression("ab"))


CHOSEN_PRIORS = {
    "g": GPrior(),
    "g, proper noise": GPrior(g=7.0, noise_shape=0.5, noise_rate=0.3, intercept=False),
    "normal": NormalPrior(1.3, noise_scale=0.6),
    "normal-inverse-gamma": NormalInverseGamma(0.8, shape=2.0, rate=1.5),
}


@pytest.mark.parametrize("columns", [(), (1,), (0, 2)], ids=str)
@pytest.mark.parametrize("prior", CHOSEN_PRIORS.values(), ids=CHOSEN_PRIORS)
def test_the_exact_guide_has_the_log_evidence_in_every_draw(prior, columns):
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(12, 3, generator=generator, dtype=torch.float64)
    y = x[:, 0] - 0.5 * x[:, 2] + 0.4 * torch.randn(12, generator=generator, dtype=torch.float64) + 1
    subsets = SubsetRegression(["a", "b", "c"], prior)
    gates = torch.tensor([[float(i in columns) for i in range(3)]], dtype=torch.float64)
    expected = subsets.conjugate(x, y).log_evidence(gates)[0]
    model = ChosenRegression(subsets.names, columns, prior)
    guide = ExactGuide(model, x, y)
    for seed in range(3):
        pyro.set_rng_seed(seed)
        drawn = pyro.poutine.trace(guide).get_trace(x, y)
        joint = pyro.poutine.trace(pyro.poutine.replay(model, drawn)).get_trace(x, y)
        assert set(drawn.stochastic_nodes) == set(joint.stochastic_nodes) - {"data"}
        difference = joint.log_prob_sum() - drawn.log_prob_sum()
        torch.testing.assert_close(difference, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("prior", CHOSEN_PRIORS.values(), ids=CHOSEN_PRIORS)
def test_a_chosen_subset_has_the_log_joint_of_the_family_at_that_vertex(prior):
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(10, 3, generator=generator, dtype=torch.float64)
    y = torch.randn(10, generator=generator, dtype=torch.float64)
    subsets = SubsetRegression(["a", "b", "c"], prior)
    model = ChosenRegression(subsets.names, (0, 2), prior)
    guide = ExactGuide(model, x, y)
    drawn = pyro.poutine.trace(guide).get_trace(x, y)
    values = {name: drawn.nodes[name]["value"] for name in drawn.stochastic_nodes}
    own = pyro.poutine.trace(pyro.poutine.condition(model, values)).get_trace(x, y).log_prob_sum()
    weights = torch.stack([values["w"][0], torch.tensor(0.7, dtype=torch.float64), values["w"][1]])
    gates = {
        f"gamma/x->f/{name}": torch.tensor(gate) for name, gate in zip("abc", (1.0, 0.0, 1.0), strict=True)
    }
    sites = {**values, **gates, "w/x->f": weights}
    del sites["w"]
    trace = pyro.poutine.trace(pyro.poutine.condition(subsets, sites)).get_trace(x, y)
    noise = {
        "known": lambda: prior.noise.scale,
        "variance": lambda: values["variance"].sqrt(),
        "log_variance": lambda: (values["log_variance"] / 2).exp(),
    }[next((name for name in ("variance", "log_variance") if name in values), "known")]()
    scale = noise if isinstance(prior, GPrior) else noise * prior.resolve(10).column_scale(3)[1]
    dead = torch.distributions.Normal(0.0, scale).log_prob(torch.tensor(0.7, dtype=torch.float64))
    structure = subsets.family.log_prior(torch.tensor([1.0, 0.0, 1.0]))
    torch.testing.assert_close(own, trace.log_prob_sum() - dead - structure, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("columns", [(), (1,), (0, 2)], ids=str)
@pytest.mark.parametrize("prior", CHOSEN_PRIORS.values(), ids=CHOSEN_PRIORS)
def test_the_exact_guide_is_exact_under_vectorised_particles(prior, columns):
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(9, 3, generator=generator, dtype=torch.float64)
    y = x[:, 0] + 0.4 * torch.randn(9, generator=generator, dtype=torch.float64)
    model = ChosenRegression(["a", "b", "c"], columns, prior)
    expected = model.conjugate(x, y).log_evidence(torch.ones(1, len(columns)))[0] if columns else None
    pair = (model, ExactGuide(model, x, y))
    single = -Trace_ELBO(num_particles=2).loss(*pair, x, y)
    together = -Trace_ELBO(num_particles=4, vectorize_particles=True, max_plate_nesting=1).loss(*pair, x, y)
    assert together == pytest.approx(single, rel=1e-9)
    if expected is not None:
        assert single == pytest.approx(float(expected), rel=1e-9)
    draws = Predictive(model, guide=pair[1], num_samples=4, parallel=True)(x)
    assert draws["obs"].shape == (4, 9)
