"""Pruning by relative density: the Gaussian form, the general form, and what cannot be pruned so."""

import math

import oracles
import pytest
import torch
from torch.distributions import Gamma, InverseGamma, LogNormal, Normal

from evidentia.inference.structure.prune import (
    active_latents,
    kept,
    mode_density,
    relative_density,
)


@pytest.fixture(autouse=True)
def double_precision():
    torch.set_default_dtype(torch.float64)


def test_threshold_is_a_ratio_of_mean_and_scale():
    ratio = math.sqrt(-2 * math.log(0.95))
    assert ratio == pytest.approx(oracles.PRUNED_RATIO, abs=1e-4)
    scale = torch.rand(100) + 0.1
    loc = torch.randn(100)
    assert torch.equal(kept(loc, scale, 0.95), loc.abs() / scale >= ratio)


def test_the_general_form_of_a_gaussian_is_the_gaussian_form():
    loc, scale = torch.randn(20), torch.rand(20) + 0.1
    general = mode_density(Normal(loc, scale), Normal(torch.zeros(20), 2.0))
    torch.testing.assert_close(general, relative_density(loc, scale))
    shifted = mode_density(Normal(loc, scale), Normal(torch.ones(20), 2.0))
    torch.testing.assert_close(shifted, relative_density(loc - 1, scale))


def test_a_log_normal_by_hand():
    # log q(x) = -log x - (log x - m)²/2s² + const; the mode of q is exp(m - s²), that of IG(a, b) is b/(a+1).
    m, s, peak = 0.3, 0.5, 2.0 / 4.0
    expected = math.exp(-math.log(peak) - (math.log(peak) - m) ** 2 / (2 * s * s) + (m - s * s) + s * s / 2)
    ratio = mode_density(LogNormal(torch.tensor(m), s), InverseGamma(torch.tensor(3.0), 2.0))
    assert float(ratio) == pytest.approx(expected, rel=1e-12)


def test_a_posterior_equal_to_the_prior_is_uninformative():
    law = InverseGamma(torch.tensor([1.0, 3.0]), torch.tensor([1e-3, 2.0]))
    torch.testing.assert_close(mode_density(law, law), torch.ones(2))
    assert not active_latents(law, law).any()


@pytest.mark.parametrize("posterior", [LogNormal(0.0, 1.0), Gamma(3.0, 1.0), Gamma(0.5, 1.0)])
def test_a_prior_that_peaks_on_the_edge_is_refused(posterior):
    with pytest.raises(ValueError, match="interior mode"):
        mode_density(posterior, Gamma(torch.tensor(0.5), 1.0))


@pytest.mark.parametrize("threshold", [0.0, 1.5, -1.0])
def test_thresholds_out_of_range_are_named(threshold):
    law = Normal(torch.zeros(2), 1.0)
    with pytest.raises(ValueError, match="threshold in"):
        active_latents(law, law, threshold)
