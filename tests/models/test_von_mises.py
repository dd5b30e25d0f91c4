"""The von Mises law: gradient, sampler, extreme concentrations."""

import math

import numpy as np
import pyro.distributions as dist
import pytest
import scipy.special
import scipy.stats
import torch

from evidentia.models.distributions.mixture import MixtureReparam
from evidentia.models.distributions.von_mises import VonMises

CONCENTRATIONS = [1e-4, 1e-2, 0.5, 2.0, 10.0, 100.0, 1e3, 1e5]


def other_side(z: float, kappa: float) -> float:
    """dz/dκ by the integral from -π to z: -∫ (cos t - A) exp(κ (cos t - cos z)) dt, composite quadrature."""
    ratio = scipy.special.i1e(kappa) / scipy.special.i0e(kappa)
    points, weights = np.polynomial.legendre.leggauss(20)
    start = -min(math.pi, 14 / math.sqrt(kappa)) if kappa > 20 else -math.pi
    edges = np.linspace(start, z, 200)
    middle, half = (edges[1:] + edges[:-1]) / 2, (edges[1:] - edges[:-1]) / 2
    t = middle[:, None] + half[:, None] * points
    exponent = -2 * kappa * np.sin((t + z) / 2) * np.sin((t - z) / 2)
    return -float(((np.cos(t) - ratio) * np.exp(exponent) * half[:, None] * weights).sum())


def draws_and_gradient(law: VonMises, *inputs: torch.Tensor):
    z = law.rsample()
    return z.detach(), torch.autograd.grad(z.sum(), inputs)


@pytest.mark.parametrize("kappa", CONCENTRATIONS)
def test_gradient_against_the_other_side(kappa: float) -> None:
    # spec 5.3: tolerance 1e-8 against the integral from -π to z
    concentration = torch.full((30,), kappa, dtype=torch.float64).requires_grad_()
    loc = torch.zeros_like(concentration).requires_grad_()
    z, (d_kappa, d_loc) = draws_and_gradient(VonMises(loc, concentration), concentration, loc)
    expected = np.array([other_side(float(v), kappa) for v in z])
    np.testing.assert_allclose(d_kappa.numpy(), expected, rtol=1e-8, atol=1e-8 * np.abs(expected).max())
    torch.testing.assert_close(d_loc, torch.ones_like(d_loc), rtol=0, atol=1e-12)


@pytest.mark.parametrize("kappa", [0.3, 2.0, 30.0])
def test_density_and_cdf_against_scipy(kappa: float) -> None:
    loc = 0.8
    law = VonMises(torch.tensor(loc, dtype=torch.float64), kappa)
    x = torch.linspace(-math.pi, math.pi, 41, dtype=torch.float64)
    reference = scipy.stats.vonmises(kappa, loc)
    np.testing.assert_allclose(law.log_prob(x), reference.logpdf(x), rtol=1e-12)
    np.testing.assert_allclose(law.cdf(x), reference.cdf(x) - reference.cdf(-math.pi), atol=1e-10)
    # angles are read modulo a turn, and the distribution function goes on by one for each turn
    torch.testing.assert_close(law.log_prob(x + 2 * math.pi), law.log_prob(x))
    torch.testing.assert_close(law.cdf(x + 2 * math.pi), law.cdf(x) + 1)


@pytest.mark.statistical
@pytest.mark.parametrize("kappa", CONCENTRATIONS)
def test_sampler_follows_the_law(kappa: float) -> None:
    law = VonMises(torch.tensor(0.4, dtype=torch.float64), kappa)
    z = law.sample((10_000,))
    assert (z.abs() <= math.pi).all()
    assert scipy.stats.kstest(law.cdf(z).numpy(), "uniform").pvalue > 7e-6
    cosine = (z - 0.4).cos()
    ratio = scipy.special.i1e(kappa) / scipy.special.i0e(kappa)
    assert abs(float((cosine.mean() - ratio) / (cosine.std() / 100))) < 4.5
    torch.testing.assert_close(law.variance, torch.tensor(1 - ratio, dtype=torch.float64), rtol=1e-9, atol=0)


@pytest.mark.statistical
@pytest.mark.parametrize("kappa", [1e-4, 0.5, 3.0, 50.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradient_of_the_mean_resultant(kappa: float, dtype: torch.dtype) -> None:
    # d E[cos z]/dκ = (1 + I2/I0)/2 - A²
    number = 10_000
    concentration = torch.full((number,), kappa, dtype=dtype).requires_grad_()
    z = VonMises(torch.tensor(0.3, dtype=dtype), concentration).rsample()
    (gradient,) = torch.autograd.grad((z - 0.3).cos().sum(), concentration)
    zero, one, two = (scipy.special.ive(order, kappa) for order in range(3))
    exact = (1 + two / zero) / 2 - (one / zero) ** 2
    gradient = gradient.double()
    assert abs(float((gradient.mean() - exact) / (gradient.std() / number**0.5))) < 4.5


@pytest.mark.statistical
def test_mixture_on_the_circle_is_unbiased_across_the_cut() -> None:
    # components whose own antipodes lie where the other has mass: a cut that moved with each would be seen
    number = 20_000
    loc = torch.tensor([-2.0, 1.3], dtype=torch.float64).expand(number, 2).clone().requires_grad_()
    logits = torch.tensor([0.3, 0.0], dtype=torch.float64).expand(number, 2).clone().requires_grad_()
    law = MixtureReparam(dist.Categorical(logits=logits), VonMises(loc, 1.2))
    z = law.rsample()
    gradient = torch.autograd.grad((z - 0.5).cos().sum(), (loc, logits))
    ratio = scipy.special.i1e(1.2) / scipy.special.i0e(1.2)

    def exact(loc: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        return (logits.softmax(-1) * ratio * (loc - 0.5).cos()).sum()

    values = loc[0].detach().requires_grad_(), logits[0].detach().requires_grad_()
    for estimate, truth in zip(gradient, torch.autograd.grad(exact(*values), values), strict=True):
        error = (estimate.mean(0) - truth) / (estimate.std(0) / number**0.5)
        assert (error.abs() < 4.5).all()


@pytest.mark.parametrize("kappa", [0.4, 5.0, 200.0])
def test_second_derivative_of_a_draw(kappa: float) -> None:
    # along the quantile: d/dκ of dz/dκ at fixed probability, by differences of the first derivative
    base = torch.tensor(kappa, dtype=torch.float64)
    law = VonMises(torch.zeros((), dtype=torch.float64), base.requires_grad_())
    torch.manual_seed(1)
    z = law.rsample()
    (first,) = torch.autograd.grad(z, base, create_graph=True)
    (second,) = torch.autograd.grad(first, base)
    probability = law.cdf(z).detach()

    def first_at(value: float) -> float:
        moved = torch.tensor(value, dtype=torch.float64).requires_grad_()
        law = VonMises(torch.zeros((), dtype=torch.float64), moved)
        point = z.detach().clone()
        for _ in range(40):  # quantile by Newton
            point = point - (law.cdf(point) - probability).detach() / law.log_prob(point).exp().detach()
        slope = torch.autograd.grad(law.cdf(point), moved)[0]
        return float(-slope / law.log_prob(point).exp().detach())

    step = 1e-4 * kappa
    expected = (first_at(kappa + step) - first_at(kappa - step)) / (2 * step)
    assert abs(float(second) - expected) < 1e-5 * abs(expected)


def test_gradient_of_the_density_at_large_concentration() -> None:
    # in float32, 1 - A(κ) from float32 Bessel functions would have no digits left here
    concentration = torch.tensor(1e5).requires_grad_()
    value = VonMises(torch.tensor(0.0), concentration).log_prob(torch.tensor(0.004))
    (gradient,) = torch.autograd.grad(value, concentration)
    expected = 1 / (2e5) - 2 * math.sin(0.002) ** 2
    assert abs(float(gradient) - expected) < 1e-4 * abs(expected)


def test_arguments_are_checked() -> None:
    with pytest.raises(ValueError, match="concentration"):
        VonMises(torch.tensor(0.0), torch.tensor(-1.0))
    assert VonMises(0.0, 1.0).expand((2, 3)).rsample((4,)).shape == (4, 2, 3)
