"""The truncated normal: gradients, far tails, infinite bounds."""

import math

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor

from evidentia.models.distributions.normal_tails import log_mass, log_ndtr, ndtri_exp, tail_moments
from evidentia.models.distributions.truncated_normal import TruncatedNormal

INF = math.inf
LOC, SCALE = 0.3, 1.7
# standardised bounds
NEAR = [(-1.0, 2.0), (0.5, INF), (-INF, 0.3), (-INF, INF), (5.0, 6.0), (-7.0, -4.5)]
FAR = [(40.0, INF), (-INF, -40.0), (-41.0, -40.0), (200.0, 201.0)]
U = torch.linspace(0.05, 0.95, 19, dtype=torch.float64)


def arguments(low: float, high: float) -> list[float]:
    return [LOC, SCALE, LOC + SCALE * low, LOC + SCALE * high]


def law_at(values: list[float]) -> TruncatedNormal:
    return TruncatedNormal(*(torch.tensor(v, dtype=torch.float64) for v in values))


@pytest.mark.parametrize(("low", "high"), NEAR + FAR)
def test_gradient_against_quantile_differences(low: float, high: float) -> None:
    # spec 5.3: five-point differences, tolerance 1e-7
    values = arguments(low, high)
    given = [torch.full_like(U, v).requires_grad_() for v in values]
    gradient = torch.autograd.grad(TruncatedNormal(*given).icdf(U).sum(), given)
    for i, part in enumerate(gradient):
        assert not part.isnan().any()
        if math.isinf(values[i]):
            assert (part == 0).all()
            continue

        def quantile(step: float, i=i) -> Tensor:
            moved = list(values)
            moved[i] += step
            return law_at(moved).icdf(U)

        h = 1e-4
        expected = (quantile(-2 * h) - 8 * quantile(-h) + 8 * quantile(h) - quantile(2 * h)) / (12 * h)
        torch.testing.assert_close(part, expected, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize(("low", "high"), NEAR)
def test_density_and_moments_against_scipy(low: float, high: float) -> None:
    values = arguments(low, high)
    law, reference = law_at(values), scipy.stats.truncnorm(low, high, LOC, SCALE)
    z = law.icdf(U)
    np.testing.assert_allclose(z, reference.ppf(U), rtol=1e-10)
    np.testing.assert_allclose(law.log_prob(z), reference.logpdf(z), rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(law.cdf(z), U, rtol=1e-12)
    np.testing.assert_allclose(law.mean, reference.mean(), rtol=1e-10)
    np.testing.assert_allclose(law.variance, reference.var(), rtol=1e-9)


@pytest.mark.parametrize(("low", "high"), FAR)
def test_far_tails_are_nearly_exponential(low: float, high: float) -> None:
    law = law_at(arguments(low, high))
    near = low if low > 0 else -high
    distance = (law.icdf(U) - LOC).abs() / SCALE - near
    # t with ∫_0^t exp(-near s - s²/2) ds = F ∫_0^∞: by quadrature on the excess
    points, weights = np.polynomial.legendre.leggauss(60)
    share = U if low > 0 else 1 - U
    for t, f in zip(distance.tolist(), share.tolist(), strict=True):

        def mass(end: float) -> float:
            s = end * (points + 1) / 2
            return float((np.exp(-near * s - s * s / 2) * weights).sum() * end / 2)

        assert abs(mass(t) / mass(min(40 / near, high - low)) - f) < 1e-9
    torch.testing.assert_close(law.cdf(law.icdf(U)), U, rtol=1e-10, atol=0)
    draws = law.sample((10_000,))
    error = (draws.mean() - law.mean) / (law.variance / 10_000).sqrt()
    assert abs(float(error)) < 4.5


@pytest.mark.parametrize("distance", [9.9999, 10.0001, 1e3, 1e6])
def test_variance_keeps_its_digits_in_the_tail(distance: float) -> None:
    # Mills ratio expansion: variance d² → 1 - 6/d² + 50/d⁴ for large d
    law = TruncatedNormal(torch.tensor(0.0, dtype=torch.float64), 1.0, low=distance)
    expansion = (1 - 6 / distance**2 + 50 / distance**4) / distance**2
    assert abs(float(law.variance) / expansion - 1) < 1e3 / distance**6 + 1e-12
    mirrored = TruncatedNormal(torch.tensor(0.0, dtype=torch.float64), 1.0, high=-distance)
    torch.testing.assert_close(mirrored.variance, law.variance)
    torch.testing.assert_close(mirrored.mean, -law.mean)


def test_all_gradients_are_finite_at_infinite_bounds() -> None:
    # trap 21: 0 · inf
    low = torch.tensor([-INF, -1.0, -INF, 40.0], dtype=torch.float64)
    high = torch.tensor([INF, INF, 2.0, INF], dtype=torch.float64)
    given = [torch.zeros(4, dtype=torch.float64), torch.ones(4, dtype=torch.float64), low, high]
    given = [value.clone().requires_grad_() for value in given]
    for reach in (
        lambda law, z: z,
        lambda law, z: law.log_prob(z.detach()),
        lambda law, z: law.log_prob(z),
        lambda law, z: law.cdf(z.detach()),
        lambda law, z: law.mean,
        lambda law, z: law.variance,
    ):
        law = TruncatedNormal(*given)
        value = reach(law, law.rsample())
        assert torch.isfinite(value).all()
        for part in torch.autograd.grad(value.sum(), given, allow_unused=True):
            assert part is None or torch.isfinite(part).all()


@pytest.mark.parametrize(("low", "high"), [(-1.0, 2.0), (0.5, INF), (12.0, 13.0)])
def test_second_derivatives_of_a_draw(low: float, high: float) -> None:
    values = arguments(low, high)
    given = [torch.tensor(v, dtype=torch.float64).requires_grad_() for v in values]
    u = torch.tensor(0.37, dtype=torch.float64)

    def first(moved: list[Tensor], graph: bool) -> tuple[Tensor, ...]:
        return torch.autograd.grad(TruncatedNormal(*moved).icdf(u), moved[:2], create_graph=graph)

    for i in range(2):
        second = torch.autograd.grad(first(given, True)[i], given[:2])
        for j in range(2):
            step = 1e-4
            ends = []
            for sign in (-1, 1):
                moved = [torch.tensor(v, dtype=torch.float64).requires_grad_() for v in values]
                moved[j] = (moved[j] + sign * step).detach().requires_grad_()
                ends.append(first(moved, False)[i])
            expected = (ends[1] - ends[0]) / (2 * step)
            torch.testing.assert_close(second[j], expected, rtol=1e-5, atol=1e-7)


def test_moment_identity_of_the_gradient() -> None:
    # dE[z²]/dloc by draws against the derivative of the closed moments
    number = 20_000
    given = [torch.full((number,), v, dtype=torch.float64).requires_grad_() for v in (LOC, SCALE, -0.5, 3.0)]
    gradient = torch.autograd.grad(TruncatedNormal(*given).rsample().square().sum(), given)
    one = [torch.tensor(v, dtype=torch.float64).requires_grad_() for v in (LOC, SCALE, -0.5, 3.0)]
    law = TruncatedNormal(*one)
    exact = torch.autograd.grad(law.variance + law.mean.square(), one)
    for estimate, truth in zip(gradient, exact, strict=True):
        assert abs(float((estimate.mean() - truth) / (estimate.std() / number**0.5))) < 4.5


def test_logarithm_of_the_normal_cdf_is_inverted() -> None:
    x = -torch.logspace(-2, 7, 80, dtype=torch.float64)
    torch.testing.assert_close(ndtri_exp(torch.special.log_ndtr(x)), x, rtol=1e-13, atol=0)
    x = torch.linspace(0, 8, 30, dtype=torch.float64)
    torch.testing.assert_close(ndtri_exp(torch.special.log_ndtr(x)), x, rtol=0, atol=1e-14)
    ends = torch.tensor([-INF, 0.0], dtype=torch.float64)
    torch.testing.assert_close(ndtri_exp(ends), torch.tensor([-INF, INF], dtype=torch.float64))
    assert torch.equal(log_ndtr(ends[:1]), ends[:1])
    both = log_mass(torch.tensor(-INF), torch.tensor(INF))
    assert float(both) == 0


def test_tail_moments_against_direct_quadrature() -> None:
    points, weights = np.polynomial.legendre.leggauss(200)
    for distance, width in ((3.0, 0.5), (12.0, 4.0)):
        t = width * (points + 1) / 2
        density = np.exp(-distance * t - t * t / 2) * weights
        density /= density.sum()
        mean = (density * t).sum()
        got = tail_moments(*(torch.tensor(v, dtype=torch.float64) for v in (distance, width)))
        np.testing.assert_allclose(got[0], mean, rtol=1e-12)
        np.testing.assert_allclose(got[1], (density * (t - mean) ** 2).sum(), rtol=1e-12)


def test_arguments_and_values_are_checked() -> None:
    with pytest.raises(ValueError, match=r"expected low < high .* Fix: swap the bounds"):
        TruncatedNormal(0.0, 1.0, torch.tensor(1.0), torch.tensor(0.0))
    with pytest.raises(ValueError, match="scale"):
        TruncatedNormal(0.0, torch.tensor(0.0))
    law = TruncatedNormal(torch.tensor(0.0), 1.0, low=0.0)
    with pytest.raises(ValueError, match="support"):
        law.log_prob(torch.tensor(-0.1))
    outside = TruncatedNormal(torch.tensor(0.0), 1.0, low=0.0, validate_args=False)
    assert float(outside.log_prob(torch.tensor(-0.1))) == -INF
    assert float(outside.cdf(torch.tensor(-0.1))) == 0
    # float32 draws stay inside although the last digit of loc + scale ξ is rounded
    tight = TruncatedNormal(torch.tensor(1e3), 1e-3, low=1000.001, high=1000.002)
    assert tight.support.check(tight.sample((1000,))).all()
