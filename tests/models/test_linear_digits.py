"""What conjugate linear models do at the edge of double precision, against exact rational arithmetic."""

import math
import warnings
from fractions import Fraction

import pytest
import torch

from evidentia.models.linear.blocks import blocks
from evidentia.models.linear.conjugate_regression import ConjugateRegression
from evidentia.models.linear.digits import LostDigits, rounding_bound
from evidentia.models.linear.priors import GPrior, NormalInverseGamma, NormalPrior

SUBSETS = torch.tensor([[0, 0], [1, 0], [0, 1], [1, 1]], dtype=torch.float64)


@pytest.fixture
def data() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    x = torch.randn(50, 2, dtype=torch.float64)
    return x, x[:, 0] + 0.3 * torch.randn(50, dtype=torch.float64)


def exact(x: torch.Tensor, y: torch.Tensor, ridge: Fraction, intercept: bool) -> tuple[float, Fraction]:
    """log det(X'X + ridge) and y'y − b'(X'X + ridge)⁻¹b by Gaussian elimination on fractions."""
    rows = [[Fraction(v) for v in row] for row in torch.cat([x, y[:, None]], 1).tolist()]
    if intercept:
        means = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
        rows = [[v - m for v, m in zip(row, means, strict=True)] for row in rows]
    width = len(rows[0])
    m = [[sum(row[i] * row[j] for row in rows) for j in range(width)] for i in range(width)]
    for i in range(width - 1):
        m[i][i] += ridge
    log_det = 0.0
    for k in range(width - 1):
        log_det += math.log(m[k][k])
        for i in range(k + 1, width):
            factor = m[i][k] / m[k][k]
            m[i] = [a - factor * b for a, b in zip(m[i], m[k], strict=True)]
    return log_det, m[-1][-1]


@pytest.mark.parametrize("prior", [NormalPrior(), NormalInverseGamma(), NormalPrior(intercept=True)])
def test_a_ridge_accepts_large_duplicates(data, prior) -> None:
    x, y = data
    x = torch.stack([x[:, 0], x[:, 0]], 1) * 1e6
    problem = ConjugateRegression(prior, x, y)
    log_det, residual = exact(x, y, Fraction(1), prior.intercept)
    expected = prior.noise.log_marginal(torch.tensor(float(residual)), problem.data.degrees) - log_det / 2
    if prior.intercept:
        expected = expected - 0.5 * math.log(50)
    for got in (problem.log_evidence_all()[3], problem.log_evidence(SUBSETS)[3]):
        assert abs(got - expected) < 0.03


@pytest.mark.parametrize("scale", [1e8, 1e12])
def test_rounding_that_hides_the_ridge_is_said(data, scale: float) -> None:
    x, y = data
    problem = ConjugateRegression(NormalPrior(), torch.stack([x[:, 0], x[:, 0]], 1) * scale, y)
    for evaluate in (problem.log_evidence_all, lambda: problem.log_evidence(SUBSETS)):
        with pytest.raises(ValueError, match=r"rounding hides its ridge. Fix: standardise"):
            evaluate()


def test_a_gram_matrix_keeps_its_rank_test(data) -> None:
    x, y = data
    problem = ConjugateRegression(GPrior(), torch.stack([x[:, 0], x[:, 0] * (1 + 1e-15)], 1), y)
    for evaluate in (problem.log_evidence_all, lambda: problem.log_evidence(SUBSETS)):
        with pytest.raises(ValueError, match="linearly dependent"):
            evaluate()


def test_a_singular_block_names_columns_of_the_design_only(data) -> None:
    x, y = data
    problem = ConjugateRegression(GPrior(), torch.stack([x[:, 0], 2 * x[:, 0]], 1), y)
    with pytest.raises(ValueError, match=r"columns \[0, 1\] are"):
        problem.log_evidence(SUBSETS)


@pytest.mark.parametrize("prior", [GPrior(), NormalPrior(intercept=True), NormalInverseGamma(intercept=True)])
def test_offsets_cost_nothing_where_the_intercept_is_integrated_out(data, prior) -> None:
    x, y = data[0] + 1e8, data[1] + 1e8
    far = ConjugateRegression(prior, x, y).log_evidence_all()
    near = ConjugateRegression(prior, x - 1e8, y - 1e8).log_evidence_all()  # exact subtractions
    torch.testing.assert_close(far, near, rtol=0, atol=1e-11)


@pytest.mark.parametrize(
    ("prior", "shift_x", "shift_y"),
    [(NormalPrior(), 0, 1e8), (NormalPrior(), 1e8, 0), (GPrior(intercept=False), 1e8, 0)],
)
def test_offsets_without_an_intercept_are_refused_with_the_bound(data, prior, shift_x, shift_y) -> None:
    with pytest.raises(ValueError, match=r"up to [\d.e+]+ nats, expected below 0.01. Fix: centre y"):
        ConjugateRegression(prior, data[0] + shift_x, data[1] + shift_y)


@pytest.mark.parametrize(("shift_x", "shift_y"), [(0, 1e5), (0, 2e6), (1e5, 0), (2e6, 0)])
def test_the_rounding_bound_holds_and_warns(data, shift_x: float, shift_y: float) -> None:
    x, y = data[0] + shift_x, data[1] + shift_y
    doubtful = max(shift_x, shift_y) > 1e6
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        problem = ConjugateRegression(NormalPrior(), x, y)
    assert [w.category for w in seen] == [LostDigits] * doubtful
    bound = rounding_bound(problem.prior, problem.data, problem.matrix)
    log_det, residual = exact(x, y, Fraction(1), False)
    # compare residuals: the log evidence itself may be too large a number for the last digits
    got = blocks(problem.matrix, SUBSETS[3:]).residual
    error = abs(float(Fraction(float(got)) - residual)) / 2
    assert error < bound < max(1e4 * error, 0.1)
    assert log_det > 0


def test_a_g_prior_without_noise_keeps_its_digits_or_refuses(data) -> None:
    x, _ = data
    y = x[:, 0] + 0.3 * x[:, 1]
    energy = float((y - y.mean()).square().sum())
    for g in (1e3, 1e8):
        problem = ConjugateRegression(GPrior(g=g), x, y)
        expected = problem.prior.noise.log_marginal(torch.tensor(energy / (1 + g)), 49) - math.log1p(g)
        for got in (problem.log_evidence_all()[3], problem.log_evidence(SUBSETS)[3]):
            assert abs(got - (expected - 0.5 * math.log(50))) < 1e-4
    with pytest.raises(ValueError, match=r"rounding may move .* a g below 1e12"):
        ConjugateRegression(GPrior(g=1e16), x, y)
    assert ConjugateRegression(GPrior(g=1e16), x, data[1]).log_evidence_all().isfinite().all()


@pytest.mark.parametrize("intercept", [True, False])
def test_a_response_without_variation(data, intercept: bool) -> None:
    x, y = data[0], torch.full((50,), 0.1 * intercept)
    with pytest.raises(ValueError, match=r"y is (constant|zero) in all 50 rows; expected .* Fix: check y"):
        ConjugateRegression(GPrior(intercept=intercept), x, y)
    for prior in (
        GPrior(noise_shape=0.5, noise_rate=0.5, intercept=intercept),
        NormalPrior(intercept=intercept),
    ):
        assert ConjugateRegression(prior, x, y).log_evidence(SUBSETS).isfinite().all()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (1, "has 0 degrees of freedom in 1 rows"),
        (10, "is constant in all 10 rows"),
        (50, r"rows must be in 1..49, got 50"),
        (2.5, r"rows must be in 1..49, got 2.5"),
        (True, r"rows must be in 1..49, got True"),
    ],
)
def test_rows_that_cannot_be_conditioned_on(data, rows, message: str) -> None:
    y = torch.cat([torch.ones(10, dtype=torch.float64), data[1][10:]])
    with pytest.raises(ValueError, match=message):
        ConjugateRegression(GPrior(), data[0], y).log_evidence_conditional(SUBSETS, rows)
