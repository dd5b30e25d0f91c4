"""The weight prior and its hyperprior against closed forms."""

import math

import pyro.distributions as dist
import pytest
import scipy.integrate
import torch
from torch import Size
from torch.distributions import Normal, kl_divergence

from evidentia.models.structure.weights import ARD


def test_log_prior_is_a_normal_density() -> None:
    u = torch.randn(4, 2, 3, dtype=torch.float64)
    expected = dist.Normal(0.0, 0.7).log_prob(u).sum((-1, -2))
    torch.testing.assert_close(ARD(0.7).log_prior(u, Size([2, 3])), expected)
    variance = torch.rand(2, 3, dtype=torch.float64)
    expected = dist.Normal(0.0, variance.sqrt()).log_prob(u).sum((-1, -2))
    torch.testing.assert_close(ARD().log_prior(u, Size([2, 3]), variance), expected)
    assert ARD().log_prior(u[:, 0, 0], Size([])).shape == (4,)


@pytest.mark.parametrize("gamma", [0.01, 0.5, 1.0])
def test_non_centred_form_is_the_coupled_prior(gamma: float) -> None:
    # the density of w = γu is N(0, γ²a)
    u = torch.randn(5, dtype=torch.float64)
    gate = torch.tensor(gamma, dtype=torch.float64)
    w = ARD(0.7).couple(u, gate, Size([5]))
    centred = dist.Normal(0.0, 0.7 * gate).log_prob(w).sum()
    torch.testing.assert_close(
        ARD(0.7).log_prior(u, Size([5])) - 5 * gate.log(), centred, rtol=1e-10, atol=1e-10
    )
    assert torch.equal(ARD(coupled=False).couple(u, gate, Size([5])), u)


def test_divergence_does_not_depend_on_the_gate() -> None:
    mean, scale = torch.randn(4, dtype=torch.float64), torch.rand(4, dtype=torch.float64) + 0.1
    non_centred = kl_divergence(Normal(mean, scale), Normal(torch.zeros(4).double(), 0.7))
    for gamma in (1e-3, 0.5, 1.0):
        scaled = kl_divergence(
            Normal(gamma * mean, gamma * scale), Normal(torch.zeros(4).double(), gamma * 0.7)
        )
        torch.testing.assert_close(scaled, non_centred, rtol=1e-10, atol=1e-10)


def test_batches_of_gates_scale_batches_of_weights() -> None:
    u, gate = torch.randn(6, 2, 3), torch.rand(6)
    torch.testing.assert_close(ARD().couple(u, gate, Size([2, 3])), u * gate[:, None, None])
    torch.testing.assert_close(ARD().couple(u[:, 0, 0], gate, Size([])), u[:, 0, 0] * gate)


def test_hyperprior_is_inverse_gamma() -> None:
    a = torch.rand(5, dtype=torch.float64) + 0.1
    expected = dist.InverseGamma(torch.tensor(2.0).double(), torch.tensor(3.0).double()).log_prob(a).sum()
    torch.testing.assert_close(ARD(shape=2, rate=3).log_hyperprior(a), expected)
    # the improper limit is flat in log a
    torch.testing.assert_close(ARD(shape=0, rate=0).log_hyperprior(a), -a.log().sum())
    assert ARD().log_hyperprior(a) == 0


@pytest.mark.parametrize("weight", [0.5, 1.0, 4.0])
def test_closed_form_update_is_the_maximum(weight: float) -> None:
    prior = ARD(shape=1.5, rate=0.3)
    mean, variance = torch.tensor([0.5, -2.0]).double(), torch.tensor([0.1, 0.4]).double()
    a = prior.map_variance(mean**2 + variance, weight).requires_grad_()
    q = Normal(mean, variance.sqrt())
    objective = -weight * kl_divergence(
        q, Normal(torch.zeros(2).double(), a.sqrt())
    ).sum() + prior.log_hyperprior(a)
    (gradient,) = torch.autograd.grad(objective, a)
    assert gradient.abs().max() < 1e-10


def test_the_weight_is_student_with_its_variance_integrated_out() -> None:
    prior, law = ARD(shape=2.0, rate=3.0), dist.StudentT(4.0, 0.0, math.sqrt(1.5))
    for u in (0.0, 1.0, 3.0):

        def integrand(log_a: float, u: float = u) -> float:
            a = torch.tensor(math.exp(log_a))
            value = prior.log_prior(torch.tensor(u), Size([]), a) + prior.log_hyperprior(a) + log_a
            return math.exp(value)

        total, _ = scipy.integrate.quad(integrand, -12, 12, limit=200)
        assert abs(total - math.exp(law.log_prob(torch.tensor(u)))) < 1e-5


def test_printing() -> None:
    assert repr(ARD(2.0)) == "ARD(2.0)"
    assert (
        repr(ARD(shape=0, rate=0, coupled=False))
        == "ARD(1.0, shape=0.0, rate=0.0, hyper='param', coupled=False)"
    )
