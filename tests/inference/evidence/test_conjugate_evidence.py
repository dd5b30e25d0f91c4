"""Closed forms of conjugate models against quadrature, enumeration and the formula written out."""

import math

import pytest
import torch
from scipy import integrate, stats

from evidentia.inference.evidence.conjugate import (
    beta_binomial,
    dirichlet_multinomial,
    gamma_poisson,
    normal_inverse_gamma_regression,
    normal_mean,
)


def test_beta_binomial_is_the_integral_over_p():
    y, n = torch.tensor([3.0, 7.0, 0.0]), torch.tensor([10.0, 9.0, 4.0])

    def joint(p):
        return stats.beta.pdf(p, 2.5, 0.7) * stats.binom.pmf(y.numpy(), n.numpy(), p).prod()

    expected = math.log(integrate.quad(joint, 0, 1, epsabs=0, epsrel=1e-10)[0])
    found = beta_binomial(y, n, 2.5, 0.7)
    assert found.value == pytest.approx(expected, abs=1e-8)
    assert (found.kind, found.standard_error) == ("exact", 0.0)


def test_gamma_poisson_is_the_integral_over_the_rate():
    y, e = torch.tensor([3.0, 0.0, 5.0]).double(), torch.tensor([1.0, 0.5, 2.0]).double()

    def joint(r):
        return stats.gamma.pdf(r, 2.5, scale=1 / 0.7) * stats.poisson.pmf(y.numpy(), e.numpy() * r).prod()

    expected = math.log(integrate.quad(joint, 0, 40, epsabs=0, epsrel=1e-10)[0])
    assert gamma_poisson(y, 2.5, 0.7, e).value == pytest.approx(expected, abs=1e-8)


def test_dirichlet_multinomial_sums_to_one_and_is_scipys():
    a = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
    cells = [(i, j, 4 - i - j) for i in range(5) for j in range(5 - i)]
    values = [dirichlet_multinomial(torch.tensor(cell), a).value for cell in cells]
    assert sum(map(math.exp, values)) == pytest.approx(1, abs=1e-12)
    expected = stats.dirichlet_multinomial(a.numpy(), 4).logpmf(cells)
    assert values == pytest.approx(expected.tolist(), abs=1e-12)


def test_dirichlet_multinomial_of_rows_chains_the_posterior():
    a, first, second = torch.tensor([0.5, 1.0, 2.0]), torch.tensor([3, 0, 1]), torch.tensor([1, 1, 0])
    both = dirichlet_multinomial(torch.stack([first, second]), a).value
    chained = dirichlet_multinomial(first, a).value + dirichlet_multinomial(second, a + first).value
    assert both == pytest.approx(chained, abs=1e-12)


def test_normal_mean_is_a_multivariate_normal():
    y = torch.randn(7, dtype=torch.float64)
    covariance = 0.7**2 * torch.eye(7).double() + 1.9**2
    expected = stats.multivariate_normal([0.4] * 7, covariance.numpy()).logpdf(y.numpy())
    assert normal_mean(y, 0.7, 0.4, 1.9).value == pytest.approx(expected, abs=1e-9)


def test_regression_is_the_formula_of_the_diabetes_oracle():
    from sklearn.datasets import load_diabetes

    x, y = (torch.tensor(part) for part in load_diabetes(return_X_y=True))
    x = torch.cat([torch.ones(442, 1).double(), x / x.std(0, correction=0)], 1)
    y = (y - y.mean()) / y.std(correction=0)
    precision = x.T @ x + torch.eye(11)
    mean = torch.linalg.solve(precision, x.T @ y)
    shape, rate = 2 + 442 / 2, 1 + (y @ y - mean @ precision @ mean) / 2
    expected = (
        -221 * math.log(2 * math.pi)
        - 0.5 * torch.logdet(precision)
        - shape * rate.log()
        + math.lgamma(shape)
        - math.lgamma(2)
    )
    found = normal_inverse_gamma_regression(x, y, shape=2.0, rate=1.0)
    assert found.value == pytest.approx(float(expected), abs=1e-9)
    assert found.diagnostics["observed"]["obs"].shape == (442,)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: beta_binomial(torch.tensor([3.0]), 2), "successes up to 3 of 2 trials"),
        (lambda: beta_binomial(torch.tensor([3.0]), 9, alpha=0.0), "alpha must be positive"),
        (lambda: gamma_poisson(torch.tensor([-1.0])), "counts must be whole numbers"),
        (lambda: gamma_poisson(torch.tensor([1.0]), exposure=0.0), "exposure must be positive"),
        (lambda: dirichlet_multinomial(torch.tensor([1.5, 0.0])), "counts must be whole numbers"),
        (lambda: dirichlet_multinomial(torch.tensor([1.0, 0.0]), -1.0), "concentration must be positive"),
        (lambda: normal_mean(torch.zeros(2), scale=0.0), "scale must be positive"),
    ],
)
def test_what_has_no_density_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
