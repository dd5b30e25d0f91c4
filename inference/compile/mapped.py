"""One recorded step for R sets of parameters at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import final

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from evidentia.inference.compile.backend import Backend, Run, build
from evidentia.inference.compile.capture import capture_batched
from evidentia.inference.compile.program import Program

__all__ = ["MappedProgram"]


@final
class MappedProgram:
    """A recorded step, mapped over the leading dimension of parameters and buffers.

    Every set draws random numbers of its own. Data are shared.

    Args:
        program: the recorded step.
        stacked: example inputs: parameters (R, ...), buffers (R, ...), data.
        num_mapped: how many of them have the leading dimension.
        backend: see `evidentia.inference.compile.backend.build`.

    Raises:
        CaptureError: an operation cannot be mapped.

    References:
        none; bookkeeping.
    """

    def __init__(
        self, program: Program, stacked: Sequence[Tensor], num_mapped: int, backend: Backend
    ) -> None:
        graph = _with_own_noise(program.graph)
        self._there: list[bool] = []
        self._zero = stacked[0].new_zeros(len(stacked[0]))
        dims = (0, *(0 if place < num_mapped else None for place in range(len(stacked))))
        inputs = [self._zero, *(tensor.detach() for tensor in stacked)]
        mapped = capture_batched(_checked(graph, self._there), dims, inputs)
        self._run: Run = build(mapped, backend, inputs)

    def __call__(self, stacked: Sequence[Tensor]) -> tuple[Tensor, Tensor, list[Tensor | None]]:
        """Losses (R,) in nats, whether each set is finite (R,), and gradients (R, ...)."""
        loss, finite, *found = self._run(self._zero, *stacked)
        given = iter(found)
        if loss is None or finite is None:
            raise RuntimeError("a recorded step gave no loss")
        return loss, finite, [next(given) if there else None for there in self._there]


def _checked(graph: Callable[..., tuple[Tensor | None, ...]], there: list[bool]) -> Callable[..., object]:
    """Loss, whether loss and gradients are finite, and the gradients that are there."""

    def step(zero: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
        loss, *gradients = graph(zero, *inputs)
        there[:] = [gradient is not None for gradient in gradients]
        present = [gradient for gradient in gradients if gradient is not None]
        if loss is None:
            raise RuntimeError("a recorded step gave no loss")
        # Zero times a number is zero when the number is finite and NaN when it is not.
        rest = zero
        for one in (loss, *present):
            rest = torch.add(rest, one if one.dim() == 0 else one.sum(), alpha=0)
        return loss, rest == 0, *present

    return step


def _with_own_noise(graph: GraphModule) -> GraphModule:
    """A copy with one more input, a zero; what random operations write to depends on it.

    Torch maps a draw that is written into a tensor only when that tensor is mapped itself.
    """
    new = torch.fx.Graph()
    zero = new.placeholder("zero")
    output = new.graph_copy(graph.graph, {})
    for node in list(new.nodes):
        target = node.target
        if not isinstance(target, torch._ops.OpOverload) or not target._schema.is_mutable:
            continue
        if torch.Tag.nondeterministic_seeded in target.tags and isinstance(node.args[0], Node):
            with new.inserting_before(node):
                like = new.call_function(torch.ops.aten.to.other, (zero, node.args[0]))
                own = new.call_function(torch.ops.aten.add.Tensor, (node.args[0], like))
            node.update_arg(0, own)
    new.output(output)
    return GraphModule(graph, new)
