"""Rewrites of a recorded graph that keep its values: one function each, all on graphs with known shapes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch.fx import Graph, GraphModule, Node

from evidentia.inference.compile.simplify import _pure, _written

__all__ = [
    "REWRITES",
    "any_strides",
    "copy_graph",
    "drop_dead",
    "drop_neutral",
    "drop_views",
    "fold_constants",
    "free_fills",
    "inline_scalars",
    "make_functional",
    "merge_equal",
    "rewrite",
    "shorten_sums",
]

_aten = torch.ops.aten
_VIEWS = {
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
_KEEPS_ZERO = {*_VIEWS, _aten.sum.default, _aten.sum.dim_IntList, _aten.neg.default, _aten.clone.default}


def copy_graph(graph: GraphModule) -> GraphModule:
    """A second module with the same tensors, and a graph of its own that keeps what is known of shapes.

    References:
        none; bookkeeping.
    """
    new = Graph()
    output = new.graph_copy(graph.graph, {})
    new.output(output)
    return GraphModule(graph, new)


def rewrite(graph: GraphModule) -> GraphModule:
    """All rewrites, until none is left to do twice over.

    References:
        none; bookkeeping.

    Example:
        >>> from evidentia.inference.density.recorder import record
        >>> graph = record(lambda x: (x.exp() + (x.exp() + 0.0).view(2),), [torch.ones(2)])
        >>> len(graph.graph.nodes), len(rewrite(graph).graph.nodes)
        (7, 4)
    """
    for _ in range(3):
        for each in REWRITES:
            each(graph)
    graph.graph.lint()
    graph.recompile()
    return graph


def make_functional(graph: GraphModule) -> None:
    """A write into a fresh result that nothing else uses is the same operation without the write.

    References:
        none; bookkeeping.
    """
    for node in list(graph.graph.nodes):
        target = node.target
        if not isinstance(target, torch._ops.OpOverload) or not target._schema.is_mutable:
            continue
        source, name = (node.args[0] if node.args else None), target._schema.name
        if not isinstance(source, Node) or not name.endswith("_") or len(source.users) != 1:
            continue
        if not _pure(source) or not _fresh(source):
            continue
        packet = getattr(_aten, name.removeprefix("aten::").removesuffix("_"), None)
        if name.startswith("aten::") and target._overloadname in (packet.overloads() if packet else ()):
            node.target = getattr(packet, target._overloadname)


def fold_constants(graph: GraphModule) -> None:
    """What depends on no input is computed once, here.

    References:
        none; constant folding.
    """
    written = _written(graph.graph.nodes)
    values: dict[Node, Any] = {}
    for node in list(graph.graph.nodes):
        if node in written:
            continue
        if node.op == "get_attr":
            values[node] = getattr(graph, str(node.target))
        elif _pure(node) and all(given in values for given in node.all_input_nodes):
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


def shorten_sums(graph: GraphModule) -> None:
    """A sum over dimensions of size one is a view.

    References:
        none; bookkeeping.
    """
    for node in list(graph.graph.nodes):
        if node.target is not _aten.sum.dim_IntList or node.kwargs or not isinstance(node.args[0], Node):
            continue
        source, dims = node.args[0], node.args[1]
        shape = source.meta["shape"]
        if not dims or not shape or any(shape[dim] != 1 for dim in dims):
            continue
        if source.meta["dtype"] != node.meta["dtype"]:
            continue
        with graph.graph.inserting_before(node):
            new = graph.graph.call_function(_aten.reshape.default, (source, list(node.meta["shape"])))
        new.meta.update(node.meta)
        _replace(graph, node, new)


def drop_views(graph: GraphModule) -> None:
    """A view with the shape and strides of its source is the source.

    References:
        none; bookkeeping.
    """
    for node in list(graph.graph.nodes):
        if node.target in _VIEWS and isinstance(node.args[0], Node):
            source = node.args[0]
            same_shape = node.meta["shape"] == source.meta.get("shape")
            if same_shape and _same_strides(node, source) and node.meta["dtype"] == source.meta["dtype"]:
                _replace(graph, node, source)


def drop_neutral(graph: GraphModule) -> None:
    """Adding nothing, multiplying by one and the first power hand on their argument.

    References:
        none; bookkeeping.
    """
    written = _written(graph.graph.nodes)
    zeros, ones = _filled(graph, written, 0), _filled(graph, written, 1)
    for node in list(graph.graph.nodes):
        if node in written or node.op != "call_function" or len(node.args) < 2:
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
            _replace(graph, node, kept)


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
        _replace(graph, node, new)


def merge_equal(graph: GraphModule) -> None:
    """The same operation on the same arguments is done once.

    References:
        none; common sub-expression elimination.
    """
    written = _written(graph.graph.nodes)
    seen: dict[Any, Node] = {}
    for node in list(graph.graph.nodes):
        if node.op == "get_attr":
            key: Any = ("get_attr", id(getattr(graph, str(node.target))))
        elif _pure(node) and node not in written:
            key = (node.target, _frozen(node.args), _frozen(node.kwargs))
        else:
            continue
        if node in written:
            continue
        if key in seen:
            _replace(graph, node, seen[key])
        else:
            seen[key] = node


def drop_dead(graph: GraphModule) -> None:
    """Operations whose results nobody uses go.

    References:
        none; dead code elimination.
    """
    for node in reversed(list(graph.graph.nodes)):
        if not node.users and (node.op == "get_attr" or _pure(node)):
            graph.graph.erase_node(node)


def any_strides(graph: GraphModule) -> None:
    """Views that also work on another layout, since rewrites keep values and shapes but not strides.

    References:
        none; bookkeeping.
    """
    written = _written(graph.graph.nodes)
    for node in graph.graph.nodes:
        if node.target is _aten.view.default and node not in written:
            node.target = torch.reshape
    graph.recompile()


REWRITES: tuple[Callable[[GraphModule], None], ...] = (
    make_functional,
    drop_views,
    free_fills,
    fold_constants,
    inline_scalars,
    shorten_sums,
    drop_neutral,
    merge_equal,
    drop_dead,
)


def _fresh(node: Node) -> bool:
    """Whether a result has memory of its own."""
    schema = getattr(node.target, "_schema", None)
    return schema is not None and all(each.alias_info is None for each in schema.returns)


def _replace(graph: GraphModule, node: Node, other: Node) -> None:
    node.replace_all_uses_with(other)
    graph.graph.erase_node(node)


def _filled(graph: GraphModule, written: set[Node], number: int) -> set[Node]:
    """Nodes known to hold nothing but zeros, or nothing but ones."""
    keeps = _KEEPS_ZERO if number == 0 else _VIEWS
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


def _is(value: Any, number: int, known: set[Node]) -> bool:
    if isinstance(value, Node):
        return value in known
    return isinstance(value, int | float) and not isinstance(value, bool) and value == number


def _alike(one: Node, two: Node) -> bool:
    return bool(
        one.meta.get("shape") == two.meta.get("shape") and one.meta.get("dtype") == two.meta.get("dtype")
    )


def _same_strides(one: Node, two: Node) -> bool:
    strides = zip(one.meta["shape"], one.meta["stride"], two.meta["stride"], strict=True)
    return all(size == 1 or a == b for size, a, b in strides)


def _frozen(value: Any) -> Any:
    """A hashable stand-in of arguments; numbers keep their type, since 1 and 1.0 make other dtypes."""
    if isinstance(value, list | tuple):
        return tuple(_frozen(each) for each in value)
    if isinstance(value, dict):
        return tuple((name, _frozen(each)) for name, each in value.items())
    if isinstance(value, float) and math.isnan(value):
        return object()
    if isinstance(value, float) and value == 0:
        return (float, str(value))
    return (type(value), value)
