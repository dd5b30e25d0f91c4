"""The inference handlers for structures: `enumerate` scores all of them, `structure_gibbs` samples them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from evidentia.studies.harness.declare.config import Frozen, revalidate
from evidentia.studies.harness.engine.outcome import Context, Outcome, Problem, Stopped
from evidentia.studies.harness.handlers.arguments import attributes, double_precision
from evidentia.studies.harness.handlers.leave_one_out import predictive_scores
from evidentia.studies.harness.reporting.verdict import check
from evidentia.studies.harness.terminal.progress import ProgressEvent

if TYPE_CHECKING:
    import pandas as pd

    from evidentia.inference.structure.posterior import StructurePosterior

__all__ = ["EnumerateParams", "GibbsParams", "enumerate", "structure_gibbs"]


class EnumerateParams(Frozen):
    """Parameters of `enumerate`; those from `guide` on are for networks (`evidence` other than "exact")."""

    evidence: Literal["exact", "elbo", "iwae", "importance"] = "exact"
    conditional: bool = True
    max_structures: int = Field(default=2**20, ge=1)
    rows: int = Field(default=5, ge=1, description="structures that get a row of the result")
    top: int = Field(default=50, ge=1, description="structures in the table of the point")
    num_draws: int = Field(default=1000, ge=2)
    guide: Literal["mean_field", "full_covariance"] = "mean_field"
    prior_weight: float = Field(
        default=1.0, gt=0, description="λ: weight of the prior against the likelihood"
    )
    num_steps: int = Field(default=2000, ge=1)
    num_particles: int = Field(default=2, ge=1)
    learning_rate: float = Field(default=0.05, gt=0)
    evidence_particles: int = Field(default=100, ge=1)
    evidence_batches: int = Field(default=20, ge=2)


NETWORK_PARAMS = (
    "guide",
    "prior_weight",
    "num_steps",
    "num_particles",
    "learning_rate",
    "evidence_particles",
    "evidence_batches",
)


class GibbsParams(Frozen):
    """Parameters of `structure_gibbs`."""

    num_sweeps: int = Field(default=2000, ge=1)
    warmup_sweeps: int = Field(default=200, ge=0)
    num_chains: int = Field(default=4, ge=1)
    rows: int = Field(default=1, ge=1, description="structures that get a row of the result")
    top: int = Field(default=50, ge=1, description="structures in the table of the point")


def enumerate(problem: Problem, params: Mapping[str, Any], context: Context) -> Outcome:
    """Score every structure of the model's family; one row per structure, the most probable first.

    Raises:
        StudyError: a parameter is wrong (exit 2).
        Stopped: the context asked to stop; the checkpoint is written.
    """
    from evidentia.inference.structure.enumerate import enumerate_structures

    options = revalidate(EnumerateParams, params, "inference")
    keywords: dict[str, Any] = {
        "evidence": options.evidence,
        "max_structures": options.max_structures,
        "conditional": options.conditional,
    }
    if options.evidence != "exact":
        keywords |= {name: getattr(options, name) for name in NETWORK_PARAMS}
        keywords |= {"seed": context.seed, "callback": _watch_training(context)}
        keywords["state"] = context.resumed_state()
    data = problem.data
    posterior = enumerate_structures(problem.model, data.x, data.y, **keywords)
    return _outcome(problem, context, posterior, options, options.num_draws)


def _watch_training(context: Context) -> Any:
    """Progress, checkpoints and the request to stop, while networks are trained."""

    def watch(progress: Any) -> bool:
        step = int(progress.step)
        context.report(ProgressEvent(step, int(progress.num_steps), "training"))
        stop = context.should_stop()
        if context.checkpoint is not None and (stop or context.checkpoint_due(step)):
            context.checkpoint.save(progress.state(), step)
        if stop:
            raise Stopped(step)
        return False

    return watch


def structure_gibbs(problem: Problem, params: Mapping[str, Any], context: Context) -> Outcome:
    """Sample structures with the weights integrated out; one row per visited structure, the most visited
    first.

    Raises:
        StudyError: a parameter is wrong (exit 2).
        Stopped: the context asked to stop; the checkpoint is written.
    """
    from evidentia.inference.structure.gibbs import structure_gibbs as sample

    options = revalidate(GibbsParams, params, "inference")
    total = options.warmup_sweeps + options.num_sweeps

    def watch(done: int, snapshot: Any) -> bool:
        phase = "warmup" if done <= options.warmup_sweeps else "sweeps"
        context.report(ProgressEvent(done, total, phase))
        stop = context.should_stop()
        if context.checkpoint is not None and (stop or context.checkpoint_due(done)):
            context.checkpoint.save(snapshot(), done)
        if stop:
            raise Stopped(done)
        return False

    posterior = sample(
        problem.model,
        problem.data.x,
        problem.data.y,
        num_sweeps=options.num_sweeps,
        warmup_sweeps=options.warmup_sweeps,
        num_chains=options.num_chains,
        seed=context.seed,
        state=context.resumed_state(),
        callback=watch,
    )
    return _outcome(problem, context, posterior, options, 2)


def _outcome(
    problem: Problem,
    context: Context,
    posterior: StructurePosterior,
    options: EnumerateParams | GibbsParams,
    num_draws: int,
) -> Outcome:
    """Rows, tables, draws and checks of a posterior over structures."""
    from evidentia.inference import diagnostics

    table = posterior.table(top=options.top)
    table.insert(0, "rank", range(1, len(table) + 1))
    with double_precision():
        idata = diagnostics.to_idata(
            posterior,
            problem.model,
            problem.data.x,
            problem.data.y,
            num_draws=num_draws,
            seed=context.seed,
            attrs=attributes(problem, context),
        )
    checks = [predictive_scores(idata)[1]]
    if posterior.draws is not None:
        checks += [check(each.name, each.value, each.site) for each in diagnostics.mcmc_checks(idata)]
    if posterior.network is not None:
        checks.append(_tail_check(table))
    rows = [
        {str(key): value for key, value in row.items()} for row in table.head(options.rows).to_dict("records")
    ]
    return Outcome(
        rows=rows,
        idata=idata,
        tables={"structures": table, "inclusion": posterior.inclusion()},
        checks=checks,
        extra={"posterior": posterior},
    )


def _tail_check(table: pd.DataFrame) -> Any:
    """The worst Pareto k of the importance weights among the structures that matter, with its name."""
    likely = table[(table["probability"] > 0.01) | (table["rank"] == 1)]
    worst = likely.iloc[int(likely["pareto_k"].argmax())]
    return check("k_hat", float(worst["pareto_k"]), str(worst["structure"]))


enumerate.parameters = EnumerateParams  # type: ignore[attr-defined]
structure_gibbs.parameters = GibbsParams  # type: ignore[attr-defined]
