"""Laplace: its value and its correction on exact evidences, and its refusals without a proper mode."""

import math

import evidence_toys
import pytest
import torch
from evidence_toys import double

from evidentia.inference.density.evaluation import target_of, tempered_of
from evidentia.inference.evidence.laplace import laplace
from evidentia.inference.evidence.mode_search import find_modes, hessian


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def starts(dim, count=16, seed=0):
    return torch.rand(count, dim, generator=seeded(seed), dtype=torch.float64) * 4 - 2


def valley(x):  # Rosenbrock, mode at (1, 1)
    return -((1 - x[:, 0]).square()) - 20 * (x[:, 1] - x[:, 0].square()).square()


def test_search_finds_the_end_of_a_curved_valley_from_everywhere():
    found = find_modes(target_of(valley), starts(2, 12))
    assert found.converged.all()
    torch.testing.assert_close(found.position, torch.ones(12, 2).double(), rtol=0, atol=1e-4)


def test_search_takes_no_step_across_a_boundary():
    density = target_of(lambda x: x[:, 0].log() - x[:, 0])  # NaN below zero
    found = find_modes(density, double(0.001, 0.5, 30.0)[:, None])
    torch.testing.assert_close(found.position, torch.ones(3, 1).double(), rtol=0, atol=1e-4)


def test_search_says_that_it_has_not_ended():
    assert not find_modes(target_of(valley), starts(2), max_iterations=2).converged.any()
    assert not find_modes(target_of(lambda x: x.sum(-1)), starts(2), max_iterations=20).converged.any()


def test_hessian_is_that_of_autograd():
    position = starts(2, 3)
    expected = torch.stack(
        [-torch.autograd.functional.hessian(lambda x: valley(x[None])[0], row) for row in position]
    )
    torch.testing.assert_close(hessian(target_of(valley), position), expected, rtol=1e-5, atol=1e-4)


def test_hessian_of_coordinates_on_very_different_scales():
    scale = double(1e-4, 1.0, 1e4)
    found = hessian(target_of(lambda x: -0.5 * (x / scale).square().sum(-1)), double(1e-4, 2.0, -3e4)[None])
    torch.testing.assert_close(found.diagonal(dim1=-2, dim2=-1)[0], scale**-2.0, rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", ["beta-binomial", "gamma-Poisson", "Dirichlet-multinomial", "regression"])
def test_the_correction_is_consistent(name):
    toy = evidence_toys.TOYS[name]()
    found = laplace(toy.density, starts(toy.dim), num_proposals=8000, generator=seeded())
    assert abs(found.value - toy.log_evidence) < 4.5 * found.standard_error
    if name != "Dirichlet-multinomial":  # there Gaussian tails are too light: k-hat 0.6, error bar 0.03
        assert abs(found.value - toy.log_evidence) < 0.02
    assert found.kind == "consistent estimate"
    assert found.diagnostics["smallest_eigenvalue"] > 0.5


def test_the_value_itself_on_the_regression():
    toy = evidence_toys.regression()
    found = laplace(toy.density, starts(toy.dim), generator=seeded())
    assert found.diagnostics["laplace"] - toy.log_evidence == pytest.approx(-0.079, abs=5e-4)
    assert found.diagnostics["num_modes"] == 1


def test_a_gaussian_posterior_is_exact():
    toy = evidence_toys.normal_mean()
    found = laplace(toy.density, starts(1), generator=seeded())
    assert found.diagnostics["laplace"] == pytest.approx(toy.log_evidence, abs=1e-8)
    assert found.value == pytest.approx(toy.log_evidence, abs=1e-8)


def test_both_modes_are_added_up_and_reported():
    toy = evidence_toys.bimodal()
    found = laplace(toy.density, starts(5), generator=seeded())
    assert abs(found.value - toy.log_evidence) < 4.5 * found.standard_error
    assert found.standard_error < 0.01
    assert found.diagnostics["num_modes"] == 2
    assert any("2 modes found" in text for text in found.diagnostics["warnings"])


def test_a_saddle_is_refused_or_left_out():
    toy = evidence_toys.bimodal()
    with pytest.raises(ValueError, match=r"saddle \(smallest eigenvalue .* -99, along coordinate 0\)"):
        laplace(toy.density, torch.zeros(1, 5).double())
    found = laplace(toy.density, torch.cat([torch.zeros(1, 5).double(), starts(5)]), generator=seeded())
    assert any("1 searches ended at a saddle" in text for text in found.diagnostics["warnings"])
    assert abs(found.value - toy.log_evidence) < 4.5 * found.standard_error


def test_a_ridge_is_refused():
    density = target_of(lambda x: -(x[:, 0] + x[:, 1]).square())
    with pytest.raises(ValueError, match="on a ridge"):
        laplace(density, starts(2))


def centred_schools():
    y, scale = double(*evidence_toys.posteriors.SCHOOLS_Y), double(*evidence_toys.posteriors.SCHOOLS_SCALE)

    def log_prior(x):
        mu, s, theta = x[:, 0], x[:, 1], x[:, 2:]
        tau = s - torch.log1p((2 * s).exp() / 25)
        spread = -0.5 * ((theta - mu[:, None]) * (-s[:, None]).exp()).square().sum(1) - 8 * s
        return -0.5 * (mu / 5).square() + tau + spread

    return tempered_of(log_prior, lambda x: -0.5 * ((x[:, 2:] - y) / scale).square().sum(1))


def test_a_scale_that_shrinks_to_zero_has_no_mode():
    with pytest.raises(ValueError, match=r"no interior mode: .* furthest along coordinate 1\b"):
        laplace(centred_schools(), starts(10), max_iterations=100)


def test_non_centred_schools_have_a_mode_that_is_worth_nothing():
    toy = evidence_toys.schools()
    found = laplace(toy.density, starts(10), generator=seeded())
    assert found.diagnostics["laplace"] - toy.log_evidence < -5
    assert found.diagnostics["pareto_k"] > 0.7
    assert any("cannot be trusted" in text for text in found.diagnostics["warnings"])


def test_starts_are_needed_and_named_sites_are_used():
    with pytest.raises(ValueError, match="starts are needed"):
        laplace(target_of(valley))
    with pytest.raises(ValueError, match=r"expected starts \(S, D\), got \(2,\)"):
        laplace(target_of(valley), torch.zeros(2))

    class Site:
        def __init__(self, name, size):
            self.name, self.size = name, size

    class Named:
        sites = (Site("scale", 1), Site("w", 2))

        def evaluate(self, position, beta=1.0):
            return tempered_of(lambda x: x[:, 2] - x[:, :2].square().sum(1), lambda x: 0 * x[:, 0])(
                position, beta
            )

        def prior_draws(self, count, generator=None):
            return torch.zeros(count, 3).double()

    with pytest.raises(ValueError, match=r"furthest along w\[1\]"):
        laplace(Named(), max_iterations=20)


def test_half_the_starts_may_fail():
    density = target_of(lambda x: torch.where(x[:, 0] > 0, x[:, 0].abs().log() - x[:, 0], -math.inf))
    found = laplace(density, double(-1.0, -2.0, 0.5)[:, None], generator=seeded())
    assert any("2 of 3 searches" in text for text in found.diagnostics["warnings"])
    assert abs(found.value) < 5 * found.standard_error
