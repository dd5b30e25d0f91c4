"""Several recorded steps in one go: no look at the numbers until the block is done."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from evidentia.inference.training.callbacks import CallbackLike
from evidentia.inference.training.finite import all_finite
from evidentia.inference.training.fit_loop import FitLoop
from evidentia.inference.training.optimiser import take_step

__all__ = ["advance_block"]


def advance_block(run: FitLoop, count: int, callbacks: Sequence[CallbackLike]) -> list[float]:
    """Take up to `count` steps and return their losses in nats.

    Losses stay tensors and nothing is checked until the last step. When a loss or a parameter is not finite
    then, everything is put back to the start of the block and the same steps are taken one by one, where the
    `nan` policy finds the step. Programs that are not recorded take one step.

    Args:
        run: the fit; its first step, and optimizers that evaluate the loss themselves, go one by one.
        count: number of steps.
        callbacks: see `FitLoop.advance`.

    References:
        none; bookkeeping.
    """
    compiled, optimizer = run.compiled, run.optimizer
    if count < 2 or compiled is None or optimizer is None or run.closure:
        return [run.advance(callbacks)]
    start = _Start.of(run, optimizer)
    drawn: list[tuple[tuple[Any, ...], Tensor]] = []
    losses: list[Tensor] = []
    inputs: list[Tensor] | None = None
    program, attempted, failed = None, 0, False
    for _ in range(count):
        attempted += 1
        if run.batches is not None:
            run.args, inputs = run.batches(), None
            drawn.append((run.args, torch.get_rng_state()))
        keywords = run.kwargs  # the values of the schedules are written into the tensors of the inputs
        if inputs is None:
            found = compiled.program(*run.programs, run.args, keywords, tuple(run.leaves))
            if found is None:
                break
            program, arguments = found
            inputs = program.inputs(arguments.tensors)
        if program is None:
            break
        try:
            compiled.count(*run.programs, run.args, keywords, program)
            loss, gradients = program(inputs)
        except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
            failed = True
            break
        run.put_gradients(gradients)
        run.set_rate()
        take_step(optimizer)
        # An output of a compiled graph may live in memory that the next call writes to.
        losses.append(loss.clone())
        run.step += 1
    values = torch.stack(losses).tolist() if losses else []
    # An infinite gradient leaves no finite parameter behind; the loss of the last step is among the losses.
    if failed or not all(map(math.isfinite, values)) or not all_finite(0.0, run.leaves.values()):
        start.put_back(run, optimizer)
        with _given(run, drawn):
            return [run.advance(callbacks) for _ in range(attempted)]
    run.losses += values
    if values:
        run.failures = 0
    if attempted == len(values):
        return values
    with _given(run, drawn[len(values) :]):  # the last one could not be recorded
        return [*values, run.advance(callbacks)]


@contextmanager
def _given(run: FitLoop, drawn: list[tuple[tuple[Any, ...], Tensor]]) -> Iterator[None]:
    """Draw the batches of the block again: the same rows, and the generator where they left it."""
    batches, queue = run.batches, iter(drawn)

    def again() -> tuple[Any, ...]:
        if batches is None:
            return run.args
        try:
            args, state = next(queue)
        except StopIteration:
            return batches()
        torch.set_rng_state(state)
        return args

    run.batches = again if batches is not None else None
    try:
        yield
    finally:
        run.batches = batches


class _Start(NamedTuple):
    """Copies of all that a block changes."""

    step: int
    random: Tensor
    parameters: list[Tensor]
    buffers: dict[str, Tensor]
    optimizer: dict[str, Any]

    @classmethod
    def of(cls, run: FitLoop, optimizer: torch.optim.Optimizer) -> _Start:
        """The present ones."""
        return cls(
            run.step,
            torch.get_rng_state(),
            [leaf.detach().clone() for leaf in run.leaves.values()],
            {name: value.clone() for name, value in run.modules.buffers().items()},
            _copied(optimizer.state_dict()),
        )

    def put_back(self, run: FitLoop, optimizer: torch.optim.Optimizer) -> None:
        """Undo the block."""
        run.step = self.step
        torch.set_rng_state(self.random)
        with torch.no_grad():
            for leaf, value in zip(run.leaves.values(), self.parameters, strict=True):
                leaf.copy_(value)
        run.modules.put(run.modules.buffers(), self.buffers)
        optimizer.load_state_dict(self.optimizer)


def _copied(value: Any) -> Any:
    """A copy of nested dicts and lists with clones of the tensors; much faster than `copy.deepcopy`."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {key: _copied(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_copied(one) for one in value]
    return value if isinstance(value, bool | int | float | str | None) else copy.deepcopy(value)
