"""Oracle 12: where Pyro is right, the same seed gives the same loss and gradient."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import RenyiELBO, Trace_ELBO, TraceTMC_ELBO
from torch import nn

from evidentia.inference.objectives.particle import ParticleELBO

Linear = pyro.nn.PyroModule[nn.Linear]


class Decoder(pyro.nn.PyroModule):
    def __init__(self):
        super().__init__()
        self.decoder = pyro.nn.PyroModule[nn.Sequential](Linear(2, 8), nn.Tanh(), Linear(8, 5))

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x)


class Encoder(pyro.nn.PyroModule):
    def __init__(self):
        super().__init__()
        self.encoder = pyro.nn.PyroModule[nn.Sequential](Linear(5, 8), nn.Tanh(), Linear(8, 4))

    def forward(self, x):
        with pyro.plate("data", len(x)):
            loc, log_scale = self.encoder(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


@pytest.fixture
def vae():
    torch.set_default_dtype(torch.float64)
    pyro.set_rng_seed(2)
    return Decoder(), Encoder(), torch.randint(0, 2, (6, 5)).double()


def evaluate(objective, model, guide, *args):
    parameters = [*model.parameters(), *guide.parameters()]
    for parameter in parameters:
        parameter.grad = None
    pyro.set_rng_seed(9)
    loss = objective.loss_and_grads(model, guide, *args)
    grad = torch.cat([p.grad.reshape(-1) for p in parameters])
    pyro.set_rng_seed(9)
    assert objective.loss(model, guide, *args) == pytest.approx(loss, rel=1e-12)
    return loss, grad


@pytest.mark.parametrize("guessed", [True, False])
@pytest.mark.parametrize("size", [1, 2, 5])
def test_elbo(size, guessed, vae):
    nesting = {} if guessed else {"max_plate_nesting": 1}
    ours = ParticleELBO("elbo", "total", num_particles=size, **nesting)
    pyros = Trace_ELBO(num_particles=size, vectorize_particles=True, **nesting)
    if guessed:
        ours.loss(*vae[:2], vae[2])
        pyros.loss(*vae[:2], vae[2])
    loss, grad = evaluate(ours, *vae)
    expected, expected_grad = evaluate(pyros, *vae)
    assert loss == pytest.approx(expected, rel=1e-9)
    torch.testing.assert_close(grad, expected_grad, rtol=1e-9, atol=1e-12)


def test_elbo_one_by_one(vae):
    ours = ParticleELBO("elbo", "total", num_particles=3, vectorize_particles=False)
    loss, grad = evaluate(ours, *vae)
    expected, expected_grad = evaluate(Trace_ELBO(num_particles=3), *vae)
    assert loss == pytest.approx(expected, rel=1e-9)
    torch.testing.assert_close(grad, expected_grad, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("alpha", "size"), [(0.0, 2), (0.0, 5), (0.5, 3), (-1.0, 3)])
def test_iwae_and_renyi(alpha, size, vae):
    options = {"num_particles": size, "max_plate_nesting": 1}
    name = {"objective": "iwae"} if alpha == 0 else {"objective": "renyi", "alpha": alpha}
    ours = ParticleELBO(gradient="total", **name, **options)
    loss, grad = evaluate(ours, *vae)
    expected, expected_grad = evaluate(RenyiELBO(alpha=alpha, vectorize_particles=True, **options), *vae)
    assert loss == pytest.approx(expected, rel=1e-9)
    torch.testing.assert_close(grad, expected_grad, rtol=1e-9, atol=1e-12)


@pytest.mark.statistical
def test_tensor_monte_carlo_has_the_same_mean_on_full_data():
    x = torch.linspace(-1.0, 1.5, 6)

    def model():
        with pyro.plate("data", 6):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 0.7), obs=x)

    def guide():
        with pyro.plate("data", 6):
            pyro.sample("z", dist.Normal(0.3 * x, 1.0))

    pyro.enable_validation(False)
    ours = ParticleELBO("iwae", "total", num_particles=4, max_plate_nesting=1)
    tmc = TraceTMC_ELBO(max_plate_nesting=1)
    sampled = pyro.infer.config_enumerate(guide, default="parallel", num_samples=4, expand=False)
    first = torch.tensor([ours.loss(model, guide) for _ in range(150)])
    with torch.no_grad():
        second = torch.stack([tmc.differentiable_loss(model, sampled) for _ in range(150)])
    error = (first.var() / 150 + second.var() / 150).sqrt()
    assert abs(float((first.mean() - second.mean()) / error)) < 4.5
