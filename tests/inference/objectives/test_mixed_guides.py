"""Guides with continuous and discrete sites, and tempered weights, against quadrature and enumeration."""

import itertools

import numpy as np
import pyro
import pyro.distributions as dist
import pyro_pairs as pairs
import pytest
import torch
from pyro import poutine

from evidentia.inference.objectives.particle import ParticleELBO

SIZE = 20_000
X = 0.9


def log_weight(u, d, parameters, beta=1.0):
    theta, m, s, a, b = parameters
    log_p = dist.Normal(theta, 1.0).log_prob(u) + beta * dist.Bernoulli(0.4).log_prob(d)
    log_p = log_p + dist.Normal(u + d, 0.7).log_prob(torch.tensor(X))
    log_q = dist.Normal(m, s.exp()).log_prob(u)
    return log_p - log_q - beta * dist.Bernoulli(logits=a * u + b).log_prob(d)


def mixed(size, beta=1.0):
    """u ~ N(m, e^s), then d ~ Bernoulli with logit a u + b: the discrete site depends on the sample."""
    parameters = pairs.replicate(0.3, 0.2, -0.3, 0.8, -0.5, size=size)
    theta, m, s, a, b = parameters
    x = torch.full((size,), X, dtype=torch.float64)

    def model():
        with pyro.plate("data", size):
            u = pyro.sample("u", dist.Normal(theta, 1.0))
            with poutine.scale(scale=beta):
                d = pyro.sample("d", dist.Bernoulli(torch.tensor(0.4, dtype=torch.float64)))
            pyro.sample("x", dist.Normal(u + d, 0.7), obs=x)

    def guide():
        with pyro.plate("data", size):
            u = pyro.sample("u", dist.Normal(m, s.exp()))
            with poutine.scale(scale=beta):
                pyro.sample("d", dist.Bernoulli(logits=a * u + b))

    return model, guide, parameters


def exact(size, bound, beta=1.0, nodes=30):
    """Gradient of the expected bound: quadrature over the noise of u, enumeration of d."""
    points, weights = np.polynomial.hermite_e.hermegauss(nodes)
    points, weights = torch.tensor(points), torch.tensor(weights / weights.sum())
    grid = torch.stack([g.reshape(-1) for g in torch.meshgrid(*[points] * size, indexing="ij")])
    mass = torch.stack([g.reshape(-1) for g in torch.meshgrid(*[weights] * size, indexing="ij")]).prod(0)
    parameters = [
        torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (0.3, 0.2, -0.3, 0.8, -0.5)
    ]
    _, m, s, a, b = parameters
    u = m + s.exp() * grid
    total = torch.zeros((), dtype=torch.float64)
    for states in itertools.product((0.0, 1.0), repeat=size):
        d = torch.tensor(states, dtype=torch.float64)[:, None].expand_as(u)
        chance = dist.Bernoulli(logits=a * u + b).log_prob(d).sum(0).exp()
        total = total + (mass * chance * bound(log_weight(u, d, parameters, beta))).sum()
    grads = torch.autograd.grad(total, parameters)
    return float(total.detach()), torch.stack(grads)


def iwae(log_w):
    return torch.logsumexp(log_w, 0) - np.log(log_w.shape[0])


@pytest.mark.statistical
@pytest.mark.parametrize("vectorised", [True, False])
@pytest.mark.parametrize("beta", [1.0, 0.4])
@pytest.mark.parametrize(
    ("objective", "gradient", "size"),
    [
        ("elbo", "total", 1),
        ("elbo", "total", 3),
        ("elbo", "stl", 1),
        ("elbo", "stl", 3),
        ("iwae", "total", 2),
        ("iwae", "vimco", 2),
        ("iwae", "loo", 2),
        ("piwae", "vimco", 4),
    ],
)
def test_both_kinds_of_sites_are_right(objective, gradient, size, beta, vectorised):
    """The logit of d follows u, so the score passes back through the path of u, unscaled."""
    if objective == "elbo":
        value, expected = exact(1, lambda w: w.mean(0), beta)
    else:
        value, expected = exact(2, iwae, beta)
    options = {"outer": 2} if objective == "piwae" else {}
    estimator = ParticleELBO(
        objective, gradient, num_particles=size, vectorize_particles=vectorised, **options
    )
    found, mean = pairs.draws(estimator, mixed(SIZE, beta))
    skip = 1 if objective == "piwae" else 0  # its theta is that of all four particles
    assert pairs.z_scores(found, expected).abs()[skip:].max() < 4.5
    if not skip:
        assert mean == pytest.approx(value, abs=0.05)


@pytest.mark.statistical
def test_wake_sleep_moves_the_density_at_fixed_samples():
    """E sum_k wt_k d log q(z_k), z fixed: nothing passes back from d to u."""
    size, nodes = 2, 30
    points, weights = np.polynomial.hermite_e.hermegauss(nodes)
    points, weights = torch.tensor(points), torch.tensor(weights / weights.sum())
    grid = torch.stack([g.reshape(-1) for g in torch.meshgrid(points, points, indexing="ij")])
    mass = (weights[:, None] * weights[None]).reshape(-1)
    parameters = [
        torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (0.3, 0.2, -0.3, 0.8, -0.5)
    ]
    _, m, s, a, b = parameters
    u = (m + s.exp() * grid).detach()
    total = torch.zeros((), dtype=torch.float64)
    for states in itertools.product((0.0, 1.0), repeat=size):
        d = torch.tensor(states, dtype=torch.float64)[:, None].expand_as(u)
        log_q = dist.Normal(m, s.exp()).log_prob(u) + dist.Bernoulli(logits=a * u + b).log_prob(d)
        chance = dist.Bernoulli(logits=a * u + b).log_prob(d).sum(0).exp().detach()
        weight = torch.softmax(log_weight(u, d, parameters).detach(), 0)
        total = total + (mass * chance * (weight * log_q).sum(0)).sum()
    expected = torch.stack(torch.autograd.grad(total, parameters[1:]))
    found, _ = pairs.draws(ParticleELBO("rws", "total", num_particles=2), mixed(SIZE))
    assert pairs.z_scores(found[:, 1:], expected).abs().max() < 4.5


# -- tempered weights of reparameterised sites


def tempered(size, *betas):
    """The hierarchical pair with `poutine.scale` on u and z apart, in model and guide."""
    model, guide, parameters = pairs.hierarchical(size)
    scales = dict(zip(("u", "z"), betas, strict=True))

    class Temper(poutine.messenger.Messenger):
        def _pyro_sample(self, msg):
            if msg["name"] in scales:
                msg["scale"] = msg["scale"] * scales[msg["name"]]

    return Temper()(model), Temper()(guide), parameters


@pytest.mark.statistical
@pytest.mark.parametrize("betas", [(0.4, 0.4), (1.7, 0.3), (torch.tensor(0.4), torch.tensor(0.4))])
@pytest.mark.parametrize(
    ("one", "two", "options"),
    [
        (("elbo", "total"), ("elbo", "stl"), {}),
        (("iwae", "total"), ("iwae", "dreg"), {}),
        (("renyi", "total"), ("renyi", "dreg"), {"alpha": 0.5}),
        (("ciwae", "total"), ("ciwae", "dreg"), {"beta": 0.5}),
        (("rws", "total"), ("rws", "dreg"), {}),
    ],
)
def test_annealed_pairs(one, two, options, betas):
    """The share of the path that stands for the explicit part is scaled with it."""
    first, _ = pairs.draws(ParticleELBO(*one, num_particles=2, **options), tempered(SIZE, *betas))
    second, _ = pairs.draws(ParticleELBO(*two, num_particles=2, **options), tempered(SIZE, *betas))
    assert pairs.two_sample(first, second).abs().max() < 4.5


def test_annealing_where_it_is_not_supported():
    with pytest.raises(NotImplementedError, match=r"poutine.scale.*'jackknife'.*gradient='total'"):
        pairs.draws(ParticleELBO("jackknife", "dreg", num_particles=3), tempered(4, 0.5, 0.5))
