"""Settings of `fit` checked by name, and the surroundings a fit runs in."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from pyro.infer import Trace_ELBO

from evidentia.inference.compile.objective import CompiledObjective, compile_objective
from evidentia.inference.objectives.particle import ParticleELBO
from evidentia.inference.training.fitted import State
from evidentia.inference.training.starts import Restarts, restarts_setting

__all__ = ["check_settings", "chosen_objective", "chosen_restarts", "own_generator", "quiet_nan"]


def check_settings(
    *,
    num_steps: int,
    learning_rate: float,
    nan: str,
    compile: str | None,
    evaluated: bool,
    at_least_one: dict[str, int | None],
) -> None:
    """Refuse settings out of range.

    Raises:
        ValueError: naming the setting, what was expected and what came.

    References:
        none; bookkeeping.
    """
    if num_steps < 0:
        raise ValueError(f"num_steps: expected a number >= 0, got {num_steps}")
    if not (learning_rate > 0 and math.isfinite(learning_rate)):
        raise ValueError(f"learning_rate: expected a positive finite number, got {learning_rate}")
    if nan not in ("stop", "skip", "backoff"):
        raise ValueError(f"nan: expected 'stop', 'skip' or 'backoff', got {nan!r}")
    if compile not in (None, "aten", "inductor"):
        raise ValueError(f"compile: expected None, 'aten' or 'inductor', got {compile!r}")
    for name, value in at_least_one.items():
        if value is not None and value < 1:
            raise ValueError(f"{name}: expected a number >= 1, got {value}")
    if at_least_one.get("patience") is not None and not evaluated:
        raise ValueError(
            "patience: it counts held-out evaluations, but there are none. Fix: pass evaluation_args, or use "
            "tolerance"
        )


def chosen_objective(objective: Any, compile: str | None) -> Any:
    """The objective of a fit, recorded when asked for; by default the ELBO (Pyro's, or ours to be recorded).

    References:
        none; bookkeeping.

    Example:
        >>> type(chosen_objective(None, None)).__name__
        'Trace_ELBO'
    """
    if objective is None:
        # Pyro's reads a number out of a tensor on its way, which cannot be recorded.
        objective = Trace_ELBO() if compile is None else ParticleELBO("elbo", "total")
    if compile is None or isinstance(objective, CompiledObjective):
        return objective
    return compile_objective(objective, compile)  # type: ignore[arg-type]


def chosen_restarts(restarts: Restarts | int, state: State | None) -> Restarts | None:
    """The setting of several restarts, or None for one.

    Raises:
        ValueError: a state of another number of restarts.

    References:
        none; bookkeeping.
    """
    setting = restarts_setting(restarts)
    saved = setting.number if state is None else int(state.get("restarts", 1))
    if saved != setting.number:
        raise ValueError(
            f"state: it is one of restarts={saved}, but restarts={setting.number} was asked for. Fix: "
            "restarts= as in the run that wrote it; its result's restarts_state continues all the restarts, "
            "result.restart(r).state one of them as a single fit"
        )
    return None if setting.number == 1 else setting


@contextmanager
def own_generator(seed: int | None, state: State | None = None) -> Iterator[None]:
    """Draw from a random stream of its own when a seed or a state sets one, and put the caller's back.

    References:
        none; bookkeeping.
    """
    if seed is None and state is None:
        yield
        return
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        if seed is not None:
            torch.manual_seed(seed)
        yield


@contextmanager
def quiet_nan() -> Iterator[None]:
    """Pyro warns about a NaN loss; here the `nan` policy decides what happens.

    References:
        none; bookkeeping.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Encountered (NaN|\\+?-?inf)", category=UserWarning)
        yield
