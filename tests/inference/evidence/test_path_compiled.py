"""Estimators along a path on the compiled density of a Pyro model."""

import math

import posteriors
import pytest
import torch

from evidentia.inference.density.log_density import compile_density
from evidentia.inference.evidence.power_posteriors import power_posteriors
from evidentia.inference.evidence.sandwich import bidirectional
from evidentia.inference.evidence.smc import tempered_smc
from evidentia.inference.evidence.thermodynamic import stepping_stone


@pytest.mark.statistical
def test_the_eight_schools_as_a_pyro_model():
    """Prior draws are the density's own; the fused leapfrog moves the particles."""
    exact = posteriors.schools_log_evidence()
    model, args = posteriors.eight_schools()
    density = compile_density(model, *args, num_chains=256)
    g = torch.Generator().manual_seed(0)
    particles = tempered_smc(density, 256, generator=g)
    found = particles.log_evidence
    assert abs(found.value - exact) < 4 * found.standard_error < 0.3
    sandwich = bidirectional(density, particles.position, exact=False, betas=30, generator=g)
    assert abs(sandwich.gap) < 4 * math.hypot(sandwich.lower.standard_error, sandwich.upper.standard_error)
    assert abs(sandwich.lower.value - exact) < 4 * sandwich.lower.standard_error < 0.3
    found = stepping_stone(power_posteriors(density, "adaptive", num_draws=20, generator=g))
    assert abs(found.value - exact) < 4 * found.standard_error < 0.4
