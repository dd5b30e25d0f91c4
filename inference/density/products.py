"""Matrix products of a recorded graph in the layout that the operations around them want."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import GraphModule, Node

from evidentia.inference.density.constants import replace

__all__ = ["turn_products"]

_aten = torch.ops.aten


def turn_products(graph: GraphModule) -> None:
    r"""\((A B^\top)^\top = B A^\top\), and a transpose of a transpose is nothing.

    A map over chains records `X @ beta` as the transpose of (rows, chains); everything after it would then
    work across memory. Values are those of another order of summation: equal to rounding.

    Args:
        graph: a recorded graph; it is changed.

    References:
        none; bookkeeping.
    """
    for node in list(graph.graph.nodes):
        if not _is_turn(node):
            continue
        source: Any = node.args[0]
        if _is_turn(source):
            replace(graph, node, source.args[0])
        elif source.target is _aten.mm.default and len(source.users) == 1:
            one, two = source.args
            with graph.graph.inserting_before(node):
                left, right = _turned(graph, two), _turned(graph, one)
                new = graph.graph.call_function(_aten.mm.default, (left, right))
            shape = node.meta["shape"]
            new.meta.update(node.meta, stride=(shape[1], 1))
            replace(graph, node, new)
            graph.graph.erase_node(source)


def _is_turn(node: Any) -> bool:
    if not isinstance(node, Node) or not isinstance(node.args[0] if node.args else None, Node):
        return False
    if node.target is _aten.transpose.int:
        dims: Any = node.args[1:]
        return len(node.meta["shape"]) == 2 and sorted(dim % 2 for dim in dims) == [0, 1]
    order: Any = node.args[1] if node.target is _aten.permute.default else None
    return node.target is _aten.t.default or (order is not None and list(order) == [1, 0])


def _turned(graph: GraphModule, node: Node) -> Node:
    new = graph.graph.call_function(_aten.permute.default, (node, [1, 0]))
    shape, stride = node.meta["shape"], node.meta["stride"]
    new.meta.update(node.meta, shape=shape[::-1], stride=stride[::-1])
    return new
