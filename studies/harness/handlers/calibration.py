"""The handler `sbc`: simulation-based calibration of one method on one small model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import Field

from evidentia.studies.harness.declare.config import Frozen, revalidate
from evidentia.studies.harness.engine.outcome import Context, Outcome, Problem
from evidentia.studies.harness.errors import StudyError
from evidentia.studies.harness.handlers.arguments import double_precision
from evidentia.studies.harness.handlers.calibration_cases import CalibrationCase, defective_hmc

if TYPE_CHECKING:
    import pandas as pd

    from evidentia.inference.calibration.goodness import CalibrationReport
    from evidentia.inference.calibration.sbc import SBCResult

__all__ = ["SBCParams", "sbc"]

LEVELS = tuple(share / 20 for share in range(1, 20))
OWN = ("exact", "mean_field", "defective_hmc")


class SBCParams(Frozen):
    """Parameters of `sbc`."""

    method: str = Field(
        default="hmc", description="a kernel's word, or 'exact', 'mean_field', 'defective_hmc'"
    )
    start: str = Field(default="prior", pattern="^(prior|truth)$", description="of the chains")
    num_datasets: int = Field(default=200, ge=10)
    num_draws: int = Field(default=104, ge=2, description="draws that a truth is ranked among")
    chains_per_dataset: int = Field(default=8, ge=1)
    warmup_steps: int = Field(default=100, ge=0)
    pilot_steps: int = Field(default=100, ge=2, description="of each adaptation on the pilot's data sets")
    executor: str = Field(default="auto", description="how the recorded density is run")
    thinning: int | None = Field(default=None, ge=1, description="searched when None")
    level: float = Field(default=0.05, gt=0, lt=1, description="chance that a right posterior is flagged")


def sbc(problem: Problem, params: Mapping[str, Any], context: Context) -> Outcome:
    """Rank true parameters among posterior draws, and judge the ranks.

    The row has `calibrated`, `p_value` (of all quantities together, after Holm's correction), `verdict`,
    `quantity` (the worst one), its `bias` and `dispersion` (standard scores), `coverage_error` (largest
    distance of a parameter's coverage at 50, 80 or 95 % from nominal), `contraction` (median over
    parameters), `acceptance`, `autocorrelation` and `thinning` of the chains, and `log_evidence` where it is
    exact (mean over the data sets, nats). Tables: `quantities` (the report), `curves` (ECDF difference and
    its band), `intervals` (coverage of central intervals, all parameters together).

    Raises:
        StudyError: a parameter is wrong, or the model has no such method (exit 2).
    """
    import pandas as pd

    from evidentia.inference.calibration.goodness import calibration_report
    from evidentia.inference.calibration.sbc import sbc as calibrate
    from evidentia.inference.calibration.simulate import simulate

    options = revalidate(SBCParams, params, "inference")
    case = problem.model
    if not isinstance(case, CalibrationCase):
        raise StudyError("model: inference 'sbc' needs a calibration case, such as 'sbc_schools'")
    with double_precision():
        result = calibrate(
            case.model,
            *case.args,
            method=method_of(case, options.method),
            num_datasets=options.num_datasets,
            num_draws=options.num_draws,
            chains_per_dataset=options.chains_per_dataset,
            start=options.start,
            warmup_steps=options.warmup_steps,
            pilot_steps=options.pilot_steps,
            executor=options.executor,
            thinning=options.thinning,
            simulator=case.simulator,
            seed=context.seed,
        )
        known: dict[str, Any] = {}
        if case.log_evidence is not None:
            data = simulate(case.simulator, *case.args, num=options.num_datasets, seed=context.seed).data["y"]
            values = [case.log_evidence(y) for y in data]
            known = {"log_evidence": sum(values) / len(values), "standard_error": 0.0, "kind": "exact"}
    report = calibration_report(result, level=options.level)
    return Outcome(
        [_row(result, report) | known],
        tables={
            "quantities": pd.DataFrame([_flat(line._asdict()) for line in report.lines]),
            "curves": _curves(result),
            "intervals": _intervals(result),
        },
        extra={"sbc": result, "report": report},
    )


def method_of(case: CalibrationCase, word: str) -> Any:
    """What `sbc` takes for a word; a kernel's word goes through."""
    found = {"exact": case.exact, "mean_field": case.pair}.get(word, word)
    if found is None:
        raise StudyError(f"inference.method: this model has no method {word!r}")
    return defective_hmc() if word == "defective_hmc" else found


def _row(result: SBCResult, report: CalibrationReport) -> dict[str, Any]:
    worst = report.worst
    own = [line for line, flag in zip(report.lines, result.parameter.tolist(), strict=True) if flag]
    chains = len(result.acceptance) > 0
    contraction = sorted(line.contraction for line in own)[len(own) // 2]
    return {
        "calibrated": report.calibrated,
        "p_value": report.p_value,
        "verdict": worst.verdict,
        "quantity": worst.quantity,
        "bias": worst.bias,
        "dispersion": worst.dispersion,
        "coverage_error": max(abs(share) for line in own for share in line.coverage),
        "contraction": contraction,
        "acceptance": float(result.acceptance.mean()) if chains else None,
        "autocorrelation": float(result.autocorrelation.max()) if chains else None,
        "thinning": result.thinning,
    }


def _flat(line: dict[str, Any]) -> dict[str, Any]:
    """A report's line with one column for each coverage."""
    shares = line.pop("coverage")
    return line | dict(zip(("coverage_50", "coverage_80", "coverage_95"), shares, strict=True))


def _curves(result: SBCResult) -> pd.DataFrame:
    """Columns place, lower, upper (of the 95 % band), and one for each quantity."""
    import pandas as pd

    from evidentia.inference.calibration.ecdf import ecdf_band, ecdf_difference

    band = ecdf_band(result.num_datasets, result.num_draws)
    curves = ecdf_difference(result.ranks, result.num_draws)
    columns = {"place": band.points, "lower": band.lower, "upper": band.upper}
    columns |= {name: curves[:, place] for place, name in enumerate(result.names)}
    return pd.DataFrame({name: value.numpy() for name, value in columns.items()})


def _intervals(result: SBCResult) -> pd.DataFrame:
    """Columns nominal, observed (mean over parameters), lower, upper: the band of a single parameter."""
    import pandas as pd

    from evidentia.inference.calibration.coverage import coverage

    found = coverage(result.ranks[:, result.parameter], result.num_draws, LEVELS)
    columns = {
        "nominal": found.nominal,
        "observed": found.observed.mean(1),
        "lower": found.lower,
        "upper": found.upper,
    }
    return pd.DataFrame({name: value.numpy() for name, value in columns.items()})


sbc.parameters = SBCParams  # type: ignore[attr-defined]
