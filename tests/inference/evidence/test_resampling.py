"""Systematic resampling and what a weighting adds to the variance of the evidence."""

import math

import pytest
import torch

from evidentia.inference.evidence.importance import estimate
from evidentia.inference.evidence.resampling import (
    effective_fraction,
    genealogical_variance,
    systematic_resample,
)


def offspring(log_weight: torch.Tensor, seed: int = 0) -> torch.Tensor:
    ancestor = systematic_resample(log_weight, torch.Generator().manual_seed(seed))
    return torch.zeros_like(log_weight).scatter_add(-1, ancestor, torch.ones_like(log_weight))


@pytest.mark.statistical
def test_offspring_are_in_proportion_to_the_weights():
    weight = torch.tensor([0.02, 0.31, 0.0, 0.17, 0.05, 0.45, 0.0], dtype=torch.float64)
    count = offspring(weight.log().expand(20_000, 7) - 700.0)
    mean, error = count.mean(0), count.std(0) / math.sqrt(len(count))
    z = (mean - 7 * weight) / error.clamp(min=1e-12)
    assert bool((z.abs() < 4.5).all()), z


def test_offspring_differ_from_their_expectation_by_less_than_one_and_the_dead_have_none():
    g = torch.Generator().manual_seed(1)
    log_weight = torch.randn(500, 33, generator=g, dtype=torch.float64) * 3
    log_weight[:, ::5] = -torch.inf
    count = offspring(log_weight)
    assert bool(((count - 33 * log_weight.softmax(-1)).abs() < 1 + 1e-9).all())
    assert not bool(count[:, ::5].any())
    assert bool((count.sum(-1) == 33).all())


def test_a_last_particle_of_weight_zero_is_not_chosen_by_rounding():
    log_weight = torch.zeros(200_000, 3, dtype=torch.float32)
    log_weight[:, -1] = -torch.inf
    assert not bool(offspring(log_weight)[:, -1].any())


def test_copies_have_their_own_random_number():
    ancestors = systematic_resample(torch.tensor([0.5, 0.3, 0.2]).log().expand(50, 3))
    assert len({tuple(row) for row in ancestors.tolist()}) > 1


@pytest.mark.parametrize("bad", [torch.full((4,), -torch.inf), torch.tensor([0.0, torch.nan])])
def test_weights_that_are_all_zero_or_not_numbers_are_refused(bad):
    with pytest.raises(ValueError, match="log_weight"):
        systematic_resample(bad)


def test_effective_fraction_counts_only_the_living():
    weight = torch.tensor([[1.0, 1.0, 0.0, 0.0], [3.0, 1.0, 0.0, 0.0]]).log()
    assert effective_fraction(weight).tolist() == pytest.approx([1.0, 0.8])


def test_one_weighting_has_the_variance_of_the_delta_method():
    log_weight = torch.randn(40, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    found = genealogical_variance(log_weight, torch.arange(40))
    assert math.sqrt(float(found)) == pytest.approx(float(estimate(log_weight).standard_error))


def test_siblings_that_did_not_move_are_seen_as_one_particle():
    log_weight = torch.tensor([0.1, 0.1, -0.4, -0.4], dtype=torch.float64)
    both = genealogical_variance(log_weight, torch.tensor([0, 0, 2, 2]))
    single = genealogical_variance(log_weight[::2], torch.arange(2)) / 2 * (4 / 3)
    assert float(both) == pytest.approx(float(single))
