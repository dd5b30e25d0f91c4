"""The one function that trains a model/guide pair; it owns Pyro's parameter store while it runs."""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import pyro
import torch

from evidentia.inference.training.annealing import Annealing
from evidentia.inference.training.block import advance_block
from evidentia.inference.training.callbacks import CallbackLike, notify
from evidentia.inference.training.checkpoint import finish, load_state
from evidentia.inference.training.finite import FitError as FitError
from evidentia.inference.training.fit_loop import FitLoop
from evidentia.inference.training.fitted import Fit as Fit
from evidentia.inference.training.fitted import State
from evidentia.inference.training.optimiser import adam
from evidentia.inference.training.parallel import team_of
from evidentia.inference.training.patience import ended_by, put_back, update_best
from evidentia.inference.training.restarts import RestartRules, fit_restarts
from evidentia.inference.training.settings import (
    check_settings,
    chosen_objective,
    chosen_restarts,
    own_generator,
    quiet_nan,
)
from evidentia.inference.training.starts import Restarts
from evidentia.inference.training.stopping import StoppingRule, stopping_rule, update_window

__all__ = ["Fit", "FitError", "fit", "restore"]


def fit(
    pair: tuple[Callable[..., Any], Callable[..., Any]],
    *args: Any,
    objective: Any = None,
    num_steps: int = 1000,
    learning_rate: float = 0.01,
    optimizer: Callable[..., torch.optim.Optimizer] = adam,
    schedule: Callable[[int], float] | None = None,
    seed: int | None = None,
    nan: Literal["stop", "skip", "backoff"] = "stop",
    max_failures: int = 10,
    tolerance: StoppingRule | float | None = None,
    max_seconds: float | None = None,
    batches: Callable[[], tuple[Any, ...]] | None = None,
    evaluation_args: tuple[Any, ...] | None = None,
    evaluate_every: int = 100,
    patience: int | None = None,
    compile: Literal["aten", "inductor"] | None = None,
    steps_per_call: int = 1,
    restarts: Restarts | int = 1,
    anneal: Mapping[str, Callable[[int], float]] | None = None,
    kl_weight: Callable[[int], float] | None = None,
    callbacks: Sequence[CallbackLike] = (),
    checkpoint_every: int | None = None,
    validate: bool | None = None,
    state: State | None = None,
    data_parallel: bool = False,
    **kwargs: Any,
) -> Fit:
    r"""Minimise an objective over the parameters of a pair: \(\theta_{t+1} = \theta_t - \eta\,g(\theta_t)\).

    The fit has a parameter store of its own: nothing leaks in from an earlier fit or out to the next one.
    Parameters are found after the first evaluation of the loss, and later ones when they appear. A module's
    parameters start where the module has them.

    Args:
        pair: model and guide; the guide's trace is replayed in the model.
        args: passed to both, as are further keywords.
        objective: any Pyro ELBO object; the number of particles belongs to it. `Trace_ELBO()` when None, or
            its twin that can be recorded when `compile` or `restarts` ask for that.
        num_steps: total number of steps, those already in `state` included.
        learning_rate: the rate given to `optimizer`.
        optimizer: called as `optimizer(parameters, lr=learning_rate)`, once for all parameters. Adam, fused
            where torch allows it. One that evaluates the loss several times a step (LBFGS) sees the same
            noise and batch in all of them.
        schedule: factor on the learning rate as a pure function of the step (so that a resume needs no
            state for it).
        seed: seed of torch's generator for this fit; the caller's generator is put back afterwards. Without
            a seed the fit draws from the caller's generator. Programs must draw from torch.
        nan: when the loss or a gradient is not finite: "stop" raises; "skip" keeps the parameters, counts
            the step and goes on; "backoff" also halves the learning rate, and raises after `max_failures`
            failures in a row.
        max_failures: see `nan`.
        tolerance: a `StoppingRule`, or its loss tolerance; None runs all the steps.
        max_seconds: wall-clock limit of this call. It gives up bitwise reproducibility when it fires.
        batches: called before every step; its tuple replaces `args`. Rows drawn from torch's generator are
            drawn again the same by a resume.
        evaluation_args: held-out arguments; their loss, without gradients and with fixed noise, is recorded
            every `evaluate_every` steps and replaces the training loss in the stopping rule.
        evaluate_every: see `evaluation_args`.
        patience: stop after that many evaluations in a row without a new lowest held-out loss, and put the
            parameters of the lowest one back.
        compile: record the step and replay it ("aten"), or compile the record ("inductor"); the first step
            is eager. See `evidentia.inference.compile.objective.compile_objective` for what is frozen; pass
            its result as `objective` for its options. A program that cannot be recorded runs eagerly, with
            a warning.
        steps_per_call: recorded steps between two looks at the numbers, callbacks and rules. A failure is
            still found at its step.
        restarts: number of independent fits in one recorded step (see
            `evidentia.inference.training.starts.Restarts` for where they begin). They share the batches,
            not the noise. The result is the best of them; `Fit.restart(r)` gives any other. Each converges
            or loses patience on its own and is then held; the run ends when all are. `nan` acts on each:
            "stop" freezes it at the failing step; "backoff" halves its own rate, for which updates must be
            proportional to the rate (Adam, SGD). States are those of all restarts (`Fit.restarts_state`).
            The optimizer must work entry by entry (no LBFGS: its line search is one for all); its step count
            is shared.
        anneal: schedule by keyword: each step passes `keyword=tensor(schedule(step))` to both programs.
        kl_weight: schedule of a factor \(\beta > 0\) on the log densities of both programs' latent sites.
            Held-out losses are at weight 1; the stopping rule waits while the weight moves. Below 1 the loss
            is no bound.
        callbacks: see `evidentia.inference.training.callbacks.Callback`.
        checkpoint_every: call `on_checkpoint` with the state every that many steps.
        validate: Pyro's validation on the first step only (None), on all (True) or none (False).
        state: state of an earlier fit of the same pair; the result equals an uninterrupted fit bit for bit.
        data_parallel: the processes of a job (see `evidentia.inference.training.distributed.join`) fit one
            pair together: each passes its own rows, and the size of the whole data set to the plate "data".
            Gradients and losses are means over the ranks, the noise of rank r has seed + r, the start and
            the buffers are those of rank 0, the held-out loss is that of rank 0, and only its
            `on_checkpoint` is called; the state holds the random state of every rank. The loss must be a
            sum over rows. Shards that differ in size are weighted; batches must then be in proportion to
            them. No parameters of single rows, restarts or blocks of steps.
        kwargs: keywords of the model and the guide.

    Returns:
        A `Fit`; losses are in nats for the whole data set when the data plate scales a minibatch.

    Raises:
        FitError: the numbers failed and `nan` says stop; the error names sites, step and parameters.
        ValueError: a setting out of range, a pair without parameters, or a state that does not fit the pair.

    References:
        Bingham, Chen, Jankowiak et al., 2019, Pyro: Deep universal probabilistic programming.

    Example:
        >>> from pyro.distributions import Normal
        >>> from pyro.infer.autoguide import AutoNormal
        >>> def model(y):
        ...     mean = pyro.sample("mean", Normal(0.0, 10.0))
        ...     with pyro.plate("data", len(y)):
        ...         pyro.sample("obs", Normal(mean, 1.0), obs=y)
        >>> y = torch.tensor([1.0, 2.0, 3.0])
        >>> result = fit((model, AutoNormal(model)), y, num_steps=300, learning_rate=0.05, seed=0)
        >>> round(float(result.params["AutoNormal.locs.mean"]))
        2
    """
    check_settings(
        num_steps=num_steps,
        learning_rate=learning_rate,
        nan=nan,
        compile=compile,
        evaluated=evaluation_args is not None,
        at_least_one={
            "max_failures": max_failures,
            "evaluate_every": evaluate_every,
            "checkpoint_every": checkpoint_every,
            "patience": patience,
            "steps_per_call": steps_per_call,
        },
    )
    rule, annealing = stopping_rule(tolerance), Annealing(anneal, kl_weight)
    together = chosen_restarts(restarts, state)
    recorded = compile if together is None else (compile or "aten")
    team = team_of(data_parallel, seed, state, together is not None, steps_per_call)
    seed = seed if team is None or seed is None else seed + team.ranks.rank
    run = FitLoop(
        pair, args, kwargs, chosen_objective(objective, recorded), learning_rate, optimizer, schedule, nan,
        max_failures, batches, annealing, team,
    )  # fmt: skip
    started = time.monotonic()
    with own_generator(seed, state), quiet_nan(), pyro.get_param_store().scope():
        if together is not None:
            rules = RestartRules(
                num_steps, nan, max_failures, rule, max_seconds, evaluation_args, evaluate_every, patience,
                checkpoint_every,
            )  # fmt: skip
            result = fit_restarts(run, together, compile or "aten", rules, callbacks, state)
            annealing.warn(run.step)
            notify(callbacks, "on_end", result)
            return result
        if state is not None:
            load_state(run, state if team is None else team.own(state), num_steps)
        if team is not None:
            agreed = {"num_steps": num_steps, "learning_rate": learning_rate, "max_seconds": max_seconds,
                "evaluate_every": evaluate_every, "checkpoint_every": checkpoint_every, "patience": patience,
                "max_failures": max_failures, "the first step": run.step}  # fmt: skip
            agreed |= {"evaluation_args": evaluation_args is not None, "nan": zlib.crc32(nan.encode())}
            agreed |= {f"tolerance.{k}": v for k, v in (rule or StoppingRule(0, 0, 0))._asdict().items()}
            team.begin(run, agreed, callbacks)
        # A checkpoint is written before the rules act, so that a state may be of the step that ended a fit.
        ended = ended_by(rule, run.window, patience, run.best)
        stopped, first = "max_steps", True
        while ended is None and run.step < num_steps:
            late = max_seconds is not None and time.monotonic() - started > max_seconds
            if team is not None:
                late = team.agree("late" if late else None, max_seconds is not None) is not None
            if late:
                stopped = "max_seconds"
                break
            # Blocks end at multiples of their length and where something is due, so that a resume cuts the
            # same blocks.
            ends = [steps_per_call, checkpoint_every, evaluate_every if evaluation_args is not None else None]
            count = min(num_steps - run.step, *(every - run.step % every for every in ends if every))
            with pyro.validation_enabled(first if validate is None else validate):
                losses = advance_block(run, count if run.step else 1, callbacks)
            first = False
            due = evaluation_args is not None and run.step % evaluate_every == 0
            if due and evaluation_args is not None:
                run.evaluations.append((float(run.step), run.evaluate(evaluation_args)))
                if patience is not None:
                    run.best = update_best(run.best, run.evaluations[-1][1], run.step, run.live())
            if rule is not None and annealing.rests(run.step - 1):
                for place, loss in enumerate(losses, 1 - len(losses)):
                    held_out = run.evaluations[-1][1] if due and place == 0 else None
                    watched = loss if evaluation_args is None else held_out
                    run.window, converged = update_window(rule, run.window, watched, run.vector())
                    if converged:
                        break
            reason = notify(callbacks, "on_step", run.report(num_steps, losses[-1])) if callbacks else None
            reason = reason if team is None else team.agree(reason)
            if checkpoint_every is not None and run.step % checkpoint_every == 0:
                reached = run.state()
                if team is None or team.ranks.rank == 0:
                    notify(callbacks, "on_checkpoint", reached)
            ended = ended_by(rule, run.window, patience, run.best)
            if ended is None and reason is not None:
                stopped = reason
                break
        if ended is not None:
            stopped = ended
        if ended == "patience":
            put_back(run.best, run.live())
        if run.skipped and run.skipped == run.step:
            raise run.error(f"all {run.step} updates were skipped, so nothing was trained", {})
        result = finish(run, stopped)
    if stopped in ("max_steps", "converged", "patience"):
        annealing.warn(run.step)
    notify(callbacks, "on_end", result)
    return result


def restore(
    pair: tuple[Callable[..., Any], Callable[..., Any]], state: State, *args: Any, **kwargs: Any
) -> Fit:
    """The `Fit` that a state describes, without training: run the pair once on data of the right shape.

    Args:
        pair: a pair built like the one the state came from; its lazy parameters are created here.
        state: the flat state of a `Fit`; its parameters (`param/...`) and buffers alone will do.
        args: arguments of the programs (dummy data of the same shapes will do), as are further keywords.

    Raises:
        ValueError: the state does not fit the pair.

    References:
        none; bookkeeping.
    """
    empty: State = {"step": 0, "losses": torch.zeros(0), "rng/torch": torch.get_rng_state()}
    whole = empty | state
    return fit(pair, *args, num_steps=int(whole["step"]), state=whole, **kwargs)
