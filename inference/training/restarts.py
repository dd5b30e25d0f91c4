"""Several independent fits of one pair in one recorded, mapped step; each stops on its own."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from evidentia.inference.compile.backend import Backend
from evidentia.inference.training.callbacks import CallbackLike, Step, notify
from evidentia.inference.training.finite import FitError
from evidentia.inference.training.fit_loop import FitLoop
from evidentia.inference.training.fitted import Fit, State
from evidentia.inference.training.restart_loop import CONVERGED, FROZEN, PATIENCE, RestartLoop
from evidentia.inference.training.restart_rules import Windows, update_bests, update_windows
from evidentia.inference.training.restart_state import fit_of, load_restarts, restarts_state
from evidentia.inference.training.starts import Restarts
from evidentia.inference.training.stopping import StoppingRule

__all__ = ["RestartRules", "fit_restarts"]

_WINDOW = 100  # steps whose mean loss chooses the best restart


class RestartRules(NamedTuple):
    """Settings of `evidentia.inference.fit.fit` that act on each restart.

    References:
        none; bookkeeping.
    """

    num_steps: int
    nan: str
    max_failures: int
    tolerance: StoppingRule | None
    max_seconds: float | None
    evaluation_args: tuple[Any, ...] | None
    evaluate_every: int
    patience: int | None
    checkpoint_every: int | None


def fit_restarts(
    run: FitLoop,
    setting: Restarts,
    backend: Backend,
    rules: RestartRules,
    callbacks: Sequence[CallbackLike],
    state: State | None,
) -> Fit:
    """Train R restarts together and return the best one; called by `fit` inside its scope.

    Each restart is held where it converged, lost patience or failed; the run ends when all are held.

    Raises:
        ValueError: the step cannot be recorded or mapped, the optimizer couples the restarts, or the state
            does not fit.
        FitError: all restarts failed.

    References:
        none; bookkeeping.
    """
    loop = RestartLoop(run, setting, backend, rules.nan, rules.max_failures, fresh=state is None)
    if state is not None:
        load_restarts(loop, state, rules.num_steps)
    started, stopped, first = time.monotonic(), "max_steps", run.step
    while run.step < rules.num_steps and not (loop.any_held and bool(loop.hold.all())):
        late = rules.max_seconds is not None and time.monotonic() - started > rules.max_seconds
        if late and run.step > first:
            stopped = "max_seconds"
            break
        loss, failed = loop.advance()
        for number in failed:
            reason = f"restart {number}: the loss or a gradient is not finite"
            notify(callbacks, "on_nan", FitError(reason, step=run.step - 1))
        if failed and bool((loop.code == FROZEN).all()):
            raise FitError(f"all {setting.number} restarts failed", step=run.step - 1)
        _apply_rules(loop, rules)
        asked = notify(callbacks, "on_step", _report(loop, rules.num_steps, loss)) if callbacks else None
        if rules.checkpoint_every is not None and run.step % rules.checkpoint_every == 0:
            notify(callbacks, "on_checkpoint", restarts_state(loop))
        if asked is not None:
            stopped = asked
            break
    if not loop.losses:
        raise ValueError("num_steps: expected at least 1 with restarts, got 0")
    return _best(loop, rules, stopped)


def _apply_rules(loop: RestartLoop, rules: RestartRules) -> None:
    """Evaluate where it is due, and hold the restarts that have converged or lost patience."""
    if rules.tolerance is None and rules.evaluation_args is None:
        return
    run, running = loop.run, ~loop.hold
    held_out = None
    if rules.evaluation_args is not None and run.step % rules.evaluate_every == 0:
        held_out = _evaluate(loop, rules.evaluation_args, running)
        loop.evaluations.append((float(run.step), held_out))
        if rules.patience is not None:
            loop.bests = update_bests(loop.bests, held_out, run.step, loop.live(), running)
    converged = torch.zeros_like(running)
    if rules.tolerance is not None and run.annealing.rests(run.step - 1):
        vectors = loop.vectors()
        windows = Windows.fresh(vectors) if loop.windows is None else loop.windows
        watched = loop.losses[-1] if rules.evaluation_args is None else held_out
        loop.windows, converged = update_windows(rules.tolerance, windows, watched, vectors)
        converged = converged & running
        loop.stop(converged, CONVERGED, run.step)
    if held_out is not None and rules.patience is not None:
        gone = running & ~converged & (loop.bests.since >= rules.patience)
        loop.stop(gone, PATIENCE, run.step)
        loop.put_back(gone)


def _evaluate(loop: RestartLoop, args: tuple[Any, ...], which: Tensor) -> Tensor:
    """Held-out losses of these restarts in nats, (R,); NaN for the others."""
    found = torch.full((len(which),), torch.nan, dtype=torch.float64)
    for number in which.nonzero().flatten().tolist():
        loop.put(number)
        found[number] = loop.run.evaluate(args)
    return found


def _best(loop: RestartLoop, rules: RestartRules, stopped: str) -> Fit:
    """Choose by the held-out loss, or by the mean of each restart's last losses; all know of each other."""
    history, held_out = torch.stack(loop.losses, -1), None
    scores = torch.stack([_recent(loop, number, history[number]) for number in range(len(history))])
    if rules.evaluation_args is not None:
        scores = held_out = _evaluate(loop, rules.evaluation_args, loop.code != FROZEN)
    scores = torch.where(torch.isfinite(scores) & (loop.code != FROZEN), scores, math.inf)
    if bool(torch.isinf(scores).all()):
        raise FitError("no restart has a finite loss at the end", step=loop.run.step)
    best = int(scores.argmin())
    loop.put(best)
    fits = [
        fit_of(loop, number, stopped, None if held_out is None else float(held_out[number]))
        for number in range(len(history))
    ]
    shared: dict[str, Any] = {"restart_losses": history, "frozen": loop.frozen, "best_restart": best}
    shared |= {"restarts_state": restarts_state(loop), "pick": fits.__getitem__}
    for one in fits:
        # A frozen dataclass: the fits know of each other only now.
        for name, value in shared.items():
            object.__setattr__(one, name, value)
    return fits[best]


def _recent(loop: RestartLoop, number: int, losses: Tensor) -> Tensor:
    """Mean of the last losses of one restart before it was held, nats."""
    if int(loop.code[number]) in (CONVERGED, PATIENCE):
        losses = losses[: int(loop.at[number])]
    window = losses[-min(_WINDOW, max(1, len(losses) // 4)) :]
    return window.mean() if loop.nan == "stop" else window.nanmean()


def _report(loop: RestartLoop, num_steps: int, loss: Tensor) -> Step:
    alive = loss[~loop.hold & torch.isfinite(loss)]
    lowest = float(alive.min()) if len(alive) else math.nan
    rate = float(loop.optimizer.param_groups[0]["lr"])
    return Step(loop.run.step, num_steps, lowest, lowest, rate, int(loop.skipped.sum()), None)
