"""The inference handlers of a study: `svi` and `nuts` here, `enumerate` and `structure_gibbs` beside them.

A handler reads its parameters, runs one function of `evidentia.inference` with checkpoints through the
context, and puts what came out into an `Outcome`. torch is imported when a handler runs, not before.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal

from evidentia.studies.harness.config import Frozen, revalidate
from evidentia.studies.harness.errors import NumericalFailure
from evidentia.studies.harness.outcome import Context, Outcome, Problem, Stopped
from evidentia.studies.harness.progress import ProgressEvent
from evidentia.studies.harness.structure_inferences import enumerate as enumerate
from evidentia.studies.harness.structure_inferences import structure_gibbs as structure_gibbs
from evidentia.studies.harness.verdict import check
from pydantic import Field

if TYPE_CHECKING:
    from evidentia.inference.fit import Fit
    from evidentia.inference.mcmc.nuts import NutsStep

__all__ = ["NutsParams", "SviParams", "enumerate", "nuts", "structure_gibbs", "svi"]


class ToleranceParams(Frozen):
    """When a fit counts as converged; see `evidentia.inference.stopping.StoppingRule`."""

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


@contextlib.contextmanager
def double_precision() -> Iterator[None]:
    """Data sets are float64, so the constants a model writes down must be."""
    import torch

    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def arguments(data: Any, part: str = "") -> tuple[Any, ...]:
    """The arguments of a model: (x, y), or (x,) where nothing is predicted; `part` may be "test_"."""
    x, y = getattr(data, f"{part}x"), getattr(data, f"{part}y")
    return (x,) if y is None else (x, y)


def attributes(problem: Problem, context: Context) -> dict[str, Any]:
    """What every group of a saved InferenceData says about where it comes from."""
    point = context.point
    found: dict[str, Any] = {"seed": context.seed, "data_sha256": getattr(problem.data, "sha256", "")}
    if point is not None:
        found["point"] = point.id
        found |= {name: ref.key for name in ("model", "guide") if (ref := getattr(point, name, None))}
    return found


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
    from evidentia.inference.stopping import StoppingRule
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


def predictive_scores(idata: Any) -> tuple[dict[str, float], Any]:
    """LOO as columns of a row, and the check of its k-hats with the observations named."""
    from evidentia.inference import diagnostics

    names = list(idata.log_likelihood.data_vars)
    score = diagnostics.loo(idata, obs=names[0])
    k = score.pareto_k.values.reshape(-1)
    bad = [str(i) for i in (k > 0.7).nonzero()[0]]
    shown = ", ".join(bad[:5]) + (f" and {len(bad) - 5} more" if len(bad) > 5 else "")
    row = {"elpd_loo": float(score.elpd_loo), "elpd_loo_se": float(score.se)}
    return row, check("k_hat_loo", float(k.max()), f"observations {shown}" if bad else "")


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


svi.parameters = SviParams  # type: ignore[attr-defined]
nuts.parameters = NutsParams  # type: ignore[attr-defined]
