"""DiscreteELBO on small Pyro pairs: value and gradient against enumeration, datum by datum."""

import math

import particle_toys as toys
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, TraceGraph_ELBO
from pyro.infer.autoguide import AutoNormalMessenger

from evidentia.inference.fit import fit
from evidentia.inference.objectives.discrete import DiscreteELBO
from evidentia.inference.objectives.discrete_sites import discrete_blocks

R = 4000  # replicates of one datum, each with parameters of its own: one backward gives R gradients
X = 0.8
GUIDE = torch.tensor([0.4, -0.7, 0.2], dtype=torch.float64)
WEIGHTS = torch.tensor([1.0, -0.6, 0.5], dtype=torch.float64)
PRIOR = torch.tensor([-0.3, 0.5, 0.1], dtype=torch.float64)
UNBIASED = ("reinforce", "nvil", "rloo", "arm", "disarm", "rebar", "relax", "local")
BIASED = ("st", "st_gumbel", "rao_blackwell_st")


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)


def mean_of(z, w):
    """E[x | z], with an interaction so that no estimator is exact by linearity."""
    return (w * z).sum(-1) + 1.5 * z[..., 0] * z[..., 1] - 0.8 * z[..., 1] * z[..., 2]


def replicated(value):
    return value.expand(R, *value.shape).clone()


def bits_model():
    w = pyro.param("w", replicated(WEIGHTS))
    with pyro.plate("data", R):
        z = pyro.sample("z", dist.Bernoulli(logits=PRIOR).to_event(1))
        pyro.sample("x", dist.Normal(mean_of(z, w), 1.0), obs=torch.full((R,), X))


def bits_guide():
    theta = pyro.param("theta", replicated(GUIDE))
    with pyro.plate("data", R):
        pyro.sample("z", dist.Bernoulli(logits=theta).to_event(1))


def split_model():
    """The same three bits as a site in an inner plate and a site of its own."""
    w = pyro.param("w", replicated(WEIGHTS))
    with pyro.plate("data", R, dim=-1):
        with pyro.plate("units", 2, dim=-2):
            a = pyro.sample("a", dist.Bernoulli(logits=PRIOR[:2, None]))
        b = pyro.sample("b", dist.Bernoulli(logits=PRIOR[2]))
        b = b.expand((*a.shape[:-2], 1, R)) if a.dim() > 2 else b[None]
        z = torch.cat([a, b], -2).transpose(-1, -2)
        mean = mean_of(z, w)
        mean = mean[..., None, :] if mean.dim() > 1 else mean
        pyro.sample("x", dist.Normal(mean, 1.0), obs=torch.full((R,), X))


def split_guide():
    theta = pyro.param("theta", replicated(GUIDE))
    with pyro.plate("data", R, dim=-1):
        with pyro.plate("units", 2, dim=-2):
            pyro.sample("a", dist.Bernoulli(logits=theta[:, :2].T))
        pyro.sample("b", dist.Bernoulli(logits=theta[:, 2]))


def choice_pair(integer):
    law = dist.Categorical if integer else dist.OneHotCategorical

    def model():
        w = pyro.param("w", replicated(WEIGHTS))
        with pyro.plate("data", R):
            z = pyro.sample("z", law(logits=PRIOR))
            chosen = torch.nn.functional.one_hot(z, 3) if integer else z
            mean = (chosen * w).sum(-1)
            pyro.sample("x", dist.Normal(2 * mean, 1.0), obs=torch.full((R,), X))

    def guide():
        theta = pyro.param("theta", replicated(GUIDE))
        with pyro.plate("data", R):
            pyro.sample("z", law(logits=theta))

    return model, guide


def log_normal(mean):
    return -0.5 * (X - mean) ** 2 - 0.5 * math.log(2 * math.pi)


def exact(choice=False):
    """The ELBO of one datum, and its gradient in (theta, w): enumeration."""
    theta, w = GUIDE.clone().requires_grad_(), WEIGHTS.clone().requires_grad_()
    if choice:
        z = torch.eye(3)
        log_q, prior = (z * theta.log_softmax(-1)).sum(-1), (z * PRIOR.log_softmax(-1)).sum(-1)
        likelihood = log_normal(2 * (z * w).sum(-1))
    else:
        z = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 3)
        log_q = (z * theta - torch.nn.functional.softplus(theta)).sum(-1)
        prior = (z * PRIOR - torch.nn.functional.softplus(PRIOR)).sum(-1)
        likelihood = log_normal(mean_of(z, w))
    elbo = (log_q.exp() * (prior + likelihood - log_q)).sum()
    return elbo.detach(), torch.cat(torch.autograd.grad(elbo, (theta, w)))


def draws(objective, model, guide):
    """R gradients in (theta, w), and the mean value."""
    torch.manual_seed(0)
    loss = objective.loss_and_grads(model, guide)
    ascent = [-pyro.param(name).unconstrained().grad for name in ("theta", "w")]
    return torch.cat(ascent, -1), -loss / R


PAIRS = {
    "bits": (bits_model, bits_guide),
    "split": (split_model, split_guide),
    "one_hot": choice_pair(False),
    "index": choice_pair(True),
}
CASES = [
    *(("bits", name) for name in UNBIASED),
    *(("split", name) for name in ("rloo", "disarm", "rebar", "relax", "local")),
    *(("one_hot", name) for name in ("reinforce", "nvil", "rloo")),
    *(("index", name) for name in ("reinforce", "rloo")),
]


@pytest.mark.statistical
@pytest.mark.parametrize(("pair", "estimator"), CASES)
def test_mean_gradient_and_value_equal_enumeration(pair, estimator):
    objective = DiscreteELBO(estimator, num_particles=2)
    gradients, value = draws(objective, *PAIRS[pair])
    elbo, gradient = exact(choice=pair in ("one_hot", "index"))
    assert toys.z_scores(gradients, gradient).abs().max() < 4.5
    assert abs(value - float(elbo)) < 0.1
    assert gradients.std() > 0


@pytest.mark.parametrize("pair", ["one_hot", "index"])
def test_a_single_choice_is_summed_out_exactly(pair):
    gradients, _ = draws(DiscreteELBO("local"), *PAIRS[pair])
    _, gradient = exact(choice=True)
    torch.testing.assert_close(gradients[:, :3], gradient[:3].expand(R, 3))


@pytest.mark.statistical
@pytest.mark.parametrize("estimator", BIASED)
def test_straight_through_has_an_exact_model_gradient_and_a_biased_guide_gradient(estimator):
    gradients, _ = draws(DiscreteELBO(estimator, num_particles=16, num_redraws=3), bits_model, bits_guide)
    z = toys.z_scores(gradients, exact()[1])
    assert z[3:].abs().max() < 4.5
    assert z[:3].abs().max() > 8


@pytest.mark.statistical
def test_straight_through_sees_the_prior_of_one_hot_sites():
    """Without likelihood the path through prior and entropy is all there is: it must not vanish."""

    def model():
        with pyro.plate("data", R):
            pyro.sample("z", dist.OneHotCategorical(logits=PRIOR))

    theta = GUIDE.clone().requires_grad_()
    q = theta.log_softmax(-1)
    (gradient,) = torch.autograd.grad(-(q.exp() * (q - PRIOR.log_softmax(-1))).sum(), theta)
    torch.manual_seed(0)
    pyro.param("w", torch.zeros(R, 3))
    DiscreteELBO("st").loss_and_grads(model, PAIRS["one_hot"][1])
    # f is linear in the value, so straight-through is exact.
    torch.testing.assert_close(-pyro.param("theta").grad, gradient.expand(R, 3))


def test_a_minibatch_is_scaled_and_a_mask_hides_data():
    x = torch.tensor([0.5, -1.0, 2.0, 0.3])

    def pair(size, hidden):
        mask = torch.ones(4, dtype=torch.bool)
        if hidden is not None:
            mask[hidden] = False

        def model():
            with pyro.plate("data", 4, subsample_size=size) as rows, poutine.mask(mask=mask[rows]):
                z = pyro.sample("z", dist.Bernoulli(0.3))
                pyro.sample("x", dist.Normal(2 * z, 1.0), obs=x[rows])

        def guide():
            theta = pyro.param("theta", torch.zeros(4))
            with pyro.plate("data", 4, subsample_size=size) as rows, poutine.mask(mask=mask[rows]):
                pyro.sample("z", dist.Bernoulli(logits=theta[rows]))

        return model, guide

    def gradient(size, hidden=None):
        pyro.clear_param_store()
        DiscreteELBO("local").loss_and_grads(*pair(size, hidden))
        return pyro.param("theta").grad.clone()

    whole = gradient(4)
    log_odds = math.log(0.3 / 0.7) + 2 * x - 2
    torch.testing.assert_close(whole, -0.25 * log_odds)  # p(1-p) times the change of f
    half = gradient(2)
    chosen = half != 0
    assert int(chosen.sum()) == 2
    torch.testing.assert_close(half[chosen], 2 * whole[chosen])
    masked = gradient(4, hidden=2)
    assert masked[2] == 0
    torch.testing.assert_close(masked[[0, 1, 3]], whole[[0, 1, 3]])


def test_a_global_site_couples_the_plate():
    """A bit outside the plate: one joint f; enumeration over five bits."""
    x = torch.tensor([0.5, -1.0, 2.0, 0.3])

    def model():
        a = pyro.sample("a", dist.Bernoulli(0.4))
        with pyro.plate("data", 4):
            z = pyro.sample("z", dist.Bernoulli(0.3))
            pyro.sample("x", dist.Normal(z * (1 + a), 1.0), obs=x)

    def guide():
        with pyro.plate("data", 4):
            pyro.sample("z", dist.Bernoulli(logits=pyro.param("theta", torch.zeros(4))))
        pyro.sample("a", dist.Bernoulli(logits=pyro.param("phi", torch.tensor(0.2))))

    theta, phi = torch.zeros(4, requires_grad=True), torch.tensor(0.2, requires_grad=True)
    s = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 5)
    a, z = s[:, :1], s[:, 1:]
    q = dist.Bernoulli(logits=phi).log_prob(a)[:, 0] + dist.Bernoulli(logits=theta).log_prob(z).sum(-1)
    p = dist.Bernoulli(torch.tensor(0.4)).log_prob(a)[:, 0]
    p = p + dist.Bernoulli(torch.tensor(0.3)).log_prob(z).sum(-1)
    p = p + dist.Normal(z * (1 + a), 1.0).log_prob(x).sum(-1)
    exact_gradient = torch.cat(
        [g.reshape(-1) for g in torch.autograd.grad((q.exp() * (p - q)).sum(), (theta, phi))]
    )
    torch.manual_seed(0)
    rows = []
    for _ in range(20):
        pyro.clear_param_store()
        DiscreteELBO("local", num_particles=100).loss_and_grads(model, guide)
        rows.append(-torch.cat([pyro.param("theta").grad, pyro.param("phi").grad[None]]))
    assert toys.z_scores(torch.stack(rows), exact_gradient).abs().max() < 4.5


@pytest.mark.parametrize("dims", [(-1,), (-3, -1), (-2,), ()])
def test_coordinates_find_their_way_back_into_three_plates(dims):
    theta = torch.randn(2, 3, 4, 5, 2)

    def guide():
        with pyro.plate("a", 2, dim=-3), pyro.plate("b", 3, dim=-2), pyro.plate("c", 4, dim=-1):
            pyro.sample("z", dist.OneHotCategorical(logits=theta).to_event(1))

    (block,) = discrete_blocks(poutine.trace(guide).get_trace(), dims, 3)
    assert block.logits.shape[:-2] == tuple(theta.shape[3 + d] for d in dims)
    normal = theta.log_softmax(-1)
    torch.testing.assert_close(block.site_value(torch.stack([block.logits, -block.logits]))[0], normal)


# -- training -----------------------------------------------------------------------------------------------


def belief_network(num_hidden=3, width=6, num_data=60):
    """A sigmoid belief network of one layer, its amortised guide, data, and the exact evidence."""
    generator = torch.Generator().manual_seed(5)
    true_weight = 3 * torch.randn(num_hidden, width, generator=generator)
    hidden = torch.bernoulli(torch.full((num_data, num_hidden), 0.5), generator=generator)
    x = torch.bernoulli((hidden @ true_weight).sigmoid(), generator=generator)
    start = 0.3 * torch.randn(num_hidden, width, generator=generator)

    def parts():
        return (
            pyro.param("prior", torch.zeros(num_hidden)),
            pyro.param("weight", start.clone()),
            pyro.param("bias", torch.zeros(width)),
        )

    def model(x):
        prior, weight, bias = parts()
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Bernoulli(logits=prior).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=z @ weight + bias).to_event(1), obs=x)

    def guide(x):
        encoder = pyro.param("encoder", torch.zeros(width, num_hidden))
        with pyro.plate("data", len(x)):
            logits = (x - 0.5) @ encoder + pyro.param("offset", torch.zeros(num_hidden))
            pyro.sample("z", dist.Bernoulli(logits=logits).to_event(1))

    def evidence(parameters):
        z = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * num_hidden)
        log_z = dist.Bernoulli(logits=parameters["prior"]).log_prob(z).sum(-1)
        logits = z @ parameters["weight"] + parameters["bias"]
        return float((log_z + dist.Bernoulli(logits=logits).log_prob(x[:, None]).sum(-1)).logsumexp(-1).sum())

    return (model, guide), x, evidence


@pytest.mark.parametrize("estimator", ["disarm", "rebar"])
def test_a_belief_network_is_trained(estimator):
    pair, x, evidence = belief_network()
    result = fit(
        pair, x, objective=DiscreteELBO(estimator, num_particles=2), num_steps=80, learning_rate=0.1, seed=0
    )
    first, last = -float(result.losses[:5].mean()), -float(result.losses[-20:].mean())
    assert last > first + 20
    assert last < evidence(result.params)  # a lower bound of the evidence of what was learned


@pytest.mark.parametrize("estimator", ["rebar", "relax"])
def test_fit_and_svi_train_the_control_variate(estimator):
    pair, x, _ = belief_network(num_data=10)
    objective = DiscreteELBO(estimator)
    result = fit(pair, x, objective=objective, num_steps=5, seed=0)
    assert isinstance(objective.control_variate, torch.nn.Module)
    names = {name for name in result.params if name.startswith("control_variate")}
    assert names == {f"control_variate$$${name}" for name, _ in objective.control_variate.named_parameters()}
    assert float(result.params["control_variate$$$scale"]) != 1.0
    again = DiscreteELBO(estimator)
    svi = SVI(*pair, pyro.optim.Adam({"lr": 0.01}), loss=again)
    before = again.control_variate
    for _ in range(3):
        svi.step(x)
    assert before is None
    assert float(again.control_variate.scale.detach()) != 1.0


@pytest.mark.slow
def test_relax_trains_towards_a_smaller_gradient():
    pair, x, _ = belief_network(num_data=20)
    objective = DiscreteELBO("relax")

    def spread(objective):
        torch.manual_seed(1)
        rows = []
        for _ in range(60):
            pyro.get_param_store().clear()
            objective.loss_and_grads(*pair, x)
            rows.append(pyro.param("offset").grad.clone())
        return float(torch.stack(rows).var(0).sum())

    before = spread(DiscreteELBO("relax"))
    pyro.get_param_store().clear()
    objective.differentiable_loss(*pair, x)
    optimizer = torch.optim.Adam(objective.control_variate.parameters(), lr=0.04)
    for _ in range(80):
        pyro.get_param_store().clear()
        optimizer.zero_grad()
        objective.loss_and_grads(*pair, x)
        optimizer.step()
    assert spread(objective) < 0.8 * before


@pytest.mark.statistical
def test_any_baseline_leaves_nvil_unbiased():
    objective = DiscreteELBO("nvil", num_particles=50)
    objective.differentiable_loss(bits_model, bits_guide)
    pyro.clear_param_store()
    torch.nn.init.constant_(objective.control_variate.net[-1].bias, -0.3)  # ten times that is b
    gradients, _ = draws(objective, bits_model, bits_guide)
    assert toys.z_scores(gradients, exact()[1]).abs().max() < 4.5
    plain, _ = draws(DiscreteELBO("reinforce", num_particles=50), bits_model, bits_guide)
    assert not torch.allclose(gradients, plain)


def test_the_baseline_of_nvil_learns_the_mean_of_f():
    pair, x, _ = belief_network(num_data=20)
    objective = DiscreteELBO("nvil")
    result = fit(pair, x, objective=objective, num_steps=60, learning_rate=0.02, seed=0)
    assert "control_variate$$$net.0.weight" in result.params
    with result.scope():
        trace = poutine.trace(pair[1]).get_trace(x)
        (block,) = discrete_blocks(trace, (-1,), 1)
        mean = float(objective.control_variate(block.logits).mean().detach())
        value = -float(objective.loss(*pair, x)) / len(x)
    assert mean == pytest.approx(value, abs=0.5)


def test_a_control_variate_belongs_to_one_number_of_bits():
    objective = DiscreteELBO("relax")
    objective.differentiable_loss(bits_model, bits_guide)
    pyro.clear_param_store()
    pair, x, _ = belief_network(num_hidden=2)
    with pytest.raises(ValueError, match=r"control_variate: it was made for 3 bits .* got 2"):
        objective.differentiable_loss(*pair, x)


@pytest.mark.parametrize("estimator", ["nvil", "disarm", "relax", "rao_blackwell_st"])
def test_a_compiled_step_repeats_the_eager_one(estimator):
    pair, x, _ = belief_network(num_data=8)
    eager, compiled = (
        fit(pair, x, objective=DiscreteELBO(estimator, num_particles=2), num_steps=4, seed=0, compile=mode)
        for mode in (None, "aten")
    )
    torch.testing.assert_close(eager.losses, compiled.losses)


def test_pyros_baselines_are_reached_through_fit():
    """NVIL: a decaying average and a network as baselines of `TraceGraph_ELBO`."""
    (model, _), x, evidence = belief_network()
    network = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))

    def guide(x):
        pyro.module("baseline", network)
        encoder = pyro.param("encoder", torch.zeros(6, 3))
        with pyro.plate("data", len(x)):
            options = {"nn_baseline": lambda x: network(x)[..., 0], "nn_baseline_input": x}
            law = dist.Bernoulli(logits=(x - 0.5) @ encoder).to_event(1)
            pyro.sample("z", law, infer={"baseline": options | {"use_decaying_avg_baseline": True}})

    result = fit((model, guide), x, objective=TraceGraph_ELBO(), num_steps=80, learning_rate=0.05, seed=0)
    first, last = -float(result.losses[:5].mean()), -float(result.losses[-20:].mean())
    assert last > first + 10
    assert last < evidence(result.params)


# -- what is refused ----------------------------------------------------------------------------------------


def layered(second):
    def program():
        a = pyro.sample("a", dist.Categorical(logits=torch.zeros(3)))
        pyro.sample("b", dist.Bernoulli(logits=second(a)))

    return program


def test_two_stochastic_layers_are_refused_by_name():
    table = torch.tensor([0.3, -0.2, 0.9])
    program = layered(lambda a: table[a])
    with pytest.raises(NotImplementedError, match="site 'b': its logits depend on site 'a'"):
        DiscreteELBO("rloo", num_particles=2).differentiable_loss(program, program)
    program = layered(lambda a: torch.tensor(0.4))
    assert DiscreteELBO("rloo", num_particles=2).loss(program, program) == pytest.approx(0.0)


def program_of(law):
    return lambda: pyro.sample("z", law)


@pytest.mark.parametrize(
    ("objective", "guide", "message"),
    [
        (DiscreteELBO("disarm"), program_of(dist.Normal(torch.tensor(0.0), 1.0)), "site 'z': .* got Normal"),
        (DiscreteELBO("disarm"), program_of(dist.Categorical(torch.ones(3) / 3)), "for Bernoulli sites only"),
        (DiscreteELBO("st"), program_of(dist.Categorical(torch.ones(3) / 3)), "carries no derivative"),
    ],
)
def test_sites_an_estimator_cannot_take_are_named(objective, guide, message):
    with pytest.raises(NotImplementedError, match=message):
        objective.differentiable_loss(guide, guide)


def test_guides_that_run_the_model_are_refused():
    guide = AutoNormalMessenger(bits_model)
    with pytest.raises(NotImplementedError, match="AutoNormalMessenger"):
        DiscreteELBO("rloo", num_particles=2).differentiable_loss(bits_model, guide)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"estimator": "disarn"}, "estimator: unknown name 'disarn', did you mean 'disarm'"),
        ({"estimator": "rloo"}, "'rloo' needs at least 2, got 1"),
        ({"temperature": 0.0}, "temperature: expected a positive number"),
        ({"num_redraws": 0}, "num_redraws: expected a number >= 1"),
    ],
)
def test_wrong_options_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        DiscreteELBO(**arguments)


def test_what_is_printed_says_what_is_promised():
    assert repr(DiscreteELBO("st")).endswith("the guide's gradient is biased")
    assert DiscreteELBO("disarm").promise.unbiased
