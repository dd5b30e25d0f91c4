"""The state of a fit in progress, flat: written, read back, and turned into the result."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyro
import torch
from torch import Tensor

from evidentia.inference.training.fitted import Fit, State
from evidentia.inference.training.optimiser_state import flatten_optimiser, load_optimiser, optimiser_names
from evidentia.inference.training.patience import Best
from evidentia.inference.training.running import put_running, running_values
from evidentia.inference.training.stopping import Window

if TYPE_CHECKING:
    from evidentia.inference.training.fit_loop import FitLoop

__all__ = ["finish", "load_state", "state_of"]


def state_of(run: FitLoop) -> State:
    """Everything a bitwise resume needs, as clones.

    References:
        none; bookkeeping.
    """
    flat: State = {f"param/{name}": leaf.detach().clone() for name, leaf in run.leaves.items()}
    flat |= {f"buffer/{name}": value.clone() for name, value in run.modules.buffers().items()}
    flat |= {f"running/{name}": value for name, value in running_values().items()}
    if run.optimizer is not None:
        flat |= flatten_optimiser(run.optimizer, list(run.leaves))
    flat |= {"rng/torch": torch.get_rng_state()} if run.team is None else run.team.generators()
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        flat["rng/cuda"] = torch.cuda.get_rng_state()
    flat["losses"] = torch.tensor(run.losses, dtype=torch.float64)
    flat["evaluations"] = torch.tensor(run.evaluations, dtype=torch.float64).reshape(-1, 2)
    flat |= run.window.to_state() | run.best.to_state()
    return flat | {
        "step": run.step,
        "skipped": run.skipped,
        "failures": run.failures,
        "learning_rate_scale": run.scale,
    }


def load_state(run: FitLoop, state: State, num_steps: int) -> None:
    """Create the pair's parameters by one evaluation, check the state against them, then load it.

    Raises:
        ValueError: the state does not fit the pair, or is further on than `num_steps`.

    References:
        none; bookkeeping.
    """
    if int(state["step"]) > num_steps:
        raise ValueError(
            f"num_steps: the state is already at step {state['step']}, but only {num_steps} were "
            "asked for; num_steps counts all the steps, those in the state included"
        )
    saved = {key.removeprefix("param/"): value for key, value in state.items() if key.startswith("param/")}
    run.step = int(state["step"])
    # Lazy guides draw random numbers while they are set up, and an objective may size itself on its
    # first call; the saved generator is put in place afterwards.
    with pyro.validation_enabled(True):
        if run.batches is not None:
            run.args = run.batches()
        _, names = run.call_objective()
    store = dict(pyro.get_param_store().named_parameters())
    found = {name: store[name] for name in names if name in store and store[name].requires_grad}
    _check_parameters(saved, found)
    with torch.no_grad():
        for name, leaf in found.items():
            leaf.copy_(saved[name])
        for name, value in run.modules.buffers().items():
            if f"buffer/{name}" in state:
                value.copy_(state[f"buffer/{name}"])
    # The evaluation above has moved them.
    put_running({k.removeprefix("running/"): v for k, v in state.items() if k.startswith("running/")})
    groups = optimiser_names(state)
    # A state of parameters alone has no optimizer's; the fit then starts with a fresh one.
    for group in groups or [list(found)]:
        run.join([found[name] for name in group])
        run.leaves |= {name: found[name] for name in group}
    if run.optimizer is not None and groups:
        load_optimiser(run.optimizer, state)
    run.losses = [float(loss) for loss in state["losses"]]
    run.evaluations = [(float(step), float(loss)) for step, loss in state.get("evaluations", [])]
    run.window, run.best = Window.from_state(state), Best.from_state(state)
    run.skipped = int(state.get("skipped", 0))
    run.failures = int(state.get("failures", 0))
    run.scale = float(state.get("learning_rate_scale", 1.0))
    torch.set_rng_state(state["rng/torch"])
    if "rng/cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["rng/cuda"])


def finish(run: FitLoop, stopped: str) -> Fit:
    """The result that owns copies of everything.

    References:
        none; bookkeeping.
    """
    state = state_of(run)
    store = pyro.get_param_store()
    constraints = store.get_state()["constraints"]
    return Fit(
        pair=run.pair,
        losses=state["losses"],
        params={name: store[name].detach().clone() for name in run.leaves},
        state=state,
        stopped=stopped,
        skipped=run.skipped,
        evaluations=state["evaluations"],
        constraints={name: constraints[name] for name in run.leaves},
        leaves=dict(run.leaves),
        kl_weight=run.annealing.weight(run.step - 1) if run.step else None,
        best_step=run.best.step,
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
