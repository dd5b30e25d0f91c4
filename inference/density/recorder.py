"""Record tensor operations as a flat graph, without torch's `make_fx` and what it imports.

`make_fx` loads sympy and dynamo, which costs a second or more in every new process; a density needs only the
plain list of operations, which a dispatch mode sees.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, final

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["RecordError", "record"]


class RecordError(ValueError):
    """A function that is not one fixed list of tensor operations.

    References:
        none; bookkeeping.
    """


def record(function: Callable[..., tuple[Tensor, ...]], inputs: Sequence[Tensor]) -> GraphModule:
    """Run a function once and keep its operations as a graph of the inputs.

    Tensors that the function reaches otherwise are kept by reference. Every node knows the shape of its
    result (`node.meta["shape"]`).

    Args:
        function: tensors -> a flat tuple of tensors; it may map over chains and differentiate inside.
        inputs: example inputs.

    Returns:
        A module: inputs -> outputs, with operator objects as targets.

    Raises:
        RecordError: a number is read out of a tensor that depends on an input, a shape depends on values, or
            something is drawn at random.

    References:
        Reed, DeVito, He, Ussery, Ansel, 2022, torch.fx: Practical program capture and transformation for
        deep learning in Python.

    Example:
        >>> graph = record(lambda x: ((x * 2).sum(),), [torch.ones(2)])
        >>> graph(torch.full((2,), 3.0))
        (tensor(12.),)
    """
    recorder = _Recorder(inputs)
    with recorder:
        outputs = function(*inputs)
    recorder.graph.output(tuple(recorder.node(value) for value in outputs))
    return GraphModule(recorder.constants, recorder.graph)


@final
class _Recorder(TorchDispatchMode):
    def __init__(self, inputs: Sequence[Tensor]) -> None:
        super().__init__()
        self.graph = Graph()
        self.constants = torch.nn.Module()
        self._nodes: dict[int, Node] = {}
        self._variable: set[Node] = set()
        # An id stays one tensor's own only while the tensor lives.
        self._alive: list[Tensor] = []
        for place, tensor in enumerate(inputs):
            node = self.graph.placeholder(f"input_{place}")
            self._know(tensor, node)
            self._variable.add(node)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # True would wrap the mode in a call that loads dynamo, which never sees it anyway.
        return False

    def node(self, value: Tensor) -> Node:
        """The node of a tensor; a constant if no operation made it."""
        known = self._nodes.get(id(value))
        if known is None:
            name = f"constant_{len(self._alive)}"
            with torch.no_grad(), torch.utils._python_dispatch._disable_current_modes():
                self.constants.register_buffer(name, value.detach(), persistent=False)
            known = self.graph.get_attr(name)
            self._know(value, known)
        return known

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        depends: list[bool] = []

        def visit(value: Any) -> Any:
            if isinstance(value, Tensor):
                node = self.node(value)
                depends.append(node in self._variable)
                return node
            if isinstance(value, list | tuple):
                return type(value)(visit(each) for each in value)
            return value

        given = tuple(visit(each) for each in args)
        keywords = {name: visit(each) for name, each in kwargs.items()}
        variable = any(depends)
        tags = func.tags
        if torch.Tag.nondeterministic_seeded in tags:
            raise RecordError(f"{func}: a random operation is left in the model")
        indexes = func is torch.ops.aten.index.Tensor
        shapeless = torch.Tag.dynamic_output_shape in tags and not indexes
        if variable and (shapeless or (indexes and self._has_mask(args[1]))):
            raise RecordError(f"{func}: a shape depends on values")
        result = func(*args, **kwargs)
        if not func._schema.returns:
            return result  # a check of factorisations, see `_poison`
        made = result if isinstance(result, list | tuple) else [result]
        if not any(isinstance(each, Tensor) for each in made):
            if variable and not func._schema.is_mutable:
                raise RecordError(f"{func}: a number is read out of a tensor (`if`, `.item()` or `float()`)")
            if not func._schema.is_mutable:
                return result
        if func._schema.is_mutable:
            self._refuse_shared_write(func, given)
        node = self.graph.call_function(func, given, keywords)
        if variable:
            self._variable.add(node)
        if isinstance(result, Tensor):
            self._know(result, node)
        elif isinstance(result, list | tuple):
            for place, each in enumerate(result):
                if isinstance(each, Tensor):
                    item = self.graph.call_function(_take, (node, place))
                    self._know(each, item)
                    if variable:
                        self._variable.add(item)
            if func is torch.ops.aten.linalg_cholesky_ex.default:
                # The check that would raise is not repeated by a replay: a failed chain becomes NaN.
                pair = (self._nodes[id(result[0])], self._nodes[id(result[1])])
                safe = self.graph.call_function(_poison, pair)
                self._know(result[0], safe)
                if variable:
                    self._variable.add(safe)
        if func._schema.is_mutable and variable:
            # What was written to, by an out= or an in-place operation, depends on the input from here on.
            for argument, value in zip(func._schema.arguments, args, strict=False):
                if argument.alias_info is not None and argument.alias_info.is_write:
                    self._variable.add(self._nodes[id(value)])
        return result

    def _has_mask(self, indices: Sequence[Any]) -> bool:
        """Whether an index is a mask that depends on an input."""
        return any(
            isinstance(each, Tensor)
            and each.dtype in (torch.bool, torch.uint8)
            and self.node(each) in self._variable
            for each in indices
        )

    def _refuse_shared_write(self, func: Any, given: tuple[Any, ...]) -> None:
        """A write must end in a tensor that the function itself has made."""
        for argument, value in zip(func._schema.arguments, given, strict=False):
            if argument.alias_info is None or not argument.alias_info.is_write:
                continue
            while isinstance(value, Node) and value.op == "call_function" and value.args:
                schema = getattr(value.target, "_schema", None)
                if schema is None or schema.arguments[0].alias_info is None:
                    break
                value = value.args[0]
            if isinstance(value, Node) and value.op != "call_function":
                raise RecordError(f"{func}: it writes into a tensor that lives on after the call")

    def _know(self, tensor: Tensor, node: Node) -> None:
        self._nodes[id(tensor)] = node
        self._alive.append(tensor)
        node.meta["shape"], node.meta["dtype"] = tuple(tensor.shape), tensor.dtype
        node.meta["stride"] = tuple(tensor.stride())
        node.meta["device"] = tensor.device


def _take(values: Sequence[Tensor], place: int) -> Tensor:
    """One of several results."""
    return values[place]


def _poison(factor: Tensor, info: Tensor) -> Tensor:
    """NaN where a factorisation failed."""
    return torch.where((info == 0)[..., None, None], factor, torch.nan)
