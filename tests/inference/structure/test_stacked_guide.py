"""Stacked Gaussian guides: densities against torch, dealt noise, dead latents, closed-form updates."""

import pytest
import torch
from torch.distributions import MultivariateNormal, Normal

from evidentia.inference.evidence.pareto import tail_shape
from evidentia.inference.structure.stacked.evidence import bounds
from evidentia.inference.structure.stacked.guide import GUIDES, FullCovariance, MeanField, deal
from evidentia.inference.structure.stacked.training import clip


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)


ACTIVE = torch.tensor([[True, False, True], [True, True, True], [False, False, True]])


@pytest.mark.parametrize("name", GUIDES)
def test_density_of_draws_is_that_of_torch(name):
    guide = GUIDES[name]
    theta = torch.randn(3, guide.size(3)) * 0.5
    noise = deal(torch.randn(7, 3), ACTIVE)
    value = guide.draw(theta, noise, ACTIVE)
    found = guide.log_density(theta, value, ACTIVE)
    loc, scale = guide.moments(theta, ACTIVE)
    for row, used in enumerate(ACTIVE):
        if name == "mean_field":
            expected = Normal(loc[row, used], scale[row, used]).log_prob(value[:, row, used]).sum(-1)
        else:
            factor = guide.scale_tril(theta, ACTIVE)[row][used][:, used]
            expected = MultivariateNormal(loc[row, used], scale_tril=factor).log_prob(value[:, row, used])
            torch.testing.assert_close((factor @ factor.mT).diagonal().sqrt(), scale[row, used])
        torch.testing.assert_close(found[:, row], expected)
    assert (value[:, ~ACTIVE] == 0).all()


@pytest.mark.parametrize("name", GUIDES)
def test_dead_latents_have_no_gradient_and_no_effect(name):
    guide = GUIDES[name]
    theta = torch.randn(3, guide.size(3)).requires_grad_()
    noise = deal(torch.randn(7, 3), ACTIVE)
    value = guide.draw(theta, noise, ACTIVE)
    (gradient,) = torch.autograd.grad((guide.log_density(theta, value, ACTIVE) + value.sum(-1)).sum(), theta)
    assert (gradient[:, :3][~ACTIVE] == 0).all()
    assert (gradient[:, :3][ACTIVE] != 0).all()


@pytest.mark.parametrize("guide", [MeanField(), FullCovariance()])
def test_initial_parameters_have_the_given_moments(guide):
    loc, scale = torch.randn(2, 4), torch.rand(2, 4) + 0.1
    found = guide.moments(guide.initial(loc, scale), torch.ones(2, 4, dtype=torch.bool))
    torch.testing.assert_close(found, (loc, scale))


def test_noise_follows_the_order_of_the_active_latents():
    noise = torch.randn(5, 3)
    dealt = deal(noise, ACTIVE)
    torch.testing.assert_close(dealt[:, 0, ACTIVE[0]], noise[:, :2])
    torch.testing.assert_close(dealt[:, 1], noise)
    torch.testing.assert_close(dealt[:, 2, 2], noise[:, 0])


def test_clip_acts_on_each_row_alone():
    gradient = torch.randn(4, 6) * torch.tensor([1e-3, 1.0, 1e3, 1e6]).unsqueeze(-1)
    clipped = clip(gradient, 5.0)
    for row in range(4):
        torch.testing.assert_close(clipped[row : row + 1], clip(gradient[row : row + 1], 5.0))
    torch.testing.assert_close(clipped[:2], gradient[:2])
    torch.testing.assert_close(clipped[2:].norm(dim=-1), torch.full((2,), 5.0))


def test_bounds_of_lognormal_weights():
    log_weight = torch.randn(400, 50, 2, generator=torch.Generator().manual_seed(1)) * 0.5
    found = bounds(log_weight)
    assert ((found.elbo.abs() / found.elbo_se) < 4.5).all()
    # log E w = s²/2 = 0.125 for weights exp(s ε).
    assert (((found.importance - 0.125).abs() / found.importance_se) < 4.5).all()
    assert (found.elbo < found.iwae).all()
    assert (found.iwae < found.importance + 1e-9).all()
    # IWAE with K draws is log E w − Var w / (2 K (E w)²) to first order.
    expected = 0.125 - (torch.tensor(0.25).exp() - 1) / 100
    assert (((found.iwae - expected).abs() / found.iwae_se) < 4.5).all()


@pytest.mark.parametrize("shape", [0.2, 0.5, 0.9])
def test_tail_shape_is_that_of_arviz(shape):
    from scipy.stats import genpareto

    arviz = pytest.importorskip("arviz")
    log_weight = torch.tensor(genpareto.rvs(shape, size=(2000, 3), random_state=3)).log()
    expected = [float(arviz.psislw(column.numpy())[1]) for column in log_weight.T]
    torch.testing.assert_close(tail_shape(log_weight), torch.tensor(expected), atol=1e-6, rtol=0)
    constant = torch.zeros(100, 1)
    assert tail_shape(constant).item() == -torch.inf
    assert tail_shape(constant[:10]).isnan().all()
    assert tail_shape(constant.clone().fill_(torch.nan)).isnan().all()
