"""The handler `svi`: train a model/guide pair, draw from the guide, score the draws."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import Field

from evidentia.studies.harness.declare.config import revalidate
from evidentia.studies.harness.engine.outcome import Context, Outcome, Problem
from evidentia.studies.harness.errors import StudyError
from evidentia.studies.harness.handlers.arguments import arguments, attributes, double_precision
from evidentia.studies.harness.handlers.leave_one_out import predictive_scores
from evidentia.studies.harness.handlers.training import TrainingParams, train
from evidentia.studies.harness.reporting.verdict import check

if TYPE_CHECKING:
    from evidentia.inference.fit import Fit


class SviParams(TrainingParams):
    """Parameters of `svi`."""

    held_out: bool = Field(default=False, description="watch the loss on the data set's test part")
    num_draws: int = Field(default=1000, ge=2)
    prior_draws: int = Field(default=500, ge=1)
    local: bool = Field(default=False, description="save latents that have a value per datum")


def svi(problem: Problem, params: Mapping[str, Any], context: Context) -> Outcome:
    """Train the pair, draw from its guide, and score it.

    The row has `log_evidence` (the ELBO over the guide's draws, a lower bound in nats for the whole data
    set) with `standard_error`, `kind`, `k_hat`, `elpd_loo`, `elpd_loo_se`, `steps`, `stopped` and `skipped`.

    Raises:
        StudyError: a parameter is wrong, or there is no pair (exit 2).
        NumericalFailure: the numbers failed (exit 3).
        Stopped: the context asked to stop; the checkpoint is written.
    """
    import pandas as pd
    import torch

    from evidentia.inference import diagnostics

    options = revalidate(SviParams, params, "inference")
    args = arguments(problem.data)
    held_out = arguments(problem.data, "test_") if options.held_out else None
    if held_out is not None and held_out[0] is None:
        raise StudyError("inference.held_out: the data set has no test part; leave it out")
    with double_precision():
        result = train(problem, options, context, args, held_out=held_out)
        idata = diagnostics.to_idata(
            result,
            problem.model,
            *args,
            num_draws=options.num_draws,
            prior_draws=options.prior_draws,
            local=options.local,
            seed=context.seed,
            attrs=attributes(problem, context),
        )
    log_weight = torch.as_tensor(
        (idata.sample_stats["lp"] - idata.sample_stats["log_guide"]).values
    ).flatten()
    k_hat = diagnostics.pareto_k(idata)
    row = {
        "log_evidence": float(log_weight.mean()),
        "standard_error": float(log_weight.std() / len(log_weight) ** 0.5),
        "kind": "lower bound",
        "k_hat": k_hat,
        "steps": len(result.losses),
        "stopped": result.stopped,
        "skipped": result.skipped,
    }
    scores, loo_check = predictive_scores(idata)
    checks = [check("k_hat", k_hat, "guide"), loo_check, *_fit_checks(result)]
    losses = pd.DataFrame({"step": range(1, len(result.losses) + 1), "loss": result.losses.numpy()})
    weights = {key: value for key, value in result.state.items() if key.startswith(("param/", "buffer/"))}
    return Outcome(
        rows=[row | scores],
        idata=idata,
        weights=weights,
        tables={"losses": losses},
        checks=checks,
        extra={"fit": result},
    )


def _fit_checks(result: Fit) -> list[Any]:
    return [check("stop_reason", result.stopped), check("skipped_updates", result.skipped)]


svi.parameters = SviParams  # type: ignore[attr-defined]
