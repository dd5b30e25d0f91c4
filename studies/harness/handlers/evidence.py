"""The handler `evidence`: the log evidence of a model by one or more methods, repeated, with what it cost."""

from __future__ import annotations

import math
import warnings
import zlib
from collections.abc import Iterator, Mapping
from time import process_time
from typing import Any

from pydantic import Field, field_validator

from evidentia.studies.harness.declare.config import Frozen, FrozenDict, Params, revalidate
from evidentia.studies.harness.engine.outcome import Context, Outcome, Problem, Stopped
from evidentia.studies.harness.errors import StudyError, did_you_mean
from evidentia.studies.harness.handlers.arguments import arguments, double_precision
from evidentia.studies.harness.handlers.evidence_draws import Drawn, compiled, reference, sampled
from evidentia.studies.harness.handlers.evidence_methods import (
    METHODS,
    NEED_DRAWS,
    Counted,
    Estimate,
    Task,
    base_word,
)
from evidentia.studies.harness.reporting.verdict import Check
from evidentia.studies.harness.terminal.progress import ProgressEvent

ROUNDING = 1e-6
"""Nats; a smaller standard error is rounding, and no measure of anything."""


class EvidenceParams(Frozen):
    """Parameters of `evidence`."""

    methods: tuple[str, ...] = Field(default=("default",), min_length=1, description="one word or several")
    options: Params = Field(default=FrozenDict(), description="word -> keywords of its estimator")
    repeats: int = Field(default=1, ge=1, description="independent repeats, each with a seed of its own")
    num_chains: int = Field(default=128, ge=2, description="chains of the draws that some methods need")
    num_draws: int = Field(default=200, ge=8, description="draws of each chain")
    warmup_steps: int = Field(default=100, ge=0)
    kernel: str = Field(default="hmc", description="of these chains")
    reference_draws: int = Field(
        default=0, ge=0, description="where no exact value is known: draws of each chain of a long bridge run"
    )
    tolerance: float = Field(default=1.0, gt=0, description="nats; an estimate further off has failed")

    @field_validator("methods", mode="before")
    @classmethod
    def _words(cls, value: Any) -> Any:
        """One word is a list of one."""
        return (value,) if isinstance(value, str) else value

    @field_validator("methods")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for word in value:
            if base_word(word) not in METHODS:
                known = did_you_mean(base_word(word), METHODS)
                raise ValueError(f"unknown method {word!r}. {known} (the harmonic mean is not offered)")
        if len(set(value)) < len(value):
            raise ValueError(f"a method is named twice in {list(value)}; tag one of them, as in 'ais:20'")
        return value


def evidence(problem: Problem, params: Mapping[str, Any], context: Context) -> Outcome:
    """Estimate the log evidence of a model, `repeats` times by every method.

    A row for each estimate:

    - `method`, `repeat`, `dim`;
    - `log_evidence`, nats; `standard_error`, missing where the estimator gives none (`no_error_bar` = 1);
      `kind`; `warned`, `refused` (0 or 1; a refusal has no value); `warnings`, its words;
    - `cpu_seconds` and `gradients` (evaluations of the gradient at one position), with the sampling of the
      draws that it needs; `sampling_seconds`, that part; `chain_warned`, whether those chains failed a check;
    - where the model has `exact_log_evidence(*data)`, or with `reference_draws`: `reference` and
      `reference_error`; `error`; `z`, the error over both standard errors; and for what is off by more than
      `tolerance` without a warning of the estimator's own, `silent` = 1 if it is an estimate and `loose` = 1
      if it is a bound.

    Methods of one repeat share their draws, so their errors are not independent.

    Raises:
        StudyError: a parameter is wrong, or every method refuses (exit 2).
        Stopped: the context asked to stop; finished rows are kept, and not computed again.
    """
    options = revalidate(EvidenceParams, params, "inference")
    if unknown := sorted(set(options.options) - set(options.methods)):
        raise StudyError(
            f"inference.options.{unknown[0]}: no such method runs here. "
            f"{did_you_mean(unknown[0], options.methods)}"
        )
    args = arguments(problem.data)
    saved: Any = context.resumed_state() or {"step": 0, "rows": [], "checks": {}, "reference": None}
    rows, checks = list(saved["rows"]), dict(saved["checks"])
    total, drawn = options.repeats * len(options.methods), None
    with double_precision():
        density = compiled(problem, args, options, context.seed)
        known = saved["reference"] or reference(problem, args, density, options, context.seed)
        for step in range(int(saved["step"]), total):
            repeat, place = divmod(step, len(options.methods))
            word, seed = options.methods[place], (context.seed + 1_000_003 * repeat) % 2**32
            if base_word(word) in NEED_DRAWS and (drawn is None or drawn.repeat != repeat):
                drawn = sampled(problem, args, options, repeat, seed)
                checks[str(repeat)] = [each.as_dict() for each in drawn.checks]
            draws = drawn if base_word(word) in NEED_DRAWS else None
            for row in _estimates(word, density, draws, options, seed):
                judged = _judged(row, known, options.tolerance)
                rows.append({"method": word, "repeat": repeat, "dim": density.dim} | row | judged)
            context.report(ProgressEvent(step + 1, total, "evidence"))
            stop = context.should_stop() and step + 1 < total
            if context.checkpoint is not None and (stop or context.checkpoint_due(step + 1)):
                context.checkpoint.save(
                    {"step": step + 1, "rows": rows, "checks": checks, "reference": known}
                )
            if stop:
                raise Stopped(step + 1)
    if all(row["refused"] for row in rows):
        raise StudyError(f"inference: no method gave a value. {rows[0]['method']}: {rows[0]['warnings']}")
    found = [Check.from_dict(each) for key in sorted(checks, key=int) for each in checks[key]]
    return Outcome(rows=rows, checks=found)


def _estimates(
    word: str, density: Any, drawn: Drawn | None, options: EvidenceParams, seed: int
) -> Iterator[dict[str, Any]]:
    """The rows of one run of one method."""
    import torch

    from evidentia.inference.evidence.guards import EvidenceWarning

    counted = Counted(density)
    generator = torch.Generator().manual_seed((seed + zlib.crc32(word.encode())) % 2**63)
    task = Task(counted, drawn.position if drawn else None, generator, options.options.get(word, {}))
    tag = word.removeprefix(base_word(word))
    started = process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EvidenceWarning)  # they are in the row
        for estimate in _refusals(word, METHODS[base_word(word)](task)):
            chains = drawn if estimate.uses_draws else None
            yield _row(estimate) | {
                "method": estimate.word + tag,
                "cpu_seconds": process_time() - started + (chains.seconds if chains else 0.0),
                "sampling_seconds": chains.seconds if chains else 0.0,
                "gradients": counted.gradients + (chains.gradients if chains else 0),
                "chain_warned": int(chains is not None and any(not each.passed for each in chains.checks)),
            }


def _refusals(word: str, estimates: Iterator[Estimate]) -> Iterator[Estimate]:
    """What a method yields; an error it raises is its last word."""
    try:
        yield from estimates
    except ValueError as error:
        yield Estimate(base_word(word), error)
    except TypeError as error:
        if "keyword" not in str(error):
            raise
        raise StudyError(f"inference.options.{word}: {error}") from error


def _row(estimate: Estimate) -> dict[str, Any]:
    """Value, error bar, kind and complaints of one estimate."""
    result = estimate.result
    if isinstance(result, ValueError):
        text = str(result)
        return {"log_evidence": None, "standard_error": None, "kind": "refused", "refused": 1, "warned": 1,
                "no_error_bar": 1, "warnings": text}  # fmt: skip
    error, complaints = result.standard_error, result.diagnostics.get("warnings", ())
    usable = math.isfinite(result.value)
    return {
        "log_evidence": result.value if usable else None,
        "standard_error": error if math.isfinite(error) else None,
        "kind": estimate.kind or result.kind,
        "refused": int(not usable),
        "no_error_bar": int(not math.isfinite(error)),
        "warned": int(bool(complaints) or not usable),
        "warnings": "; ".join(complaints),
        **estimate.extra,
    }


def _judged(row: Mapping[str, Any], known: list[float] | None, tolerance: float) -> dict[str, Any]:
    """How far off, in nats and in standard errors, and whether nobody said so."""
    if known is None:
        return {}
    found: dict[str, Any] = {"reference": known[0], "reference_error": known[1]}
    if row["log_evidence"] is None:
        return found | {"error": None, "z": None, "silent": 0, "loose": 0}
    error = row["log_evidence"] - known[0]
    bar = None if row["standard_error"] is None else math.hypot(row["standard_error"], known[1])
    far = not row["warned"] and abs(error) > tolerance
    return found | {
        "error": error,
        "z": None if bar is None else error / max(bar, ROUNDING),
        "silent": int(far and "bound" not in row["kind"]),
        "loose": int(far and "bound" in row["kind"]),
    }


evidence.parameters = EvidenceParams  # type: ignore[attr-defined]
