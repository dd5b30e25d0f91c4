"""A recorded step gives the eager losses and gradients, and says so where it cannot."""

import random
import shutil
import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoMultivariateNormal, AutoNormal
from pyro.nn import PyroModule, PyroParam
from torch import nn
from torch.distributions import constraints

from evidentia.inference.compile.backend import build
from evidentia.inference.compile.capture import CaptureError, capture, capture_batched
from evidentia.inference.compile.objective import compile_objective
from evidentia.inference.compile.simplify import simplify


class Elbo:
    """The plainest ELBO, without a number read out of a tensor."""

    def differentiable_loss(self, model, guide, *args, **kwargs):
        q = poutine.trace(guide).get_trace(*args, **kwargs)
        p = poutine.trace(poutine.replay(model, trace=q)).get_trace(*args, **kwargs)
        return q.log_prob_sum() - p.log_prob_sum()

    def loss(self, model, guide, *args, **kwargs):
        with torch.no_grad():
            return float(self.differentiable_loss(model, guide, *args, **kwargs))


def data(n=20):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n, 3, generator=generator)
    return x, x @ torch.tensor([1.0, -2.0, 0.5])


def regression(x, y):
    b = pyro.sample("b", dist.Normal(torch.zeros(3), 1.0).to_event(1))
    s = pyro.param("s", torch.tensor(1.0), constraint=constraints.positive)
    with pyro.plate("data", len(x)):
        pyro.sample("obs", dist.Normal((b * x).sum(-1), s), obs=y)


class VAE(PyroModule):
    """Networks, a constrained parameter and running statistics."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Dropout(0.2), nn.Linear(4, 3))
        self.scale = PyroParam(torch.tensor(1.0), constraint=constraints.positive)

    def forward(self, x, y):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("obs", dist.Normal(self.net(z), self.scale).to_event(1), obs=x)


class Encoder(PyroModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(3, 4)

    def forward(self, x, y):
        loc, raw = self.net(x).chunk(2, -1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, raw.exp()).to_event(1))


def subsampled(x, y):
    b = pyro.sample("b", dist.Normal(torch.zeros(3), 1.0).to_event(1))
    with pyro.plate("data", len(x), subsample_size=5) as rows:
        pyro.sample("obs", dist.Normal((b * x[rows]).sum(-1), 1.0), obs=y[rows])


PAIRS = {
    "normal": lambda: (regression, AutoNormal(regression)),
    "multivariate": lambda: (regression, AutoMultivariateNormal(regression)),
    "networks": lambda: (VAE(), Encoder()),
    "subsampled": lambda: (subsampled, AutoNormal(subsampled)),
}


def run(make, objective, steps, *, learning_rate=0.01):
    """Losses and parameters of a few steps of plain gradient descent through the objective."""
    torch.manual_seed(3)
    args = data()
    losses = []
    with pyro.get_param_store().scope():
        model, guide = make()
        for _ in range(steps):
            loss = objective.differentiable_loss(model, guide, *args)
            loss.backward()
            losses.append(float(loss.detach()))
            with torch.no_grad():
                for _, leaf in pyro.get_param_store().named_parameters():
                    leaf -= learning_rate * leaf.grad.clamp(-1, 1)
                    leaf.grad = None
        values = {k: v.detach().clone() for k, v in pyro.get_param_store().named_parameters()}
        buffers = [b.clone() for p in (model, guide) if isinstance(p, nn.Module) for b in p.buffers()]
    return torch.tensor(losses, dtype=torch.float64), values, buffers, torch.get_rng_state()


@pytest.mark.parametrize("name", PAIRS)
def test_equal_seeds_give_eager_losses_parameters_buffers_and_draws(name):
    eager = run(PAIRS[name], Elbo(), 50)
    compiled = compile_objective(Elbo(), check_every=10)
    replayed = run(PAIRS[name], compiled, 50)
    assert compiled.captures == 1
    assert compiled.fallback is None
    torch.testing.assert_close(replayed[0], eager[0], rtol=1e-6, atol=0.0)
    for key, value in eager[1].items():
        torch.testing.assert_close(replayed[1][key], value, rtol=1e-4, atol=1e-5)
    for one, two in zip(replayed[2], eager[2], strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)
    assert torch.equal(replayed[3], eager[3])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["normal", "networks"])
def test_inductor_gives_eager_losses_too(name):
    eager = run(PAIRS[name], Elbo(), 20)
    compiled = compile_objective(Elbo(), "inductor", check_every=5)
    replayed = run(PAIRS[name], compiled, 20)
    assert compiled.fallback is None
    torch.testing.assert_close(replayed[0], eager[0], rtol=1e-5, atol=0.0)
    for one, two in zip(replayed[2], eager[2], strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)
    assert torch.equal(replayed[3], eager[3])


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs g++")
def test_inductor_compiles_a_layer_with_a_tangent_and_takes_slices():
    weight, bias, x = torch.randn(200, 64), torch.randn(200), torch.randn(128, 64)
    wide = torch.randn(128, 128)

    def layer():
        return (torch.tanh(torch.nn.functional.linear(x, weight, bias)).sum(0),)

    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a replay in its place would warn
        run = build(capture(layer, [x, weight, bias]), "inductor", [x, weight, bias])
    for given in (x, wide[:, :64], wide.T[:, ::2]):
        expected = torch.tanh(torch.nn.functional.linear(given, weight, bias)).sum(0)
        torch.testing.assert_close(run(given, weight, bias)[0], expected, rtol=1e-4, atol=1e-4)


def test_inductor_without_a_compiler_says_so_and_replays(monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: None)
    x = torch.ones(3)
    with pytest.warns(UserWarning, match=r"inductor.*no C\+\+ compiler.*g\+\+"):
        run_graph = build(capture(lambda: (x * 2,), [x]), "inductor", [x])
    assert torch.equal(run_graph(x)[0], 2 * x)


def test_a_short_last_batch_is_a_second_graph_and_one_tensor_twice_is_two_inputs():
    def model(x, y):
        w = pyro.param("w", torch.tensor(1.0))
        pyro.factor("f", -(w * x - 2.0 * y).square().sum())

    def nothing(x, y):
        pass

    compiled = compile_objective(Elbo())
    x = torch.arange(4.0)
    for one, two in [(x, x), (x, x), (x, x + 1), (x[:3], x[:3]), (x[:3], x[:3] + 1)]:
        value = compiled.differentiable_loss(model, nothing, one, two)
        assert float(value.detach()) == float((one - 2.0 * two).square().sum())
    assert compiled.captures == 2


def test_a_temperature_passed_as_a_tensor_is_not_frozen_and_a_number_is_a_new_graph():
    def model(temperature):
        w = pyro.param("w", torch.tensor(2.0))
        pyro.factor("f", -w / temperature)

    compiled = compile_objective(Elbo())
    guide = lambda temperature: None  # noqa: E731
    values = [
        compiled.differentiable_loss(model, guide, temperature=torch.tensor(float(t))) for t in (1, 2, 4)
    ]
    assert [float(v.detach()) for v in values] == [2.0, 1.0, 0.5]
    assert compiled.captures == 1

    compiled = compile_objective(Elbo())
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        for t in [1.0, *map(float, range(1, 12))]:
            value = compiled.differentiable_loss(model, guide, temperature=t)
            assert float(value.detach()) == pytest.approx(2.0 / t)
    assert len([w for w in seen if "pass changing numbers as tensors" in str(w.message)]) == 1
    assert compiled.captures == 11


def branch(x, y):
    w = pyro.param("w", torch.tensor(1.0))
    pyro.factor("f", -w * w if w > 0.5 else -w)


def host_noise(x, y):
    w = pyro.param("w", torch.tensor(1.0))
    pyro.factor("f", -w * random.random())


def counter():
    calls = []

    def model(x, y):
        calls.append(1)
        w = pyro.param("w", torch.tensor(1.0))
        pyro.factor("f", -w * len(calls))

    return model


def late():
    calls = []

    def model(x, y):
        calls.append(1)
        w = pyro.param("w", torch.tensor(1.0))
        pyro.factor("f", -w * (pyro.param("late", torch.tensor(1.0)) if len(calls) > 1 else 1.0))

    return model


class Replaced(nn.Module):
    """A running mean that is a new tensor each time."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(1.0))
        self.register_buffer("mean", torch.zeros(()))

    def model(self, x, y):
        pyro.module("m", self)
        self.mean = 0.9 * self.mean + 0.1 * x.mean()
        pyro.factor("f", -self.w * (1 + self.mean.square()))


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: branch, "tracing"),
        (lambda: host_noise, "not torch's"),
        (counter, "state of its own"),
        (lambda: Replaced().model, "buffers.*model/mean.*in place"),
    ],
)
def test_what_cannot_be_recorded_warns_once_and_runs_eagerly(make, why):
    model, args = make(), data()

    def nothing(x, y):
        pass

    compiled = compile_objective(Elbo())
    random.seed(0)
    compiled.differentiable_loss(model, nothing, *args)
    with pytest.warns(UserWarning, match="runs eagerly.*" + why):
        compiled.differentiable_loss(model, nothing, *args)
    for _ in range(2):  # any further warning is an error here
        assert compiled.differentiable_loss(model, nothing, *args).requires_grad
    assert compiled.captures == 0


def test_a_parameter_that_appears_later_is_taken_in():
    model, args, compiled = late(), data(), compile_objective(Elbo())

    def nothing(x, y):
        pass

    for _ in range(4):
        loss = compiled.differentiable_loss(model, nothing, *args)
    loss.backward()
    assert compiled.captures == 1
    assert float(pyro.param("late").grad) == 1.0


def test_the_running_mean_that_is_replaced_moves_as_in_eager_runs():
    means = []
    for objective in (Elbo(), compile_objective(Elbo())):
        with pyro.get_param_store().scope(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            net = Replaced()
            for _ in range(4):
                objective.differentiable_loss(net.model, lambda x, y: None, *data())
            means.append(float(net.mean))
    assert means[0] == means[1]


def test_check_every_finds_what_changed_after_recording():
    box = {"factor": torch.tensor(1.0)}

    def model():
        w = pyro.param("w", torch.tensor(1.0))
        pyro.factor("f", -w * box["factor"])

    def nothing():
        pass

    compiled = compile_objective(Elbo(), check_every=2)
    for _ in range(3):
        compiled.differentiable_loss(model, nothing)
    box["factor"] = torch.tensor(3.0)
    compiled.calls = 1
    with pytest.raises(CaptureError, match="differs from the eager run"):
        compiled.differentiable_loss(model, nothing)


def test_modes_and_stores_are_looked_at_on_every_call():
    net, compiled, args = VAE(), compile_objective(Elbo()), data()
    encoder = Encoder()
    for _ in range(2):
        compiled.differentiable_loss(net, encoder, *args)
    net.eval()
    before = net.net[1].running_mean.clone()
    compiled.differentiable_loss(net, encoder, *args)
    assert compiled.captures == 2
    assert torch.equal(net.net[1].running_mean, before)
    with pyro.get_param_store().scope():
        compiled.differentiable_loss(net, encoder, *args).backward()  # the store is empty: eager again
    assert compiled.captures == 2


def test_works_in_svi_with_gradients_only():
    x, y = data()
    losses = []
    for objective in (pyro.infer.Trace_ELBO(), compile_objective(Elbo())):
        pyro.set_rng_seed(0)
        with pyro.get_param_store().scope():
            model, guide = PAIRS["normal"]()
            svi = pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": 0.03}), loss=objective)
            losses.append([svi.step(x, y) for _ in range(20)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_bad_settings_are_named():
    with pytest.raises(ValueError, match="'aten' or 'inductor'"):
        compile_objective(Elbo(), "jit")
    with pytest.raises(ValueError, match="RenyiELBO has no differentiable_loss"):
        compile_objective(pyro.infer.RenyiELBO())
    with pytest.raises(ValueError, match="check_every"):
        compile_objective(Elbo(), check_every=0)


def test_simplify_keeps_draws_and_writes():
    x, kept = torch.ones(3), torch.zeros(3)

    def step():
        torch.rand(3)  # unused, but it moves the generator
        kept.add_(1.0)
        grown = torch.zeros(3)
        grown.add_(x)
        return (grown.detach() * torch.tensor(2.0) + torch.randn(3),)

    graph = capture(step, [x, kept])
    torch.manual_seed(0)
    torch.rand(3)
    expected = 2 * x + torch.randn(3)
    simplify(graph)
    for _ in range(2):
        torch.manual_seed(0)
        assert torch.equal(graph(x, kept)[0], expected)
    assert kept.tolist() == [3.0, 3.0, 3.0]


def test_a_recorded_graph_can_be_mapped():
    w = torch.tensor([1.0, 2.0])
    graph = capture(lambda: ((w * 3).sum(), w * 2), [w])
    stacked = torch.tensor([[1.0, 2.0], [5.0, 6.0]])
    batched = capture_batched(graph, (0,), [stacked])
    assert batched(stacked)[0].tolist() == [9.0, 33.0]
    with pytest.raises(ValueError, match="twice"):
        capture(lambda: w, [w, w])
