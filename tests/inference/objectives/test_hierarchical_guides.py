"""Oracles 3, 9 and 10: guides whose sites depend on each other, autoguides, wake-sleep."""

import pyro
import pyro.distributions as dist
import pyro_pairs as pairs
import pytest
import torch
from pyro.contrib.easyguide import EasyGuide
from pyro.infer.autoguide import AutoGuideList, AutoIAFNormal, AutoMultivariateNormal, AutoNormal
from pyro.infer.autoguide.effect import AutoNormalMessenger
from torch import nn

from evidentia.inference.objectives import leaf_cut
from evidentia.inference.objectives.particle import ParticleELBO

SIZE = 20_000


@pytest.mark.statistical
@pytest.mark.parametrize("vectorised", [True, False])
@pytest.mark.parametrize(
    ("first", "second", "size"),
    [
        (("elbo", "total"), ("elbo", "stl"), 1),
        (("elbo", "total"), ("elbo", "stl"), 2),
        (("iwae", "total"), ("iwae", "dreg"), 2),
        (("iwae", "total"), ("iwae", "dreg"), 4),
        (("rws", "total"), ("rws", "dreg"), 3),
        (("jackknife", "total"), ("jackknife", "dreg"), 3),
    ],
)
def test_estimators_of_one_gradient_agree(first, second, size, vectorised):
    options = {"num_particles": size, "vectorize_particles": vectorised}
    one, _ = pairs.draws(ParticleELBO(*first, **options), pairs.hierarchical(SIZE))
    two, _ = pairs.draws(ParticleELBO(*second, **options), pairs.hierarchical(SIZE))
    assert pairs.two_sample(one, two).abs().max() < 4.5


def _doubly_reparameterised(size, *, freeze):
    """DReG by hand for K = 2, with the distribution's parameters detached in log q: the usual code.

    With `freeze` the second site's are detached too, although they depend on the first sample: the mutant.
    Without, its location and scale are formed from detached parameters and the attached sample.
    """
    _, _, parameters = pairs.hierarchical(size)
    theta, a, b, c, d = parameters
    eps = torch.randn(2, 2, size, dtype=torch.float64)
    u = a + c.exp() * eps[0]
    z = b * u + d + (0.3 * u * d - 0.2).exp() * eps[1]
    loc, scale = b.detach() * u + d.detach(), (0.3 * u * d.detach() - 0.2).exp()
    if freeze:
        loc, scale = loc.detach(), scale.detach()
    x = torch.full((size,), 0.7, dtype=torch.float64)
    log_p = dist.Normal(theta.detach(), 1.0).log_prob(u) + dist.Normal(u.sin(), 0.8).log_prob(z)
    log_p = log_p + dist.Normal(z + 0.5 * u, 0.6).log_prob(x)
    log_q = dist.Normal(a.detach(), c.detach().exp()).log_prob(u) + dist.Normal(loc, scale).log_prob(z)
    weight = torch.softmax((log_p - log_q).detach(), 0)
    (weight.square() * (log_p - log_q)).sum().backward()
    return torch.stack([p.grad for p in (a, b, c, d)], 1)


def test_detached_parameters_would_fail():
    """Trap 9. Written out by hand, once right and once with the parameters detached."""
    found, _ = pairs.draws(ParticleELBO("iwae", "dreg", num_particles=2), pairs.hierarchical(5 * SIZE))
    assert pairs.two_sample(_doubly_reparameterised(5 * SIZE, freeze=False), found[:, 1:]).abs().max() < 4.5
    assert pairs.two_sample(_doubly_reparameterised(5 * SIZE, freeze=True), found[:, 1:]).abs().max() > 15


@pytest.mark.parametrize("gradient", ["stl", "dreg"])
def test_a_cut_inside_the_trace_would_fail(gradient, monkeypatch):
    """Trap 1: with the trace outside, it records the sample before the cut, and the path is lost."""

    def wrong(model, guide, args, kwargs, *, source=None, around=None):
        guide_trace = pyro.poutine.trace(around(guide) if around is not None else guide).get_trace()
        return pyro.poutine.trace(pyro.poutine.replay(model, trace=guide_trace)).get_trace(), guide_trace

    objective = ParticleELBO("elbo" if gradient == "stl" else "iwae", gradient, num_particles=2)
    total, _ = pairs.draws(
        ParticleELBO(objective.objective, "total", num_particles=2), pairs.hierarchical(SIZE)
    )
    right, _ = pairs.draws(objective, pairs.hierarchical(SIZE))
    monkeypatch.setattr(leaf_cut, "run_pair", wrong)
    found, _ = pairs.draws(objective, pairs.hierarchical(SIZE))
    assert pairs.two_sample(right, total).abs().max() < 4.5
    assert pairs.two_sample(found, total).abs().max() > 15


# -- guides of Pyro ------------------------------------------------------------------------------------------


def _regression():
    def model():
        scale = pyro.sample("scale", dist.HalfNormal(1.0))
        w = pyro.sample("w", dist.Normal(torch.zeros(2), scale.unsqueeze(-1)).to_event(1))
        with pyro.plate("data", 3):
            x = torch.tensor([[1.0, 0.2], [-0.5, 1.0], [0.3, -0.7]])
            pyro.sample("y", dist.Normal((w * x).sum(-1), 0.5), obs=torch.tensor([0.5, -0.2, 1.0]))

    return model


def _repeated(objective, model, guide, count):
    """Gradients of many independent runs, one row each."""
    rows = []
    for _ in range(count):
        for parameter in guide.parameters():
            parameter.grad = None
        objective.loss_and_grads(model, guide)
        rows.append(torch.cat([p.grad.reshape(-1) for p in guide.parameters() if p.requires_grad]))
    return torch.stack(rows)


def _listed(model):
    guide = AutoGuideList(model)
    guide.append(AutoNormal(pyro.poutine.block(model, hide=["w"]), init_scale=0.3))
    guide.append(AutoMultivariateNormal(pyro.poutine.block(model, hide=["scale"]), init_scale=0.3))
    return guide


class Easy(EasyGuide):
    def guide(self):
        group = self.group(match="scale")
        loc = pyro.param("scale_loc", torch.zeros(group.event_shape))
        group.sample("scale_aux", dist.Normal(loc, 0.4).to_event(1))
        group = self.group(match="w")
        loc = pyro.param("w_loc", torch.zeros(group.event_shape))
        group.sample("w_aux", dist.Normal(loc, 0.4).to_event(1))


AUTOGUIDES = {
    "normal": lambda model: AutoNormal(model, init_scale=0.3),
    "multivariate": lambda model: AutoMultivariateNormal(model, init_scale=0.3),
    "list": _listed,
    "messenger": lambda model: AutoNormalMessenger(model, init_scale=0.3),
    "iaf": lambda model: AutoIAFNormal(model, hidden_dim=[6], num_transforms=1),
}


@pytest.mark.statistical
@pytest.mark.parametrize("name", AUTOGUIDES)
def test_autoguides(name):
    """A fixed guide, many groups of particles per run: mean(stl) = mean(elbo), mean(dreg) = mean(iwae)."""
    torch.set_default_dtype(torch.float64)
    model = _regression()
    guide = AUTOGUIDES[name](model)
    ParticleELBO("elbo", "stl", num_particles=3).loss_and_grads(model, guide)
    pyro.enable_validation(False)
    with torch.no_grad():
        for index, parameter in enumerate(guide.parameters()):
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(index)))
    for one, two, size, count in (
        (("elbo", "total"), ("elbo", "stl"), 64, 40),
        (("miwae", "total"), ("miwae", "dreg"), 256, 40),
    ):
        options = {"outer": size // 4} if one[0] == "miwae" else {}
        first = _repeated(ParticleELBO(*one, num_particles=size, **options), model, guide, count)
        second = _repeated(ParticleELBO(*two, num_particles=size, **options), model, guide, count)
        moving = (first.std(0) + second.std(0)) > 1e-10
        assert moving.any()
        assert pairs.two_sample(first, second)[moving].abs().max() < 4.5
        assert float(first.var(0)[moving].mean()) != float(second.var(0)[moving].mean())


def test_a_learned_flow_after_a_network():
    """A conditional site whose parameters come from a network of the sample before it."""
    torch.set_default_dtype(torch.float64)
    net = nn.Linear(1, 2)

    def model():
        u = pyro.sample("u", dist.Normal(torch.zeros(1), 1.0).to_event(1))
        z = pyro.sample("z", dist.Normal(u, 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z * u, 0.5).to_event(1), obs=torch.ones(1))

    def guide():
        pyro.module("net", net)
        u = pyro.sample("u", dist.Normal(torch.zeros(1) + 0.3, 0.7).to_event(1))
        loc, log_scale = net(u).chunk(2, -1)
        pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))

    class Holder(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self):
            return guide()

    holder = Holder()
    one = _repeated(ParticleELBO("miwae", "total", num_particles=400, outer=100), model, holder, 40)
    two = _repeated(ParticleELBO("miwae", "dreg", num_particles=400, outer=100), model, holder, 40)
    assert pairs.two_sample(one, two).abs().max() < 4.5


def test_easy_guides():
    objective = ParticleELBO("iwae", "dreg", num_particles=3)
    objective.loss_and_grads(_regression(), Easy(_regression()))
    assert bool((pyro.param("w_loc").grad != 0).all())
    assert bool((pyro.param("scale_loc").grad != 0).all())
