"""Gaussian mixtures: evidence by three routes, EM against scikit-learn, collapse refused."""

import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceEnum_ELBO
from sklearn import mixture

from evidentia.models.tractable.exact_guide import exact_pair
from evidentia.models.tractable.gaussian_mixture import GaussianMixture
from evidentia.models.tractable.mixture_em import (
    MixtureParameters,
    component_log_prob,
    gaussian_mixture_em,
    mixture_start,
    mixture_step,
)

FORMS = ["full", "diagonal"]


@pytest.fixture(autouse=True)
def double_precision():
    torch.set_default_dtype(torch.float64)


def build(form, components=3, width=2):
    weights, loc = torch.rand(components) + 0.3, 2 * torch.randn(components, width)
    if form == "diagonal":
        scale = torch.rand(components, width) + 0.3
    else:
        scale = torch.randn(components, width, width).tril(-1) + torch.diag_embed(
            torch.rand(components, width) + 0.3
        )
    return GaussianMixture(weights / weights.sum(), loc, scale)


def data(rows=500):
    x = torch.randn(rows, 2) * torch.tensor([1.0, 0.4])
    x[: rows // 2] += torch.tensor([3.0, 1.0])
    x[: rows // 4] = x[: rows // 4] @ torch.tensor([[1.0, 0.7], [0.0, 1.0]]) - 4
    return x


def nothing(x=None, *, size=None):
    """A guide without sites: the components are enumerated in the model."""


@pytest.mark.parametrize("form", FORMS)
def test_enumeration_mixture_law_and_closed_form_agree(form):
    model = build(form)
    x = model(size=9).detach()
    parts = (
        dist.MultivariateNormal(model.loc, scale_tril=model.scale)
        if form == "full"
        else dist.Normal(model.loc, model.scale).to_event(1)
    )
    law = dist.MixtureSameFamily(dist.Categorical(model.weights), parts)
    exact = model.log_evidence(x)
    torch.testing.assert_close(exact, law.log_prob(x), atol=1e-10, rtol=0)
    objective = TraceEnum_ELBO(max_plate_nesting=1)
    bound = -objective.differentiable_loss(model, nothing, x)
    torch.testing.assert_close(bound, exact.sum(), atol=1e-10, rtol=0)
    parameters = list(model.parameters())
    ours = torch.autograd.grad(exact.sum(), parameters)
    enumerated = torch.autograd.grad(bound, parameters)
    for first, second in zip(ours, enumerated, strict=True):
        torch.testing.assert_close(first, second, atol=1e-10, rtol=0)


@pytest.mark.parametrize("form", FORMS)
def test_with_the_exact_guide_every_sample_is_the_evidence(form):
    model, guide = exact_pair(build(form))
    x = model(size=9).detach()
    exact = float(model.log_evidence(x).sum().detach())
    for particles in (1, 4):
        objective = Trace_ELBO(particles, vectorize_particles=True, max_plate_nesting=1)
        assert -objective.loss(model, guide, x) == pytest.approx(exact, abs=1e-9)
    scaled = -TraceEnum_ELBO(max_plate_nesting=1).loss(model, nothing, x, size=27)
    assert scaled == pytest.approx(3 * exact, abs=1e-9)


@pytest.mark.parametrize("form", FORMS)
def test_draws_use_the_parameters_of_their_component(form):
    model = build(form)
    trace = poutine.trace(model).get_trace(size=40_000)
    component, x = trace.nodes["component"]["value"], trace.nodes["obs"]["value"].detach()
    for k in range(3):
        own = x[component == k]
        error = model.scale[k].square().sum(-1).sqrt() if form == "full" else model.scale[k]
        z = (own.mean(0) - model.loc[k]) / error * len(own) ** 0.5
        assert z.abs().max() < 4.5
        share = float(model.weights[k].detach())
        assert abs(len(own) / 40_000 - share) < 4.5 * (share * (1 - share) / 40_000) ** 0.5


@pytest.mark.parametrize("form", FORMS)
def test_em_equals_scikit_learn_from_the_same_start(form):
    x = data()
    start = mixture_start(x, 3, diagonal=form == "diagonal")
    fitted = gaussian_mixture_em(x, start, num_steps=21, tolerance=0.0)
    assert fitted.log_likelihood.diff().min() > -1e-14
    inverse = 1 / start.scale.square()
    if form == "full":
        inverse = torch.linalg.inv(start.scale @ start.scale.mT)
    for steps in (1, 2, 5, 20):
        peer = mixture.GaussianMixture(
            3,
            covariance_type="diag" if form == "diagonal" else "full",
            tol=0.0,
            reg_covar=0.0,
            max_iter=steps,
            weights_init=start.weights.numpy(),
            means_init=start.loc.numpy(),
            precisions_init=inverse.numpy(),
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it has not converged, on purpose
            peer.fit(x.numpy())
        assert abs(peer.score(x.numpy()) - float(fitted.log_likelihood[steps])) < 1e-12


@pytest.mark.parametrize("form", FORMS)
def test_em_ends_where_the_gradient_of_the_evidence_vanishes(form):
    x = data(200)
    start = mixture_start(x, 2, diagonal=form == "diagonal")
    fitted = gaussian_mixture_em(x, start, num_steps=2000, tolerance=1e-14)
    model = GaussianMixture(*fitted.parameters)
    gradients = torch.autograd.grad(model.log_evidence(x).mean(), list(model.parameters()))
    assert max(float(g.abs().max()) for g in gradients) < 1e-5


def test_a_component_that_collapses_is_named_and_a_floor_holds_it():
    x = torch.cat([torch.randn(30, 2), torch.tensor([[50.0, 50.0]])])
    loc = torch.tensor([[0.0, 0.0], [50.0, 50.0]])
    start = MixtureParameters(torch.full((2,), 0.5), loc, torch.eye(2).expand(2, 2, 2))
    with pytest.raises(ValueError, match=r"component 1 \(mass 1 data\) has no width.*floor=1e-4"):
        gaussian_mixture_em(x, start)
    with pytest.raises(ValueError, match=r"component 1 \(mass 1 data\) has no width"):
        gaussian_mixture_em(x, start._replace(scale=torch.ones(2, 2)))
    held = gaussian_mixture_em(x, start, floor=1e-4).parameters
    torch.testing.assert_close(held.scale[1], 1e-2 * torch.eye(2), atol=1e-8, rtol=0)


def test_a_component_without_data_is_named():
    x = torch.randn(30, 2)
    far = MixtureParameters(torch.full((2,), 0.5), torch.tensor([[0.0, 0.0], [1e6, 0.0]]), torch.ones(2, 2))
    with pytest.raises(ValueError, match=r"component 1 .* has no data left"):
        mixture_step(x, far, floor=1e-4)


def test_constant_columns_need_diagonal_and_a_floor():
    x = torch.cat([torch.randn(30, 2), torch.zeros(30, 1)], 1)
    with pytest.raises(ValueError, match="constant in some direction"):
        mixture_start(x, 2)


def test_responsibilities_are_the_posterior():
    model = build("full")
    x = model(size=9).detach()
    joint = component_log_prob(x, model.parameters_now)
    torch.testing.assert_close(model.posterior(x).probs, (joint - model.log_evidence(x)[:, None]).exp())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.ones(2), torch.zeros(2, 3), torch.ones(2, 3)), "weights is outside"),
        ((torch.tensor([1.0, 0.0]), torch.zeros(2, 3), torch.ones(2, 3)), "weights is outside"),
        ((torch.full((2,), 0.5), torch.zeros(2, 3), -torch.ones(2, 3)), "scale is outside"),
        ((torch.full((2,), 0.5), torch.zeros(2, 3), torch.ones(2, 3, 3)), "scale is outside"),
        ((torch.full((2,), 0.5), torch.zeros(3, 3), torch.ones(2, 3)), r"loc \(K, D\)"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        GaussianMixture(*(a.to(torch.float64) for a in arguments))
    assert not list(pyro.get_param_store())
