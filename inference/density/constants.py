"""Rewrites of a recorded graph that concern constants: fold them, inline them, drop what adds nothing."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.fx import GraphModule, Node

from evidentia.inference.compile.purity import is_pure, written_nodes

__all__ = ["VIEWS", "drop_neutral", "fold_constants", "free_fills", "inline_scalars", "replace"]

_aten = torch.ops.aten
VIEWS = {
    _aten.alias.default,
    _aten.detach.default,
    _aten.expand.default,
    _aten.lift_fresh.default,
    _aten.permute.default,
    _aten.slice.Tensor,
    _aten.squeeze.dim,
    _aten.t.default,
    _aten.transpose.int,
    _aten.unsqueeze.default,
    _aten.view.default,
}
# name of the operation -> place of the filled value among its arguments (None: the value itself)
_FILLS: dict[Any, Any] = {
    _aten.new_zeros.default: 0.0,
    _aten.new_ones.default: 1.0,
    _aten.zeros_like.default: 0.0,
    _aten.ones_like.default: 1.0,
    _aten.zeros.default: 0.0,
    _aten.ones.default: 1.0,
}
_FILL_VALUES: dict[Any, int] = {
    _aten.full_like.default: 1,
    _aten.new_full.default: 2,
    _aten.full.default: 1,
    _aten.scalar_tensor.default: 0,
}
_ARITHMETIC = {_aten.add.Tensor, _aten.sub.Tensor, _aten.mul.Tensor, _aten.div.Tensor}
_KEEPS_ZERO = {*VIEWS, _aten.sum.default, _aten.sum.dim_IntList, _aten.neg.default, _aten.clone.default}


def fold_constants(graph: GraphModule) -> None:
    """What depends on no input is computed once, here.

    References:
        none; constant folding.
    """
    written = written_nodes(graph.graph.nodes)
    values: dict[Node, Any] = {}
    for node in list(graph.graph.nodes):
        if node in written:
            continue
        if node.op == "get_attr":
            values[node] = getattr(graph, str(node.target))
        elif is_pure(node) and all(given in values for given in node.all_input_nodes):
            args, kwargs = torch.fx.map_arg((node.args, node.kwargs), lambda given: values[given])
            with torch.no_grad():
                values[node] = node.target(*args, **kwargs)
    place = 0
    for node, value in values.items():
        border = any(user not in values for user in node.users)
        if node.op == "get_attr" or not border or not isinstance(value, torch.Tensor):
            continue
        while hasattr(graph, f"folded_{place}"):
            place += 1
        graph.register_buffer(f"folded_{place}", value, persistent=False)
        with graph.graph.inserting_before(node):
            new = graph.graph.get_attr(f"folded_{place}")
        new.meta.update(node.meta)
        node.replace_all_uses_with(new, delete_user_cb=lambda user: user not in values)


def inline_scalars(graph: GraphModule) -> None:
    """A constant of no dimension, in arithmetic with a tensor of the same type, is a plain number.

    References:
        none; bookkeeping.
    """
    for node in list(graph.graph.nodes):
        if node.target not in _ARITHMETIC or len(node.args) < 2 or node.kwargs:
            continue
        one, two = node.args[0], node.args[1]
        if node.target in (_aten.add.Tensor, _aten.mul.Tensor) and _number(graph, one, two) is not None:
            one, two = two, one
        number = _number(graph, two, one)
        if number is not None and node.meta["dtype"] == one.meta["dtype"]:
            node.args = (one, number)


def free_fills(graph: GraphModule) -> None:
    """Tensors filled with one number depend on no input, though they are made in the likeness of one.

    References:
        none; bookkeeping.
    """
    for node in list(graph.graph.nodes):
        if node.target is _aten._to_copy.default and not isinstance(node.args[0], Node):
            continue
        if node.target in _FILLS:
            value = _FILLS[node.target]
        elif node.target in _FILL_VALUES and len(node.args) > _FILL_VALUES[node.target]:
            value = node.args[_FILL_VALUES[node.target]]
        else:
            continue
        if isinstance(value, Node) or not node.all_input_nodes:
            continue
        keywords: dict[str, Any] = {"dtype": node.meta["dtype"]}
        if node.kwargs.get("device") is not None:
            keywords["device"] = node.kwargs["device"]
        elif node.meta.get("device") is not None:
            keywords["device"] = node.meta["device"]
        with graph.graph.inserting_before(node):
            new = graph.graph.call_function(_aten.full.default, (list(node.meta["shape"]), value), keywords)
        size = node.meta["shape"]
        stride = tuple(math.prod(size[place + 1 :]) for place in range(len(size)))
        new.meta.update(node.meta, stride=stride)
        replace(graph, node, new)


def drop_neutral(graph: GraphModule) -> None:
    """Adding nothing, multiplying by one, the first power and two signs hand on their argument.

    References:
        none; bookkeeping.
    """
    written = written_nodes(graph.graph.nodes)
    zeros, ones = _filled(graph, written, 0), _filled(graph, written, 1)
    for node in list(graph.graph.nodes):
        if node in written or node.op != "call_function":
            continue
        inner = node.args[0] if node.args else None
        if node.target is _aten.neg.default and isinstance(inner, Node) and inner.target is _aten.neg.default:
            if inner not in written and isinstance(inner.args[0], Node) and inner.args[0] not in written:
                replace(graph, node, inner.args[0])
            continue
        if len(node.args) < 2:
            continue
        one, two = node.args[0], node.args[1]
        kept: Any = None
        if node.kwargs:
            continue
        if node.target in (_aten.add.Tensor, _aten.add.Scalar):
            kept = one if _is(two, 0, zeros) else two if _is(one, 0, zeros) else None
        elif node.target in (_aten.sub.Tensor, _aten.sub.Scalar):
            kept = one if _is(two, 0, zeros) else None
        elif node.target in (_aten.mul.Tensor, _aten.mul.Scalar):
            kept = one if _is(two, 1, ones) else two if _is(one, 1, ones) else None
        elif node.target in (_aten.pow.Tensor_Scalar, _aten.div.Tensor, _aten.div.Scalar):
            kept = one if _is(two, 1, ones) else None
        if isinstance(kept, Node) and kept not in written and _alike(node, kept):
            replace(graph, node, kept)


def replace(graph: GraphModule, node: Node, other: Node) -> None:
    """Use another node in the place of one, and drop it.

    References:
        none; bookkeeping.
    """
    node.replace_all_uses_with(other)
    graph.graph.erase_node(node)


def _filled(graph: GraphModule, written: set[Node], number: int) -> set[Node]:
    """Nodes known to hold nothing but zeros, or nothing but ones."""
    keeps = _KEEPS_ZERO if number == 0 else VIEWS
    found: set[Node] = set()
    for node in graph.graph.nodes:
        if node in written:
            continue
        if node.op == "get_attr":
            value = getattr(graph, str(node.target))
            if bool((value == number).all()):
                found.add(node)
            continue
        fill = node.target is _aten.full.default and not isinstance(node.args[1], Node)
        if (fill and node.args[1] == number) or (node.target in keeps and node.args[0] in found):
            found.add(node)
    return found


def _is(value: Any, number: int, known: set[Node]) -> bool:
    if isinstance(value, Node):
        return value in known
    return isinstance(value, int | float) and not isinstance(value, bool) and value == number


def _number(graph: GraphModule, value: Any, other: Any) -> float | None:
    """The number a constant stands for, if it may be written as one next to `other`."""
    if not isinstance(value, Node) or value.op != "get_attr" or not isinstance(other, Node):
        return None
    if not other.meta.get("shape") or not other.meta["dtype"].is_floating_point:
        return None
    constant = getattr(graph, str(value.target))
    if constant.dim() or not constant.is_floating_point():
        return None
    return float(constant)


def _alike(one: Node, two: Node) -> bool:
    return bool(
        one.meta.get("shape") == two.meta.get("shape") and one.meta.get("dtype") == two.meta.get("dtype")
    )
