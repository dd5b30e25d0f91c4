"""The Pyro model of a family under every way Pyro can run it."""

import itertools

import pyro
import pyro.distributions as dist
import pyro.poutine as poutine
import pytest
import torch
from pyro.infer import MCMC, NUTS, SVI, Predictive, Trace_ELBO, TraceEnum_ELBO, config_enumerate
from pyro.infer.autoguide import AutoNormal
from pyro.infer.mcmc.util import initialize_model
from torch import Tensor

from evidentia.models.likelihood import Bernoulli as Binary
from evidentia.models.likelihood import Categorical as Classes
from evidentia.models.likelihood import Gaussian, Hyper, Poisson
from evidentia.models.structure.errors import FamilyError
from evidentia.models.structure.family import Family
from evidentia.models.structure.model import FamilyModel
from evidentia.models.structure.ops import GLM, Constant, Dense, Identity, op
from evidentia.models.structure.priors import (
    Bernoulli,
    Beta,
    BetaBinomial,
    Categorical,
    Dirichlet,
    GumbelSoftmax,
    LogisticNormal,
    LogitNormal,
    RelaxedBernoulli,
)
from evidentia.models.structure.weights import ARD

DTYPE = torch.float64
N = 8

RELAXED = {
    "gumbel": ("simplex", lambda: GumbelSoftmax(0.5, [1.0, 2.0])),
    "dirichlet": ("simplex", lambda: Dirichlet(0.5)),
    "logistic_normal": ("simplex", lambda: LogisticNormal(0.5)),
    "relaxed_bernoulli": ("cube", lambda: RelaxedBernoulli(0.5, 0.3)),
    "beta": ("cube", lambda: Beta(0.5, 1.0, 2.0)),
    "logit_normal": ("cube", lambda: LogitNormal(0.5)),
}
DISCRETE = {
    "categorical": ("simplex_vertex", lambda: Categorical([1.0, 2.0])),
    "bernoulli": ("cube_vertex", lambda: Bernoulli([0.3, 0.6])),
    "beta_binomial": ("cube_vertex", lambda: BetaBinomial(1.0, 2.0)),
}
ALL = {**RELAXED, **DISCRETE}


def network(name: str) -> Family:
    """Two edges with the same domain and prior, two operations each; one of them is the user's own."""
    domain, prior = ALL[name]
    family = Family(inputs=2)
    family.edge(
        "x", "h", domain=domain, prior=prior(), ops={"wide": Dense(3, "tanh"), "narrow": Dense(3, active=1)}
    )
    wave = op(lambda x, a: a * x.sin().sum(-1, keepdim=True), a=())
    return family.edge("h", "f", domain=domain, prior=prior(), ops={"line": GLM(), "wave": wave})


def data() -> tuple[Tensor, Tensor]:
    x = torch.randn(N, 2, dtype=DTYPE)
    return x, torch.tanh(x[:, 0]) + 0.1 * torch.randn(N, dtype=DTYPE)


def weight_guide(model: FamilyModel):
    """A mean-field guide that does not look at the structure."""

    def guide(x: Tensor, y: Tensor | None = None) -> None:
        for i, (name, shape) in enumerate(model.weight_shapes.items()):
            loc = torch.full(shape, 0.1 * i - 0.3, dtype=DTYPE)
            pyro.sample(f"w/{name}", dist.Normal(loc, 0.0 * loc + 1e-3).to_event(len(shape)))

    return guide


def read(trace: poutine.Trace, model: FamilyModel) -> tuple[Tensor, dict[str, Tensor]]:
    gates = torch.cat([trace.nodes[f"arch/{e.name}"]["value"] for e in model.family.edges], -1)
    return gates, {k: trace.nodes[f"w/{k}"]["value"] for k in model.weight_shapes}


@pytest.mark.parametrize("name", ALL)
def test_plain_call_and_prior_predictive(name: str) -> None:
    x, y = data()
    model = network(name).model(likelihood=Gaussian(0.3))
    assert model(x).shape == (N,)
    assert model(x).dtype == DTYPE
    draws = Predictive(model, num_samples=5)(x)
    assert draws["obs"].shape == (5, N)
    trace = poutine.trace(model).get_trace(x, y)
    trace.compute_log_prob()
    gates = trace.nodes["arch/x->h"]["value"]
    assert gates.shape == (2,)
    assert ((gates >= 0) & (gates <= 1)).all()
    if name in DISCRETE:
        assert set(gates.tolist()) <= {0.0, 1.0}


@pytest.mark.parametrize("name", ALL)
def test_parallel_draws(name: str) -> None:
    x, _ = data()
    model = network(name).model(likelihood=Gaussian(dist.HalfNormal(torch.tensor(1.0, dtype=DTYPE))))
    draws = Predictive(model, num_samples=6, parallel=True)(x)
    assert draws["obs"].shape == (6, N)
    assert draws["arch/h->f"].shape == (6, 1, 2)
    # each draw is one consistent program: replaying it alone gives the same log-likelihood
    for i in (0, 5):
        values = {k: v[i, 0] for k, v in draws.items() if not k.startswith("arch") and k != "obs"}
        one = poutine.trace(poutine.condition(model, {**values, "obs": draws["obs"][i]})).get_trace(x)
        gates, weights = read(one, model)
        terms = model.log_likelihood(x, draws["obs"][i], gates, weights, values["noise"])
        assert torch.allclose(one.nodes["arch/x->h"]["value"], draws["arch/x->h"][i, 0])
        torch.testing.assert_close(
            one.log_prob_sum(lambda n, _: n == "obs"), terms.sum(), rtol=1e-10, atol=1e-10
        )


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize(
    "prior", [ARD(0.7), ARD(shape=2.0, rate=1.0), ARD(shape=2.0, rate=1.0, hyper="sample")]
)
def test_pure_functions_are_the_log_joint(name: str, prior: ARD) -> None:
    x, y = data()
    model = network(name).model(likelihood=Gaussian(Hyper(0.3)), weight_prior=prior)
    trace = poutine.trace(model).get_trace(x, y)
    gates, weights = read(trace, model)
    variances = None
    if prior.learned:
        variances = {k: trace.nodes[f"variance/{k}"]["value"] for k in weights}
    noise = trace.nodes["noise"]["value"]
    rest = trace.log_prob_sum(lambda n, _: not n.startswith(("w/", "obs")))
    total = model.log_likelihood(x, y, gates, weights, noise).sum() + model.log_weight_prior(
        weights, variances
    )
    torch.testing.assert_close(trace.log_prob_sum(), total + rest, rtol=1e-10, atol=1e-10)
    # what remains is the structure prior and the hyperprior
    gamma = trace.log_prob_sum(lambda n, _: n.startswith("gamma/"))
    hyper = torch.zeros((), dtype=DTYPE)
    for v in (variances or {}).values():
        hyper = hyper + prior.log_hyperprior(v)
    torch.testing.assert_close(rest, gamma + hyper, rtol=1e-10, atol=1e-10)
    if name in DISCRETE:
        torch.testing.assert_close(gamma, model.family.log_prior(gates), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ["gumbel", "beta_binomial"])
def test_pure_functions_broadcast_and_map(name: str) -> None:
    x, y = data()
    model = network(name).model(likelihood=Gaussian(0.3))
    gates = torch.rand(5, 4, dtype=DTYPE)
    weights = {k: torch.randn(5, *s, dtype=DTYPE) for k, s in model.weight_shapes.items()}
    batch = model.log_likelihood(x, y, gates, weights)
    assert batch.shape == (5, N)
    assert model.log_weight_prior(weights).shape == (5,)
    mapped = torch.func.vmap(lambda g, w: model.log_likelihood(x, y, g, w))(gates, weights)
    torch.testing.assert_close(mapped, batch)
    mapped = torch.func.vmap(model.log_weight_prior)(weights)
    torch.testing.assert_close(mapped, model.log_weight_prior(weights))
    # structures by particles by rows, with one noise per structure
    many = {k: v[:, None] for k, v in weights.items()}
    cross = model.log_likelihood(x, y, gates[None], many, torch.rand(5, 1, dtype=DTYPE) + 0.1)
    assert cross.shape == (5, 5, N)
    grad = torch.func.grad(
        lambda g: model.log_likelihood(x, y, g, {k: v[0] for k, v in weights.items()}).sum()
    )
    assert torch.isfinite(grad(gates[0])).all()


@pytest.mark.parametrize("name", ["gumbel", "relaxed_bernoulli"])
def test_weights_are_scaled_by_their_gate(name: str) -> None:
    x, y = data()
    family = network(name)
    gates = torch.tensor([0.2, 0.8, 0.6, 0.4], dtype=DTYPE)
    u = {k: torch.randn(s, dtype=DTYPE) for k, s in family.weight_shapes.items()}
    gate_of = dict(zip(family.gate_names, gates, strict=True))
    w = {k: gate_of[k.rpartition("/")[0]] * v for k, v in u.items()}
    for prior, weights in ((ARD(), w), (ARD(coupled=False), u)):
        model = family.model(likelihood=Gaussian(0.3), weight_prior=prior)
        expected = dist.Normal(family.apply(x, gates, weights)[:, 0], 0.3).log_prob(y)
        torch.testing.assert_close(model.log_likelihood(x, y, gates, u), expected, rtol=1e-12, atol=1e-12)


def test_traced_log_joint_under_vmap() -> None:
    x, y = data()
    model = network("gumbel").model(likelihood=Gaussian(0.3))

    def log_joint(values: dict[str, Tensor]) -> Tensor:
        return poutine.trace(poutine.condition(model, values)).get_trace(x, y).log_prob_sum()

    sites = {f"w/{k}": torch.randn(4, *s, dtype=DTYPE) for k, s in model.weight_shapes.items()}
    sites |= {f"gamma/{e}": torch.randn(4, 2, dtype=DTYPE).log_softmax(-1) for e in ("x->h", "h->f")}
    with pyro.validation_enabled(False):
        batch = torch.func.vmap(log_joint, randomness="different")(sites)
    loop = torch.stack([log_joint({k: v[i] for k, v in sites.items()}) for i in range(4)])
    torch.testing.assert_close(batch, loop)


@pytest.mark.parametrize("name", DISCRETE)
def test_enumeration_is_the_sum_over_structures(name: str) -> None:
    x, y = data()
    family = network(name)
    model = family.model(likelihood=Gaussian(0.3))
    guide = weight_guide(model)
    pyro.set_rng_seed(1)
    enumerated = -TraceEnum_ELBO(max_plate_nesting=1).loss(config_enumerate(model), guide, x, y)
    pyro.set_rng_seed(1)
    trace = poutine.trace(guide).get_trace(x, y)
    weights = {k: trace.nodes[f"w/{k}"]["value"] for k in model.weight_shapes}
    vertices = family.vertices().to(DTYPE)
    joint = family.log_prior(vertices) + model.log_likelihood(x, y, vertices, weights).sum(-1)
    expected = joint.logsumexp(-1) + model.log_weight_prior(weights) - trace.log_prob_sum()
    assert abs(enumerated - float(expected)) < 1e-8


def test_enumerated_guide_averages_the_bounds_of_the_structures() -> None:
    # weights that depend on the structure have the batch dimension of the enumeration
    torch.set_default_dtype(DTYPE)  # Pyro's enumeration mixes in the default dtype
    x, y = data()
    family = Family(2).edge("x", "f", domain="simplex_vertex", ops={"a": GLM(), "b": Constant()})
    model = family.model(likelihood=Gaussian(0.5))
    probs = torch.tensor([0.3, 0.7], dtype=DTYPE)

    def weights_of(x: Tensor, index: Tensor) -> None:
        for name, shape in model.weight_shapes.items():
            on = (index == (0 if name.startswith("x->f/a") else 1)).to(DTYPE)
            loc = on.reshape(on.shape + (1,) * len(shape)) * torch.full(shape, 0.4, dtype=DTYPE)
            scale = 1 - 0.999 * on.reshape(on.shape + (1,) * len(shape)) + torch.zeros(shape, dtype=DTYPE)
            pyro.sample(f"w/{name}", dist.Normal(loc, scale).to_event(len(shape)))

    def guide(x: Tensor, y: Tensor) -> None:
        index = pyro.sample("gamma/x->f", dist.Categorical(probs), infer={"enumerate": "parallel"})
        weights_of(x, index)

    particles = 2000
    elbo = -TraceEnum_ELBO(num_particles=particles, vectorize_particles=True, max_plate_nesting=1).loss(
        model, guide, x, y
    )
    bounds = []
    for k in range(2):

        def fixed(x: Tensor, y: Tensor, k: int = k) -> None:
            weights_of(x, torch.tensor(k))

        at_k = poutine.block(
            poutine.condition(model, {"gamma/x->f": torch.tensor(k)}), hide=["gamma/x->f", "arch/x->f"]
        )
        one = Trace_ELBO(num_particles=particles, vectorize_particles=True, max_plate_nesting=1)
        bounds.append(-one.loss(at_k, fixed, x, y))
    divergence = float((probs * (probs / 0.5).log()).sum())
    expected = sum(float(p) * b for p, b in zip(probs, bounds, strict=True)) - divergence
    # the weights of the open operation are nearly fixed, so the Monte Carlo error is small
    assert elbo == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize("name", DISCRETE)
def test_enumerated_gradient_is_exact(name: str) -> None:
    x, y = data()
    family = network(name)
    model = family.model(likelihood=Gaussian(Hyper(0.3)))
    pyro.set_rng_seed(1)
    TraceEnum_ELBO(max_plate_nesting=1).loss_and_grads(model, weight_guide(model), x, y)
    (param,) = [p for n, p in pyro.get_param_store().named_parameters() if n == "noise"]
    pyro.set_rng_seed(1)
    trace = poutine.trace(weight_guide(model)).get_trace(x, y)
    weights = {k: trace.nodes[f"w/{k}"]["value"] for k in model.weight_shapes}
    vertices = family.vertices().to(DTYPE)
    free = param.detach().clone().requires_grad_()
    joint = model.log_likelihood(x, y, vertices, weights, free.exp()).sum(-1) + family.log_prior(vertices)
    (expected,) = torch.autograd.grad(-joint.logsumexp(-1), free)
    torch.testing.assert_close(param.grad, expected, rtol=1e-8, atol=1e-8)


@pytest.mark.statistical
@pytest.mark.parametrize("name", DISCRETE)
def test_sampled_structures_follow_the_prior(name: str) -> None:
    family = network(name)
    model = family.model(likelihood=Gaussian(0.3))
    draws = Predictive(model, num_samples=20_000, parallel=True, return_sites=("arch/x->h", "arch/h->f"))(
        torch.zeros(1, 2)
    )
    gates = torch.cat([draws["arch/x->h"], draws["arch/h->f"]], -1)[:, 0]
    exact = family.log_prior(family.vertices()).exp()
    counts = (gates[:, None] == family.vertices()).all(-1).double().mean(0)
    z = (counts - exact) / (exact * (1 - exact) / 20_000).sqrt().clamp_min(1e-9)
    assert z.abs().max() < 4.5


@pytest.mark.statistical
@pytest.mark.parametrize("name", ["gumbel", "logistic_normal", "relaxed_bernoulli", "logit_normal"])
def test_rounded_relaxed_structures_have_the_mass_of_their_vertex(name: str) -> None:
    family = network(name)
    model = family.model(likelihood=Gaussian(0.3))
    draws = Predictive(model, num_samples=20_000, parallel=True, return_sites=("arch/x->h",))(
        torch.zeros(1, 2)
    )
    gates = draws["arch/x->h"][:, 0]
    simplex = ALL[name][0] == "simplex"
    hard = torch.nn.functional.one_hot(gates.argmax(-1), 2) if simplex else (gates > 0.5).long()
    edge = family.edges[0]
    vertices = edge.domain.vertices(torch.arange(edge.num_vertices), 2)
    exact = edge.prior.log_mass(vertices.double()).exp()
    counts = (hard[:, None] == vertices).all(-1).double().mean(0)
    z = (counts - exact) / (exact * (1 - exact) / 20_000).sqrt()
    assert z.abs().max() < 4.5


@pytest.mark.parametrize("name", RELAXED)
def test_nuts_and_autoguide_with_relaxed_structure(name: str) -> None:
    x, y = data()
    model = network(name).model(likelihood=Gaussian(0.5))
    mcmc = MCMC(NUTS(model, max_tree_depth=3), num_samples=3, warmup_steps=4, disable_progbar=True)
    mcmc.run(x, y)
    gamma = mcmc.get_samples()["gamma/x->h"]
    assert gamma.shape == (3, 2)
    assert torch.isfinite(gamma).all()
    if ALL[name][0] == "simplex":
        torch.testing.assert_close(gamma.exp().sum(-1), torch.ones(3, dtype=DTYPE))
    guide = AutoNormal(model)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.05}), Trace_ELBO())
    losses = [svi.step(x, y) for _ in range(3)]
    assert all(torch.isfinite(torch.tensor(losses)))
    particles = Trace_ELBO(num_particles=4, vectorize_particles=True, max_plate_nesting=1)
    assert torch.isfinite(torch.tensor(particles.loss(model, guide, x, y)))


def logistic_edge() -> FamilyModel:
    """The log-ratio of the two gates is logistic with location (log 3)/2 and scale 1/2."""
    family = Family(1).edge("x", "f", prior=GumbelSoftmax(2.0, [3.0, 1.0]), ops={"a": Constant(), "b": GLM()})
    return family.model(likelihood=Gaussian(1e3))


def test_potential_of_nuts_is_the_density_of_the_log_ratios() -> None:
    data = torch.zeros(1, 1, dtype=DTYPE), torch.zeros(1, dtype=DTYPE)
    start, potential, _, _ = initialize_model(logistic_edge(), model_args=data)
    assert start["gamma/x->f"].shape == (1,)
    z = torch.linspace(-3, 3, 7, dtype=DTYPE)
    energy = torch.stack([potential({**start, "gamma/x->f": v[None]}) for v in z])
    # the likelihood has a scale of 1000, so that only the prior of the gates varies
    v = 2 * z - torch.tensor(3.0, dtype=DTYPE).log()
    logistic = v - 2 * torch.nn.functional.softplus(v)
    torch.testing.assert_close(energy - energy[0], logistic[0] - logistic, rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.statistical
def test_nuts_without_data_keeps_the_prior_of_the_gates() -> None:
    mcmc = MCMC(NUTS(logistic_edge()), num_samples=300, warmup_steps=100, disable_progbar=True)
    mcmc.run(torch.zeros(1, 1, dtype=DTYPE), torch.zeros(1, dtype=DTYPE))
    gamma = mcmc.get_samples()["gamma/x->f"]
    ratio = gamma[:, 0] - gamma[:, 1]
    assert abs(float(ratio.mean()) - torch.log(torch.tensor(3.0)) / 2) < 0.25
    assert abs(float(ratio.std()) / (torch.pi / 3**0.5 / 2) - 1) < 0.2


@pytest.mark.parametrize("prior", [GumbelSoftmax(), Dirichlet(), LogisticNormal(), Categorical()], ids=repr)
def test_an_edge_with_one_operation(prior) -> None:
    x, y = data()
    family = Family(2).edge("x", "f", domain=prior.domain, prior=prior, ops={"line": GLM()})
    assert family.num_structures == 1
    assert family.log_prior(family.vertices()).tolist() == [0.0]
    model = family.model(likelihood=Gaussian(0.5))
    trace = poutine.trace(model).get_trace(x, y)
    assert trace.nodes["arch/x->f"]["value"].tolist() == [1.0]
    assert float(trace.log_prob_sum(lambda n, _: n == "gamma/x->f")) == pytest.approx(0.0, abs=1e-12)
    assert Predictive(model, num_samples=3, parallel=True)(x)["obs"].shape == (3, N)
    mcmc = MCMC(NUTS(model, max_tree_depth=3), num_samples=2, warmup_steps=2, disable_progbar=True)
    mcmc.run(x, y)
    assert mcmc.get_samples()["w/x->f/line/weight"].shape == (2, 2)


@pytest.mark.parametrize("name", ["gumbel", "categorical", "beta_binomial"])
def test_fixed_structure(name: str) -> None:
    x, y = data()
    family = network(name)
    which = family.structure({"x->h": "narrow", "h->f": "wave"})
    model = family.model(likelihood=Gaussian(0.5), structure=which.label)
    assert model.structure == which
    trace = poutine.trace(model).get_trace(x, y)
    latent = [n for n in trace.stochastic_nodes if n != "data"]
    assert latent == ["w/x->h/narrow/weight", "w/x->h/narrow/bias", "w/h->f/wave/a"]
    assert trace.nodes["arch/x->h"]["value"].tolist() == [0.0, 1.0]
    gates, weights = read(trace, model)
    total = model.log_likelihood(x, y, None, weights).sum() + model.log_weight_prior(weights)
    torch.testing.assert_close(trace.log_prob_sum(), total, rtol=1e-10, atol=1e-10)
    # the same value as the whole family at that vertex
    whole = family.model(likelihood=Gaussian(0.5))
    full = {k: weights.get(k, torch.randn(s, dtype=DTYPE)) for k, s in whole.weight_shapes.items()}
    torch.testing.assert_close(
        whole.log_likelihood(x, y, gates, full), model.log_likelihood(x, y, gates, weights)
    )
    mcmc = MCMC(NUTS(model, max_tree_depth=3), num_samples=2, warmup_steps=2, disable_progbar=True)
    mcmc.run(x, y)
    assert set(mcmc.get_samples()) == set(latent)


def test_fixed_structure_drops_what_cannot_reach_the_output() -> None:
    family = Family(2).edge("x", "h", ops={"a": Dense(2), "b": Identity()})
    family.edge("h", "f", domain="cube_vertex", ops={"line": GLM(), "const": Constant()})
    model = family.model(likelihood=Gaussian(0.5), structure="x->h: a; h->f: {const}")
    assert list(model.weight_shapes) == ["h->f/const/weight"]
    assert model(torch.randn(4, 2)).shape == (4,)
    empty = family.model(likelihood=Gaussian(0.5), structure="x->h: a; h->f: {}")
    assert empty.weight_shapes == {}
    assert empty(torch.randn(4, 2)).shape == (4,)
    y = torch.randn(4)
    expected = dist.Normal(0.0, 0.5).log_prob(y)
    torch.testing.assert_close(empty.log_likelihood(torch.randn(4, 2), y, None, {}), expected)


@pytest.mark.parametrize(
    ("likelihood", "units"), [(Binary(), 1), (Classes(), 3), (Poisson(), 1), (Gaussian(0.5), 2)]
)
def test_other_likelihoods(likelihood, units: int) -> None:
    family = Family(2).edge(
        "x", "f", domain="simplex_vertex", ops={"a": Dense(units), "b": Dense(units, "tanh")}
    )
    model = family.model(likelihood=likelihood)
    x = torch.randn(N, 2, dtype=DTYPE)
    y = model(x)
    trace = poutine.trace(model).get_trace(x, y)
    gates, weights = read(trace, model)
    total = model.log_likelihood(x, y, gates, weights).sum() + model.log_weight_prior(weights)
    total = total + family.log_prior(gates)
    torch.testing.assert_close(trace.log_prob_sum(), total, rtol=1e-10, atol=1e-10)
    assert Predictive(model, num_samples=3, parallel=True)(x)["obs"].shape == (3, *y.shape)
    assert torch.isfinite(
        torch.tensor(TraceEnum_ELBO(max_plate_nesting=1).loss(model, weight_guide(model), x, y))
    )


def test_learned_noise_and_concentration_are_parameters() -> None:
    x, y = data()
    prior = GumbelSoftmax(0.5, Hyper([1.0, 2.0]))
    family = Family(2).edge("x", "f", prior=prior, ops={"a": GLM(), "b": Constant()})
    model = family.model(likelihood=Gaussian(Hyper(0.3)), weight_prior=ARD(shape=0, rate=0))
    assert set(model.hyper) == {"noise", "concentration/x->f"}
    svi = SVI(model, AutoNormal(model), pyro.optim.Adam({"lr": 0.1}), Trace_ELBO())
    before = float(svi.step(x, y))
    for _ in range(20):
        after = float(svi.step(x, y))
    store = pyro.get_param_store()
    assert float(store["noise"].detach()) != pytest.approx(0.3)
    assert (store["concentration/x->f"] > 0).all()
    assert store["variance/x->f/a/weight"].shape == (2,)
    assert before != after


def test_one_learned_concentration_for_all_operations() -> None:
    family = Family(2).edge("x", "f", prior=Dirichlet(0.5, Hyper(2.0)), ops={"a": GLM(), "b": Constant()})
    trace = poutine.trace(family.model(likelihood=Gaussian(0.3))).get_trace(data()[0])
    assert trace.nodes["concentration/x->f"]["value"].shape == ()
    assert trace.nodes["gamma/x->f"]["fn"].concentration.tolist() == [1.0, 1.0]


def test_minibatches_scale_the_likelihood() -> None:
    x, y = data()
    model = network("gumbel").model(likelihood=Gaussian(0.3))
    whole = poutine.trace(model).get_trace(x, y)
    values = {n: whole.nodes[n]["value"] for n in whole.stochastic_nodes if n != "data"}
    batch = [
        poutine.trace(poutine.condition(model, values)).get_trace(x[i : i + 4], y[i : i + 4], size=N)
        for i in (0, 4)
    ]
    mean = sum(t.log_prob_sum(lambda n, _: n == "obs") for t in batch) / 2
    torch.testing.assert_close(mean, whole.log_prob_sum(lambda n, _: n == "obs"))


def test_outer_plates_of_the_user() -> None:
    x, _ = data()
    model = network("dirichlet").model(likelihood=Gaussian(0.3))
    with pyro.plate("chains", 3, dim=-2):
        y = model(x)
    assert y.shape == (3, N)
    with pyro.plate("a", 2, dim=-3), pyro.plate("b", 3, dim=-2):
        assert model(x).shape == (2, 3, N)


def test_single_precision_stays_single() -> None:
    model = network("gumbel").model(likelihood=Gaussian(0.3))
    assert model(torch.randn(N, 2)).dtype == torch.float32


@pytest.mark.parametrize(
    "domains", list(itertools.permutations(["simplex", "simplex_vertex", "cube_vertex"], 2))
)
def test_domains_mix(domains: tuple[str, str]) -> None:
    family = Family(2).edge("x", "h", domain=domains[0], ops={"a": Dense(2), "b": Dense(2, "tanh")})
    family.edge("h", "f", domain=domains[1], ops={"a": GLM(), "b": Constant()})
    model = family.model(likelihood=Gaussian(0.3))
    x, y = data()
    assert Predictive(model, num_samples=4, parallel=True)(x)["obs"].shape == (4, N)

    def guide(x: Tensor, y: Tensor) -> None:
        weight_guide(model)(x, y)
        for e in family.edges:
            if e.domain.name == "simplex":
                pyro.sample(f"gamma/{e.name}", e.prior.law(e.name, 2, x))

    assert torch.isfinite(torch.tensor(TraceEnum_ELBO(max_plate_nesting=1).loss(model, guide, x, y)))


def test_wrong_data_is_named() -> None:
    x, y = data()
    model = network("gumbel").model(likelihood=Gaussian(0.3))
    gates = torch.ones(4, dtype=DTYPE)
    with pytest.raises(FamilyError, match=r"'x' has shape \(8, 1\), expected \(n, 2\)"):
        model(x[:, :1])
    with pytest.raises(FamilyError, match=r"'y' has shape \(8, 1\), expected \(8,\).*y\[:, 0\]"):
        model(x, y[:, None])
    with pytest.raises(FamilyError, match="weight 'x->h/wide/weight' of shape"):
        model.log_likelihood(x, y, gates, {})
    with pytest.raises(FamilyError, match=r"'gates' has shape \(3,\), expected \(\*batch, 4\)"):
        model.log_likelihood(x, y, gates[:3], {})
    with pytest.raises(FamilyError, match="'gates' is needed"):
        model.log_likelihood(x, y, None, {})
    weights = {k: torch.zeros(s) for k, s in model.weight_shapes.items()}
    with pytest.raises(FamilyError, match=r"no weights \['other'\]"):
        model.log_weight_prior({**weights, "other": torch.zeros(1)})
    with pytest.raises(FamilyError, match=r"has shape \(3,\)"):
        model.log_weight_prior({**weights, "x->h/wide/weight": torch.zeros(3)})
    with pytest.raises(FamilyError, match="Put outer plates at dim=-2"), pyro.plate("chains", 3, dim=-1):
        model(x)


def test_printing_a_model() -> None:
    model = network("gumbel").model(likelihood=Gaussian(0.3), structure=0)
    assert "structure='x->h: wide; h->f: line'" in repr(model)
