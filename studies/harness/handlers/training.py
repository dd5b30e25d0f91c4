"""What the handlers that train a pair share: the parameters of a training, and one call of `fit`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from pydantic import Field

from evidentia.studies.harness.declare.config import Frozen
from evidentia.studies.harness.engine.outcome import Context, Problem, Stopped
from evidentia.studies.harness.errors import NumericalFailure, StudyError
from evidentia.studies.harness.terminal.progress import ProgressEvent

if TYPE_CHECKING:
    from evidentia.inference.fit import Fit


class ToleranceParams(Frozen):
    """When a fit counts as converged; see `evidentia.inference.training.stopping.StoppingRule`."""

    loss: float = Field(default=1e-3, gt=0)
    drift: float = Field(default=1e-2, gt=0)
    window: int = Field(default=100, ge=2)


Estimator: TypeAlias = Literal[
    "reinforce",
    "nvil",
    "rloo",
    "arm",
    "disarm",
    "rebar",
    "relax",
    "local",
    "st",
    "st_gumbel",
    "rao_blackwell_st",
]
"""The names of `evidentia.inference.DiscreteELBO`, which cannot be imported before it is needed."""


class TrainingParams(Frozen):
    """Objective, optimizer and stopping of one training."""

    objective: Literal[
        "elbo",
        "mean_field",
        "enum",
        "graph",
        "iwae",
        "rws",
        "renyi",
        "tail_adaptive",
        "miwae",
        "piwae",
        "ciwae",
        "cubo",
        "jackknife",
        "discrete",
    ] = "elbo"
    estimator: Estimator | None = Field(
        default=None, description="estimator of objective discrete; num_particles counts its draws or pairs"
    )
    temperature: float = Field(default=0.5, gt=0, description="of the relaxations of objective discrete")
    num_redraws: int = Field(default=20, ge=1, description="of estimator rao_blackwell_st")
    gradient: Literal["total", "stl", "dreg", "vimco", "loo"] | None = Field(
        default=None, description="estimator of the gradient; without one, Pyro's Trace_ELBO serves the ELBO"
    )
    num_particles: int = Field(default=1, ge=1)
    vectorize_particles: bool = False
    outer: int = Field(default=1, ge=1, description="groups of particles of miwae and piwae")
    alpha: float | None = Field(default=None, description="order of renyi and cubo")
    beta: float | None = Field(default=None, description="mixture weight of ciwae, power of tail_adaptive")
    num_steps: int = Field(default=1000, ge=1)
    batch_size: int | None = Field(default=None, ge=1, description="rows of a mini-batch; None takes all")
    learning_rate: float = Field(default=0.01, gt=0)
    decay: float = Field(default=1.0, gt=0, le=1, description="learning rate at the last step / at the first")
    warm_down: float = Field(
        default=0.0, ge=0, le=1, description="last share of the steps, in which the rate falls to zero"
    )
    optimizer: Literal["adam", "sgd", "clipped_adam"] = "adam"
    compile: Literal["aten", "inductor"] | None = Field(default=None, description="replay a captured step")
    nan: Literal["stop", "skip", "backoff"] = "stop"
    tolerance: ToleranceParams | None = None


_PYRO = {"mean_field": "TraceMeanField_ELBO", "enum": "TraceEnum_ELBO", "graph": "TraceGraph_ELBO"}


def objective_of(options: TrainingParams) -> Any:
    """The objective that the parameters name: one of Pyro's ELBOs, or a `ParticleELBO`.

    Raises:
        StudyError: objective, gradient and their options do not go together (exit 2).
    """
    import pyro.infer

    if (options.objective == "discrete") != (options.estimator is not None):
        raise StudyError(
            f"inference.estimator: objective {options.objective!r} was given estimator "
            f"{options.estimator!r}; objective 'discrete' needs one, others take none"
        )
    pyros = _PYRO.get(options.objective)
    if options.objective == "elbo" and options.gradient is None and options.compile is None:
        pyros = "Trace_ELBO"  # the scores of its discrete sites see fewer costs, but it cannot be recorded
    if pyros is not None:
        if options.gradient is not None:
            raise StudyError(
                f"inference.gradient: objective {options.objective!r} has one gradient of its own, "
                f"got {options.gradient!r}; leave it out"
            )
        return getattr(pyro.infer, pyros)(
            num_particles=options.num_particles, vectorize_particles=options.vectorize_particles
        )
    from evidentia.inference.objectives.particle import ParticleELBO

    try:
        if options.estimator is not None:
            return discrete_objective(options, options.estimator)
        return ParticleELBO(
            options.objective,  # type: ignore[arg-type]
            options.gradient or "total",
            num_particles=options.num_particles,
            outer=options.outer,
            alpha=options.alpha,
            beta=options.beta,
        )
    except ValueError as error:
        raise StudyError(f"inference.{error}") from error


def discrete_objective(options: TrainingParams, estimator: Estimator) -> Any:
    """The `DiscreteELBO` of an estimator with the draws, temperature and redraws of the parameters."""
    from evidentia.inference.objectives.discrete import DiscreteELBO

    return DiscreteELBO(
        estimator,
        num_particles=options.num_particles,
        temperature=options.temperature,
        num_redraws=options.num_redraws,
    )


def optimizer_of(name: str) -> Any:
    """The optimizer class of a name; None leaves the choice to `fit`."""
    import torch
    from pyro.optim.clipped_adam import ClippedAdam

    return {"adam": None, "sgd": torch.optim.SGD, "clipped_adam": ClippedAdam}[name]


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


def _schedule(options: TrainingParams, num_steps: int) -> Callable[[int], float] | None:
    """The factor on the learning rate as a function of the step."""
    if options.decay == 1.0 and options.warm_down == 0.0:
        return None
    last = options.warm_down * num_steps

    def factor(step: int) -> float:
        down = min(1.0, (num_steps - step) / last) if last else 1.0
        return down * options.decay ** (step / num_steps)

    return factor


def steps_of(options: TrainingParams, context: Context) -> int:
    """The number of steps, which the budget may limit or raise."""
    limit = getattr(context.budget, "max_steps", None)
    return options.num_steps if limit is None else limit


def train(
    problem: Problem,
    options: TrainingParams,
    context: Context,
    args: tuple[Any, ...],
    *,
    held_out: tuple[Any, ...] | None = None,
    **keywords: Any,
) -> Fit:
    """Train the pair of a problem; checkpoints and the request to stop go through the context.

    Args:
        problem: its pair is trained.
        options: how.
        context: where to report, save and ask.
        args: arguments of the pair; the first dimension of each is the data's.
        held_out: arguments whose loss watches the training.
        keywords: further keywords of `fit`, and those of the pair.

    Raises:
        StudyError: there is no pair, or the parameters do not fit together (exit 2).
        NumericalFailure: the numbers failed (exit 3).
        Stopped: the context asked to stop; the checkpoint is written.
    """
    import torch

    from evidentia.inference.fit import FitError, fit
    from evidentia.inference.objectives.objective import Objective
    from evidentia.inference.training.stopping import StoppingRule

    if problem.pair is None:
        raise StudyError("guide: this inference needs a model and a guide; name a guide in the study")
    num_steps, rows, size = steps_of(options, context), len(args[0]), options.batch_size
    if size is not None and size > rows:
        raise StudyError(f"inference.batch_size: {size} rows asked for, the data set has {rows}")
    rule = options.tolerance
    objective = objective_of(options)
    recorded = options.compile if isinstance(objective, Objective) else None  # Pyro's own cannot be
    named = {"optimizer": optimizer_of(options.optimizer), "compile": recorded}
    chosen = {name: value for name, value in named.items() if value is not None}

    def batches() -> tuple[Any, ...]:
        chosen = torch.randperm(rows)[:size]
        return tuple(each[chosen] for each in args)

    try:
        result = fit(
            problem.pair,
            *args,
            objective=objective,
            num_steps=num_steps,
            learning_rate=options.learning_rate,
            schedule=_schedule(options, num_steps),
            seed=context.seed,
            nan=options.nan,
            tolerance=None if rule is None else StoppingRule(rule.loss, rule.drift, rule.window),
            max_seconds=getattr(context.budget, "max_seconds", None),
            batches=None if size is None else batches,
            evaluation_args=held_out,
            callbacks=[_Watch(context), *context.callbacks],
            checkpoint_every=context.checkpoint_every if context.checkpoint is not None else None,
            state=context.resumed_state(),
            **chosen,
            **keywords,
        )
    except FitError as error:
        failure = NumericalFailure(str(error))
        failure.sites = error.sites  # type: ignore[attr-defined]
        raise failure from error
    if result.stopped == "signal":
        if context.checkpoint is not None:
            context.checkpoint.save(result.state)
        raise Stopped(int(result.state["step"]))
    return result
