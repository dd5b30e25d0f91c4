"""The one function that trains a model/guide pair; it owns Pyro's parameter store while it runs."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import pyro
import torch
from pyro.infer import Trace_ELBO

from evidentia.inference.training.callbacks import CallbackLike, notify
from evidentia.inference.training.finite import FitError as FitError
from evidentia.inference.training.fit_loop import FitLoop
from evidentia.inference.training.fitted import Fit as Fit
from evidentia.inference.training.fitted import State
from evidentia.inference.training.stopping import StoppingRule, stopping_rule, update_window

__all__ = ["Fit", "FitError", "fit", "restore"]


def fit(
    pair: tuple[Callable[..., Any], Callable[..., Any]],
    *args: Any,
    objective: Any = None,
    num_steps: int = 1000,
    learning_rate: float = 0.01,
    optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.Adam,
    schedule: Callable[[int], float] | None = None,
    seed: int | None = None,
    nan: Literal["stop", "skip", "backoff"] = "stop",
    max_failures: int = 10,
    tolerance: StoppingRule | float | None = None,
    max_seconds: float | None = None,
    batches: Callable[[], tuple[Any, ...]] | None = None,
    evaluation_args: tuple[Any, ...] | None = None,
    evaluate_every: int = 100,
    callbacks: Sequence[CallbackLike] = (),
    checkpoint_every: int | None = None,
    validate: bool | None = None,
    state: State | None = None,
    **kwargs: Any,
) -> Fit:
    r"""Minimise an objective over the parameters of a pair: \(\theta_{t+1} = \theta_t - \eta\,g(\theta_t)\).

    The fit has a parameter store of its own: nothing leaks in from an earlier fit or out to the next one.
    Parameters are found after the first evaluation of the loss, and later ones when they appear. A module's
    parameters start where the module has them.

    Args:
        pair: model and guide; the guide's trace is replayed in the model.
        args: passed to both, as are further keywords.
        objective: any Pyro ELBO object; `Trace_ELBO()` when None. The number of particles belongs to it.
        num_steps: total number of steps, those already in `state` included.
        learning_rate: the rate given to `optimizer`.
        optimizer: called as `optimizer(parameters, lr=learning_rate)`.
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
        callbacks: see `evidentia.inference.training.callbacks.Callback`.
        checkpoint_every: call `on_checkpoint` with the state every that many steps.
        validate: Pyro's validation on the first step only (None), on all (True) or none (False).
        state: state of an earlier fit of the same pair; the result equals an uninterrupted fit bit for bit.
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
    _check_settings(num_steps, learning_rate, nan, max_failures, evaluate_every, checkpoint_every)
    rule = stopping_rule(tolerance)
    objective = Trace_ELBO() if objective is None else objective
    run = FitLoop(
        pair, args, kwargs, objective, learning_rate, optimizer, schedule, nan, max_failures, batches
    )
    started = time.monotonic()
    with _generator(seed, state), _quiet_nan(), pyro.get_param_store().scope():
        if state is not None:
            run.load(state, num_steps)
        stopped, first = "max_steps", True
        while run.step < num_steps:
            if max_seconds is not None and time.monotonic() - started > max_seconds:
                stopped = "max_seconds"
                break
            with pyro.validation_enabled(first if validate is None else validate):
                loss = run.advance(callbacks)
            first = False
            due = evaluation_args is not None and run.step % evaluate_every == 0
            if due and evaluation_args is not None:
                run.evaluations.append((float(run.step), run.evaluate(evaluation_args)))
            if rule is not None:
                watched = loss if evaluation_args is None else (run.evaluations[-1][1] if due else None)
                run.window, converged = update_window(rule, run.window, watched, run.vector())
            reason = notify(callbacks, "on_step", run.report(num_steps, loss)) if callbacks else None
            if checkpoint_every is not None and run.step % checkpoint_every == 0:
                notify(callbacks, "on_checkpoint", run.state())
            if rule is not None and converged:
                stopped = "converged"
                break
            if reason is not None:
                stopped = reason
                break
        if run.skipped and run.skipped == run.step:
            raise run.error(f"all {run.step} updates were skipped, so nothing was trained", {})
        result = run.finish(stopped)
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


def _check_settings(
    num_steps: int,
    learning_rate: float,
    nan: str,
    max_failures: int,
    evaluate_every: int,
    checkpoint_every: int | None,
) -> None:
    if num_steps < 0:
        raise ValueError(f"num_steps: expected a number >= 0, got {num_steps}")
    if not (learning_rate > 0 and math.isfinite(learning_rate)):
        raise ValueError(f"learning_rate: expected a positive finite number, got {learning_rate}")
    if nan not in ("stop", "skip", "backoff"):
        raise ValueError(f"nan: expected 'stop', 'skip' or 'backoff', got {nan!r}")
    for name, value in (
        ("max_failures", max_failures),
        ("evaluate_every", evaluate_every),
        ("checkpoint_every", checkpoint_every),
    ):
        if value is not None and value < 1:
            raise ValueError(f"{name}: expected a number >= 1, got {value}")


@contextmanager
def _generator(seed: int | None, state: State | None) -> Iterator[None]:
    """Give the fit its own random stream when a seed or a state sets one, and put the caller's back."""
    if seed is None and state is None:
        yield
        return
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        if seed is not None:
            torch.manual_seed(seed)
        yield


@contextmanager
def _quiet_nan() -> Iterator[None]:
    """Pyro warns about a NaN loss; here the `nan` policy decides what happens."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Encountered (NaN|\\+?-?inf)", category=UserWarning)
        yield
