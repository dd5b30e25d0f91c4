"""The moving parts of one fit: its parameters, its optimizer, its history, and the state that resumes it."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor, nn

from evidentia.inference.training.callbacks import CallbackLike, Step, notify
from evidentia.inference.training.finite import FitError, all_finite, locate, non_finite_names
from evidentia.inference.training.fitted import Fit, State, buffers
from evidentia.inference.training.optimiser_state import flatten_optimiser, load_optimiser, optimiser_names
from evidentia.inference.training.stopping import Window

__all__ = ["FitLoop"]

_SMOOTH = 100  # steps in the smoothed loss shown to callbacks
_EVALUATION_SEED = 20_231  # every held-out evaluation uses the same noise, so that its trend is not noise


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
    ) -> None:
        self.pair, self.args, self.kwargs, self.objective = pair, args, kwargs, objective
        self.learning_rate, self.factory, self.schedule = learning_rate, factory, schedule
        self.nan, self.max_failures, self.batches = nan, max_failures, batches
        self.leaves: dict[str, Tensor] = {}
        self.optimizer: torch.optim.Optimizer | None = None
        self.losses: list[float] = []
        self.evaluations: list[tuple[float, float]] = []
        self.window = Window()
        self.step = self.skipped = self.failures = 0
        self.scale = 1.0

    # -- one step ------------------------------------------------------------------------------------------

    def advance(self, callbacks: Sequence[CallbackLike]) -> float:
        """One step: loss, gradient, check, update. Returns the loss in nats."""
        before = torch.get_rng_state()
        kept = {name: value.clone() for name, value in buffers(*self.pair).items()}
        for leaf in self.leaves.values():
            leaf.grad = None
        loss = self._loss_and_gradient()
        if all_finite(loss, (leaf.grad for leaf in self.leaves.values())):
            self._set_rate()
            if self.optimizer is not None:
                self.optimizer.step()
            self.failures = 0
        else:
            self._failed(loss, before, kept, callbacks)
        self.losses.append(loss)
        self.step += 1
        return loss

    def _loss_and_gradient(self) -> float:
        loss, names = self._call_objective()
        self._register(names)
        if not self.leaves:
            raise ValueError(
                "pair: neither the model nor the guide has a parameter to train. Fix: declare one with "
                "pyro.param or a module, or use a guide such as AutoNormal(model)"
            )
        if isinstance(loss, Tensor) and loss.requires_grad:
            loss.backward()
        return float(loss.detach()) if isinstance(loss, Tensor) else float(loss)

    def _call_objective(self) -> tuple[Tensor | float, list[str]]:
        """The loss, and the names of the parameters that the programs touched."""
        model, guide = self.pair
        if self.batches is not None:
            self.args = self.batches()
        with poutine.trace(param_only=True) as capture:
            try:
                if hasattr(self.objective, "differentiable_loss"):
                    loss = self.objective.differentiable_loss(model, guide, *self.args, **self.kwargs)
                else:
                    loss = self.objective.loss_and_grads(model, guide, *self.args, **self.kwargs)
            except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
                # A factorisation that broke down is a numerical failure like a NaN.
                loss = math.nan
        return loss, list(capture.trace.nodes)

    def _register(self, names: Sequence[str]) -> None:
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
        self.leaves |= new
        if self.optimizer is None:
            self.optimizer = self.factory(list(new.values()), lr=self.learning_rate)
        else:
            self.optimizer.add_param_group({"params": list(new.values())})

    def _set_rate(self) -> None:
        if self.optimizer is None or (self.schedule is None and self.scale == 1.0):
            return
        factor = 1.0 if self.schedule is None else float(self.schedule(self.step))
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate * self.scale * factor

    def _failed(
        self, loss: float, before: Tensor, kept: dict[str, Tensor], callbacks: Sequence[CallbackLike]
    ) -> None:
        after = torch.get_rng_state()
        with torch.no_grad():
            for name, value in buffers(*self.pair).items():
                if name in kept:
                    value.copy_(kept[name])
        torch.set_rng_state(before)
        self.failures += 1
        give_up = self.nan == "stop" or (self.nan == "backoff" and self.failures >= self.max_failures)
        if give_up or any(hasattr(callback, "on_nan") for callback in callbacks):
            what = "the loss is not finite" if not math.isfinite(loss) else "a gradient is not finite"
            error = self.error(f"{what} (loss {loss})", self.state())
            notify(callbacks, "on_nan", error)
            if give_up:
                raise error
        if self.nan == "backoff":
            self.scale *= 0.5
        self.skipped += 1
        torch.set_rng_state(after)

    def error(self, reason: str, state: State) -> FitError:
        """The error that `nan="stop"` raises at this point; replays the programs to find the sites."""
        model, guide = self.pair
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

    def vector(self) -> Tensor:
        """All unconstrained parameters as one vector."""
        return torch.cat([leaf.detach().reshape(-1).to(torch.float64) for leaf in self.leaves.values()])

    def evaluate(self, args: tuple[Any, ...]) -> float:
        """The held-out loss in nats, in evaluation mode, without touching the random stream."""
        model, guide = self.pair
        modules = [m for program in self.pair if isinstance(program, nn.Module) for m in program.modules()]
        training = [module.training for module in modules]
        try:
            for module in modules:
                module.training = False
            with torch.random.fork_rng(), torch.no_grad(), poutine.block(), pyro.validation_enabled(False):
                torch.manual_seed(_EVALUATION_SEED)
                # A copy, because an objective may adapt itself to the shapes of the first data it sees.
                objective = copy.copy(self.objective)
                return float(objective.loss(model, guide, *args, **self.kwargs))
        finally:
            for module, mode in zip(modules, training, strict=True):
                module.training = mode

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

    # -- state ---------------------------------------------------------------------------------------------

    def state(self) -> State:
        """Everything a bitwise resume needs, as clones."""
        flat: State = {f"param/{name}": leaf.detach().clone() for name, leaf in self.leaves.items()}
        flat |= {f"buffer/{name}": value.clone() for name, value in buffers(*self.pair).items()}
        if self.optimizer is not None:
            flat |= flatten_optimiser(self.optimizer, list(self.leaves))
        flat["rng/torch"] = torch.get_rng_state()
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            flat["rng/cuda"] = torch.cuda.get_rng_state()
        flat["losses"] = torch.tensor(self.losses, dtype=torch.float64)
        flat["evaluations"] = torch.tensor(self.evaluations, dtype=torch.float64).reshape(-1, 2)
        flat |= self.window.to_state()
        return flat | {
            "step": self.step,
            "skipped": self.skipped,
            "failures": self.failures,
            "learning_rate_scale": self.scale,
        }

    def load(self, state: State, num_steps: int) -> None:
        """Create the pair's parameters by one evaluation, check the state against them, then load it."""
        if int(state["step"]) > num_steps:
            raise ValueError(
                f"num_steps: the state is already at step {state['step']}, but only {num_steps} were "
                "asked for; num_steps counts all the steps, those in the state included"
            )
        saved = {
            key.removeprefix("param/"): value for key, value in state.items() if key.startswith("param/")
        }
        # Lazy guides draw random numbers while they are set up, and an objective may size itself on its
        # first call; the saved generator is put in place afterwards.
        with pyro.validation_enabled(True):
            _, names = self._call_objective()
        store = dict(pyro.get_param_store().named_parameters())
        found = {name: store[name] for name in names if name in store and store[name].requires_grad}
        _check_parameters(saved, found)
        with torch.no_grad():
            for name, leaf in found.items():
                leaf.copy_(saved[name])
            for name, value in buffers(*self.pair).items():
                if f"buffer/{name}" in state:
                    value.copy_(state[f"buffer/{name}"])
        groups = optimiser_names(state)
        # A state of parameters alone has no optimizer's; the fit then starts with a fresh one.
        for position, group in enumerate(groups or [list(found)]):
            members = [found[name] for name in group]
            if position == 0:
                self.optimizer = self.factory(members, lr=self.learning_rate)
            elif self.optimizer is not None:
                self.optimizer.add_param_group({"params": members})
            self.leaves |= {name: found[name] for name in group}
        if self.optimizer is not None and groups:
            load_optimiser(self.optimizer, state)
        self.losses = [float(loss) for loss in state["losses"]]
        self.evaluations = [(float(step), float(loss)) for step, loss in state.get("evaluations", [])]
        self.window = Window.from_state(state)
        self.step, self.skipped = int(state["step"]), int(state.get("skipped", 0))
        self.failures, self.scale = (
            int(state.get("failures", 0)),
            float(state.get("learning_rate_scale", 1.0)),
        )
        torch.set_rng_state(state["rng/torch"])
        if "rng/cuda" in state and torch.cuda.is_available():
            torch.cuda.set_rng_state(state["rng/cuda"])

    def finish(self, stopped: str) -> Fit:
        """The result that owns copies of everything."""
        state = self.state()
        store = pyro.get_param_store()
        constraints = store.get_state()["constraints"]
        return Fit(
            pair=self.pair,
            losses=state["losses"],
            params={name: store[name].detach().clone() for name in self.leaves},
            state=state,
            stopped=stopped,
            skipped=self.skipped,
            evaluations=state["evaluations"],
            constraints={name: constraints[name] for name in self.leaves},
            leaves=dict(self.leaves),
        )


def _check_parameters(saved: dict[str, Tensor], found: dict[str, Tensor]) -> None:
    """Refuse a state that does not fit the pair, before anything is loaded."""
    unknown = sorted(set(saved) - set(found))
    missing = sorted(set(found) - set(saved))
    if unknown or missing:
        raise ValueError(
            f"state: it does not fit the pair. In the state only: {unknown}; in the pair only: {missing}. "
            "Fix: build the pair with the settings of the run that wrote the state, and create every "
            "parameter on the programs' first call"
        )
    for name, leaf in found.items():
        old = saved[name]
        if old.shape != leaf.shape or old.dtype != leaf.dtype:
            raise ValueError(
                f"state: parameter '{name}' is {tuple(old.shape)} {old.dtype} in the state but "
                f"{tuple(leaf.shape)} {leaf.dtype} in the pair. Fix: build the pair with the settings of the "
                "run that wrote the state"
            )
