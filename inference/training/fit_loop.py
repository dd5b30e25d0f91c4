"""The moving parts of one fit: its parameters, its optimizer, its steps, and what to do when one fails."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import pyro
import torch
from torch import Tensor

from evidentia.inference.compile.inputs import Modules
from evidentia.inference.compile.objective import CompiledObjective
from evidentia.inference.compile.program import ParameterNames
from evidentia.inference.training.annealing import Annealing
from evidentia.inference.training.callbacks import CallbackLike, Step, notify
from evidentia.inference.training.checkpoint import state_of
from evidentia.inference.training.finite import FitError, all_finite, locate, non_finite_names
from evidentia.inference.training.fitted import State
from evidentia.inference.training.held_out import held_out_loss
from evidentia.inference.training.names import refuse_shared_names
from evidentia.inference.training.optimiser import fusable, needs_closure, take_step
from evidentia.inference.training.parallel import Team
from evidentia.inference.training.patience import Best
from evidentia.inference.training.running import is_running, put_running, refuse_ranks, running_values
from evidentia.inference.training.stopping import Window

__all__ = ["FitLoop"]

_SMOOTH = 100  # steps in the smoothed loss shown to callbacks


class FitLoop:
    """One fit in progress. It must be used inside a parameter-store scope of its own; `fit` sees to that.

    References:
        none; bookkeeping.
    """

    def __init__(
        self,
        pair: tuple[Callable[..., Any], Callable[..., Any]],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        objective: Any,
        learning_rate: float,
        factory: Callable[..., torch.optim.Optimizer],
        schedule: Callable[[int], float] | None,
        nan: str,
        max_failures: int,
        batches: Callable[[], tuple[Any, ...]] | None,
        annealing: Annealing | None = None,
        team: Team | None = None,
    ) -> None:
        self.team = team
        self.annealing = Annealing(None, None) if annealing is None else annealing
        self.pair, self.args, self.given = pair, args, kwargs
        self.compiled = objective if isinstance(objective, CompiledObjective) else None
        self.objective = objective.objective if isinstance(objective, CompiledObjective) else objective
        self.programs = self.annealing.programs(pair)
        self.learning_rate, self.factory, self.schedule = learning_rate, factory, schedule
        self.nan, self.max_failures, self.batches = nan, max_failures, batches
        self.leaves: dict[str, Tensor] = {}
        self.optimizer: torch.optim.Optimizer | None = None
        self.closure = False
        self.losses: list[float] = []
        self.evaluations: list[tuple[float, float]] = []
        self.window, self.best = Window(), Best()
        self.step = self.skipped = self.failures = 0
        self.scale = 1.0
        self.modules = Modules(*pair)

    @property
    def kwargs(self) -> dict[str, Any]:
        """Keywords of this step: the user's, and those of the schedules."""
        return self.given | self.annealing.at(self.step)

    # -- one step ------------------------------------------------------------------------------------------

    def advance(self, callbacks: Sequence[CallbackLike]) -> float:
        """One step: loss, gradient, check, update. Returns the loss in nats."""
        before, kept, running = torch.get_rng_state(), self._kept(), running_values()
        if self.batches is not None:
            self.args = self.batches()
        noise = torch.get_rng_state() if self.closure else before
        loss = self.loss_and_gradient()
        if all_finite(loss, (leaf.grad for leaf in self.leaves.values())) and self._update(loss, noise):
            self.failures = 0
        else:
            put_running(running)
            self._failed(loss, before, kept, callbacks)
        self.losses.append(loss)
        self.step += 1
        return loss

    def loss_and_gradient(self) -> float:
        """The loss in nats at the present random state; the gradients are left in the leaves.

        In a data-parallel fit both are the means over the ranks.
        """
        loss = self._own_loss_and_gradient()
        return loss if self.team is None else self.team.combine(self, loss)

    def _own_loss_and_gradient(self) -> float:
        for leaf in self.leaves.values():
            leaf.grad = None
        # The first step is eager whatever follows: parameters are created there.
        if self.compiled is not None and self.step > 0:
            found = self.compiled.program(*self.programs, self.args, self.kwargs, tuple(self.leaves))
            if found is not None:
                program, arguments = found
                self.compiled.count(*self.programs, self.args, self.kwargs, program)
                try:
                    value, gradients = program(program.inputs(arguments.tensors))
                except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
                    return math.nan
                self.put_gradients(gradients)
                return float(value)
        loss, names = self.call_objective()
        self.register(names)
        if not self.leaves:
            raise ValueError(
                "pair: neither the model nor the guide has a parameter to train. Fix: declare one with "
                "pyro.param or a module, or use a guide such as AutoNormal(model)"
            )
        if isinstance(loss, Tensor) and loss.requires_grad:
            loss.backward()
        return float(loss.detach()) if isinstance(loss, Tensor) else float(loss)

    def put_gradients(self, gradients: Sequence[Tensor | None]) -> None:
        """Hand gradients in the order of the leaves to the optimizer."""
        for leaf, gradient in zip(self.leaves.values(), gradients, strict=True):
            leaf.grad = gradient

    def call_objective(self) -> tuple[Tensor | float, list[str]]:
        """The loss, and the names of the parameters that the programs touched."""
        model, guide = self.programs
        with ParameterNames() as seen:
            try:
                if hasattr(self.objective, "differentiable_loss"):
                    loss = self.objective.differentiable_loss(model, guide, *self.args, **self.kwargs)
                else:
                    loss = self.objective.loss_and_grads(model, guide, *self.args, **self.kwargs)
            except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
                # A factorisation that broke down is a numerical failure like a NaN.
                loss = math.nan
        return loss, [name for name in seen.names if not is_running(name)]

    def register(self, names: Sequence[str]) -> None:
        """Take new parameters into the optimizer; the first time builds it."""
        if all(name in self.leaves for name in names):
            return
        store = dict(pyro.get_param_store().named_parameters())
        new = {
            name: store[name]
            for name in names
            if name in store and name not in self.leaves and store[name].requires_grad
        }
        if not new:
            return
        refuse_ranks(self.team is not None)
        if not self.leaves:
            refuse_shared_names(self.pair, new)
        self.leaves |= new
        self.modules = Modules(*self.pair)  # a lazy guide has built its modules by now
        self.join(list(new.values()))

    def join(self, parameters: list[Tensor]) -> None:
        """Build the optimizer over these parameters, or add them to it."""
        if self.optimizer is None:
            self.optimizer = self.factory(parameters, lr=self.learning_rate)
            self.closure = needs_closure(self.optimizer)
            return
        if self.closure:
            raise ValueError(
                f"optimizer: {type(self.optimizer).__name__} takes all parameters at once, but some appeared "
                "after the first step. Fix: create every parameter on the programs' first call"
            )
        fused = self.optimizer.defaults.get("fused")
        options = {"fused": False} if fused and not fusable(parameters) else {}
        self.optimizer.add_param_group({"params": parameters} | options)

    def set_rate(self) -> None:
        """Give the optimizer the rate of this step."""
        if self.optimizer is None or (self.schedule is None and self.scale == 1.0):
            return
        factor = 1.0 if self.schedule is None else float(self.schedule(self.step))
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate * self.scale * factor

    def _update(self, loss: float, noise: Tensor) -> bool:
        """Move the parameters; False when an optimizer that searches along a line left the finite numbers."""
        self.set_rate()
        if self.optimizer is None:
            return True
        if not self.closure:
            take_step(self.optimizer)
            return True
        # Every evaluation of this step has the same noise and batch, so that the line search sees one
        # function; afterwards the generator stands where one evaluation leaves it.
        after, kept, running = torch.get_rng_state(), self._kept(), running_values()
        saved = [leaf.detach().clone() for leaf in self.leaves.values()]
        history = copy.deepcopy(self.optimizer.state_dict())
        ready = [loss]

        def closure() -> float:
            if ready:
                return ready.pop()
            torch.set_rng_state(noise)
            return self.loss_and_gradient()

        self.optimizer.step(closure)
        torch.set_rng_state(after)
        self.modules.put(self.modules.buffers(), kept)
        put_running(running)
        if all_finite(0.0, self.leaves.values()):
            return True
        with torch.no_grad():
            for leaf, value in zip(self.leaves.values(), saved, strict=True):
                leaf.copy_(value)
        self.optimizer.load_state_dict(history)
        return False

    def _kept(self) -> dict[str, Tensor]:
        return {name: value.clone() for name, value in self.modules.buffers().items()}

    def _failed(
        self, loss: float, before: Tensor, kept: dict[str, Tensor], callbacks: Sequence[CallbackLike]
    ) -> None:
        after = torch.get_rng_state()
        self.modules.put({n: v for n, v in self.modules.buffers().items() if n in kept}, kept)
        torch.set_rng_state(before)
        self.failures += 1
        give_up = self.nan == "stop" or (self.nan == "backoff" and self.failures >= self.max_failures)
        # Ranks write their state together, whichever of them has a callback.
        if give_up or self.team is not None or any(hasattr(callback, "on_nan") for callback in callbacks):
            what = "the loss is not finite" if not math.isfinite(loss) else "a gradient is not finite"
            where = "" if self.team is None else self.team.where()
            error = self.error(f"{what}{where} (loss {loss})", self.state())
            notify(callbacks, "on_nan", error)
            if give_up:
                raise error
        if self.nan == "backoff":
            self.scale *= 0.5
        self.skipped += 1
        torch.set_rng_state(after)

    def error(self, reason: str, state: State) -> FitError:
        """The error that `nan="stop"` raises at this point; replays the programs to find the sites."""
        model, guide = self.programs
        with pyro.get_param_store().scope(pyro.get_param_store().get_state()):
            culprits = locate(model, guide, self.args, self.kwargs)
        finite = [loss for loss in self.losses if math.isfinite(loss)]
        return FitError(
            reason,
            step=self.step,
            culprits=culprits,
            parameters=non_finite_names(self.leaves),
            last_finite_loss=finite[-1] if finite else None,
            state=state,
        )

    # -- what is looked at ---------------------------------------------------------------------------------

    def live(self) -> dict[str, Tensor]:
        """Parameters (`param/...`) and buffers (`buffer/...`) themselves."""
        found = {f"param/{name}": leaf for name, leaf in self.leaves.items()}
        return found | {f"buffer/{name}": value for name, value in self.modules.buffers().items()}

    def vector(self) -> Tensor:
        """All unconstrained parameters as one vector."""
        return torch.cat([leaf.detach().reshape(-1).to(torch.float64) for leaf in self.leaves.values()])

    def evaluate(self, args: tuple[Any, ...]) -> float:
        """The held-out loss in nats, at weight 1 of the latents; that of rank 0 when there are several."""
        loss = held_out_loss(self.pair, self.objective, args, self.given | self.annealing.held_out())
        return loss if self.team is None else self.team.first(loss)

    def report(self, num_steps: int, loss: float) -> Step:
        """What callbacks learn about the step just taken."""
        recent = [value for value in self.losses[-_SMOOTH:] if math.isfinite(value)]
        return Step(
            step=self.step,
            num_steps=num_steps,
            loss=loss,
            smoothed=sum(recent) / len(recent) if recent else math.nan,
            learning_rate=float(self.optimizer.param_groups[0]["lr"])
            if self.optimizer
            else self.learning_rate,
            skipped=self.skipped,
            evaluation=self.evaluations[-1][1] if self.evaluations else None,
        )

    def state(self) -> State:
        """Everything a bitwise resume needs, as clones."""
        return state_of(self)
