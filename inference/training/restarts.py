"""Several independent fits of one pair in one recorded, mapped step; one that fails is left behind."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Sequence
from typing import Any, final

import pyro
import torch
from torch import Tensor
from torch.distributions import transform_to

from evidentia.inference.compile.backend import Backend
from evidentia.inference.compile.capture import CaptureError
from evidentia.inference.compile.mapped import MappedProgram
from evidentia.inference.compile.objective import compile_objective
from evidentia.inference.training.callbacks import CallbackLike, Step, notify
from evidentia.inference.training.finite import FitError
from evidentia.inference.training.fit_loop import FitLoop
from evidentia.inference.training.fitted import Fit, State
from evidentia.inference.training.optimiser import needs_closure
from evidentia.inference.training.optimiser_state import flatten_optimiser
from evidentia.inference.training.starts import Restarts, initial_values

__all__ = ["RestartLoop", "fit_restarts"]

_WINDOW = 100  # steps whose mean loss chooses the best restart


@final
class RestartLoop:
    """R fits in progress: parameters, buffers and optimizer state have R as their leading dimension.

    References:
        none; bookkeeping.
    """

    def __init__(self, run: FitLoop, setting: Restarts, backend: Backend, skip: bool) -> None:
        self.run, self.skip, self.backend = run, skip, backend
        self.compiled = compile_objective(run.objective)  # only the mapped step goes to the backend
        self.programs: dict[int, MappedProgram] = {}
        self.frozen: dict[int, int] = {}
        self.losses: list[Tensor] = []
        self.skipped = torch.zeros(setting.number, dtype=torch.int64)
        self._discover()
        starts = initial_values(setting, run.leaves, run.modules)
        self.stacked = {name: value.requires_grad_() for name, value in starts.items()}
        self.buffers = {
            name: value.expand(setting.number, *value.shape).clone()
            for name, value in run.modules.buffers().items()
        }
        run.optimizer = run.factory(list(self.stacked.values()), lr=run.learning_rate)
        if needs_closure(run.optimizer):
            raise ValueError(
                f"optimizer: {type(run.optimizer).__name__} couples the restarts by its line search. "
                "Fix: use Adam or another optimizer that works entry by entry"
            )
        self.optimizer = run.optimizer
        self.hold = torch.zeros(setting.number, dtype=torch.bool)

    def _discover(self) -> None:
        """One eager evaluation, which creates the parameters."""
        run = self.run
        if run.batches is not None:
            run.args = run.batches()
        live = run.modules.buffers()
        kept = {name: value.clone() for name, value in live.items()}
        with pyro.validation_enabled(True):
            run.loss_and_gradient()
        run.modules.put(live, kept)  # this evaluation is no step
        for leaf in run.leaves.values():
            leaf.grad = None

    def advance(self) -> tuple[Tensor, Tensor]:
        """One step of all: the losses (R,) in nats, and which restarts failed at it."""
        run = self.run
        if run.batches is not None and self.losses:
            run.args = run.batches()
        mapped, data = self._mapped()
        inputs = [*self.stacked.values(), *self.buffers.values(), *data]
        kept = {name: value.clone() for name, value in self.buffers.items()}
        loss, finite, gradients = mapped(inputs)
        bad = ~finite & ~self.hold
        held = self.hold | bad
        for leaf, gradient in zip(self.stacked.values(), gradients, strict=True):
            leaf.grad = gradient
        run.set_rate()
        if bool(held.any()):
            self._step_except(held, kept)
        else:
            self.optimizer.step()
        self.losses.append(loss.to(torch.float64))
        if self.skip:
            self.skipped += bad
        else:
            self.hold = held
            self.frozen |= dict.fromkeys(bad.nonzero().flatten().tolist(), run.step)
        run.step += 1
        return loss, bad

    def _step_except(self, held: Tensor, buffers: dict[str, Tensor]) -> None:
        """Move all but the held restarts; parameters, buffers and optimizer state of those stay."""
        count = len(held)
        state = [v for entries in self.optimizer.state.values() for v in entries.values()]
        tensors = [*self.stacked.values()]
        tensors += [v for v in state if isinstance(v, Tensor) and v.dim() and len(v) == count]
        with torch.no_grad():
            kept = [tensor[held].clone() for tensor in tensors]
            for leaf in self.stacked.values():
                if leaf.grad is not None:
                    shape = (count, *([1] * (leaf.dim() - 1)))
                    leaf.grad = torch.where(held.view(shape), torch.zeros_like(leaf), leaf.grad)
            self.optimizer.step()
            for tensor, rows in zip(tensors, kept, strict=True):
                tensor[held] = rows
            for name, value in self.buffers.items():
                value[held] = buffers[name][held]

    def _mapped(self) -> tuple[MappedProgram, list[Tensor]]:
        run = self.run
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="compile: the step cannot be recorded")
            found = self.compiled.program(*run.programs, run.args, run.kwargs, tuple(run.leaves))
        if found is None:
            raise ValueError(
                f"restarts: the step cannot be recorded ({self.compiled.fallback}), so restarts cannot share "
                "it. Fix: leave branches on values and .item() out of the programs, or fit them one by one"
            )
        program, arguments = found
        if id(program) not in self.programs:
            inputs = [*self.stacked.values(), *self.buffers.values(), *arguments.tensors]
            number = len(self.stacked) + len(self.buffers)
            state = torch.get_rng_state()
            kept = {name: value.clone() for name, value in self.buffers.items()}
            try:
                self.programs[id(program)] = MappedProgram(program, inputs, number, self.backend)
            except CaptureError as error:
                raise ValueError(
                    f"restarts: an operation of the step cannot be mapped ({error}). Fix: fit them one by one"
                ) from error
            torch.set_rng_state(state)
            for name, value in self.buffers.items():
                value.copy_(kept[name])
        return self.programs[id(program)], arguments.tensors

    # -- results -------------------------------------------------------------------------------------------

    def put(self, number: int) -> None:
        """Write one restart's parameters and buffers into the pair."""
        with torch.no_grad():
            for name, leaf in self.run.leaves.items():
                leaf.copy_(self.stacked[name][number])
            for name, value in self.run.modules.buffers().items():
                value.copy_(self.buffers[name][number])

    def scores(self, evaluation_args: tuple[Any, ...] | None) -> Tensor:
        """What chooses the best restart, (R,) nats: the held-out loss, or the mean of the last losses."""
        history = torch.stack(self.losses, -1)
        window = history[:, -min(_WINDOW, max(1, history.shape[-1] // 4)) :]
        scores = window.nanmean(-1) if self.skip else window.mean(-1)
        if evaluation_args is not None:
            scores = torch.full_like(scores, math.inf)
            for number in range(len(scores)):
                if number not in self.frozen:
                    self.put(number)
                    scores[number] = self.run.evaluate(evaluation_args)
        scores[list(self.frozen)] = math.inf
        return torch.where(torch.isfinite(scores), scores, math.inf)

    def fit(self, number: int, stopped: str, held_out: Tensor | None) -> Fit:
        """The result of one restart; its state continues it as a single fit."""
        run, count = self.run, len(self.hold)
        store = pyro.get_param_store()
        constraints = {name: store.get_state()["constraints"][name] for name in run.leaves}
        row = {name: value[number].detach().clone() for name, value in self.stacked.items()}
        state: State = {f"param/{name}": value for name, value in row.items()}
        state |= {f"buffer/{name}": value[number].clone() for name, value in self.buffers.items()}
        for key, value in flatten_optimiser(self.optimizer, list(run.leaves)).items():
            own = isinstance(value, Tensor) and value.dim() and len(value) == count
            state[key] = value[number].clone() if isinstance(value, Tensor) and own else value
        losses = torch.stack(self.losses, -1)[number].clone()
        skipped = int(self.skipped[number])
        evaluations = torch.zeros(0, 2, dtype=torch.float64)
        if held_out is not None:
            evaluations = torch.tensor([[run.step, float(held_out[number])]], dtype=torch.float64)
        state |= {"rng/torch": torch.get_rng_state(), "losses": losses, "evaluations": evaluations}
        state |= {"step": run.step, "skipped": skipped, "failures": 0, "learning_rate_scale": 1.0}
        return Fit(
            pair=run.pair,
            losses=losses,
            params={name: transform_to(constraints[name])(value) for name, value in row.items()},
            state=state,
            stopped="frozen" if number in self.frozen else stopped,
            skipped=skipped,
            evaluations=evaluations,
            constraints=constraints,
            leaves=dict(run.leaves),
            kl_weight=run.annealing.weight(run.step - 1) if run.step else None,
        )


def fit_restarts(
    run: FitLoop,
    setting: Restarts,
    backend: Backend,
    *,
    num_steps: int,
    skip: bool,
    callbacks: Sequence[CallbackLike],
    evaluation_args: tuple[Any, ...] | None,
    max_seconds: float | None,
) -> Fit:
    """Train R restarts together and return the best one; called by `fit` inside its scope.

    A restart whose loss or gradient is not finite is frozen where it was (its update is skipped with `skip`).

    Raises:
        ValueError: the step cannot be recorded or mapped, or the optimizer couples the restarts.
        FitError: all restarts failed.

    References:
        none; bookkeeping.
    """
    loop, started, stopped = RestartLoop(run, setting, backend, skip), time.monotonic(), "max_steps"
    while run.step < num_steps:
        if max_seconds is not None and run.step and time.monotonic() - started > max_seconds:
            stopped = "max_seconds"
            break
        loss, bad = loop.advance()
        if bool(bad.any()):
            for number in bad.nonzero().flatten().tolist():
                reason = f"restart {number}: the loss or a gradient is not finite"
                notify(callbacks, "on_nan", FitError(reason, step=run.step - 1))
            if bool(loop.hold.all()):
                raise FitError(f"all {setting.number} restarts failed", step=run.step - 1)
        if callbacks:
            reason_to_stop = notify(callbacks, "on_step", _report(loop, num_steps, loss))
            if reason_to_stop is not None:
                stopped = reason_to_stop
                break
    if not loop.losses:
        raise ValueError("num_steps: expected at least 1 with restarts, got 0")
    scores = loop.scores(evaluation_args)
    if bool(torch.isinf(scores).all()):
        raise FitError("no restart has a finite loss at the end", step=run.step)
    best, held_out = int(scores.argmin()), scores if evaluation_args is not None else None
    loop.put(best)
    fits = [loop.fit(number, stopped, held_out) for number in range(setting.number)]
    history = torch.stack(loop.losses, -1)
    shared: dict[str, Any] = {"restart_losses": history, "frozen": loop.frozen, "best_restart": best}
    for one in fits:
        # A frozen dataclass: the fits know of each other only now.
        for name, value in (shared | {"pick": fits.__getitem__}).items():
            object.__setattr__(one, name, value)
    return fits[best]


def _report(loop: RestartLoop, num_steps: int, loss: Tensor) -> Step:
    alive = loss[~loop.hold & torch.isfinite(loss)]
    lowest = float(alive.min()) if len(alive) else math.nan
    rate = float(loop.optimizer.param_groups[0]["lr"])
    return Step(loop.run.step, num_steps, lowest, lowest, rate, int(loop.skipped.sum()), None)
