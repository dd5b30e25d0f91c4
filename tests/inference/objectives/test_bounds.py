"""Values of the particle objectives against exact expectations, and their behaviour at zero weights."""

import math

import oracles
import particle_toys as toys
import pytest
import torch

from evidentia.inference.objectives.bounds import (
    ciwae_bound,
    cubo_bound,
    elbo_bound,
    iwae_bound,
    jackknife_bound,
    miwae_bound,
    renyi_bound,
)
from evidentia.inference.objectives.leave_one_out import others_logsumexp, others_mean

BOUNDS = {
    "elbo": elbo_bound,
    "iwae": iwae_bound,
    "renyi": lambda w: renyi_bound(w, -0.7),
    "cubo": cubo_bound,
    "jackknife": jackknife_bound,
    "miwae": lambda w: miwae_bound(w, 2),
    "ciwae": lambda w: ciwae_bound(w, 0.3),
}
OPTIONS = {"renyi": {"alpha": -0.7}, "cubo": {"alpha": -1.0}, "miwae": {"outer": 2}, "ciwae": {"beta": 0.3}}


@pytest.mark.parametrize("name", BOUNDS)
def test_value_and_derivative_equal_the_naive_formula(name):
    torch.manual_seed(0)
    w = torch.randn(4, 3, 2, dtype=torch.float64, requires_grad=True)
    got, expected = BOUNDS[name](w), toys.naive(name, **OPTIONS.get(name, {}))(w)
    assert got.shape == (3, 2)
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(*(torch.autograd.grad(v.sum(), w)[0] for v in (got, expected)))


@pytest.mark.parametrize("name", BOUNDS)
def test_log_weights_far_from_zero_do_not_overflow(name):
    w = torch.tensor([0.3, -0.2, 1.0, 0.1], dtype=torch.float64)
    for shift in (-5000.0, 5000.0):
        torch.testing.assert_close(BOUNDS[name](w + shift), BOUNDS[name](w) + shift)


@pytest.mark.parametrize("name", BOUNDS)
def test_a_datum_without_weight_has_value_minus_infinity_and_leaves_the_others_alone(name):
    w = torch.tensor([[0.3, -math.inf], [1.0, -math.inf], [0.0, -math.inf], [-1.0, -math.inf]])
    got = BOUNDS[name](w)
    assert got[1] == -math.inf
    torch.testing.assert_close(got[0], BOUNDS[name](w[:, 0]))


@pytest.mark.parametrize("name", ["iwae", "cubo"])
def test_one_zero_weight_leaves_value_and_derivative_finite(name):
    w = torch.tensor([0.3, -math.inf, 1.0, 0.0], dtype=torch.float64, requires_grad=True)
    value = BOUNDS[name](w)
    assert torch.isfinite(value)
    (gradient,) = torch.autograd.grad(value, w)
    assert gradient[1] == 0
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("key", oracles.PARTICLE_GAUSSIAN)
def test_quadrature_of_the_gaussian_toy(key):
    objective, size, alpha = key
    value, gradient = oracles.PARTICLE_GAUSSIAN[key]
    nodes = {1: 60, 2: 100, 3: 60}[size]
    got, slope = toys.gaussian_exact(objective, size, nodes, **({} if alpha is None else {"alpha": alpha}))
    loose = 1e-5 if alpha == -1.0 else 2e-6
    assert got == pytest.approx(value, abs=loose)
    assert slope.tolist() == pytest.approx(list(gradient), abs=6e-5 if alpha == -1.0 else 2e-6)


@pytest.mark.parametrize("key", oracles.PARTICLE_DISCRETE)
def test_enumeration_of_the_discrete_toy(key):
    objective, size, alpha = key
    value, gradient = oracles.PARTICLE_DISCRETE[key]
    got, slope = toys.discrete_exact(objective, size, **({} if alpha is None else {"alpha": alpha}))
    assert got == pytest.approx(value, abs=1e-7)
    assert slope.tolist() == pytest.approx(list(gradient), abs=1e-7)


def test_entries_left_open_by_finite_differences_of_another_formula():
    """IWAE K=3, d m on the Gaussian toy; Rényi 1/2, K=3, value on the discrete one, by multinomial counts."""
    eps, weight = toys.normal_grid(3, 60)

    def expected(m):
        parameters = (torch.tensor(v, dtype=torch.float64) for v in (toys.GAUSSIAN[0], m, toys.GAUSSIAN[2]))
        return (weight * iwae_bound(toys.gaussian_log_weight(eps, *parameters)[0])).sum()

    h = 1e-3
    slope = (expected(0.1 + h) - expected(0.1 - h)) / (2 * h)
    assert float(slope) == pytest.approx(oracles.PARTICLE_GAUSSIAN["iwae", 3, None][1][1], abs=3e-6)

    q = torch.tensor(toys.GUIDE_LOGITS, dtype=torch.float64).softmax(0)
    p = torch.tensor(toys.PRIOR_LOGITS, dtype=torch.float64).softmax(0)
    w = p * torch.tensor(toys.LIKELIHOOD, dtype=torch.float64).exp() / q
    total = 0.0
    for counts in ((i, j, 3 - i - j) for i in range(4) for j in range(4 - i)):
        ways = math.factorial(3) / math.prod(math.factorial(c) for c in counts)
        n = torch.tensor(counts, dtype=torch.float64)
        total += ways * float((q**n).prod()) * 2 * math.log(float((n * w.sqrt()).sum()) / 3)
    assert total == pytest.approx(oracles.PARTICLE_DISCRETE["renyi", 3, 0.5][0], abs=1e-7)


def test_evidence_lies_above_the_lower_bounds():
    values = [
        oracles.PARTICLE_GAUSSIAN[k][0] for k in (("elbo", 1, None), ("iwae", 2, None), ("iwae", 3, None))
    ]
    assert values == sorted(values)
    assert values[-1] < oracles.PARTICLE_GAUSSIAN_EVIDENCE
    total = torch.tensor(toys.PRIOR_LOGITS).log_softmax(0) + torch.tensor(toys.LIKELIHOOD)
    assert float(total.logsumexp(0)) == pytest.approx(oracles.PARTICLE_DISCRETE_EVIDENCE, abs=1e-6)


def test_renyi_bound_is_continuous_at_one_and_falls_with_its_order():
    w = torch.tensor([1.0, 3.0, -0.4], dtype=torch.float64)
    assert renyi_bound(w, 1.0) == elbo_bound(w)
    torch.testing.assert_close(renyi_bound(w, 1 - 1e-7), elbo_bound(w), atol=1e-6, rtol=0)
    torch.testing.assert_close(renyi_bound(w, 0.0), iwae_bound(w))
    values = [float(renyi_bound(w, a)) for a in (-3.0, -1.0, 0.0, 0.5, 1.0, 2.0)]
    assert values == sorted(values, reverse=True)


def test_cubo_at_finite_size_lies_below_its_limit_but_its_exponential_is_unbiased():
    # log E w^2 from one particle is exact; the K-sample value climbs to it and starts below the evidence.
    eps, weight = toys.normal_grid(2, 100)
    parameters = [torch.tensor(v, dtype=torch.float64) for v in (0.4, 0.6, -0.1)]  # light enough tails
    log_w, _ = toys.gaussian_log_weight(eps, *parameters)
    limit = 0.5 * (weight * (2 * log_w[0]).exp()).sum().log()
    value = cubo_bound(log_w)
    assert (weight * value).sum() < limit - 0.01
    torch.testing.assert_close(0.5 * (weight * (2 * value).exp()).sum().log(), limit)
    alone = (weight * cubo_bound(log_w[:1])).sum()  # K = 1: the ELBO
    evidence = toys.gaussian_log_weight(eps[:1], *parameters)[0].exp().mul(weight).sum().log()
    assert alone < evidence < limit


def test_sums_over_the_others_survive_a_dominating_weight():
    w = torch.tensor([800.0, 0.0, 1.0, -math.inf])
    expected = [torch.logsumexp(torch.cat([w[:k], w[k + 1 :]]), 0) for k in range(4)]
    torch.testing.assert_close(others_logsumexp(w), torch.stack(expected))
    assert others_logsumexp(w[:1]).tolist() == [-math.inf]
    assert others_mean(torch.tensor([1.0, -math.inf, 3.0])).tolist() == [-math.inf, 2.0, -math.inf]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda w: renyi_bound(w, math.inf), "alpha: expected a finite number"),
        (lambda w: cubo_bound(w, 0.5), "order: expected a finite number >= 1"),
        (lambda w: jackknife_bound(w[:1]), "needs K >= 2"),
        (lambda w: miwae_bound(w, 3), "outer: expected a divisor of num_particles=4, got 3"),
        (lambda w: ciwae_bound(w, 1.5), r"beta: expected a number in \[0, 1\]"),
    ],
)
def test_wrong_options_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(torch.zeros(4))


@pytest.mark.slow
@pytest.mark.statistical
def test_gap_times_particles_tends_to_half_the_chi_square_and_the_jackknife_removes_it():
    x, sd, mean, variance = 1.2, 0.7, 0.5, 0.8
    torch.manual_seed(0)

    def log_weight(z):
        return (
            torch.distributions.Normal(0.0, 1.0).log_prob(z)
            + torch.distributions.Normal(z, sd).log_prob(torch.tensor(x, dtype=z.dtype))
            - torch.distributions.Normal(mean, math.sqrt(variance)).log_prob(z)
        )

    grid = torch.linspace(-12, 12, 20001, dtype=torch.float64)
    proposal = torch.distributions.Normal(mean, math.sqrt(variance)).log_prob(grid)
    w = log_weight(grid)
    evidence = torch.logsumexp(w + proposal, 0) + math.log(24 / 20000)
    chi = (2 * (w - evidence) + proposal).exp().sum() * 24 / 20000 - 1
    gaps, before = {}, -math.inf
    for size in (1, 2, 4, 16, 64):
        parts = [
            log_weight(mean + math.sqrt(variance) * torch.randn(size, 50_000, dtype=torch.float64))
            for _ in range(8)
        ]
        bound = torch.cat([iwae_bound(part) for part in parts])
        se = float(bound.std()) / math.sqrt(len(bound))
        assert float(bound.mean()) > before - 3 * se
        before = float(bound.mean())
        gaps[size] = size * float(evidence - bound.mean())
    assert gaps[64] / float(chi / 2) == pytest.approx(1, abs=0.1)
    repaired = torch.cat([jackknife_bound(part) for part in parts])
    assert 64 * abs(float(repaired.mean() - evidence)) < 0.2 * gaps[64]
