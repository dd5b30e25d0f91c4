"""Tests of uniform ranks: bands hold what they promise, p-values are uniform, directions have a sign."""

import pytest
import torch
from scipy.stats import binom, chi2, kstest

from evidentia.inference.calibration.coverage import contraction, coverage, z_scores
from evidentia.inference.calibration.ecdf import (
    chi_squared,
    direction_scores,
    ecdf_band,
    ecdf_difference,
    ecdf_p_value,
)
from evidentia.inference.calibration.goodness import holm
from evidentia.inference.calibration.quantities import rank


def uniform_ranks(num, repeats, draws, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(draws + 1, (num, repeats), generator=generator)


@pytest.mark.statistical
@pytest.mark.parametrize(("num", "draws"), [(200, 99), (200, 104), (100, 119)])
def test_the_band_holds_uniform_curves_as_often_as_it_says(num, draws):
    ranks = uniform_ranks(num, 3000, draws)
    band, curves = ecdf_band(num, draws), ecdf_difference(ranks, draws)
    inside = ((curves >= band.lower[:, None] - 1e-12) & (curves <= band.upper[:, None] + 1e-12)).all(0)
    assert abs(float(inside.double().mean()) - 0.95) < 0.02
    # A curve is inside exactly where its p-value says so, but for the last digit of the level.
    assert float((inside == (ecdf_p_value(ranks, draws) > 0.05)).double().mean()) > 0.99


@pytest.mark.statistical
def test_p_values_of_uniform_ranks_are_uniform():
    ranks = uniform_ranks(200, 200, 99, seed=3)
    for p_values in (ecdf_p_value(ranks, 99), chi_squared(ranks, 99)):
        assert kstest(p_values.numpy(), "uniform").pvalue > 1e-3
    for score in direction_scores(uniform_ranks(200, 2000, 99, seed=4), 99):
        assert kstest(score.numpy(), "norm").pvalue > 1e-3


def test_the_pointwise_limits_are_binomial():
    band = ecdf_band(50, 9, level=0.9)
    # Every limit is a count, and the band is symmetric under reversal of the ranks.
    counts = (band.upper + band.points) * 50
    torch.testing.assert_close(counts, counts.round())
    torch.testing.assert_close(band.upper, -band.lower.flip(0))
    count = torch.arange(51)
    tails = 2 * torch.minimum(
        torch.tensor(binom.cdf(count, 50, 0.5)), torch.tensor(binom.sf(count - 1, 50, 0.5))
    )
    top, edge = int(counts[4]), int(counts[0])
    # One threshold for all points: what is inside in the middle has no smaller tail than what is outside.
    assert tails[top] > tails[top + 1]
    outside = 2 * binom.sf(edge, 50, 0.1)
    assert float(tails[top]) > outside


def test_chi_squared_is_that_of_scipy():
    ranks = uniform_ranks(200, 1, 99, seed=5)[:, 0]
    observed = torch.bincount(ranks // 5, minlength=20).double()
    statistic = float(((observed - 10) ** 2 / 10).sum())
    assert float(chi_squared(ranks, 99)) == pytest.approx(chi2.sf(statistic, 19), rel=1e-10)


@pytest.mark.parametrize(
    ("power", "bias", "dispersion"),
    # u -> u^power tilts the ranks; an arcsine or a triangle law of u moves them out or in.
    [(0.6, 1, 0), (1.8, -1, 0), ("out", 0, 1), ("in", 0, -1)],
)
def test_directions_have_the_right_sign(power, bias, dispersion):
    u = torch.rand(400, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    if power == "out":
        u = (torch.pi * u / 2).sin() ** 2
    elif power == "in":
        u = (u + u.flip(0)) / 2
    else:
        u = u**power
    ranks = (u * 100).long().clamp(max=99)
    found = direction_scores(ranks, 99)
    for score, sign in zip(found, (bias, dispersion), strict=True):
        assert (score * sign > 4) if sign else True
    assert float(ecdf_p_value(ranks, 99)) < 0.01


def test_coverage_is_exact_for_every_rank_once():
    for draws in (9, 98, 99, 104):
        found = coverage(torch.arange(draws + 1), draws, [0.1, 0.5, 0.8, 0.95])
        torch.testing.assert_close(found.observed, found.nominal)
        assert bool(((found.nominal - torch.tensor([0.1, 0.5, 0.8, 0.95])).abs() <= 1.5 / (draws + 1)).all())


def test_the_coverage_band_is_binomial():
    found = coverage(uniform_ranks(200, 1, 99)[:, 0], 99, [0.5, 0.8])
    for place in range(2):
        chance = float(found.nominal[place])
        assert float(found.lower[place]) == binom.ppf(0.025, 200, chance) / 200
        assert float(found.upper[place]) == binom.ppf(0.975, 200, chance) / 200


def test_scores_and_contraction_of_a_known_posterior():
    truth = torch.tensor([[0.0], [2.0]])
    assert z_scores(truth, truth + 1, truth * 0 + 0.5).flatten().tolist() == [2.0, 2.0]
    assert z_scores(truth, truth, truth * 0).isnan().all()
    assert contraction(truth, truth * 0 + 1.0).flatten().tolist() == [0.5, 0.5]


def test_ties_are_broken_evenly():
    draws, truth = torch.zeros(4000, 3, 1), torch.zeros(4000, 1)
    counts = torch.bincount(rank(draws, truth, torch.Generator().manual_seed(0))[:, 0], minlength=4)
    assert float(((counts - 1000) ** 2 / 1000).sum()) < chi2.ppf(0.9999, 3)


def test_holm_shares_the_level_by_weight():
    p_values = torch.tensor([0.01, 0.04, 0.03, 0.005])
    torch.testing.assert_close(holm(p_values), torch.tensor([0.03, 0.06, 0.06, 0.02]))
    torch.testing.assert_close(holm(p_values, torch.full((4,), 0.25)), holm(p_values))
    weighted = holm(torch.tensor([0.01, 0.01]), torch.tensor([0.75, 0.25]))
    torch.testing.assert_close(weighted, torch.tensor([0.01 / 0.75, 0.01 / 0.75]))


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: ecdf_band(0, 9),
        lambda: ecdf_band(9, 9, 1.0),
        lambda: ecdf_difference(torch.tensor([10]), 9),
        lambda: chi_squared(torch.arange(10), 9, bins=1),
        lambda: coverage(torch.arange(10), 9, [1.0]),
    ],
)
def test_errors_name_the_fix(wrong):
    with pytest.raises(ValueError, match="Fix:"):
        wrong()
