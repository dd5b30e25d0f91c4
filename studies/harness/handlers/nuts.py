"""The handler `nuts`: sample the posterior of a model with NUTS and check the chains."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import Field

from evidentia.studies.harness.declare.config import Frozen, revalidate
from evidentia.studies.harness.engine.outcome import Context, Outcome, Problem, Stopped
from evidentia.studies.harness.handlers.arguments import arguments, attributes, double_precision
from evidentia.studies.harness.handlers.leave_one_out import predictive_scores
from evidentia.studies.harness.reporting.verdict import check
from evidentia.studies.harness.terminal.progress import ProgressEvent

if TYPE_CHECKING:
    from evidentia.inference.mcmc.nuts import NutsStep


class NutsParams(Frozen):
    """Parameters of `nuts`."""

    num_draws: int = Field(default=1000, ge=1)
    warmup_steps: int = Field(default=1000, ge=0)
    num_chains: int = Field(default=4, ge=1)
    target_accept_prob: float = Field(default=0.8, gt=0, lt=1)
    max_tree_depth: int = Field(default=10, ge=1)
    full_mass: bool = False
    prior_draws: int = Field(default=500, ge=1)
    local: bool = Field(default=False, description="save latents that have a value per datum")


def nuts(problem: Problem, params: Mapping[str, Any], context: Context) -> Outcome:
    """Sample the posterior of the model with NUTS and check the chains.

    The row has `elpd_loo`, `elpd_loo_se`, `divergences`, `r_hat` and `ess_bulk`.

    Raises:
        StudyError: a parameter is wrong (exit 2).
        NumericalFailure: there is no valid first position (exit 3).
        Stopped: the context asked to stop; the checkpoint is written.
    """
    from evidentia.inference import diagnostics
    from evidentia.inference.mcmc import nuts as sampler

    options = revalidate(NutsParams, params, "inference")
    args = arguments(problem.data)

    def watch(step: NutsStep) -> str | None:
        phase = "warmup" if step.warmup else "draws"
        context.report(
            ProgressEvent(step.step, step.num_steps, phase, chain=step.chain, divergences=step.divergences)
        )
        return "signal" if context.should_stop() else None

    with double_precision():
        result = sampler.nuts(
            problem.model,
            *args,
            num_draws=options.num_draws,
            warmup_steps=options.warmup_steps,
            num_chains=options.num_chains,
            seed=context.seed,
            target_accept_prob=options.target_accept_prob,
            max_tree_depth=options.max_tree_depth,
            full_mass=options.full_mass,
            callbacks=[watch, _Keep(context)],
            checkpoint_every=context.checkpoint_every if context.checkpoint is not None else None,
            state=context.resumed_state(),
        )
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
    found = diagnostics.mcmc_checks(idata)
    scores, loo_check = predictive_scores(idata)
    row = {each.name: each.value for each in found if each.name in ("r_hat", "ess_bulk", "divergences")}
    return Outcome(
        rows=[scores | row],
        idata=idata,
        checks=[*(check(each.name, each.value, each.site) for each in found), loo_check],
        extra={"draws": result},
    )


class _Keep:
    """Callback that keeps checkpoints only."""

    def __init__(self, context: Context) -> None:
        self.context = context

    def on_checkpoint(self, state: Mapping[str, Any]) -> None:
        """Keep the state."""
        if self.context.checkpoint is not None:
            self.context.checkpoint.save(state)


nuts.parameters = NutsParams  # type: ignore[attr-defined]
