"""A recorded density for one number of chains: bound to data once, run many times."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, final

import torch
from torch import Tensor
from torch.fx import GraphModule

from evidentia.inference.density.executor import Executor, build_executor
from evidentia.inference.density.pieces import cut, leapfrog_graph, value_graph, varying_nodes
from evidentia.inference.density.recorder import record
from evidentia.inference.density.rewrites import any_strides, copy_graph, rewrite
from evidentia.inference.density.solves import IllConditionedError, replace_solves

__all__ = ["Program"]


@final
class Program:
    """The graph of a batched density and what is grown out of it.

    Evaluation, leapfrog and bare value come from one recording; each is made runnable when it is first asked
    for.

    Args:
        batched: chain inputs, data -> log density, gradient, log likelihood.
        chains: example inputs of chains (position, beta, given ...).
        data: example data.
        executor: how graphs are run.

    Attributes:
        kind: the executor in use.
        notices: what did not go as asked for.
        solves_replaced: number of triangular solves that became products.

    Raises:
        RecordError: the density cannot be recorded.

    References:
        none; bookkeeping.
    """

    def __init__(
        self,
        batched: Callable[..., tuple[Tensor, ...]],
        chains: Sequence[Tensor],
        data: Sequence[Tensor],
        executor: Executor,
    ) -> None:
        # Fresh objects: the recorder knows tensors by identity, and one may be passed twice.
        inputs = [tensor.detach().view_as(tensor) for tensor in (*chains, *data)]
        self._recorded: GraphModule = rewrite(record(batched, inputs))
        self._num_chains_inputs, self._inputs = len(chains), list(chains)
        self._data = list(data)
        self.kind: Executor = executor
        self.notices: tuple[str, ...] = ()
        self._prepare(solves=True)

    def _prepare(self, solves: bool) -> None:
        graph = copy_graph(self._recorded)
        self.solves_replaced = 0
        if solves:
            self.solves_replaced = replace_solves(graph, varying_nodes(graph, self._num_chains_inputs))
        self._pieces = cut(rewrite(graph), self._num_chains_inputs)
        for piece in self._pieces:
            any_strides(piece)
        self._runs: dict[str, Callable[..., tuple[Tensor, ...]]] = {}
        try:
            self._example = self.bind(self._data)
        except IllConditionedError:
            self._prepare(solves=False)

    @property
    def largest(self) -> int:
        """Numbers in the largest tensor of the recording."""
        shapes = (node.meta.get("shape", ()) for node in self._recorded.graph.nodes)
        return max(math.prod(shape) for shape in shapes)

    def without_solves(self) -> Program:
        """The same program with its triangular solves left as they are.

        References:
            none; bookkeeping.
        """
        other = object.__new__(Program)
        other.__dict__.update(self.__dict__)
        other._prepare(solves=False)
        return other

    def bind(self, data: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """What no chain changes, computed for these data.

        Raises:
            IllConditionedError: these data want `without_solves`.
        """
        with torch.no_grad():
            fixed: tuple[Tensor, ...] = self._pieces.prelude(*data)
        return fixed

    def evaluate(self, fixed: tuple[Tensor, ...], chains: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Log density, gradient and log likelihood."""
        run = self._runs.get("evaluate")
        if run is None:
            run = self._build("evaluate", copy_graph(self._pieces.main), [*self._inputs, *self._example])
        return run(*chains, *fixed)

    def value(self, fixed: tuple[Tensor, ...], chains: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Log density and log likelihood, without the gradient."""
        run = self._runs.get("value")
        if run is None:
            run = self._build("value", value_graph(self._pieces.main), [*self._inputs, *self._example])
        return run(*chains, *fixed)

    def leapfrog(
        self, fixed: tuple[Tensor, ...], phase: Sequence[Tensor], rest: Sequence[Tensor]
    ) -> tuple[Tensor, ...]:
        """A leapfrog: (position, momentum, gradient, step size, covariance), then beta and given sites."""
        dense = phase[4].dim() == 2
        key = f"leapfrog {dense} {phase[3].dim()}"
        run = self._runs.get(key)
        if run is None:
            graph = leapfrog_graph(self._pieces.main, self._num_chains_inputs, dense)
            run = self._build(key, graph, [*phase, *rest, *self._example])
        return run(*phase, *rest, *fixed)

    def _build(self, key: str, graph: GraphModule, example: list[Tensor]) -> Callable[..., Any]:
        # Fresh objects: a tracer takes one tensor that is passed twice for one input.
        built = build_executor(graph, self.kind, [tensor.detach() for tensor in example])
        self.kind = built.kind
        if built.notice:
            self.notices = (*self.notices, built.notice)
        self._runs[key] = built.run
        return built.run
