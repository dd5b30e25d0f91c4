"""Checks of draws: the worst site is named, constants are left out, single chains are split."""

import arviz as az
import numpy as np
import pytest
import torch
from scipy import stats

from evidentia.inference.diagnostics import guide_check, mcmc_checks, verdict
from evidentia.inference.idata.checks import Diagnostic, pareto_k_of
from evidentia.inference.idata.draws import Draws
from evidentia.inference.idata.nested_rhat import nested_rhat
from evidentia.inference.idata.verdict import REMEDIES
from evidentia.studies.harness.reporting.verdict import RULES


def idata(posterior: dict, sampler_stats: dict | None = None):
    shape = next(iter(posterior.values())).shape[:2]
    return az.from_dict(posterior=posterior, sample_stats=sampler_stats or {"lp": np.zeros(shape)})


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


def test_nested_r_hat_is_its_formula_on_normal_scores() -> None:
    draws = np.random.default_rng(0).normal(size=(12, 30))
    group = np.repeat(np.arange(4), 3)
    scores = stats.norm.ppf((stats.rankdata(draws).reshape(draws.shape) - 0.375) / (draws.size + 0.25))
    within = [
        scores[group == k].var(1, ddof=1).mean() + scores[group == k].mean(1).var(ddof=1) for k in range(4)
    ]
    between = np.var([scores[group == k].mean() for k in range(4)], ddof=1)
    assert nested_rhat(draws, group) >= np.sqrt(1 + between / np.mean(within)) * (1 - 1e-12)
    shuffled = np.random.default_rng(1).permutation(12)
    assert nested_rhat(draws[shuffled], group[shuffled]) == pytest.approx(
        nested_rhat(draws, group), abs=1e-12
    )
    monotone = nested_rhat(np.exp(5 * draws), group)  # ranks do not care, the spread does
    assert monotone == pytest.approx(nested_rhat(draws, group), rel=0.05)


def test_many_short_stationary_chains_pass_only_the_nested_check() -> None:
    noise = torch.randn(128, 40, 2, generator=torch.Generator().manual_seed(0))
    draws = noise.clone()
    for n in range(1, 40):
        draws[:, n] = 0.6 * draws[:, n - 1] + 0.8 * noise[:, n]
    lp = torch.zeros(128, 40)
    short = {d.name: d for d in mcmc_checks(Draws({"b": draws}, {"lp": lp}, {}, "max_steps", "hmc"))}
    assert not short["r_hat"].passed  # 40 draws, worth about 10, cannot give 1.01
    known = Draws({"b": draws}, {"lp": lp}, {}, "max_steps", "hmc", superchains=16)
    nested = {d.name: d for d in mcmc_checks(known)}
    assert "r_hat" not in nested
    assert nested["nested_r_hat"].passed
    stuck = draws.clone()
    stuck[8:16, :, 1] += 1.0  # one superchain remembers where it began
    spread = draws.clone()
    spread[8:16, :, 1] *= 0.3  # too narrow: its mean is right
    for wrong in (stuck, spread):
        found = verdict(Draws({"b": wrong}, {"lp": lp}, {}, "max_steps", "hmc", superchains=16))
        failed = {check.name: check for check in found.checks if not check.passed}
        assert failed["nested_r_hat"].site == "b[1]"
        assert any(REMEDIES["nested_r_hat"] in line for line in found.failures)


def test_long_chains_keep_the_usual_r_hat_and_unadjusted_draws_never_pass() -> None:
    noise = torch.randn(4, 1000, generator=torch.Generator().manual_seed(0))
    found = verdict(Draws({"b": noise}, {"lp": noise}, {}, "max_steps", "ula", superchains=2, adjusted=False))
    assert [check.name for check in found.checks if not check.passed] == ["unadjusted"]
    assert found.checks[0].name == "r_hat"
    assert not found.passed
    assert "Metropolis" in str(found)


def test_remedies_and_limits_are_those_of_the_report() -> None:
    for check in verdict(
        Draws({"b": torch.randn(4, 300)}, {"lp": torch.zeros(4, 300)}, {}, "max_steps", "hmc")
    ).checks:
        assert RULES[check.name].threshold == check.threshold
    assert {name: RULES[name].remedy for name in REMEDIES} == dict(REMEDIES)


def test_groups_of_unequal_size_are_refused() -> None:
    with pytest.raises(ValueError, match="all of one size"):
        nested_rhat(np.zeros((5, 4)), np.array([0, 0, 1, 1, 1]))
