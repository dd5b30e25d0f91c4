"""Importance sampling from a law fitted to draws: exact evidences, honest errors, k-hat."""

import math

import evidence_toys
import pytest
import torch

from evidentia.inference.density.evaluation import target_of
from evidentia.inference.evidence.importance_fit import importance_fit
from evidentia.inference.evidence.pareto import tail_shape


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", list(evidence_toys.TOYS))
def test_exact_evidences(name):
    toy = evidence_toys.TOYS[name]()
    found = importance_fit(toy.density, toy.chains(50, 512, 0), generator=seeded())
    tolerance = 4 * found.standard_error if name == "bimodal" else 0.02
    assert abs(found.value - toy.log_evidence) < tolerance
    assert abs(found.value - toy.log_evidence) < 4.5 * found.standard_error
    assert found.kind == "consistent estimate"
    assert found.diagnostics["pareto_k"] < 0.7


@pytest.mark.statistical
@pytest.mark.parametrize("name", ["regression", "bimodal"])
def test_errors_over_repeats(name):
    toy = evidence_toys.TOYS[name]()
    draws = toy.chains(20, 100, 1)
    z = []
    for seed in range(100):
        found = importance_fit(toy.density, draws, num_proposals=2000, generator=seeded(seed))
        z.append((found.value - toy.log_evidence) / found.standard_error)
    z = torch.tensor(z)
    assert abs(z.mean()) < 0.5
    assert 0.7 < z.std() < 1.4
    assert 0.88 <= (z.abs() < 1.96).double().mean() <= 0.99


def test_a_tail_that_the_proposal_does_not_cover_is_reported():
    # Cauchy coordinates, draws cut to their middle: the proposal is far too narrow.
    density = target_of(lambda x: -torch.log1p(x.square()).sum(-1))
    draws = torch.tan(torch.rand(4000, 2, generator=seeded(), dtype=torch.float64) - 0.5)
    found = importance_fit(density, draws, degrees=50.0, generator=seeded())
    assert found.diagnostics["pareto_k"] > 0.7
    assert any("cannot be trusted" in text for text in found.diagnostics["warnings"])


def test_zero_and_broken_densities():
    draws = torch.rand(2000, 2, generator=seeded(), dtype=torch.float64)
    box = target_of(lambda x: torch.where(((x > 0) & (x < 1)).all(-1), 0 * x.sum(-1), -math.inf))
    found = importance_fit(box, draws, num_proposals=20_000, generator=seeded())
    assert abs(found.value) < 4.5 * found.standard_error
    broken = target_of(lambda x: torch.where(x[:, 0] > 0, -x.square().sum(-1), math.nan))
    found = importance_fit(broken, draws, generator=seeded())
    assert any("NaN at" in text for text in found.diagnostics["warnings"])
    with pytest.raises(ValueError, match="zero or NaN at all 2000 proposals"):
        importance_fit(target_of(lambda x: x.sum(-1) - math.inf), draws)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"degrees": 0.0}, "degrees must be positive"), ({"num_proposals": 10}, "at least 25 proposals")],
)
def test_settings_out_of_range(options, message):
    density = target_of(lambda x: -x.square().sum(-1))
    with pytest.raises(ValueError, match=message):
        importance_fit(density, torch.randn(100, 2), **options)


def test_single_precision():
    draws = torch.randn(4, 500, 2, generator=seeded())
    found = importance_fit(target_of(lambda x: -x.square().sum(-1) / 2), draws, generator=seeded())
    assert abs(found.value - math.log(2 * math.pi)) < 4.5 * found.standard_error


def test_weights_that_agree_to_rounding_have_no_tail() -> None:
    noise = 1e-10 * torch.randn(1000, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert float(tail_shape(noise)) == -math.inf
    assert float(tail_shape(1e4 * noise)) > -math.inf
