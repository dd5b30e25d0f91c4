"""Several restarts as one flat state that continues them bit for bit, and as the fit of each."""

from __future__ import annotations

import pyro
import torch
from torch import Tensor
from torch.distributions import transform_to

from evidentia.inference.training.fitted import Fit, State
from evidentia.inference.training.optimiser_state import flatten_optimiser, load_optimiser, optimiser_names
from evidentia.inference.training.restart_loop import CONVERGED, FROZEN, PATIENCE, RestartLoop
from evidentia.inference.training.restart_rules import Bests, Windows

__all__ = ["fit_of", "load_restarts", "restarts_state"]

_ROWS = ("code", "at", "failures", "skipped", "scale")
_REASONS = {FROZEN: "frozen", CONVERGED: "converged", PATIENCE: "patience"}


def restarts_state(loop: RestartLoop) -> State:
    """Everything a bitwise resume of all restarts needs, as clones; `restarts` is their number.

    References:
        none; bookkeeping.
    """
    state: State = {name: value.detach().clone() for name, value in loop.live().items()}
    state |= flatten_optimiser(loop.optimizer, list(loop.stacked))
    state["rng/torch"] = torch.get_rng_state()
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        state["rng/cuda"] = torch.cuda.get_rng_state()
    number = len(loop.code)
    rows = [torch.cat([torch.tensor([step], dtype=torch.float64), loss]) for step, loss in loop.evaluations]
    state["losses"] = _history(loop)
    state["evaluations"] = torch.stack(rows) if rows else torch.zeros(0, 1 + number, dtype=torch.float64)
    state |= {f"restart/{name}": getattr(loop, name).clone() for name in _ROWS}
    state |= ({} if loop.windows is None else loop.windows.to_state()) | loop.bests.to_state()
    return state | {"step": loop.run.step, "restarts": number}


def load_restarts(loop: RestartLoop, state: State, num_steps: int) -> None:
    """Load what `restarts_state` wrote into restarts of the same pair.

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
    live = loop.live()
    saved = {name for name in state if name.startswith(("param/", "buffer/"))}
    if saved != set(live):
        raise ValueError(
            f"state: it does not fit the pair. In the state only: {sorted(saved - set(live))}; in the pair "
            f"only: {sorted(set(live) - saved)}. Fix: build the pair as in the run that wrote the state"
        )
    for name, value in live.items():
        old = state[name]
        if old.shape != value.shape or old.dtype != value.dtype:
            raise ValueError(
                f"state: '{name}' is {tuple(old.shape)} {old.dtype} in the state but {tuple(value.shape)} "
                f"{value.dtype} in the pair. Fix: build the pair with the settings of the run that wrote it"
            )
    if [name for group in optimiser_names(state) for name in group] != list(loop.stacked):
        raise ValueError("state: its parameters come in another order than the pair's. Fix: the same pair")
    with torch.no_grad():
        for name, value in live.items():
            value.copy_(state[name])
    load_optimiser(loop.optimizer, state)
    loop.losses = list(state["losses"].clone().unbind(-1))
    loop.evaluations = [(float(row[0]), row[1:].clone()) for row in state["evaluations"]]
    for name in _ROWS:
        setattr(loop, name, state[f"restart/{name}"].clone())
    loop.windows, loop.bests = Windows.from_state(state), Bests.from_state(state, len(loop.code))
    loop.look()
    loop.run.step = int(state["step"])
    torch.set_rng_state(state["rng/torch"])
    if "rng/cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["rng/cuda"])


def fit_of(loop: RestartLoop, number: int, stopped: str, held_out: float | None) -> Fit:
    """The result of one restart; its state continues it as a single fit.

    Args:
        loop: all of them.
        number: which one.
        stopped: why the run ended, for a restart that was not held before.
        held_out: its held-out loss at the end in nats, or None.

    References:
        none; bookkeeping.
    """
    run, code = loop.run, int(loop.code[number])
    # A restart stopped by a rule has taken that many steps; a frozen one went on failing.
    steps = int(loop.at[number]) if code in (CONVERGED, PATIENCE) else run.step
    until = int(loop.at[number]) if code else run.step
    constraints = {name: pyro.get_param_store().get_state()["constraints"][name] for name in run.leaves}
    row = {name: value[number].detach().clone() for name, value in loop.stacked.items()}
    state: State = {name: value[number].detach().clone() for name, value in loop.live().items()}
    for key, value in flatten_optimiser(loop.optimizer, list(run.leaves)).items():
        own = isinstance(value, Tensor) and value.dim() and len(value) == len(loop.code)
        state[key] = value[number].clone() if isinstance(value, Tensor) and own else value
    losses = _history(loop)[number, :steps].clone()
    seen = [[step, float(loss[number])] for step, loss in loop.evaluations if step <= until]
    if held_out is not None and code != FROZEN and (not seen or seen[-1][0] != steps):
        seen.append([float(steps), held_out])
    evaluations = torch.tensor(seen, dtype=torch.float64).reshape(-1, 2)
    state |= {"rng/torch": torch.get_rng_state(), "losses": losses, "evaluations": evaluations}
    state |= {"step": steps, "skipped": int(loop.skipped[number]), "failures": int(loop.failures[number])}
    state["learning_rate_scale"] = float(loop.scale[number])
    best = loop.bests.row(number)
    state |= ({} if loop.windows is None else loop.windows.row(number).to_state()) | best.to_state()
    return Fit(
        pair=run.pair,
        losses=losses,
        params={name: transform_to(constraints[name])(value) for name, value in row.items()},
        state=state,
        stopped=_REASONS.get(code, stopped),
        skipped=int(loop.skipped[number]),
        evaluations=evaluations,
        constraints=constraints,
        leaves=dict(run.leaves),
        kl_weight=run.annealing.weight(steps - 1) if steps else None,
        best_step=best.step,
    )


def _history(loop: RestartLoop) -> Tensor:
    """(R, steps) float64."""
    if not loop.losses:
        return torch.zeros(len(loop.code), 0, dtype=torch.float64)
    return torch.stack(loop.losses, -1)
