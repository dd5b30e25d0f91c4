"""Exact evidences of conjugate linear models against dense densities, quadrature and brute force."""

import math

import oracles
import pytest
import torch
from sklearn.datasets import load_diabetes
from torch.distributions import MultivariateNormal, Normal, StudentT

from evidentia.models.linear.blocks import (
    all_blocks,
    augment,
    bic_log_bayes_factor,
    blocks,
    masked,
    statistics,
)
from evidentia.models.linear.conjugate_regression import ConjugateRegression, owners
from evidentia.models.linear.priors import GPrior, NormalInverseGamma, NormalPrior

PRIORS = {
    "liang": GPrior(),
    "hoff": GPrior(noise_shape=0.5, noise_rate=0.25, intercept=False),
    "small g": GPrior(g=3.0, noise_shape=1.5, noise_rate=0.7),
    "normal": NormalPrior(0.7, 0.6),
    "normal, intercept": NormalPrior((0.7, 1.2, 0.4), 0.6, intercept=True),
    "normal-inverse-gamma": NormalInverseGamma(0.7, 2.0, 1.5),
    "normal-inverse-gamma, intercept": NormalInverseGamma(0.7, 2.0, 1.5, intercept=True),
}


def subsets(count: int) -> torch.Tensor:
    return ((torch.arange(2**count)[:, None] >> torch.arange(count)) & 1).double()


@pytest.fixture(scope="module")
def diabetes() -> tuple[torch.Tensor, torch.Tensor]:
    x, y = load_diabetes(return_X_y=True)
    return torch.tensor((x - x.mean(0)) / x.std(0)), torch.tensor((y - y.mean()) / y.std())


@pytest.fixture
def small() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(3)
    x = torch.randn(12, 3, dtype=torch.float64) + 0.5
    return x, 0.8 * x[:, 0] - 0.3 + 0.5 * torch.randn(12, dtype=torch.float64)


def covariance(prior, x, columns):
    """Dense covariance of y relative to the noise variance, without the flat intercept."""
    design = x - x.mean(0) if prior.intercept else x
    design, weights = design[:, columns], prior.resolve(len(x)).column_scale(x.shape[1])[columns]
    if isinstance(prior, GPrior):
        inner = (prior.g or len(x)) * torch.linalg.inv(design.T @ design)
    else:
        inner = torch.diag(weights.square())
    return torch.eye(len(x), dtype=torch.float64) + design @ inner @ design.T


def dense(prior, x, y, gates):
    """log p(y) of one structure from a dense n × n covariance, a flat intercept integrated out."""
    cov, n = covariance(prior, x, gates.bool()), len(y)
    inverse = torch.linalg.inv(cov)
    log_det, rows = torch.logdet(cov), float(n)
    if prior.intercept:
        one = torch.ones(n, dtype=torch.float64)
        precision = one @ inverse @ one
        inverse = inverse - torch.outer(inverse @ one, inverse @ one) / precision
        log_det, rows = log_det + torch.log(precision), n - 1.0
    residual, noise = y @ inverse @ y, prior.noise
    if noise.scale is not None:
        variance = noise.scale**2
        return -0.5 * (rows * math.log(2 * math.pi * variance) + log_det + residual / variance)
    shape = noise.shape + rows / 2
    value = math.lgamma(shape) - shape * torch.log(noise.rate + residual / 2)
    value = value - 0.5 * (rows * math.log(2 * math.pi) + log_det)
    if noise.shape:
        value = value + noise.shape * math.log(noise.rate) - math.lgamma(noise.shape)
    return value


@pytest.mark.parametrize("name", PRIORS)
def test_evidence_equals_a_dense_density_for_every_structure(name, small):
    problem, gates = ConjugateRegression(PRIORS[name], *small), subsets(3)
    expected = torch.stack([dense(PRIORS[name], *small, row) for row in gates])
    torch.testing.assert_close(problem.log_evidence(gates), expected, rtol=1e-9, atol=0)
    torch.testing.assert_close(problem.log_evidence_all(), expected, rtol=1e-9, atol=0)


def test_diabetes_evidence_equals_the_multivariate_normal_for_all_1024(diabetes):
    """Rotated by the Q of X = QR, all but ten rows of y are pure noise: the density factorises exactly."""
    x, y = diabetes
    gates, noise = subsets(10), math.sqrt(oracles.DIABETES_NOISE_VARIANCE)
    got = ConjugateRegression(NormalPrior(1.0, noise), x, y).log_evidence(gates)
    q, r = torch.linalg.qr(x, mode="complete")
    rotated, square = q.T @ y, r[:10]
    cov = noise**2 * torch.eye(10, dtype=torch.float64) + torch.einsum("np,sp,mp->snm", square, gates, square)
    expected = MultivariateNormal(torch.zeros(10, dtype=torch.float64), cov).log_prob(rotated[:10])
    expected = expected + Normal(torch.zeros_like(y[:1]), noise).log_prob(rotated[10:]).sum()
    torch.testing.assert_close(got, expected, rtol=1e-11, atol=0)


@pytest.mark.slow
def test_diabetes_evidence_equals_the_multivariate_normal_of_442_dimensions(diabetes):
    x, y = diabetes
    gates, variance = subsets(10), oracles.DIABETES_NOISE_VARIANCE
    got = ConjugateRegression(NormalPrior(1.0, math.sqrt(variance)), x, y).log_evidence(gates)
    eye = variance * torch.eye(len(y), dtype=torch.float64)
    for part in torch.arange(1024).split(64):
        cov = eye + torch.einsum("np,sp,mp->snm", x, gates[part], x)
        expected = MultivariateNormal(torch.zeros_like(y), cov).log_prob(y)
        torch.testing.assert_close(got[part], expected, rtol=1e-11, atol=0)


def test_o20_diabetes_goldens_under_the_g_prior(diabetes):
    gates = subsets(10)
    problem = ConjugateRegression(GPrior(), *diabetes)
    log_bayes = problem.log_evidence(gates) - problem.log_evidence(gates[:1])
    posterior = torch.softmax(log_bayes, 0)
    golden = torch.tensor(oracles.DIABETES_INCLUSION_G_PRIOR, dtype=torch.float64)
    torch.testing.assert_close(posterior @ gates, golden, atol=1e-4, rtol=0)
    top = log_bayes.topk(3)
    assert top.values.tolist() == pytest.approx(oracles.DIABETES_TOP_LOG_BAYES_FACTOR, abs=1e-3)
    assert posterior[top.indices].tolist() == pytest.approx(oracles.DIABETES_TOP_PROBABILITY, abs=1e-4)
    assert [gates[i].nonzero().flatten().tolist() for i in top.indices] == oracles.DIABETES_TOP_MODELS


def test_log_bayes_factor_equals_its_closed_form(diabetes):
    x, y = diabetes
    n, gates = len(y), subsets(10)[[0, 1, 37, 334, 1023]]
    got = ConjugateRegression(GPrior(), x, y).log_evidence(gates)
    for row, value in zip(gates, got - got[0], strict=True):
        design, k = x[:, row.bool()], int(row.sum())
        r2 = (
            1
            - (y - design @ torch.linalg.lstsq(design, y[:, None]).solution[:, 0]).square().sum()
            / y.square().sum()
        )
        expected = (n - k - 1) / 2 * math.log1p(n) - (n - 1) / 2 * torch.log1p(n * (1 - r2))
        assert float(value) == pytest.approx(float(expected), rel=1e-10, abs=1e-10)


def test_bic_equals_its_formula(diabetes):
    x, y = diabetes
    gates = subsets(10)[[0, 1, 37, 334, 1023]]
    got = bic_log_bayes_factor(statistics(x, y, intercept=True), gates)
    for row, value in zip(gates, got, strict=True):
        design = x[:, row.bool()]
        rss = (y - design @ torch.linalg.lstsq(design, y[:, None]).solution[:, 0]).square().sum()
        expected = -0.5 * (442 * math.log(rss / y.square().sum()) + row.sum() * math.log(442))
        assert float(value) == pytest.approx(float(expected), rel=1e-10, abs=1e-10)


def test_improper_evidence_equals_quadrature_over_intercept_and_noise(small):
    x, y = small[0][:6], small[1][:6]
    problem = ConjugateRegression(GPrior(), x, y)
    gates = subsets(3)[3]
    cov = covariance(GPrior(), x, gates.bool())
    alpha = torch.linspace(-30, 30, 4001, dtype=torch.float64)
    log_variance = torch.linspace(-9, 14, 1501, dtype=torch.float64)
    error = y - alpha[:, None]
    distance = (error @ torch.linalg.inv(cov) * error).sum(-1)
    log_joint = (  # p(σ²) dσ² = d log σ²
        -3 * (math.log(2 * math.pi) + log_variance) - 0.5 * torch.logdet(cov)
    )[None] - 0.5 * distance[:, None] / log_variance.exp()
    total = torch.logsumexp(log_joint.flatten(), 0) + math.log(60 / 4000 * 23 / 1500)
    # the heavy tail of the intercept beyond ±30 is cut, hence the tolerance
    assert float(problem.log_evidence(gates[None])[0]) == pytest.approx(float(total), abs=2e-3)


@pytest.mark.parametrize("name", PRIORS)
def test_conditional_evidence_is_proper_and_chains(name, small):
    x, y = small
    problem, gates = ConjugateRegression(PRIORS[name], x, y), subsets(3)
    prior = problem.prior
    for row, got in zip(gates, problem.log_evidence_conditional(gates, 8), strict=True):
        cov = covariance(prior, x, row.bool())  # the prior of all rows, restricted to the first ones
        head = cov[:8, :8]
        if prior.intercept:
            whole, first = _flat(prior, cov, y), _flat(prior, head, y[:8])
        else:
            whole, first = _plain(prior, cov, y), _plain(prior, head, y[:8])
        assert float(got) == pytest.approx(float(whole - first), rel=1e-9)


def _plain(prior, cov, y):
    return _noise(prior, torch.logdet(cov), y @ torch.linalg.solve(cov, y), float(len(y)))


def _flat(prior, cov, y):
    one = torch.ones_like(y)
    inverse = torch.linalg.inv(cov)
    weight = inverse @ one / (one @ inverse @ one)
    error = y - weight @ y
    return _noise(
        prior, torch.logdet(cov) + torch.log(one @ inverse @ one), error @ inverse @ error, len(y) - 1.0
    )


def _noise(prior, log_det, residual, degrees):
    return prior.noise.log_marginal(residual, degrees) - 0.5 * log_det


@pytest.mark.parametrize("name", PRIORS)
def test_leave_one_out_equals_refitting_without_each_row(name, small):
    x, y = small
    problem, gates = ConjugateRegression(PRIORS[name], x, y), subsets(3)
    got = problem.log_predictive_loo(gates)
    evidence = _flat if problem.prior.intercept else _plain
    for row, scores in zip(gates, got, strict=True):
        cov = covariance(problem.prior, x, row.bool())
        for i in range(len(y)):
            keep = torch.arange(len(y)) != i
            expected = evidence(problem.prior, cov, y) - evidence(problem.prior, cov[keep][:, keep], y[keep])
            assert float(scores[i]) == pytest.approx(float(expected), rel=1e-8, abs=1e-8)


def test_leave_one_out_density_integrates_to_one():
    scores = []
    grid = torch.linspace(-60, 60, 2401, dtype=torch.float64)
    x = torch.tensor([[1.0], [0.4], [-0.6], [-0.8]], dtype=torch.float64)
    for value in grid:  # the last datum moves, the others stay
        y = torch.cat([torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64), value[None]])
        problem = ConjugateRegression(NormalInverseGamma(0.8, 3.0, 1.0), x, y)
        scores.append(problem.log_predictive_loo(torch.ones(1, 1))[0, -1])
    assert float(torch.trapezoid(torch.stack(scores).exp(), grid)) == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("name", PRIORS)
def test_tempered_evidence_at_power_one_is_the_evidence(name, small):
    problem, gates = ConjugateRegression(PRIORS[name], *small), subsets(3)
    torch.testing.assert_close(problem.log_evidence_tempered(gates, 1.0), problem.log_evidence(gates))


def test_tempered_evidence_at_power_two_is_the_evidence_of_doubled_rows(small):
    x, y = small
    for prior in (
        NormalPrior(0.7, 0.6),
        NormalInverseGamma(0.7, 2.0, 1.5),
        NormalPrior(0.7, 0.6, intercept=True),
    ):
        doubled = ConjugateRegression(prior, torch.cat([x, x]), torch.cat([y, y])).log_evidence(subsets(3))
        torch.testing.assert_close(
            ConjugateRegression(prior, x, y).log_evidence_tempered(subsets(3), 2.0), doubled
        )


@pytest.mark.parametrize("power", [0.01, 1.0])
def test_tempered_evidence_of_the_constant_model(power):
    y, golden = oracles.worked_example()[1], oracles.WORKED_TEMPERED[power][0]
    problem = ConjugateRegression(NormalPrior(1.0, 0.5), torch.ones(50, 1, dtype=torch.float64), y)
    assert float(problem.log_evidence_tempered(torch.ones(1, 1), power)[0]) == pytest.approx(golden, abs=1e-3)


def test_sub_blocks_of_the_elimination_tree_equal_masked_cholesky_with_groups_of_columns():
    torch.manual_seed(0)
    design = torch.randn(20, 6, dtype=torch.float64)
    matrix = augment(design.T @ design, design.T @ design[:, 0], torch.tensor(99.0, dtype=torch.float64))
    widths = [2, 1, 0, 3]
    tree = all_blocks(matrix, widths)
    masked_blocks = blocks(matrix, subsets(4)[:, owners(widths)], chunk_size=5)
    for left, right in zip(tree, masked_blocks, strict=True):
        torch.testing.assert_close(left, right)


def test_real_gates_scale_the_weights(small):
    x, y = small
    gates = torch.tensor([[0.3, 1.0, 0.8]], dtype=torch.float64)
    got = ConjugateRegression(NormalPrior(0.7, 0.6), x, y).log_evidence(gates)
    scaled = ConjugateRegression(NormalPrior(0.7, 0.6), x * gates, y).log_evidence(torch.ones(1, 3))
    torch.testing.assert_close(got, scaled)
    assert torch.equal(masked(torch.eye(2), torch.zeros(1, 2))[0], torch.eye(2))


@pytest.mark.statistical
@pytest.mark.parametrize("name", PRIORS)
def test_weights_are_drawn_from_the_posterior(name, small):
    """Moments of exact draws against the dense posterior; the pooled |z| of every moment stays below 4.5."""
    x, y = small
    x = torch.stack([x[:, 0], x[:, 1], x[:, 2] + 2 * x[:, 0]], 1)  # correlated: a wrong root of A⁻¹ must show
    problem, draws = ConjugateRegression(PRIORS[name], x, y), 40_000
    gates = torch.tensor([[1.0, 0.0, 1.0]], dtype=torch.float64)
    sample = problem.sample_weights(gates.expand(draws, 3), torch.Generator().manual_seed(1))
    mean = problem.posterior_mean(gates)
    for draw, expected in (
        (sample.weight[:, [0, 2]], mean.weight[0, [0, 2]]),
        (sample.intercept, mean.intercept[0]),
    ):
        error = draw.std(0) / math.sqrt(draws)
        assert bool(((draw.mean(0) - expected).abs() <= 4.5 * error + 1e-12).all())
    precision = sample.noise_scale.pow(-2)
    z = (precision.mean() - mean.noise_scale[0].pow(-2)) / (precision.std() / math.sqrt(draws) + 1e-12)
    assert abs(float(z)) < 4.5
    # covariance of the active weights: σ² c A⁻¹ (D A D for scaled priors), averaged over the noise
    scaled = sample.weight[:, [0, 2]] - mean.weight[0, [0, 2]]
    whitened = scaled / sample.noise_scale[:, None]
    dense_cov = _relative_posterior_covariance(problem, gates[0].bool())
    chi2 = (whitened @ torch.linalg.inv(dense_cov) * whitened).sum(-1)
    assert abs(float((chi2.mean() - 2) / (chi2.std() / math.sqrt(draws)))) < 4.5


def _relative_posterior_covariance(problem, active):
    design = problem.design - problem.design.mean(0) if problem.prior.intercept else problem.design
    gram = design[:, active].T @ design[:, active]
    if isinstance(problem.prior, GPrior):
        return torch.linalg.inv(gram * (1 + 1 / problem.prior.g))
    scale = problem.prior.column_scale(3)[active]
    return torch.linalg.inv(gram + torch.diag(scale.pow(-2)))


def test_predictions_under_the_g_prior_shrink_least_squares(small):
    x, y = small
    mean = ConjugateRegression(GPrior(), x, y).posterior_mean(torch.ones(1, 3))
    centred = x - x.mean(0)
    ols = torch.linalg.lstsq(centred, y[:, None]).solution[:, 0]
    torch.testing.assert_close(mean.weight[0], 12 / 13 * ols)
    torch.testing.assert_close(mean.intercept[0], y.mean() - x.mean(0) @ mean.weight[0])


def test_a_student_t_with_one_row_left_is_refused():
    x = torch.tensor([[1.0], [2.0]], dtype=torch.float64)
    with pytest.raises(
        ValueError, match="leave-one-out under an improper noise prior needs more than 1 degrees"
    ):
        ConjugateRegression(GPrior(g=2.0), x, x[:, 0] + 1).log_predictive_loo(torch.zeros(1, 1))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: GPrior(g=-1.0), "GPrior: g must be positive"),
        (lambda: GPrior(noise_shape=1.0), "noise_rate must be positive"),
        (lambda: NormalPrior(scale=0.0), "NormalPrior: scale must be positive"),
        (lambda: NormalInverseGamma(rate=float("nan")), "rate must be positive"),
        (lambda: GPrior().shrinkage, r"call .resolve\(rows\) first"),
        (lambda: NormalPrior((1.0, 2.0)).column_scale(3), "2 entries for 3 columns"),
        (
            lambda: ConjugateRegression(GPrior(), torch.ones(3, 1), torch.ones(2)),
            r"has shape \(2,\), expected",
        ),
        (lambda: ConjugateRegression(GPrior(), torch.ones(3), torch.ones(3)), "expected design"),
        (lambda: GPrior(g="a"), "GPrior: g must be positive and finite, got 'a'"),
        (lambda: NormalPrior("a"), "NormalPrior: scale must be .* one per column, got 'a'; e.g. scale=1.0"),
        (lambda: NormalPrior([1.0, -1.0]), "NormalPrior: scale must be .* one per column"),
        (lambda: NormalInverseGamma(torch.ones(2, 2)), "NormalInverseGamma: scale must be .* one per column"),
        (lambda: _duplicated().log_evidence(torch.ones(1, 2)), "linearly dependent"),
        (lambda: _duplicated().log_evidence_all(), "linearly dependent"),
        (lambda: _fine().log_evidence_conditional(torch.ones(1, 1), 4), "rows must be in 1..3, got 4"),
        (lambda: _fine().log_evidence_tempered(torch.ones(1, 1), 0.0), "power must be positive"),
    ],
)
def test_errors_name_the_argument_and_the_fix(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize("build", [list, torch.tensor, tuple])
@pytest.mark.parametrize("law", [NormalPrior, NormalInverseGamma])
def test_a_scale_per_column_comes_in_any_sequence(law, build):
    prior = law(build([1.0, 2.0]))
    assert prior.scale == (1.0, 2.0)
    assert prior.column_scale(2).tolist() == [1.0, 2.0]
    assert hash(prior) == hash(law((1.0, 2.0)))


def _duplicated():
    x = torch.tensor([[1.0, 2.0], [2.0, 4.0], [0.5, 1.0], [3.0, 6.0]], dtype=torch.float64)
    return ConjugateRegression(GPrior(), x, x[:, 0].square())


def _fine():
    x = torch.tensor([[1.0], [2.0], [0.5], [3.0]], dtype=torch.float64)
    return ConjugateRegression(GPrior(), x, x[:, 0].square())


def test_student_t_of_torch_agrees_with_the_leave_one_out_of_two_points():
    x, y = torch.zeros(2, 1, dtype=torch.float64), torch.tensor([0.4, -0.7], dtype=torch.float64)
    problem = ConjugateRegression(NormalInverseGamma(1.0, 2.0, 1.0), x, y)
    got = problem.log_predictive_loo(torch.zeros(1, 1))[0, 0]
    rate, shape = 1.0 + y[1].square() / 2, 2.5
    torch.testing.assert_close(got, StudentT(2 * shape, 0.0, (rate / shape).sqrt()).log_prob(y[0]))
