"""The moving parts of several restarts: one mapped step, and which of them are held back."""

from __future__ import annotations

import warnings
from typing import final

import pyro
import torch
from torch import Tensor

from evidentia.inference.compile.backend import Backend
from evidentia.inference.compile.capture import CaptureError
from evidentia.inference.compile.mapped import MappedProgram
from evidentia.inference.compile.objective import compile_objective
from evidentia.inference.training.fit_loop import FitLoop
from evidentia.inference.training.optimiser import needs_closure, take_step
from evidentia.inference.training.restart_rules import Bests, Windows
from evidentia.inference.training.starts import Restarts, initial_values

__all__ = ["CONVERGED", "FROZEN", "PATIENCE", "RUNNING", "RestartLoop"]

RUNNING, FROZEN, CONVERGED, PATIENCE = range(4)


@final
class RestartLoop:
    """R fits in progress: parameters, buffers and optimizer state have R as their leading dimension.

    Attributes:
        stacked: unconstrained parameters, (R, ...).
        buffers: of the modules, (R, ...).
        code: (R,), RUNNING, or why a restart is held: FROZEN (its numbers failed), CONVERGED, PATIENCE.
        at: (R,), the step at which it was held, -1 before: the failing step, or the number of steps taken.
        failures: (R,), failed steps in a row.
        skipped: (R,), updates left out.
        scale: (R,), factor on the learning rate.
        losses: one (R,) float64 for each step, nats; NaN after a restart has stopped by a rule.
        evaluations: step and (R,) held-out losses, NaN for those that were held.

    References:
        none; bookkeeping.
    """

    def __init__(
        self, run: FitLoop, setting: Restarts, backend: Backend, nan: str, max_failures: int, fresh: bool
    ) -> None:
        self.run, self.backend, self.nan, self.max_failures = run, backend, nan, max_failures
        self.compiled = compile_objective(run.objective)  # only the mapped step goes to the backend
        self.programs: dict[int, MappedProgram] = {}
        self.last: tuple[tuple[bool, ...], MappedProgram, list[Tensor]] | None = None
        self.losses: list[Tensor] = []
        self.evaluations: list[tuple[float, Tensor]] = []
        self._discover()
        number = setting.number
        # A run that is resumed loads its starts from the state.
        starts = (
            initial_values(setting, run.leaves, run.modules)
            if fresh
            else {
                name: leaf.detach().expand(number, *leaf.shape).clone() for name, leaf in run.leaves.items()
            }
        )
        self.stacked = {name: value.requires_grad_() for name, value in starts.items()}
        self.buffers = {
            name: value.expand(number, *value.shape).clone() for name, value in run.modules.buffers().items()
        }
        run.optimizer = run.factory(list(self.stacked.values()), lr=run.learning_rate)
        if needs_closure(run.optimizer):
            raise ValueError(
                f"optimizer: {type(run.optimizer).__name__} couples the restarts by its line search. "
                "Fix: use Adam or another optimizer that works entry by entry"
            )
        self.optimizer = run.optimizer
        zero = torch.zeros(number, dtype=torch.int64)
        self.code, self.at, self.failures, self.skipped = zero, zero - 1, zero.clone(), zero.clone()
        self.scale = torch.ones(number, dtype=torch.float64)
        self.windows: Windows | None = None
        self.bests = Bests.fresh(number)
        self.look()

    def look(self) -> None:
        """Note in plain flags whether any restart is out of step, so that most steps ask no tensor."""
        self.any_held, self.any_failing = bool(self.hold.any()), bool(self.failures.any())
        self.any_slow = bool((self.scale != 1.0).any())

    @property
    def hold(self) -> Tensor:
        """Which restarts no longer move, (R,)."""
        return self.code != RUNNING

    @property
    def frozen(self) -> dict[int, int]:
        """The step at which a restart failed for good, by restart."""
        return {int(number): int(self.at[number]) for number in (self.code == FROZEN).nonzero().flatten()}

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

    def advance(self) -> tuple[Tensor, list[int]]:
        """One step of all: the losses (R,) in nats, and the numbers of those that failed at it."""
        run = self.run
        if run.batches is not None and self.losses:
            run.args = run.batches()
        mapped, data = self._mapped()
        inputs = [*self.stacked.values(), *self.buffers.values(), *data]
        kept = {name: value.clone() for name, value in self.buffers.items()}
        loss, finite, gradients = mapped(inputs)
        bad = ~finite & ~self.hold if self.any_held else ~finite
        failed = bool(bad.any())
        for leaf, gradient in zip(self.stacked.values(), gradients, strict=True):
            leaf.grad = gradient
        run.set_rate()
        if failed or self.any_held or self.any_slow:
            self._update(self.hold | bad, kept)
        else:
            take_step(self.optimizer)
        row = loss.to(torch.float64)
        if self.any_held:
            row = row.masked_fill((self.code == CONVERGED) | (self.code == PATIENCE), torch.nan)
        self.losses.append(row)
        if failed or self.any_failing:
            self._failed(bad)
        run.step += 1
        return loss, bad.nonzero().flatten().tolist() if failed else []

    def _failed(self, bad: Tensor) -> None:
        """Count the failures of this step; freeze, skip, or halve the rate."""
        self.failures = torch.where(bad, self.failures + 1, torch.where(self.hold, self.failures, 0))
        give_up = bad
        if self.nan != "stop":
            self.skipped = self.skipped + bad
            give_up = bad & (self.failures >= self.max_failures) if self.nan == "backoff" else bad & False
        if self.nan == "backoff":
            self.scale = torch.where(bad & ~give_up, self.scale * 0.5, self.scale)
        self.stop(give_up, FROZEN, self.run.step)

    def stop(self, which: Tensor, code: int, step: int) -> None:
        """Hold these restarts from now on."""
        self.code, self.at = torch.where(which, code, self.code), torch.where(which, step, self.at)
        self.look()

    def _update(self, held: Tensor, buffers: dict[str, Tensor]) -> None:
        """Move all but the held restarts, each at its own rate."""
        slow = (self.scale != 1.0) & ~held
        some = bool(slow.any())
        before = [leaf.detach()[slow] for leaf in self.stacked.values()] if some else []
        if bool(held.any()):
            self._step_except(held, buffers)
        else:
            take_step(self.optimizer)
        # An update is proportional to the rate, of which the optimizer knows only one.
        for leaf, old in zip(self.stacked.values() if some else (), before, strict=True):
            with torch.no_grad():
                factor = self.scale[slow].to(leaf.dtype).view(-1, *([1] * (leaf.dim() - 1)))
                leaf[slow] = old + factor * (leaf[slow] - old)

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
            take_step(self.optimizer)
            for tensor, rows in zip(tensors, kept, strict=True):
                tensor[held] = rows
            for name, value in self.buffers.items():
                value[held] = buffers[name][held]

    def _mapped(self) -> tuple[MappedProgram, list[Tensor]]:
        run = self.run
        if self.last is not None and run.batches is None and self.last[0] == run.modules.modes():
            run.annealing.at(run.step)  # writes the values of the schedules into the same tensors
            return self.last[1:]
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
        self.last = run.modules.modes(), self.programs[id(program)], arguments.tensors
        return self.last[1:]

    # -- what is looked at ---------------------------------------------------------------------------------

    def live(self) -> dict[str, Tensor]:
        """Parameters (`param/...`) and buffers (`buffer/...`) themselves, (R, ...)."""
        found = {f"param/{name}": value for name, value in self.stacked.items()}
        return found | {f"buffer/{name}": value for name, value in self.buffers.items()}

    def vectors(self) -> Tensor:
        """All unconstrained parameters of each restart, (R, P) float64."""
        rows = [leaf.detach().reshape(len(leaf), -1) for leaf in self.stacked.values()]
        return torch.cat([row.to(torch.float64) for row in rows], 1)

    def put(self, number: int) -> None:
        """Write one restart's parameters and buffers into the pair."""
        with torch.no_grad():
            for name, leaf in self.run.leaves.items():
                leaf.copy_(self.stacked[name][number])
            for name, value in self.run.modules.buffers().items():
                value.copy_(self.buffers[name][number])

    def put_back(self, which: Tensor) -> None:
        """Write the best parameters and buffers of these restarts over their present ones."""
        with torch.no_grad():
            for name, value in self.live().items():
                if name in self.bests.values:
                    value[which] = self.bests.values[name][which]
