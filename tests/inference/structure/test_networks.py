"""Evidence of networks: the worked example, tempering, ties, noise, hyperparameters, errors, resumption."""

import math

import oracles
import pytest
import torch
from torch.distributions import LogNormal, MultivariateNormal, Normal

from evidentia.inference.structure.networks import FailedStructures, network_evidence
from evidentia.models.likelihood import Bernoulli, Gaussian, Hyper
from evidentia.models.structure.family import Family
from evidentia.models.structure.ops import GLM, Constant, Dense, op
from evidentia.models.structure.weights import ARD

pytestmark = pytest.mark.statistical


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)


def worked_family():
    ops = {"constant": Constant(), "one": GLM([0, 11], "tanh"), "all": GLM(activation="tanh")}
    return Family(12).edge("x", "f", ops=ops)


def worked_model(scale=0.5):
    return worked_family().model(likelihood=Gaussian(scale))


def exact_constant(y, power=1.0):
    """log ∫ N(y; w, ½²)^β N(w; 0, 1) dw by quadrature."""
    w = torch.linspace(-8, 8, 40001)
    terms = power * Normal(w.unsqueeze(-1), 0.5).log_prob(y).sum(-1) + Normal(0.0, 1.0).log_prob(w)
    return torch.logsumexp(terms, 0) + math.log(16 / 40000)


def exact_one(x, y, power=1.0, half=5.0, size=201):
    """The same over the two weights of tanh(w x0 + b)."""
    w, b = torch.meshgrid(torch.linspace(-half, half, size), torch.linspace(-half, half, size), indexing="ij")
    mean = torch.tanh(w.unsqueeze(-1) * x[:, 0] + b.unsqueeze(-1))
    prior = Normal(0.0, 1.0).log_prob(w) + Normal(0.0, 1.0).log_prob(b)
    terms = power * Normal(mean, 0.5).log_prob(y).sum(-1) + prior
    return torch.logsumexp(terms.flatten(), 0) + 2 * math.log(2 * half / (size - 1))


def importance_all(x, y, power, draws=10_000, spread=1.6, df=6.0):
    """The same over the twelve weights, by importance sampling from a Student-t around the mode."""

    def log_joint(w):
        mean = torch.tanh(w @ x.T)
        return power * Normal(mean, 0.5).log_prob(y).sum(-1) + Normal(0.0, 1.0).log_prob(w).sum(-1)

    mode = torch.full((12,), 0.01, requires_grad=True)
    optimizer = torch.optim.LBFGS([mode], max_iter=60, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = -log_joint(mode)
        loss.backward()
        return loss

    optimizer.step(closure)
    mode = mode.detach()
    hessian = torch.autograd.functional.hessian(lambda w: -log_joint(w), mode)
    factor = spread * torch.linalg.cholesky(torch.linalg.inv(hessian))
    generator = torch.Generator().manual_seed(4)
    chi = 2 * torch._standard_gamma(torch.full((draws, 1), df / 2), generator)
    t = torch.randn(draws, 12, generator=generator) * (df / chi).sqrt()
    log_q = (
        math.lgamma((df + 12) / 2)
        - math.lgamma(df / 2)
        - 6 * math.log(df * math.pi)
        - (df + 12) / 2 * torch.log1p(t.square().sum(-1) / df)
        - factor.diagonal().log().sum()
    )
    weight = log_joint(mode + t @ factor.T) - log_q
    value = torch.logsumexp(weight, 0) - math.log(draws)
    return value, (weight - value).exp().std() / math.sqrt(draws)


def test_data_are_those_of_the_worked_example():
    x, y = oracles.worked_example()
    found = (x[0, 0], y[0], y.sum(), y.square().sum())
    for value, golden in zip(found, oracles.WORKED_DATA_CHECKS, strict=True):
        assert abs(value - golden) < 1e-9


def test_oracles_agree_with_the_goldens():
    x, y = oracles.worked_example()
    assert abs(exact_constant(y) - oracles.WORKED_LOG_EVIDENCE[0]) < 1e-3
    closed = MultivariateNormal(torch.zeros(50), 0.25 * torch.eye(50) + 1.0).log_prob(y)
    assert abs(closed - exact_constant(y)) < 1e-8
    assert abs(exact_one(x, y) - oracles.WORKED_LOG_EVIDENCE[1]) < 1e-3
    value, error = importance_all(x, y, 1.0)
    assert abs(value - oracles.WORKED_LOG_EVIDENCE[2]) < 4.5 * error


def test_worked_example_mean_field():
    x, y = oracles.worked_example()
    found = network_evidence(worked_model(), x, y, worked_family().vertices(), num_steps=600)
    exact = torch.tensor(oracles.WORKED_LOG_EVIDENCE)
    assert found.kind == "lower bound"
    assert found.labels == ("constant", "one", "all")
    # The golden ELBOs come from another optimiser: ours may be a little better, never above the IWAE bound.
    torch.testing.assert_close(found.elbo, torch.tensor(oracles.WORKED_ELBO), atol=0.25, rtol=0)
    torch.testing.assert_close(found.iwae, torch.tensor(oracles.WORKED_IWAE), atol=0.2, rtol=0)
    assert (found.elbo <= found.iwae + 1e-12).all()
    assert (found.iwae < exact + 4.5 * found.iwae_se + 1e-3).all()
    assert abs(found.iwae[0] - exact[0]) < 1e-3
    assert found.pareto_k[2] > 0.5
    order = torch.softmax(found.iwae, 0)
    assert order[1] > 0.999


@pytest.mark.slow
def test_worked_example_full_covariance():
    x, y = oracles.worked_example()
    found = network_evidence(
        worked_model(), x, y, worked_family().vertices(), guide="full_covariance", num_steps=600
    )
    assert abs(found.iwae[2] - oracles.WORKED_FULL_IWAE) < 4.5 * found.iwae_se[2] + 0.05
    assert abs(found.importance[2] - oracles.WORKED_LOG_EVIDENCE[2]) < 0.2
    assert abs(found.importance[1] - oracles.WORKED_LOG_EVIDENCE[1]) < 4.5 * found.importance_se[1]
    loc, scale = found.weights(1)["x->f/one/weight"]
    tril = found.guide["scale_tril"][1, 1:3, 1:3]
    torch.testing.assert_close(scale.square(), (tril @ tril.T).diagonal())
    assert loc[0] > 0.5


@pytest.mark.slow
@pytest.mark.parametrize("power", [0.01, 1.0, 100.0])
def test_tempered_evidences(power):
    x, y = oracles.worked_example()
    found = network_evidence(
        worked_model(), x, y, worked_family().vertices(), guide="full_covariance", num_steps=400,
        num_particles=4, prior_weight=1 / power, evidence_batches=10,
    )  # fmt: skip
    assert found.power == pytest.approx(power)
    assert abs(found.importance[0] - exact_constant(y, power)) < 4.5 * found.importance_se[0] + 1e-6
    one = exact_one(x, y, power, **({"half": 2.0, "size": 401} if power == 100 else {}))
    assert abs(found.importance[1] - one) < 4.5 * found.importance_se[1] + 1e-6
    value, error = importance_all(x, y, power)
    tolerance = 4.5 * math.hypot(error, found.importance_se[2]) + (0.1 if power == 1 else 0)
    assert abs(found.importance[2] - value) < tolerance
    if power in oracles.WORKED_TEMPERED:
        goldens = torch.tensor(oracles.WORKED_TEMPERED[power])
        slack = torch.tensor([1e-3, 1e-3, 0.02 if power < 1 else 0.2])
        assert ((torch.stack([exact_constant(y, power), one, value]) - goldens).abs() < slack).all()
    probability = torch.softmax(found.importance, 0)
    golden = torch.tensor(oracles.WORKED_TEMPERED_PROBABILITY[power])
    torch.testing.assert_close(probability, golden, atol=0.01, rtol=0)


def test_power_and_prior_weight_are_two_names_of_one_bound():
    x, y = oracles.worked_example()
    gates, options = worked_family().vertices(), {"num_steps": 30, "evidence_batches": 2}
    powered = network_evidence(worked_model(), x, y, gates, likelihood_power=0.25, **options)
    weighted = network_evidence(worked_model(), x, y, gates, prior_weight=4.0, **options)
    assert torch.equal(powered.elbo, weighted.elbo)


def test_closed_form_is_the_optimum_over_structures():
    """Σ_k π_k ELBO_k − KL(π ‖ s) is largest, and equal to log Σ_k s_k exp ELBO_k, at π_k ∝ s_k exp ELBO_k."""
    x, y = oracles.worked_example()
    family = worked_family()
    found = network_evidence(
        worked_model(), x, y, family.vertices(), num_steps=200, evidence_batches=2, prior_weight=20.0
    )
    log_prior = family.log_prior(family.vertices())

    def objective(logits):
        log_pi = logits.log_softmax(-1)
        return (log_pi.exp() * (found.elbo + log_prior - log_pi)).sum(-1)

    logits = torch.zeros(3, requires_grad=True)
    optimizer = torch.optim.LBFGS([logits], max_iter=200, line_search_fn="strong_wolfe", tolerance_grad=1e-12)

    def closure():
        optimizer.zero_grad()
        loss = -objective(logits)
        loss.backward()
        return loss

    optimizer.step(closure)
    closed = (log_prior + found.elbo).softmax(-1)
    torch.testing.assert_close(logits.detach().softmax(-1), closed, atol=1e-6, rtol=0)
    best = torch.logsumexp(log_prior + found.elbo, 0)
    assert abs(objective(closed.log()) - best) < 1e-10
    others = torch.randn(200, 3, generator=torch.Generator().manual_seed(0))
    assert (objective(others) <= best).all()


def test_identical_operations_tie():
    x, y = oracles.worked_example()
    ops = {"const": Constant(), "left": GLM([0, 11], "tanh"), "right": GLM([0, 11], "tanh")}
    family = Family(12).edge("x", "f", ops=ops)
    found = network_evidence(
        family.model(likelihood=Gaussian(0.5)), x, y, family.vertices(), num_steps=100, evidence_batches=2
    )
    assert abs(found.elbo[1] - found.elbo[2]) < 1e-10
    assert abs(found.iwae[1] - found.iwae[2]) < 1e-10


def test_dead_weights_stay_at_the_prior_and_live_ones_do_not():
    x, y = oracles.worked_example()
    ops = {"tanh": Dense(3, "tanh"), "relu": Dense(3, "relu")}
    family = (
        Family(12)
        .edge("x", "h", ops=ops, domain="cube_vertex")
        .edge("h", "f", ops={"dense": Dense(1), "constant": Constant()}, domain="cube_vertex")
    )
    model = family.model(likelihood=Gaussian(0.5), weight_prior=ARD(0.7))
    gates = torch.stack(
        [
            family.structure("x->h: {tanh}; h->f: {dense}").gates,
            family.structure("x->h: {tanh, relu}; h->f: {constant}").gates,
            family.structure("x->h: {}; h->f: {}").gates,
        ]
    )
    found = network_evidence(model, x, y, gates, num_steps=60, evidence_batches=2)
    for row, live in enumerate([{"tanh", "dense"}, {"constant"}, set()]):
        for name, (loc, scale) in found.weights(row).items():
            at_prior = bool((loc == 0).all()) and torch.allclose(scale, torch.tensor(0.7), atol=1e-12, rtol=0)
            assert at_prior == (name.split("/")[1] not in live), (row, name)
    # No weights at all: the evidence is the likelihood of zero, without error.
    assert abs(found.iwae[2] - Normal(0.0, 0.5).log_prob(y).sum()) < 1e-9
    assert found.iwae_se[2] < 1e-9
    # The hidden layer is cut off, so the structure is worth as much as the constant alone.
    alone = torch.tensor([0.0, 0.0, 0.0, 1.0])
    again = network_evidence(model, x, y, alone.unsqueeze(0), num_steps=60, evidence_batches=2)
    assert abs(found.iwae[1] - again.iwae[0]) < 1e-9


@pytest.mark.slow
def test_noise_with_a_prior_is_integrated_out():
    x, y = oracles.worked_example()
    prior = LogNormal(-0.5, 0.5)
    family = Family(12).edge("x", "f", ops={"constant": Constant(), "line": GLM([0])})
    model = family.model(likelihood=Gaussian(prior))
    found = network_evidence(
        model, x, y, family.vertices(), guide="full_covariance", num_steps=600, evidence_batches=10
    )
    noise = torch.linspace(0.05, 4.0, 4001)
    for row, column in enumerate([torch.ones(50), x[:, 0]]):
        covariance = noise[:, None, None].square() * torch.eye(50) + torch.outer(column, column)
        terms = MultivariateNormal(torch.zeros(50), covariance).log_prob(y) + prior.log_prob(noise)
        exact = torch.logsumexp(terms, 0) + math.log(3.95 / 4000)
        assert abs(found.importance[row] - exact) < 4.5 * found.importance_se[row] + 1e-5
        assert found.elbo[row] < exact + 4.5 * found.elbo_se[row]


@pytest.mark.slow
def test_hyperparameters_are_learned_only_where_the_model_declares_them():
    x, y = oracles.worked_example()
    gates, options = worked_family().vertices(), {"num_steps": 400, "evidence_batches": 2}
    learned = network_evidence(worked_model(Hyper(0.5)), x, y, gates, **options)
    fixed = network_evidence(worked_model(Hyper(0.5)), x, y, gates, hyper="fixed", **options)
    plain = network_evidence(worked_model(0.5), x, y, gates, **options)
    assert torch.equal(fixed.elbo, plain.elbo)
    assert "noise" not in plain.hyper
    # The noise of the constant model is close to the standard deviation of the response.
    assert abs(learned.hyper["noise"][0] - y.std()) < 0.05
    assert learned.elbo[0] > fixed.elbo[0] + 5
    ard = worked_family().model(likelihood=Gaussian(0.5), weight_prior=ARD(shape=1.0, rate=0.1))
    relevance = network_evidence(ard, x, y, gates, **options).hyper["variance"][2, 3:]
    assert relevance[0] > 2 * relevance[1:11].max()


def test_two_calls_agree_and_a_resumed_one_too():
    x, y = oracles.worked_example()
    gates, kept = worked_family().vertices(), {}
    options = {"num_steps": 60, "evidence_batches": 2, "seed": 7}

    def keep(progress):
        if progress.step == 25:
            kept.update(progress.state())

    whole = network_evidence(worked_model(), x, y, gates, callback=keep, **options)
    resumed = network_evidence(worked_model(), x, y, gates, state=kept, **options)
    assert torch.equal(whole.iwae, resumed.iwae)
    for name, value in whole.state.items():
        assert torch.equal(value, resumed.state[name]), name
    with pytest.raises(ValueError, match="state: it belongs to other structures"):
        network_evidence(worked_model(), x, y, gates[:2], state=kept, **options)


def test_a_failing_structure_is_named():
    x, y = oracles.worked_example()
    ops = {"fine": GLM([0]), "broken": op(lambda a, w: a[:, :1] * torch.sqrt(-w * w), w=())}
    family = Family(12).edge("x", "f", ops=ops)
    model = family.model(likelihood=Gaussian(0.5))
    alone = network_evidence(model, x, y, family.vertices()[:1], num_steps=50, evidence_batches=2)
    with pytest.warns(FailedStructures, match="1 of 2 structures: broken"):
        found = network_evidence(model, x, y, family.vertices(), num_steps=50, evidence_batches=2)
    assert found.failed == ("broken",)
    assert found.skipped.tolist() == [0, 50]
    torch.testing.assert_close(found.iwae[0], alone.iwae[0], atol=1e-9, rtol=0)


def test_binary_response_bound_is_below_the_quadrature():
    x, y = oracles.worked_example()
    label = (y > 0).double()
    family = Family(12).edge("x", "f", ops={"logit": GLM([0, 11])})
    found = network_evidence(
        family.model(likelihood=Bernoulli()), x, label, family.vertices(), num_steps=600, evidence_batches=10
    )
    w, b = torch.meshgrid(torch.linspace(-7, 7, 401), torch.linspace(-7, 7, 401), indexing="ij")
    logits = w.unsqueeze(-1) * x[:, 0] + b.unsqueeze(-1)
    terms = torch.distributions.Bernoulli(logits=logits).log_prob(label).sum(-1)
    terms = terms + Normal(0.0, 1.0).log_prob(w) + Normal(0.0, 1.0).log_prob(b)
    exact = torch.logsumexp(terms.flatten(), 0) + 2 * math.log(14 / 400)
    assert found.elbo[0] < exact + 4.5 * found.elbo_se[0]
    assert abs(found.importance[0] - exact) < 4.5 * found.importance_se[0] + 1e-5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gates": torch.zeros(2, 5)}, r"gates: .*\(S, 3\), got \(2, 5\)"),
        ({"gates": torch.zeros(0, 3)}, "gates: expected at least one"),
        ({"guide": "laplace"}, "guide: expected one of"),
        ({"prior_weight": 0.0}, "prior_weight: expected a positive"),
        ({"likelihood_power": math.inf}, "likelihood_power: expected a positive"),
        ({"evidence_batches": 1}, "evidence_batches: expected at least 2"),
        ({"hyper": "learned"}, "declares no hyperparameter"),
        ({"hyper": "yes"}, "hyper: expected"),
    ],
)
def test_errors_name_the_argument(change, message):
    x, y = oracles.worked_example()
    arguments = {"gates": worked_family().vertices(), **change}
    with pytest.raises(ValueError, match=message):
        network_evidence(worked_model(), x, y, **arguments)


def test_data_are_checked():
    x, y = oracles.worked_example()
    x[3, 2] = math.nan
    with pytest.raises(ValueError, match="NaN"):
        network_evidence(worked_model(), x, y, worked_family().vertices())
