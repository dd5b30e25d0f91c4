"""The handler `latent`: train a pair with local latents on images or rows, and score it on rows held out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from evidentia.studies.harness.declare.config import revalidate
from evidentia.studies.harness.engine.outcome import Context, Outcome, Problem
from evidentia.studies.harness.errors import StudyError
from evidentia.studies.harness.handlers.arguments import attributes
from evidentia.studies.harness.handlers.pictures import samples, traversals
from evidentia.studies.harness.handlers.signal import trained_signal
from evidentia.studies.harness.handlers.training import TrainingParams, train
from evidentia.studies.harness.reporting.verdict import check

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

    from evidentia.inference.fit import Fit

ACTIVE = 0.01
"""A latent is active when its posterior mean varies by more than this (Burda et al., 2016)."""
SHOWN_LATENTS = 6


class LatentParams(TrainingParams):
    """Parameters of `latent`."""

    batch_size: int | None = Field(default=128, ge=1, description="rows of a mini-batch; None takes all")
    learning_rate: float = Field(default=1e-3, gt=0)
    compile: Literal["aten", "inductor"] | None = Field(default="aten", description="replay a captured step")
    watch_every: int = Field(default=200, ge=1, description="steps between two validation bounds")
    watch_repeats: int = Field(
        default=1, ge=1, description="copies of each validation row, to average over that many draws"
    )
    patience: int | None = Field(
        default=None, ge=1, description="validation bounds without a new best after which to stop at the best"
    )
    evidence_particles: int = Field(default=1000, ge=2, description="importance draws per held-out row")
    chunk_size: int = Field(default=100, ge=1, description="importance draws at a time")
    gap_steps: int = Field(
        default=0, ge=0, description="steps of the per-datum guides; 0 leaves the gaps out"
    )
    gap_rows: int = Field(default=100, ge=2, description="held-out rows whose gap is taken apart")
    signal_particles: tuple[int, ...] = Field(
        default=(), description="numbers of particles at which the gradient's signal-to-noise is measured"
    )
    signal_draws: int = Field(default=200, ge=2)
    saved_rows: int | None = Field(
        default=None, ge=2, description="held-out rows whose latents are saved; None saves all"
    )
    saved_draws: int = Field(default=25, ge=2)


def latent(problem: Problem, params: Mapping[str, Any], context: Context) -> Outcome:
    """Train the pair on mini-batches and estimate the evidence of the held-out rows.

    The row has `log_evidence` (nats for all held-out rows, importance-weighted, a lower bound; global latents
    are fixed at their posterior means) with `standard_error` and `kind`; per row `nats` (minus that, smaller
    is better), `nats_se` (the spread over rows) and `test_elbo`; `train_bound` (mean of the last tenth of the
    training, per row); `active` (latents whose posterior mean varies by more than `ACTIVE`), and the gaps
    where asked for.

    Raises:
        StudyError: a parameter is wrong, there is no pair, or no held-out part (exit 2).
        NumericalFailure: the numbers failed (exit 3).
        Stopped: the context asked to stop; the checkpoint is written.
    """
    import pandas as pd

    from evidentia.inference import diagnostics
    from evidentia.inference.evidence.importance import log_evidence

    options = revalidate(LatentParams, params, "inference")
    if problem.data.test_x is None:
        raise StudyError("data: inference 'latent' scores held-out rows, and this data set has no test part")
    rows, held_out = _rows(problem, "x"), _rows(problem, "test_x")
    watched = _rows(problem, "validation_x") if problem.data.validation_x is not None else None
    result = train(
        problem,
        options,
        context,
        (rows,),
        held_out=None if watched is None else (watched.repeat(options.watch_repeats, 1),),
        evaluate_every=options.watch_every,
        patience=options.patience,
        **({} if options.batch_size is None else {"size": len(rows)}),
    )
    scored = _plugged_in(result, held_out)
    evidence = log_evidence(
        scored,
        held_out,
        num_particles=options.evidence_particles,
        chunk_size=options.chunk_size,
        seed=context.seed,
    )
    each = evidence.diagnostics["per_datum"]
    bad = int((evidence.diagnostics["pareto_k_per_datum"] > 0.7).sum())
    tail = max(1, len(result.losses) // 10)
    row = {
        "log_evidence": evidence.value,
        "standard_error": evidence.standard_error,
        "kind": evidence.kind,
        "nats": -float(each.value.mean()),
        "nats_se": float(each.value.std() / len(each.value) ** 0.5),
        "evidence_bias": evidence.diagnostics["bias"] / len(held_out),
        "test_elbo": _elbo(scored, held_out, context.seed),
        "train_bound": -float(result.losses[-tail:].mean()) / len(rows),
        "parameters": sum(value.numel() for value in result.params.values()),
        "steps": len(result.losses),
        "stopped": result.stopped,
    }
    units = _units(result, held_out)
    row["active"] = int((units["activity"] > ACTIVE).sum())
    tables = {
        "losses": pd.DataFrame({"step": range(1, len(result.losses) + 1), "loss": result.losses.numpy()}),
        "watched": pd.DataFrame(result.evaluations.numpy(), columns=["step", "loss"]),
        "units": units,
        "samples": samples(scored, seed=context.seed),
        "traversals": traversals(scored, units["latent"].tolist()[:SHOWN_LATENTS]),
    }
    if options.gap_steps:
        gaps, tables["gaps"] = _gaps(scored, held_out, options, context.seed)
        row |= gaps
    if options.signal_particles:
        batch = rows[: options.batch_size]
        tables["signal"] = trained_signal(
            result, batch, options.signal_particles, options.signal_draws, context.seed
        )
    idata = diagnostics.to_idata(
        result,
        problem.model,
        held_out[: options.saved_rows],
        num_draws=options.saved_draws,
        prior_draws=options.saved_draws,
        local=True,
        seed=context.seed,
        attrs=attributes(problem, context),
    )
    checks = [
        check("k_hat", evidence.diagnostics["pareto_k"], f"{bad} of {len(held_out)} rows" if bad else ""),
        check("skipped_updates", result.skipped),
    ]
    weights = {key: value for key, value in result.state.items() if key.startswith(("param/", "buffer/"))}
    return Outcome([row], idata, weights, tables, checks, {"fit": result})


def _plugged_in(result: Fit, rows: Tensor) -> Fit:
    """The fit whose pair has the latents outside the plate "data" at their posterior means.

    One joint weight over all rows would be useless; given the global latents every row has its own.
    """
    import torch
    from pyro import poutine

    from evidentia.inference.objectives.plates import sample_sites

    model, guide = result.pair
    with result.scope(), torch.no_grad():
        sites = sample_sites(poutine.trace(guide).get_trace(rows))
    means = {
        site["name"]: site["fn"].mean
        for site in sites
        if not any(frame.name == "data" for frame in site["cond_indep_stack"])
    }
    if not means:
        return result
    # Hidden, they are constants: a site outside the data plate would tie the rows together.
    fixed = poutine.block(poutine.condition(model, means), hide=list(means))
    return replace(result, pair=(fixed, poutine.block(guide, hide=list(means))))


def _rows(problem: Problem, part: str) -> Tensor:
    """A part of the data in the precision of the model's parameters."""
    values: Tensor = getattr(problem.data, part)
    parameters = getattr(problem.model, "parameters", None)
    first = next(iter(parameters()), None) if parameters is not None else None
    return values if first is None else values.to(first.dtype)


def _elbo(result: Fit, rows: Tensor, seed: int) -> float:
    from evidentia.inference.evidence.importance import log_weights

    return float(log_weights(result, rows, num_particles=100, seed=seed).mean())


def _units(result: Fit, rows: Tensor) -> pd.DataFrame:
    """How much each latent's posterior mean varies with the data, the most active first."""
    import pandas as pd

    from evidentia.inference.latents import activity, posterior_means

    with result.scope():
        values = activity(posterior_means(result.pair[1], rows))
    table = pd.DataFrame({"latent": range(len(values)), "activity": values.numpy()})
    return table.sort_values("activity", ascending=False, ignore_index=True)


def _gaps(
    result: Fit, rows: Tensor, options: LatentParams, seed: int
) -> tuple[dict[str, float], pd.DataFrame]:
    """The mean gaps as columns of the row, and the table with one line per datum."""
    import pandas as pd

    from evidentia.inference.evidence.gaps import gaps

    found = gaps(
        result,
        rows[: options.gap_rows],
        num_particles=options.evidence_particles,
        chunk_size=options.chunk_size,
        num_steps=options.gap_steps,
        seed=seed,
    )
    parts = {
        "total": found.total,
        "approximation": found.approximation,
        "amortisation": found.amortisation,
    }
    row = {f"{name}_gap": gap.mean for name, gap in parts.items()}
    row |= {f"{name}_gap_se": gap.mean_error for name, gap in parts.items()}
    return row, pd.DataFrame({name: gap.per_datum.numpy() for name, gap in parts.items()})


latent.parameters = LatentParams  # type: ignore[attr-defined]
