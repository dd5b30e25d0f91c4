"""The handler `sample`: draw from the posterior of a model with many chains at once, and check them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import Field

from evidentia.studies.harness.declare.config import Frozen, revalidate
from evidentia.studies.harness.engine.outcome import Context, Outcome, Problem, Stopped
from evidentia.studies.harness.errors import StudyError
from evidentia.studies.harness.handlers.arguments import arguments, attributes, double_precision
from evidentia.studies.harness.handlers.leave_one_out import predictive_scores
from evidentia.studies.harness.reporting.verdict import check
from evidentia.studies.harness.terminal.progress import ProgressEvent

if TYPE_CHECKING:
    from evidentia.inference.mcmc.sampling_run import SampleStep


class SampleParams(Frozen):
    """Parameters of `sample`."""

    kernel: str = Field(default="hmc", description="hmc, mala, barker, random_walk, …")
    num_chains: int | None = Field(default=None, ge=1, description="twice the dimension, 64 to 256, if none")
    num_draws: int = Field(default=200, ge=4)
    warmup_steps: int = Field(default=100, ge=0)
    thinning: int = Field(default=1, ge=1)
    start: str = Field(default="auto", description="auto, smc, prior or uniform")
    prior_draws: int = Field(default=500, ge=1)
    local: bool = Field(default=False, description="save latents that have a value per datum")


def sample(problem: Problem, params: Mapping[str, Any], context: Context) -> Outcome:
    """Sample the posterior of the model with many chains at once and check them.

    The row has `elpd_loo`, `elpd_loo_se`, `divergences`, `r_hat` or (for short chains) `nested_r_hat`,
    `ess_bulk`, and, where chains started from tempered particles, `rough_log_evidence` with
    `rough_standard_error`, nats.

    Raises:
        StudyError: a parameter is wrong, or the model cannot be sampled (exit 2).
        Stopped: the context asked to stop; the checkpoint is written.
    """
    from evidentia.inference import diagnostics
    from evidentia.inference.mcmc import sample as sampler

    options = revalidate(SampleParams, params, "inference")
    args = arguments(problem.data)
    watch = _Watch(context)
    with double_precision():
        try:
            result = sampler.sample(
                problem.model,
                *args,
                kernel=options.kernel,
                num_chains=options.num_chains,
                num_draws=options.num_draws,
                warmup_steps=options.warmup_steps,
                thinning=options.thinning,
                start=options.start,
                seed=context.seed,
                callbacks=[watch],
                checkpoint_every=context.checkpoint_every if context.checkpoint is not None else None,
                state=context.resumed_state(),
                check=False,
            )
        except ValueError as error:
            raise StudyError(f"inference: {error}") from error
        if result.stopped == "signal":
            if context.checkpoint is not None:
                context.checkpoint.save(result.state)
            raise Stopped(int(result.state["step"]))
        idata = diagnostics.to_idata(
            result,
            problem.model,
            *args,
            prior_draws=options.prior_draws,
            local=options.local,
            seed=context.seed,
            attrs=attributes(problem, context),
        )
    found = diagnostics.verdict(result).checks  # of all chains; the file keeps 64
    scores, loo_check = predictive_scores(idata)
    kept = ("r_hat", "nested_r_hat", "ess_bulk", "divergences")
    row = {each.name: each.value for each in found if each.name in kept}
    if result.log_evidence is not None:
        row |= {
            "rough_log_evidence": result.log_evidence.value,
            "rough_standard_error": result.log_evidence.standard_error,
        }
    return Outcome(
        rows=[scores | row],
        idata=idata,
        checks=[*(check(each.name, each.value, each.site) for each in found), loo_check],
        extra={"draws": result},
    )


class _Watch:
    """Callback that reports progress, asks whether to stop, and keeps checkpoints."""

    def __init__(self, context: Context) -> None:
        self.context = context

    def on_step(self, step: SampleStep) -> str | None:
        """Report one transition of all chains."""
        phase = "warmup" if step.warmup else "draws"
        self.context.report(ProgressEvent(step.step, step.num_steps, phase, divergences=step.divergences))
        return "signal" if self.context.should_stop() else None

    def on_checkpoint(self, state: Mapping[str, Any]) -> None:
        """Keep the state."""
        if self.context.checkpoint is not None:
            self.context.checkpoint.save(state)


sample.parameters = SampleParams  # type: ignore[attr-defined]
