"""Oracle 4: with the exact posterior as guide every sample gives the evidence, and STL and DReG no noise."""

import pyro
import pyro.distributions as dist
import pytest
import torch

from evidentia.inference.objectives import presets
from evidentia.inference.objectives.particle import ParticleELBO

N, D, L = 4, 3, 2


@pytest.fixture
def exact_pair():
    """Linear-Gaussian model whose guide's parameters are set to the exact posterior, in float64."""
    torch.set_default_dtype(torch.float64)
    generator = torch.Generator().manual_seed(3)
    W = torch.randn(D, L, generator=generator).requires_grad_()
    mu = torch.randn(D, generator=generator).requires_grad_()
    x = torch.randn(N, D, generator=generator)
    noise = 0.6
    with torch.no_grad():
        precision = torch.eye(L) + W.T @ W / noise**2
        covariance = torch.linalg.inv(precision)
        gain = (covariance @ W.T / noise**2).clone()
    gain.requires_grad_()
    shift = mu.detach().clone().requires_grad_()
    root = torch.linalg.cholesky(covariance).clone().requires_grad_()

    def model():
        with pyro.plate("data", N):
            z = pyro.sample("z", dist.Normal(torch.zeros(L), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ W.T + mu, noise).to_event(1), obs=x)

    def guide():
        with pyro.plate("data", N):
            pyro.sample("z", dist.MultivariateNormal((x - shift) @ gain.T, scale_tril=root))

    covariance_x = W @ W.T + noise**2 * torch.eye(D)
    evidence = dist.MultivariateNormal(mu, covariance_x).log_prob(x).sum()
    return model, guide, evidence, (W, mu), (gain, shift, root)


ALL = {
    "elbo": lambda: presets.ELBO(1),
    "elbo, 5": lambda: presets.ELBO(5),
    "stl": lambda: presets.STL(3),
    "iwae": lambda: presets.IWAE(4),
    "dreg": lambda: presets.DReG(4),
    "dreg, one by one": lambda: presets.DReG(4, vectorize_particles=False),
    "vimco": lambda: presets.VIMCO(4),
    "rws dreg": lambda: presets.RWS(4, gradient="dreg"),
    "renyi": lambda: presets.Renyi(4, alpha=0.3),
    "tail": lambda: presets.TailAdaptive(4, gradient="stl"),
    "miwae": lambda: presets.MIWAE(2, 3),
    "piwae": lambda: presets.PIWAE(2, 3),
    "ciwae": lambda: presets.CIWAE(3),
    "cubo": lambda: presets.CUBO(3),
    "jackknife": lambda: presets.Jackknife(3),
}
PATH_ONLY = (
    "stl",
    "dreg",
    "dreg, one by one",
    "rws dreg",
    "renyi",
    "tail",
    "miwae",
    "piwae",
    "ciwae",
    "cubo",
)


@pytest.mark.parametrize("name", ALL)
def test_every_value_is_the_evidence(name, exact_pair):
    model, guide, evidence, _, _ = exact_pair
    assert ALL[name]().loss(model, guide) == pytest.approx(-float(evidence.detach()), abs=1e-10)


@pytest.mark.parametrize("name", PATH_ONLY)
def test_the_guide_gets_no_gradient_without_the_explicit_part(name, exact_pair):
    model, guide, _, _, phi = exact_pair
    ALL[name]().loss_and_grads(model, guide)
    for parameter in phi:
        assert parameter.grad is not None
        assert parameter.grad.abs().max() < 1e-10


@pytest.mark.parametrize(("objective", "size"), [("elbo", 1), ("iwae", 4)])
def test_the_total_derivative_has_noise_there(objective, size, exact_pair):
    model, guide, _, _, (gain, *_) = exact_pair
    ParticleELBO(objective, "total", num_particles=size).loss_and_grads(model, guide)
    assert gain.grad.abs().max() > 0.1


@pytest.mark.statistical
@pytest.mark.parametrize("name", ["stl", "dreg", "rws dreg"])
def test_the_model_follows_the_evidence(name, exact_pair):
    """Fisher's identity: the gradient of log p(x, z) averages to that of the evidence."""
    model, guide, evidence, theta, _ = exact_pair
    exact = torch.autograd.grad(-evidence, theta)
    objective = {"stl": presets.STL, "dreg": presets.DReG}.get(name, presets.RWS)
    options = {"gradient": "dreg"} if name == "rws dreg" else {}
    rows = []
    for _ in range(60):
        for parameter in theta:
            parameter.grad = None
        objective(400, **options).loss_and_grads(model, guide)
        rows.append(torch.cat([p.grad.reshape(-1) for p in theta]))
    found = torch.stack(rows)
    flat = torch.cat([g.reshape(-1) for g in exact])
    assert ((found.mean(0) - flat) / (found.std(0) / 60**0.5)).abs().max() < 4.5
