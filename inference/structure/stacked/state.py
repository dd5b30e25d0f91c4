"""The state of stacked training: one row per structure, and its flat form for checkpoints."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor


class State(NamedTuple):
    """All that training needs to go on, one row per structure, and the state of the random numbers.

    Attributes:
        step: steps done.
        theta, first, second: parameters and Adam's two moments, ``(S, F)``.
        steps: steps tried, ``(S,)``.
        taken: steps taken, ``(S,)``: one with a gradient that is not finite is skipped, structure by
            structure.
        running: structures still trained, ``(S,)`` boolean.
        guarded: structures that have needed the guarded log-likelihood, ``(S,)`` boolean.
        variance: prior variances, ``(S, W)``.
        total: sum of the losses in the current window, ``(S,)``.
        losses: mean loss (negative ELBO) of each window so far, ``(R, S)``; the last value is kept after a
            stop.
        generator: state of the random generator.
    """

    step: Tensor
    theta: Tensor
    first: Tensor
    second: Tensor
    steps: Tensor
    taken: Tensor
    running: Tensor
    guarded: Tensor
    variance: Tensor
    total: Tensor
    losses: Tensor
    generator: Tensor


class Progress(NamedTuple):
    """What a callback sees after each step: ``state()`` copies everything needed to resume, as a flat
    dict."""

    step: int
    num_steps: int
    losses: Tensor
    running: int
    state: Callable[[], dict[str, Tensor]]


def init(theta: Tensor, variance: Tensor, seed: int) -> State:
    """The state before the first step.

    Args:
        theta: initial parameters, ``(S, F)``.
        variance: prior variances, ``(S, W)``.
        seed: of the random numbers.
    """
    rows = theta.shape[0]
    return State(
        step=torch.tensor(0),
        theta=theta,
        first=torch.zeros_like(theta),
        second=torch.zeros_like(theta),
        steps=torch.zeros(rows, dtype=torch.long, device=theta.device),
        taken=torch.zeros(rows, dtype=torch.long, device=theta.device),
        running=torch.ones(rows, dtype=torch.bool, device=theta.device),
        guarded=torch.zeros(rows, dtype=torch.bool, device=theta.device),
        variance=variance,
        total=theta.new_zeros(rows),
        losses=theta.new_zeros(0, rows),
        generator=torch.Generator().manual_seed(seed).get_state(),
    )


def as_dict(state: State) -> dict[str, Tensor]:
    """A copy of the state as a flat dict of tensors, ready for safetensors."""
    return {name: value.clone() for name, value in state._asdict().items()}


def from_dict(tensors: Mapping[str, Tensor]) -> State:
    """The state written by :func:`as_dict`.

    Raises:
        ValueError: an entry is missing or unknown.
    """
    if set(tensors) != set(State._fields):
        wrong = sorted(set(tensors) ^ set(State._fields))
        raise ValueError(f"state: expected the entries {list(State._fields)}; missing or unknown: {wrong}.")
    return State(**{name: value.clone() for name, value in tensors.items()})
