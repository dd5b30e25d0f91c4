"""Autoencoders with a scale for each latent: laws, particles, and the count of latents in the linear case."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

from evidentia.inference.fit import fit
from evidentia.inference.structure.prune import active_latents, mode_density
from evidentia.models.latent.heads import BernoulliHead, GaussianHead
from evidentia.models.latent.relevance import HYPERPRIORS, RELEVANCE_FAMILIES, Relevance, hyperprior
from evidentia.models.latent.vae_ard import VAEARD, vae_ard_pair


@pytest.fixture(autouse=True)
def double_precision():
    torch.set_default_dtype(torch.float64)


def test_given_the_scales_a_linear_decoder_is_a_gaussian_of_known_covariance():
    scale = 0.7
    model = VAEARD(3, 5, (), GaussianHead(scale))
    x, squared = torch.randn(6, 5), torch.tensor([2.0, 0.5, 1e-3])
    columns, loc = model.decoder[0].columns().detach(), model.decoder[0].bias.detach()
    torch.testing.assert_close(columns.norm(dim=0), torch.ones(3))
    loading = columns * squared.sqrt()
    precision = torch.eye(3) + loading.T @ loading / scale**2
    mean = torch.linalg.solve(precision, loading.T @ (x - loc).T).T / scale**2
    exact = dist.MultivariateNormal(loc, loading @ loading.T + scale**2 * torch.eye(5)).log_prob(x)
    for _ in range(2):  # log p(x, z | γ) - log p(z | x, γ) is the evidence at every z
        z = mean + torch.randn(6, 3)
        program = poutine.condition(model, {"gamma_squared": squared, "z": z})
        trace = poutine.trace(program).get_trace(x)
        trace.compute_log_prob()
        joint = trace.nodes["z"]["log_prob"] + trace.nodes["obs"]["log_prob"]
        posterior = dist.MultivariateNormal(mean, precision_matrix=precision).log_prob(z)
        torch.testing.assert_close(joint - posterior, exact, atol=1e-10, rtol=0)
        torch.testing.assert_close(trace.nodes["gamma"]["value"], squared.sqrt())
        law = model.relevance_prior()
        torch.testing.assert_close(trace.nodes["gamma_squared"]["log_prob"], law.log_prob(squared).sum())


@pytest.mark.parametrize("family", RELEVANCE_FAMILIES)
@pytest.mark.parametrize("hidden", [(), (8,), (8, 7)])
def test_particles_lead_and_the_scales_are_shared_by_the_rows(family, hidden):
    model, guide = vae_ard_pair(3, 6, hidden, family=family)
    x = model(size=7).detach()
    with pyro.plate("particles", 4, dim=-2):
        trace = poutine.trace(guide).get_trace(x, size=14)
        replayed = poutine.trace(poutine.replay(model, trace=trace)).get_trace(x, size=14)
    replayed.compute_log_prob()
    nodes = replayed.nodes
    assert nodes["gamma_squared"]["value"].shape == (4, 1, 3)
    assert nodes["z"]["value"].shape == (4, 7, 3)
    assert nodes["obs"]["log_prob"].shape == (4, 7)
    assert nodes["gamma_squared"]["scale"] == 1.0
    assert nodes["obs"]["scale"] == nodes["z"]["scale"] == 2.0
    frames = {name: [f.name for f in nodes[name]["cond_indep_stack"]] for name in ("gamma_squared", "z")}
    assert frames == {"gamma_squared": ["particles"], "z": ["particles", "data"]}
    # One particle alone gives the same log probabilities.
    values = {name: nodes[name]["value"][2] for name in ("gamma_squared", "z")}
    values["gamma_squared"] = values["gamma_squared"][0]
    alone = poutine.trace(poutine.condition(model, values)).get_trace(x, size=14)
    alone.compute_log_prob()
    torch.testing.assert_close(alone.nodes["obs"]["log_prob"], nodes["obs"]["log_prob"][2])


def test_a_half_normal_scale_in_terms_of_its_square():
    gamma = torch.rand(10) + 0.1
    law = hyperprior("half_normal", 0.8, 1.0, gamma)
    torch.testing.assert_close(
        law.log_prob(gamma.square()) + (2 * gamma).log(), dist.HalfNormal(0.8).log_prob(gamma)
    )


@pytest.mark.parametrize("family", RELEVANCE_FAMILIES)
def test_the_expected_scale_in_closed_form(family):
    relevance = Relevance(2, family)
    with torch.no_grad():
        relevance.centre_unconstrained.copy_(torch.tensor([0.3, 2.0]).log())
        relevance.concentration_unconstrained.copy_(torch.tensor([2.5, 40.0]).log())
    law = relevance.distribution()
    grid = torch.linspace(-15, 15, 60_001)[:, None]  # of log γ²
    density = (law.log_prob(grid.exp()) + grid).exp()
    by_quadrature = torch.trapezoid(density * (grid / 2).exp(), grid.expand(-1, 2), dim=0)
    torch.testing.assert_close(relevance.mean_gamma(), by_quadrature, rtol=1e-6, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("family", RELEVANCE_FAMILIES)
def test_a_linear_decoder_keeps_the_eigenvalues_above_the_noise(family):
    rows, noise = 400, 1.0
    eigenvalues = torch.tensor([6.0, 4.0, 2.0, 0.7, 0.5, 0.3])
    pyro.set_rng_seed(0)
    draws = torch.randn(rows, 6)
    left = torch.linalg.svd(draws - draws.mean(0), full_matrices=False)[0]
    axes = torch.linalg.qr(torch.randn(6, 6))[0]
    x = (left * (rows * eigenvalues).sqrt()) @ axes.T  # its sample covariance has exactly these eigenvalues
    model, guide = vae_ard_pair(5, 6, (), GaussianHead(noise), family=family)
    fit(
        (model, guide),
        x,
        num_steps=1500,
        learning_rate=0.05,
        schedule=lambda step: min(1.0, 2 - step / 750),
        seed=0,
    )
    relevance = guide.relevance
    posterior, prior = relevance.distribution(), model.relevance_prior()
    used = active_latents(posterior, prior)
    assert int(used.sum()) == int((eigenvalues > noise).sum()) == 3
    ratio = mode_density(posterior, prior)
    assert ratio[used].max() < 1e-100 < 1e-5 < ratio[~used].min()
    scales = relevance.centre.detach()
    expected = eigenvalues[:3] - noise
    torch.testing.assert_close(scales[used].sort(descending=True).values, expected, rtol=0.08, atol=0)
    assert scales[~used].max() < 0.01


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"family": "lognormal"}, "did you mean 'log_normal'"),
        ({"prior": "half_norma"}, "did you mean 'half_normal'"),
        ({"prior_parameters": (0.0, 1.0)}, "positive finite numbers"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        vae_ard_pair(2, 4, (), **arguments)


def test_every_hyperprior_builds_a_model():
    for prior in HYPERPRIORS:
        model = VAEARD(2, 4, (), BernoulliHead(), prior=prior)
        assert model(size=3).shape == (3, 4)
