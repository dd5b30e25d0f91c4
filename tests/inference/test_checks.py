"""Checks of draws: the worst site is named, constants are left out, single chains are split."""

import arviz as az
import numpy as np
import pytest

from evidentia.inference.diagnostics import guide_check, mcmc_checks
from evidentia.inference.idata.checks import Diagnostic, chain_checks, pareto_k_of


def idata(posterior: dict, stats: dict | None = None):
    shape = next(iter(posterior.values())).shape[:2]
    return az.from_dict(posterior=posterior, sample_stats=stats or {"lp": np.zeros(shape)})


def test_a_chain_elsewhere_is_found_and_named() -> None:
    rng = np.random.default_rng(0)
    b = rng.normal(size=(2, 1000, 3))
    good = {d.name: d for d in mcmc_checks(idata({"b": b}))}
    assert all(d.passed for d in good.values())
    b[1, :, 2] += 3.0
    bad = {d.name: d for d in mcmc_checks(idata({"b": b}))}
    assert bad["r_hat"].site == "b[2]"
    assert not bad["r_hat"].passed
    assert bad["ess_bulk"].site == "b[2]"
    one = {d.name: d for d in mcmc_checks(idata({"b": b[:1]}))}
    assert one["r_hat"].value < 1.03
    drift = np.linspace(-3, 3, 1000)[None, :, None] + b[:1]
    assert not {d.name: d for d in mcmc_checks(idata({"b": drift}))}["r_hat"].passed


def test_values_are_those_of_arviz() -> None:
    rng = np.random.default_rng(1)
    b = np.cumsum(rng.normal(size=(4, 200)), 1) * 0.1 + rng.normal(size=(4, 200))
    found = {d.name: d.value for d in mcmc_checks(idata({"b": b}, {"energy": b}))}
    assert found["r_hat"] == pytest.approx(float(az.rhat(b)))
    assert found["ess_bulk"] == pytest.approx(float(az.ess(b, method="bulk")))
    assert found["ess_tail"] == pytest.approx(float(az.ess(b, method="tail")))
    assert found["e_bfmi"] == pytest.approx(float(az.bfmi(b).min()), rel=1e-2)


def test_constant_indicators_are_left_out_and_frozen_chains_fail() -> None:
    rng = np.random.default_rng(0)
    gate = rng.integers(0, 2, size=(2, 200, 3))
    gate[:, :, 0] = 1
    found = {d.name: d for d in mcmc_checks(idata({"gate": gate}))}
    assert np.isfinite(found["r_hat"].value)
    frozen = np.zeros((2, 200))
    frozen[1] = 1.0
    assert not {d.name: d for d in mcmc_checks(idata({"gate": frozen}))}["r_hat"].passed
    assert mcmc_checks(idata({"gate": np.ones((2, 200))})) == []


def test_divergences_and_energy() -> None:
    rng = np.random.default_rng(0)
    stats = {"diverging": np.zeros((2, 100), bool), "energy": np.cumsum(rng.normal(size=(2, 100)), 1)}
    stats["diverging"][1, 4] = True
    found = {d.name: d for d in mcmc_checks(idata({"b": rng.normal(size=(2, 100))}, stats))}
    assert found["divergences"].value == 1
    assert not found["divergences"].passed
    assert not found["e_bfmi"].passed


@pytest.mark.parametrize(("scale", "good"), [(1.0, True), (0.35, False)])
def test_pareto_k_tells_a_good_guide_from_a_narrow_one(scale: float, good: bool) -> None:
    z = np.random.default_rng(0).normal(size=(1, 2000)) * scale
    stats = {"lp": -0.5 * z**2, "log_guide": -0.5 * (z / scale) ** 2 - np.log(scale)}
    record = guide_check(idata({"z": z}, stats))
    assert record.passed == good
    assert record.name == "k_hat"


def test_pareto_k_needs_a_guide() -> None:
    with pytest.raises(ValueError, match="log_guide"):
        pareto_k_of(idata({"z": np.zeros((1, 9))}), az.psislw)


def test_a_value_that_is_no_number_does_not_pass() -> None:
    assert not Diagnostic("r_hat", float("nan"), 1.01, "").passed
    assert not Diagnostic("ess_bulk", float("nan"), 400.0, "").passed
    assert callable(chain_checks)
