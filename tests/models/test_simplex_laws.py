"""Dirichlet, logistic-normal and binary laws in log space, and the constraint they share."""

import math

import pyro
import pyro.distributions as dist
import pytest
import scipy.integrate
import torch
from torch import Tensor
from torch.distributions import biject_to, kl_divergence

from evidentia.models.distributions.gumbel_softmax import GumbelSoftmax
from evidentia.models.distributions.kl import register_kl
from evidentia.models.distributions.log_dirichlet import LogDirichlet
from evidentia.models.distributions.log_simplex import LogRatioTransform, log_simplex
from evidentia.models.distributions.logistic_normal import (
    LogisticNormal,
    argmax_probability,
    logistic_normal_kl,
)
from evidentia.models.distributions.logit_beta import LogitBeta
from evidentia.models.distributions.relaxed_bernoulli import LogitRelaxedBernoulli

S = torch.tensor([3.0, 1.0, 0.5], dtype=torch.float64)
LOC = torch.tensor([0.5, -0.2, 0.1], dtype=torch.float64)
COV = torch.diag(torch.tensor([1.0, 0.5, 0.7], dtype=torch.float64))
D = torch.tensor([[1.0, 0.0, -1.0], [0.0, 1.0, -1.0]], dtype=torch.float64)

LAWS = {
    "gumbel": lambda t: GumbelSoftmax(t, S.log()),
    "dirichlet": lambda t: LogDirichlet(t[..., None] * S),
    "logistic_normal": lambda t: LogisticNormal(LOC, COV, temperature=t),
    "binary": lambda t: LogitRelaxedBernoulli(t[..., None], S.log()).to_event(1),
    "beta": lambda t: LogitBeta(t[..., None] * S, t[..., None] * S.flip(0)).to_event(1),
}


def integral_over_log_ratios(log_prob) -> float:
    z = torch.linspace(-30.0, 30.0, 1200, dtype=torch.float64)
    a, b = torch.meshgrid(z, z, indexing="ij")
    y = torch.stack([a, b, torch.zeros_like(a)], -1).log_softmax(-1)
    return float(log_prob(y).exp().sum() * (z[1] - z[0]) ** 2)


@pytest.mark.parametrize("name", LAWS)
def test_generic_properties(name: str) -> None:
    temperature = torch.tensor([0.5, 2.0], dtype=torch.float64)
    law = LAWS[name](temperature)
    assert law.batch_shape == (2,)
    assert law.event_shape == (3,)
    y = law.rsample((7,))
    assert y.shape == (7, 2, 3)
    assert law.support.check(y).all()
    assert law.log_prob(y).shape == (7, 2)
    wide = law.expand((4, 2))
    assert wide.batch_shape == (4, 2)
    assert wide.sample().shape == (4, 2, 3)
    torch.testing.assert_close(wide.log_prob(y[0]), law.log_prob(y[0]).expand(4, 2))
    # the same law inside a plate
    with pyro.plate("outer", 5, dim=-1):
        value = pyro.sample("y", LAWS[name](torch.tensor(0.5, dtype=torch.float64)))
    assert value.shape == (5, 3)
    assert "validate" not in repr(law)


@pytest.mark.parametrize("name", LAWS)
def test_sampler_agrees_with_density(name: str) -> None:
    # E[log p(y)] has a finite-difference identity: the mean score is zero
    temperature = torch.tensor(1.3, dtype=torch.float64)
    y = LAWS[name](temperature).sample((40_000,))
    step = 1e-4
    up, down = (LAWS[name](temperature + e).log_prob(y) for e in (step, -step))
    score = (up - down) / (2 * step)
    assert abs(float(score.mean() / (score.std() / 200))) < 4.5


@pytest.mark.parametrize("name", ["gumbel", "dirichlet", "logistic_normal"])
def test_density_integrates_to_one_on_the_log_simplex(name: str) -> None:
    law = LAWS[name](torch.tensor(1.0, dtype=torch.float64))
    assert abs(integral_over_log_ratios(law.log_prob) - 1) < 1e-3


@pytest.mark.parametrize(
    "law",
    [
        LogitRelaxedBernoulli(torch.tensor(0.3).double(), torch.tensor(0.7).double()),
        LogitBeta(torch.tensor(0.4).double(), torch.tensor(2.0).double()),
    ],
)
def test_binary_density_integrates_to_one(law) -> None:
    total, _ = scipy.integrate.quad(
        lambda v: math.exp(law.log_prob(torch.tensor(v).double())), -200, 200, limit=400
    )
    assert abs(total - 1) < 1e-7


def test_bijection_of_the_log_simplex() -> None:
    transform = biject_to(log_simplex)
    assert isinstance(transform, LogRatioTransform)
    assert transform == LogRatioTransform()
    z = torch.randn(5, 3, dtype=torch.float64)
    y = transform(z)
    assert log_simplex.check(y).all()
    torch.testing.assert_close(transform.inv(y), z)
    assert transform.forward_shape(torch.Size([5, 3])) == (5, 4)
    assert transform.inverse_shape(torch.Size([5, 4])) == (5, 3)
    # the Jacobian: density of γ times its product is the density of the log-ratios
    jacobian = torch.autograd.functional.jacobian(lambda v: transform(v).exp()[:-1], z[0])
    torch.testing.assert_close(torch.linalg.slogdet(jacobian).logabsdet, y[0].sum())
    assert (transform.log_abs_det_jacobian(z, y) == 0).all()


def test_log_simplex_refuses_other_vectors() -> None:
    assert not log_simplex.check(torch.tensor([-1.0, -1.0]))
    assert not log_simplex.check(torch.tensor([0.0, -torch.inf]))
    with pytest.raises(ValueError, match="support"):
        GumbelSoftmax(0.5, torch.zeros(2), validate_args=True).log_prob(torch.tensor([0.5, 0.5]))


@pytest.mark.statistical
def test_dirichlet_moments_and_limits() -> None:
    pi = S / S.sum()
    for temperature in (0.3, 5.0):
        law = LogDirichlet(temperature * S)
        torch.testing.assert_close(law.mean, pi)
        torch.testing.assert_close(law.variance, pi * (1 - pi) / (temperature * S.sum() + 1))
        gamma = law.sample((100_000,)).exp()
        z = (gamma.mean(0) - pi) / (law.variance / 100_000).sqrt()
        assert z.abs().max() < 4.5
        assert (gamma.var(0) / law.variance - 1).abs().max() < 0.03
    low = LogDirichlet(1e-3 * S).sample((100_000,))
    assert (torch.bincount(low.argmax(-1)) / 100_000 - pi).abs().max() < 0.008
    assert (low.exp().amax(-1) > 0.99).double().mean() > 0.98
    high = LogDirichlet(1e6 * S).sample((1000,)).exp()
    assert (high - pi).abs().max() < 0.01  # s/Σs, not the centre


def test_dirichlet_density_and_divergence_are_those_of_torch() -> None:
    law = LogDirichlet(0.7 * S)
    y = law.sample((20,))
    expected = law.base.log_prob(y.exp()) + y.sum(-1)
    torch.testing.assert_close(law.log_prob(y), expected, rtol=1e-9, atol=1e-9)
    register_kl()
    other = LogDirichlet(torch.ones(3).double())
    exact = kl_divergence(law.base, other.base)
    torch.testing.assert_close(kl_divergence(law, other), exact, rtol=1e-12, atol=1e-12)


def test_dirichlet_gradient_is_that_of_the_mean() -> None:
    concentration = S.clone().requires_grad_()
    draws = LogDirichlet(concentration).rsample((200_000,)).exp()[:, 0]
    (estimate,) = torch.autograd.grad(draws.mean(), concentration)
    (exact,) = torch.autograd.grad((concentration / concentration.sum())[0], concentration)
    assert (estimate - exact).abs().max() < 5e-3


def test_logistic_normal_is_the_additive_law_of_differences() -> None:
    for temperature in (0.5, 2.0):
        law = LogisticNormal(LOC, COV, temperature=temperature)
        y = law.sample((20,))
        ratios = y[..., :-1] - y[..., -1:]
        expected = dist.MultivariateNormal(D @ LOC / temperature, D @ COV @ D.T / temperature**2).log_prob(
            ratios
        )
        torch.testing.assert_close(law.log_prob(y), expected, rtol=1e-10, atol=1e-10)
    # the law depends on the differences only
    shifted = LogisticNormal(LOC + 3, COV + 2, temperature=temperature)
    torch.testing.assert_close(shifted.log_prob(y), law.log_prob(y))
    by_scale = LogisticNormal(LOC, scale=COV.diagonal().sqrt(), temperature=temperature)
    torch.testing.assert_close(by_scale.log_prob(y), law.log_prob(y))


def test_logistic_normal_differs_from_the_stick_breaking_law_of_torch() -> None:
    law = LogisticNormal(torch.zeros(3).double(), torch.eye(3).double())
    theirs = torch.distributions.LogisticNormal(torch.zeros(2).double(), torch.ones(2).double())
    gamma = torch.full((3,), 1 / 3, dtype=torch.float64)
    ours = law.log_prob(gamma.log()) - gamma.log().sum()
    assert abs(float(ours - theirs.log_prob(gamma))) > 0.1


@pytest.mark.statistical
def test_logistic_normal_samples_and_divergence() -> None:
    q, p = LogisticNormal(LOC, COV), LogisticNormal(torch.zeros(3).double(), 2 * COV, temperature=1.5)
    y = q.sample((200_000,))
    terms = q.log_prob(y) - p.log_prob(y)
    z = (terms.mean() - logistic_normal_kl(q, p)) / (terms.std() / 200_000**0.5)
    assert abs(float(z)) < 4.5
    register_kl()
    torch.testing.assert_close(kl_divergence(q, p), logistic_normal_kl(q, p))


@pytest.mark.statistical
def test_probability_of_the_largest() -> None:
    exact = argmax_probability(LOC, COV.diagonal().sqrt())
    draws = LOC + COV.diagonal().sqrt() * torch.randn(200_000, 3, dtype=torch.float64)
    counts = torch.bincount(draws.argmax(-1)) / 200_000
    z = (counts - exact) / (exact * (1 - exact) / 200_000).sqrt()
    assert z.abs().max() < 4.5
    two = argmax_probability(torch.tensor([1.0, 0.0]), torch.tensor([1.0, 2.0]))[0]
    assert (
        abs(float(two) - float(dist.Normal(0.0, 1.0).cdf(torch.tensor(1 / 5**0.5, dtype=torch.float64))))
        < 1e-7
    )


def test_logistic_normal_needs_one_of_matrix_and_scale() -> None:
    with pytest.raises(ValueError, match="exactly one"):
        LogisticNormal(LOC)


@pytest.mark.parametrize("temperature", [0.01, 0.1, 1.0, 10.0])
def test_single_precision_draws_are_finite(temperature: float) -> None:
    t = torch.tensor(temperature)
    for law in (
        LogDirichlet(t * torch.ones(64)),
        LogisticNormal(torch.zeros(16), scale=torch.ones(16), temperature=t),
        LogitRelaxedBernoulli(t, torch.randn(64)),
        LogitBeta(t * torch.ones(64), t * torch.ones(64)),
    ):
        y = law.rsample((100,))
        assert torch.isfinite(y).all()
        assert torch.isfinite(law.log_prob(y)).all()


@pytest.mark.statistical
def test_relaxed_bernoulli_rounds_to_its_probability() -> None:
    logits = torch.tensor([-1.0, 0.0, 2.0])
    for temperature in (0.1, 2.0):
        rate = (LogitRelaxedBernoulli(temperature, logits).sample((100_000,)) > 0).double().mean(0)
        exact = logits.sigmoid()
        assert ((rate - exact) / (exact * (1 - exact) / 100_000).sqrt()).abs().max() < 4.5


def test_relaxed_bernoulli_density_is_that_of_torch() -> None:
    theirs = torch.distributions.relaxed_bernoulli.LogitRelaxedBernoulli(
        torch.tensor(0.7).double(), logits=S.log()
    )
    y = torch.randn(3, dtype=torch.float64)
    torch.testing.assert_close(LogitRelaxedBernoulli(0.7, S.log()).log_prob(y), theirs.log_prob(y))


def test_draws_under_vmap() -> None:
    def draw(logits: Tensor) -> Tensor:
        return GumbelSoftmax(0.5, logits, validate_args=False).rsample()

    y = torch.vmap(draw, randomness="different")(torch.zeros(4, 3))
    assert y.shape == (4, 3)
    assert len({tuple(row.tolist()) for row in y}) == 4
