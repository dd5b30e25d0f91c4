"""Sums of products in a recorded graph become matrix products; results agree to rounding."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch.fx import Graph, GraphModule, Node
from torch.fx.passes.shape_prop import _extract_tensor_metadata

__all__ = ["contract_sums"]

_aten = torch.ops.aten
_SMALL = 1_024  # entries of a product below which nothing is gained


def contract_sums(graph: GraphModule) -> GraphModule:
    r"""Compute \(\sum_c a_{lc} b_{cr}\) without the tensor of all \(a_{lc} b_{cr}\), on the CPU.

    Model code that is safe for batches says `(x * w).sum(-1)`, whose products take room and time. Which
    sums are rewritten depends on shapes alone, so that equal graphs give equal bits.

    Args:
        graph: what `capture` returned; it is changed.

    Returns:
        The same module; it is not recompiled.

    References:
        none; bookkeeping.

    Example:
        >>> from evidentia.inference.compile.capture import capture
        >>> x, w = torch.ones(300, 10), torch.ones(10)
        >>> graph = contract_sums(capture(lambda: (x * w).sum(-1), [x, w]))
        >>> [node.name for node in graph.graph.nodes]
        ['arg0_1', 'arg1_1', 'mv_default', 'output']
    """
    for node in list(graph.graph.nodes):
        if node.target is _aten.sum.dim_IntList and not node.kwargs:
            _contract(graph.graph, node)
    return graph


class _Operand(NamedTuple):
    """One factor: its node, the dimensions of the product in which it is long, and the other ones."""

    node: Node
    long: list[int]
    short: list[int]


def _contract(graph: Graph, node: Node) -> None:
    product: Any = node.args[0]
    result, full = _value(node), _value(product)
    if result is None or full is None or not result.is_contiguous() or full.numel() < _SMALL:
        return
    if product.target is not _aten.mul.Tensor or product.kwargs or len(product.users) != 1:
        return
    operands = [_operand(given, full) for given in product.args]
    if None in operands:
        return
    one, two = (operand for operand in operands if operand is not None)
    dims: Any = node.args[1]
    summed = {dim % full.dim() for dim in dims or range(full.dim())}
    both = set(one.long) & set(two.long)
    kept = set(one.long + two.long) - both
    # One summed dimension that both have, and at most one more in each.
    if (
        len(both) != 1
        or not both <= summed
        or kept & summed
        or not kept
        or max(len(one.long), len(two.long)) > 2
    ):
        return
    (inner,) = both
    first, second = sorted(
        (one, two), key=lambda operand: [dim for dim in operand.long if dim != inner] or [-1]
    )
    vector = len(first.long) == 1
    with graph.inserting_before(product):  # where both factors have the values that are multiplied
        left = _matrix(graph, first, inner, last=True)
        right = _matrix(graph, second, inner, last=vector)
        new = (
            _call(graph, _aten.mv.default, right, left)
            if vector
            else _call(graph, _aten.mm.default, left, right)
        )
        if new.meta["val"].shape != result.shape:
            new = _call(graph, _aten.view.default, new, list(result.shape))
    node.replace_all_uses_with(new)
    graph.erase_node(node)
    graph.erase_node(product)


def _operand(given: Any, full: torch.Tensor) -> _Operand | None:
    """A factor of a product of this shape, before it was expanded."""
    while isinstance(given, Node) and given.target is _aten.expand.default:
        given = given.args[0]
    value = _value(given)
    if value is None or value.dtype is not full.dtype:
        return None
    start = full.dim() - value.dim()
    long = [start + place for place, size in enumerate(value.shape) if size > 1]
    return _Operand(given, long, [place for place, size in enumerate(value.shape) if size == 1])


def _matrix(graph: Graph, operand: _Operand, inner: int, *, last: bool) -> Node:
    """A factor as a matrix (or a vector) with the summed dimension last or first."""
    node = operand.node
    if operand.short:
        node = _call(graph, _aten.squeeze.dims, node, operand.short)
    if len(operand.long) == 2 and (operand.long[1] == inner) is not last:
        node = _call(graph, _aten.t.default, node)
    return node


def _value(node: Any) -> torch.Tensor | None:
    """What a node returned while recording, if it is a real tensor on the CPU."""
    seen = node.meta.get("val") if isinstance(node, Node) else None
    if isinstance(seen, torch.Tensor) and seen.is_floating_point() and seen.device.type == "cpu":
        return seen
    return None


def _call(graph: Graph, target: Any, *args: Any) -> Node:
    """A new node that knows the form of its result."""
    node = graph.call_function(target, args)
    seen = torch.fx.map_arg(args, lambda one: _like(one.meta["val"]))
    value = target(*seen)
    node.meta = {"val": value, "tensor_meta": _extract_tensor_metadata(value)}
    return node


def _like(value: torch.Tensor) -> torch.Tensor:
    return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype)
