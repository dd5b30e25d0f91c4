"""One loss, many callers: Pyro's SVI, a module, `fit`, a captured graph; and the surrogate written out."""

import pyro
import pyro.distributions as dist
import pyro_pairs as pairs
import pytest
import torch
from pyro.infer import SVI
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroModule, PyroParam
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

from evidentia.inference.fit import fit
from evidentia.inference.objectives import presets
from evidentia.inference.objectives.coefficients import coefficients
from evidentia.inference.objectives.objective import Objective
from evidentia.inference.objectives.particle import ParticleELBO

CASES = [
    ("elbo", "total", {}),
    ("elbo", "stl", {}),
    ("iwae", "total", {}),
    ("iwae", "dreg", {}),
    ("rws", "total", {}),
    ("rws", "dreg", {}),
    ("renyi", "dreg", {"alpha": 0.5}),
    ("tail_adaptive", "stl", {}),
    ("miwae", "dreg", {"outer": 2}),
    ("piwae", "dreg", {"outer": 2}),
    ("piwae", "total", {"outer": 2}),
    ("ciwae", "dreg", {"beta": 0.4}),
    ("jackknife", "dreg", {}),
]


def written_out(objective, pair):
    """The loss of the specification: value + (T - T.detach()), T from leaves, log p and log q."""
    model, guide, _ = pair
    particles = objective.particles(model, guide, cut=True)
    options = {"outer": objective.outer, "alpha": objective.alpha, "beta": objective.beta}
    c = coefficients(particles.log_weight.detach(), objective.objective, objective.gradient, **options)
    leaves = particles.leaves
    cotangents = [None] * len(leaves)
    if leaves:
        path = (c.path.detach() * (particles.log_p - particles.log_q)).sum()
        cotangents = list(torch.autograd.grad(path, [leaf.leaf for leaf in leaves], retain_graph=True))
        for i in reversed(range(1, len(leaves))):
            earlier = [leaf.leaf for leaf in leaves[:i]]
            passed = torch.autograd.grad(
                leaves[i].value, earlier, cotangents[i], retain_graph=True, allow_unused=True
            )
            for j, extra in enumerate(passed):
                if extra is not None:
                    cotangents[j] = cotangents[j] + extra
    t = sum((g.detach() * leaf.value).sum() for g, leaf in zip(cotangents, leaves, strict=True))
    t = -(t + (c.theta * particles.log_p).sum() + (c.score_reparam * particles.log_q).sum())
    t = t * particles.plates.scale
    return -particles.plates.scale * c.value.sum() + (t - t.detach())


@pytest.mark.parametrize(("name", "gradient", "options"), CASES)
def test_the_loss_equals_the_surrogate_written_out(name, gradient, options):
    pair = pairs.hierarchical(5)
    objective = ParticleELBO(name, gradient, num_particles=4, max_plate_nesting=1, **options)
    pyro.set_rng_seed(1)
    loss = written_out(objective, pair)
    expected = torch.autograd.grad(loss, pair[2], allow_unused=True)
    pyro.set_rng_seed(1)
    ours = objective.differentiable_loss(*pair[:2])
    found = torch.autograd.grad(ours, pair[2], allow_unused=True)
    assert float(ours.detach()) == pytest.approx(float(loss.detach()), rel=1e-12)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(
            torch.zeros(5, dtype=torch.float64) if one is None else one,
            torch.zeros(5, dtype=torch.float64) if other is None else other,
            rtol=1e-9,
            atol=1e-12,
        )
    pyro.set_rng_seed(1)
    number = objective.loss_and_grads(*pair[:2])
    assert number == float(ours.detach())
    for parameter, other in zip(pair[2], expected, strict=True):
        if other is not None:
            torch.testing.assert_close(parameter.grad, other, rtol=1e-9, atol=1e-12)
    pyro.set_rng_seed(1)
    assert objective.loss(*pair[:2]) == pytest.approx(number, rel=1e-12)


def test_a_loss_can_be_scaled_and_summed():
    pair = pairs.hierarchical(3)
    objective = ParticleELBO("iwae", "dreg", num_particles=3, max_plate_nesting=1)
    pyro.set_rng_seed(1)
    single = torch.autograd.grad(objective.differentiable_loss(*pair[:2]), pair[2])
    pyro.set_rng_seed(1)
    tripled = torch.autograd.grad(3 * objective.differentiable_loss(*pair[:2]) + 1, pair[2])
    for one, three in zip(single, tripled, strict=True):
        torch.testing.assert_close(3 * one, three)


class Model(PyroModule):
    def __init__(self):
        super().__init__()
        self.slope = PyroParam(torch.tensor(0.5))

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(self.slope * z, 0.5), obs=x)


class Guide(PyroModule):
    def __init__(self):
        super().__init__()
        self.gain = PyroParam(torch.tensor(0.1))

    def forward(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.gain * x, 0.7))


@pytest.mark.parametrize("objective", [presets.DReG(4), presets.STL(2), presets.IWAE(3), presets.RWS(3)])
def test_pyros_own_svi(objective):
    x = torch.randn(20) * 1.5
    model, guide = Model(), Guide()
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.05}), loss=objective)
    before = svi.evaluate_loss(x)
    losses = [svi.step(x) for _ in range(60)]
    assert all(isinstance(loss, float) for loss in losses)
    assert sum(losses[-10:]) / 10 < before - 2
    assert float(guide.gain.detach()) > 0.2


def test_a_module_of_its_own():
    x = torch.randn(20)
    with pyro.settings.context(module_local_params=True):  # before the modules are made: Pyro asks for it
        loss = presets.DReG(4)(Model(), Guide())
        assert isinstance(loss, nn.Module)
        optimizer = torch.optim.Adam(loss.parameters(), lr=0.05)
        first = float(loss(x).detach())
        for _ in range(60):
            optimizer.zero_grad()
            loss(x).backward()
            optimizer.step()
        assert len(list(loss.parameters())) == 2
        assert float(loss(x).detach()) < first


def test_fit_takes_it():
    x = torch.randn(20)
    result = fit((Model(), Guide()), x, objective=presets.DReG(4), num_steps=50, learning_rate=0.05, seed=1)
    assert result.losses[-10:].mean() < result.losses[:5].mean()
    again = fit((Model(), Guide()), x, objective=presets.DReG(4), num_steps=50, learning_rate=0.05, seed=1)
    torch.testing.assert_close(result.losses, again.losses, rtol=0, atol=0)


def test_fit_reports_the_site_of_a_nan():
    from evidentia.inference.fit import FitError

    def model():
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.factor("f", (z * 0 - 1).sqrt())

    with pytest.raises(FitError):
        fit((model, AutoNormal(model)), objective=presets.STL(2), num_steps=2, seed=0, validate=False)


def test_one_objective_serves_pairs_of_different_depth():
    objective = presets.DReG(3)
    objective.loss(Model(), Guide(), torch.randn(4))

    def deep(x):
        with pyro.plate("a", 2, dim=-2), pyro.plate("b", 3, dim=-1):
            pyro.sample("z", dist.Normal(torch.zeros(2, 3), 1.0))

    assert objective.particles(deep, deep, (None,)).log_weight.shape == (3, 2, 3)

    class Bound:
        calls = 0

        def model(self, x):
            self.calls += 1
            deep(x)

    bound = Bound()
    for _ in range(3):
        objective.loss(bound.model, bound.model, None)
    assert bound.calls == 8  # twice to find the depth, and twice for each loss


def test_an_objective_is_abstract():
    with pytest.raises(TypeError, match="abstract"):
        Objective()


# -- parameters of both programs -----------------------------------------------------------------------------


@pytest.mark.statistical
@pytest.mark.parametrize(
    ("one", "two"), [(("elbo", "total"), ("elbo", "stl")), (("iwae", "total"), ("iwae", "dreg"))]
)
@pytest.mark.parametrize("vectorised", [True, False])
def test_parameters_of_model_and_guide(one, two, vectorised):
    """A prior built from the encoder, as a VampPrior: one parameter vector in both programs."""
    size = 20_000

    def pair():
        shared, scale = pairs.replicate(0.6, -0.4, size=size)
        x = torch.full((size,), 0.8, dtype=torch.float64)

        def model():
            with pyro.plate("data", size):
                z = pyro.sample("z", dist.Normal(0.5 * shared, scale.exp()))  # encoder at a pseudo-input
                pyro.sample("x", dist.Normal(z, 0.5), obs=x)

        def guide():
            with pyro.plate("data", size):
                pyro.sample("z", dist.Normal(shared * x, scale.exp()))

        return model, guide, (shared, scale)

    options = {"num_particles": 2, "vectorize_particles": vectorised}
    first, _ = pairs.draws(ParticleELBO(*one, **options), pair())
    second, _ = pairs.draws(ParticleELBO(*two, **options), pair())
    assert pairs.two_sample(first, second).abs().max() < 4.5


# -- graphs --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "gradient", "options"), CASES)
def test_capture(name, gradient, options):
    """Nothing on the way reads a number: the whole step becomes a graph that draws fresh noise."""
    x = torch.linspace(-1.0, 1.0, 4)
    objective = ParticleELBO(name, gradient, num_particles=4, max_plate_nesting=1, **options)

    def step(slope, gain):
        slope, gain = slope.detach().requires_grad_(), gain.detach().requires_grad_()

        def model():
            with pyro.plate("data", 4):
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
                u = pyro.sample("u", dist.Normal(z, 1.0))
                pyro.sample("x", dist.Normal(slope * u, 0.5), obs=x)

        def guide():
            with pyro.plate("data", 4):
                z = pyro.sample("z", dist.Normal(gain * x, 0.7))
                pyro.sample("u", dist.Normal(gain * z, 0.9))

        loss = objective.differentiable_loss(model, guide)
        return loss.detach(), *torch.autograd.grad(loss, [slope, gain])

    start = torch.tensor(0.5), torch.tensor(0.2)
    pyro.enable_validation(False)
    graph = make_fx(step)(*start)
    for seed in (1, 2):
        pyro.set_rng_seed(seed)
        eager = step(*start)
        pyro.set_rng_seed(seed)
        for one, other in zip(graph(*start), eager, strict=True):
            torch.testing.assert_close(one, other)
