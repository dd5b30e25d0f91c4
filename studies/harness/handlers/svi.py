"""The handler `svi`: train a model/guide pair, draw from the guide, score the draws."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from evidentia.studies.harness.declare.config import Frozen, revalidate
from evidentia.studies.harness.engine.outcome import Context, Outcome, Problem, Stopped
from evidentia.studies.harness.errors import NumericalFailure
from evidentia.studies.harness.handlers.arguments import arguments, attributes, double_precision
from evidentia.studies.harness.handlers.leave_one_out import predictive_scores
from evidentia.studies.harness.reporting.verdict import check
from evidentia.studies.harness.terminal.progress import ProgressEvent

if TYPE_CHECKING:
    from evidentia.inference.fit import Fit


class ToleranceParams(Frozen):
    """When a fit counts as converged; see `evidentia.inference.training.stopping.StoppingRule`."""

    loss: float = Field(default=1e-3, gt=0)
    drift: float = Field(default=1e-2, gt=0)
    window: int = Field(default=100, ge=2)


class SviParams(Frozen):
    """Parameters of `svi`."""

    objective: Literal["elbo", "mean_field", "iwae", "enum"] = "elbo"
    num_particles: int = Field(default=1, ge=1)
    vectorize_particles: bool = False
    num_steps: int = Field(default=1000, ge=1)
    learning_rate: float = Field(default=0.01, gt=0)
    decay: float = Field(default=1.0, gt=0, le=1, description="learning rate at the last step / at the first")
    optimizer: Literal["adam", "sgd", "clipped_adam"] = "adam"
    nan: Literal["stop", "skip", "backoff"] = "stop"
    tolerance: ToleranceParams | None = None
    held_out: bool = Field(default=False, description="watch the loss on the data set's test part")
    num_draws: int = Field(default=1000, ge=2)
    prior_draws: int = Field(default=500, ge=1)
    local: bool = Field(default=False, description="save latents that have a value per datum")


def _steps(context: Context, asked: int) -> int:
    limit = getattr(context.budget, "max_steps", None)
    return asked if limit is None else limit


class _Watch:
    """Callback of a fit: progress, checkpoints, and the request to stop."""

    def __init__(self, context: Context) -> None:
        self.context = context

    def on_step(self, step: Any) -> str | None:
        """Report; answer why to stop."""
        self.context.report(ProgressEvent(step.step, step.num_steps, "svi", elbo=-step.loss))
        return "signal" if self.context.should_stop() else None

    def on_checkpoint(self, state: Mapping[str, Any]) -> None:
        """Keep the state."""
        if self.context.checkpoint is not None:
            self.context.checkpoint.save(state)


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
    from evidentia.inference.fit import FitError, fit
    from evidentia.inference.training.stopping import StoppingRule
    from evidentia.studies.harness.errors import StudyError

    options = revalidate(SviParams, params, "inference")
    if problem.pair is None:
        raise StudyError("guide: inference 'svi' needs a model and a guide; name a guide in the study")
    num_steps = _steps(context, options.num_steps)
    args = arguments(problem.data)
    held_out = arguments(problem.data, "test_") if options.held_out else None
    if held_out is not None and held_out[0] is None:
        raise StudyError("inference.held_out: the data set has no test part; leave it out")
    rule = options.tolerance
    with double_precision():
        try:
            result = fit(
                problem.pair,
                *args,
                objective=_objective(options),
                num_steps=num_steps,
                learning_rate=options.learning_rate,
                optimizer=_optimizer(options.optimizer),
                schedule=None if options.decay == 1.0 else lambda step: options.decay ** (step / num_steps),
                seed=context.seed,
                nan=options.nan,
                tolerance=None if rule is None else StoppingRule(rule.loss, rule.drift, rule.window),
                max_seconds=getattr(context.budget, "max_seconds", None),
                evaluation_args=held_out,
                callbacks=[_Watch(context)],
                checkpoint_every=context.checkpoint_every if context.checkpoint is not None else None,
                state=context.resumed_state(),
            )
        except FitError as error:
            failure = NumericalFailure(str(error))
            failure.sites = error.sites  # type: ignore[attr-defined]
            raise failure from error
        if result.stopped == "signal":
            step = int(result.state["step"])
            if context.checkpoint is not None:
                context.checkpoint.save(result.state)
            raise Stopped(step)
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


def _objective(options: SviParams) -> Any:
    from pyro.infer import RenyiELBO, Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO

    keywords = {"num_particles": options.num_particles, "vectorize_particles": options.vectorize_particles}
    if options.objective == "iwae":
        return RenyiELBO(alpha=0.0, **keywords)
    kinds = {"elbo": Trace_ELBO, "mean_field": TraceMeanField_ELBO, "enum": TraceEnum_ELBO}
    return kinds[options.objective](**keywords)


def _optimizer(name: str) -> Any:
    import torch
    from pyro.optim.clipped_adam import ClippedAdam

    return {"adam": torch.optim.Adam, "sgd": torch.optim.SGD, "clipped_adam": ClippedAdam}[name]


svi.parameters = SviParams  # type: ignore[attr-defined]
