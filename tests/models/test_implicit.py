"""The rule of implicit reparameterisation, its wrapper, and torch's own implicit gradients."""

import math

import numpy as np
import oracles
import pyro.distributions as dist
import pytest
import scipy.special
import scipy.stats
import torch
from torch import Tensor

from evidentia.inference.gradients import implicit as reexported
from evidentia.models.distributions import implicit
from evidentia.models.distributions.implicit import ImplicitReparam, closed_form_sample, implicit_sample
from evidentia.models.distributions.log_gamma import LogGamma

U = torch.linspace(0.05, 0.95, 19, dtype=torch.float64)


def double(*values: float) -> list[Tensor]:
    return [torch.tensor(v, dtype=torch.float64).requires_grad_() for v in values]


def five_point(f, step: float):
    return (f(-2 * step) - 8 * f(-step) + 8 * f(step) - f(2 * step)) / (12 * step)


def test_the_rule_is_reexported_where_gradients_live() -> None:
    for name in ("ImplicitReparam", "implicit_sample", "closed_form_sample"):
        assert getattr(reexported, name) is getattr(implicit, name)


@pytest.mark.parametrize("family", [dist.Laplace, dist.Logistic, dist.Normal, dist.Gumbel, dist.Cauchy])
@pytest.mark.parametrize("shaped", ["scalar", "independent"])
def test_wrapper_against_quantile_differences(family, shaped: str) -> None:
    # spec 5.3: five-point differences of the quantile, step 1e-4 of the parameter, tolerance 1e-8
    loc, scale = 0.7, 1.3
    # autograd of torch's Laplace cdf gives 0 exactly at the median, where sign(0) = 0
    probability = U[U != 0.5] if family is dist.Laplace else U

    class Fixed(family):
        """The same law whose sampler returns its quantiles."""

        def sample(self, sample_shape=()):
            return self.icdf(probability)

        def expand(self, batch_shape, _instance=None):
            return self

    where, width = (torch.full_like(probability, v).requires_grad_() for v in (loc, scale))
    base = Fixed(where, width)
    if shaped == "independent":
        z_of = torch.distributions.Independent(base, 1)
        z_of.sample = base.sample
        base = z_of
    z = ImplicitReparam(base).rsample()
    gradient = torch.autograd.grad(z.sum(), (where, width))
    for i, value in enumerate((loc, scale)):

        def quantile(step: float, i=i) -> Tensor:
            moved = [loc, scale]
            moved[i] += step
            return family(*(torch.tensor(v, dtype=torch.float64) for v in moved)).icdf(probability)

        expected = five_point(quantile, 1e-4 * value)
        torch.testing.assert_close(gradient[i], expected, rtol=1e-8, atol=1e-8)


def test_normal_by_its_cdf_is_the_usual_reparameterisation() -> None:
    # O-37: dw/dμ = 1, dw/dσ = (w - μ)/σ
    mu, sigma = (torch.full((200,), v, dtype=torch.float64).requires_grad_() for v in (0.4, 1.7))
    z = ImplicitReparam(dist.Normal(mu, sigma)).rsample()
    d_mu, d_sigma = torch.autograd.grad(z.sum(), (mu, sigma))
    torch.testing.assert_close(d_mu, torch.ones_like(mu), rtol=0, atol=1e-12)
    torch.testing.assert_close(d_sigma, ((z - mu) / sigma).detach(), rtol=0, atol=1e-12)


def test_wrapper_of_independent_coordinates() -> None:
    loc = torch.zeros(4, 3, dtype=torch.float64).requires_grad_()
    law = ImplicitReparam(dist.Laplace(loc, 1.0).to_event(1))
    assert (law.batch_shape, law.event_shape) == ((4,), (3,))
    z = law.rsample((6,))
    assert z.shape == (6, 4, 3)
    assert law.log_prob(z).shape == (6, 4)
    assert law.cdf(z).shape == (6, 4, 3)
    (gradient,) = torch.autograd.grad(z.sum(), loc)
    torch.testing.assert_close(gradient, torch.full_like(loc, 6.0))
    assert law.expand((2, 4)).rsample().shape == (2, 4, 3)
    assert law.support.event_dim == 1


def test_wrapper_refuses_what_has_no_cdf() -> None:
    with pytest.raises(ValueError, match="discrete Bernoulli"):
        ImplicitReparam(dist.Bernoulli(torch.tensor(0.5)))
    with pytest.raises(ValueError, match=r"StudentT without one. Fix: give StudentT a cdf"):
        ImplicitReparam(dist.StudentT(torch.tensor(3.0)))
    with pytest.raises(ValueError, match=r"independent coordinates, got MultivariateNormal"):
        ImplicitReparam(dist.MultivariateNormal(torch.zeros(2), torch.eye(2)))


def test_second_derivatives_by_the_cdf_are_refused() -> None:
    loc, scale = double(0.3, 0.8)
    z = ImplicitReparam(dist.Laplace(loc, scale)).rsample((5,))
    (first,) = torch.autograd.grad(z.sum(), scale, create_graph=True)
    assert torch.isfinite(first)
    with pytest.raises(NotImplementedError, match=r"second derivatives .* Fix: differentiate once"):
        torch.autograd.grad(first, scale)
    # a curved loss and a Hessian-vector product meet the same refusal
    (first,) = torch.autograd.grad(z.square().sum(), loc, create_graph=True)
    with pytest.raises(NotImplementedError, match="second derivatives"):
        torch.autograd.grad(first, loc)


def test_second_derivatives_in_closed_form_are_correct() -> None:
    (rate,) = double(1.7)
    z = closed_form_sample((-(1 - U).log() / rate).detach(), lambda z, r: (-z / r,), rate.expand(19))
    (first,) = torch.autograd.grad(z.sum(), rate, create_graph=True)
    (second,) = torch.autograd.grad(first, rate)
    torch.testing.assert_close(second, (2 * -(1 - U).log() / rate**3).sum())


def test_vanishing_density_gives_zero_not_nan() -> None:
    z = torch.tensor([0.5, 400.0], dtype=torch.float64)
    loc = torch.zeros(2, dtype=torch.float64).requires_grad_()
    law = dist.Normal(loc, 1.0)
    y = implicit_sample(z, law.cdf(z), law.log_prob(z))
    (gradient,) = torch.autograd.grad(y.sum(), loc)
    torch.testing.assert_close(gradient, torch.tensor([1.0, 0.0], dtype=torch.float64))


def test_rule_works_under_vmap() -> None:
    def slope(loc: Tensor, z: Tensor) -> Tensor:
        def moved(m: Tensor) -> Tensor:
            cdf = torch.special.ndtr(z - m)
            return implicit_sample(z, cdf, -0.5 * (z - m) ** 2 - 0.5 * math.log(2 * math.pi)).square()

        return torch.func.grad(moved)(loc)

    z = torch.linspace(-1, 1, 5, dtype=torch.float64)
    torch.testing.assert_close(torch.vmap(slope)(torch.zeros_like(z), z), 2 * z)


def cdf_difference(cdf, z: np.ndarray, value: float) -> np.ndarray:
    return five_point(lambda step: cdf(z, value + step), 1e-4 * value)


@pytest.mark.parametrize("a", [0.05, 0.5, 1.0, 3.7, 40.0])
def test_gamma_and_chi2_of_torch(a: float) -> None:
    # O-37 and oracle 8: -∂F/∂a / p with SciPy's distribution function
    alpha = torch.full((300,), a, dtype=torch.float64).requires_grad_()
    for law, factor in ((dist.Gamma(alpha, 1.0), 1.0), (dist.Chi2(2 * alpha), 2.0)):
        z = law.rsample()
        (gradient,) = torch.autograd.grad(z.sum(), alpha, retain_graph=True)
        x = (z / factor).detach().numpy()
        keep = x > 1e-250
        x = x[keep]
        # difference the smaller of the two tails: it keeps its digits
        upper = scipy.special.gammainc(a, x) > 0.5
        change = np.where(
            upper,
            -cdf_difference(lambda z, v: scipy.special.gammaincc(v, z), x, a),
            cdf_difference(lambda z, v: scipy.special.gammainc(v, z), x, a),
        )
        density = np.exp((a - 1) * np.log(x) - x - scipy.special.gammaln(a))
        expected = -change / density * factor
        np.testing.assert_allclose(gradient.numpy()[keep], expected, rtol=1e-3)


@pytest.mark.parametrize("a", [0.3, 2.0, 9.0])
def test_beta_dirichlet_and_inverse_gamma_of_torch(a: float) -> None:
    b = 1.7
    alpha = torch.full((200,), a, dtype=torch.float64).requires_grad_()
    beta = torch.full_like(alpha, b)
    z = dist.Beta(alpha, beta).rsample()
    (gradient,) = torch.autograd.grad(z.sum(), alpha)
    x = z.detach().numpy()
    keep = (x > 1e-12) & (x < 1 - 1e-9)
    x = x[keep]
    change = cdf_difference(lambda z, v: scipy.special.betainc(v, b, z), x, a)
    expected = -change / scipy.stats.beta.pdf(x, a, b)
    np.testing.assert_allclose(gradient.numpy()[keep], expected, rtol=1e-3, atol=1e-7)
    # a Dirichlet of two coordinates is a Beta
    both = torch.stack([alpha.detach(), beta], -1).requires_grad_()
    z = dist.Dirichlet(both).rsample()[:, 0]
    (gradient,) = torch.autograd.grad(z.sum(), both)
    x = z.detach().numpy()
    keep = (x > 1e-12) & (x < 1 - 1e-9)
    x = x[keep]
    change = cdf_difference(lambda z, v: scipy.special.betainc(v, b, z), x, a)
    expected = -change / scipy.stats.beta.pdf(x, a, b)
    np.testing.assert_allclose(gradient.numpy()[keep, 0], expected, rtol=1e-3, atol=1e-7)
    # 1/x with x ~ Gamma
    z = dist.InverseGamma(alpha, 1.0).rsample()
    (gradient,) = torch.autograd.grad(z.sum(), alpha)
    x = 1 / z.detach().numpy()
    change = cdf_difference(lambda z, v: scipy.special.gammainc(v, z), x, a)
    expected = change / scipy.stats.gamma.pdf(x, a) / x**2
    np.testing.assert_allclose(gradient.numpy(), expected, rtol=1e-3, atol=1e-6)


@pytest.mark.statistical
def test_moments_of_torch_laws() -> None:
    # mean of the estimator: d/dα E[w] = 1 (Gamma), dE[t²]/dν = d ν/(ν-2) (Student-t), dE[x₁]/dα₁ (Dirichlet)
    number = 40_000

    def z_of(estimate: Tensor, exact: float) -> float:
        return float((estimate.mean() - exact) / (estimate.std() / number**0.5))

    alpha = torch.full((number,), 1.4, dtype=torch.float64).requires_grad_()
    (gradient,) = torch.autograd.grad(dist.Gamma(alpha, 1.0).rsample().sum(), alpha)
    assert abs(z_of(gradient, 1.0)) < 4.5
    df = torch.full((number,), 12.0, dtype=torch.float64).requires_grad_()
    (gradient,) = torch.autograd.grad(dist.StudentT(df).rsample().square().sum(), df)
    assert abs(z_of(gradient, -2 / 10**2)) < 4.5
    three = torch.tensor([0.7, 1.1, 2.0], dtype=torch.float64).expand(number, 3).clone().requires_grad_()
    (gradient,) = torch.autograd.grad(dist.Dirichlet(three).rsample()[:, 0].sum(), three)
    assert abs(z_of(gradient[:, 0], (3.8 - 0.7) / 3.8**2)) < 4.5


@pytest.mark.statistical
@pytest.mark.parametrize("a", [0.001, 0.05, 2.0])
def test_log_gamma_in_single_precision(a: float) -> None:
    # trap 20: torch's Gamma in float32 is stuck at its smallest number; the logarithm is not
    number = 40_000
    alpha = torch.full((number,), a).requires_grad_()
    y = LogGamma(alpha, torch.tensor(2.0)).rsample()
    (gradient,) = torch.autograd.grad(y.sum(), alpha)
    for estimate, exact in (
        (y.detach(), scipy.special.digamma(a) - math.log(2)),
        (gradient, scipy.special.polygamma(1, a)),
    ):
        error = estimate.double().mean() - float(exact)
        assert abs(float(error / (estimate.double().std() / number**0.5))) < 4.5
    if a == oracles.GAMMA_FLOAT32_CONCENTRATION:
        stuck = dist.Gamma(alpha, 1.0).sample() <= torch.finfo(torch.float32).tiny
        assert abs(float(stuck.double().mean()) - oracles.GAMMA_FLOAT32_STUCK) < 0.003


def test_log_gamma_cdf_below_the_range_of_exp() -> None:
    law = LogGamma(torch.tensor(0.001, dtype=torch.float64))
    y = torch.tensor([-2000.0, -41.0, -39.0, 0.0], dtype=torch.float64)
    expected = (0.001 * y - scipy.special.gammaln(1.001)).exp()
    torch.testing.assert_close(law.cdf(y)[:3], expected[:3], rtol=1e-12, atol=0)
    torch.testing.assert_close(law.cdf(y)[3], torch.tensor(scipy.special.gammainc(0.001, 1.0)))
