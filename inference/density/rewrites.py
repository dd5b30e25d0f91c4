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
    "copy_graph",
    "drop_dead",
    "drop_neutral",
    "drop_views",
    "free_fills",
    "make_functional",
    "merge_equal",
    "rewrite",
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
    zeros = _zeros(graph, written)
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
            kept = one if _is(two, 1, set()) else two if _is(one, 1, set()) else None
        elif node.target in (_aten.pow.Tensor_Scalar, _aten.div.Tensor, _aten.div.Scalar):
            kept = one if _is(two, 1, set()) else None
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


REWRITES: tuple[Callable[[GraphModule], None], ...] = (
    make_functional,
    drop_views,
    free_fills,
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


def _zeros(graph: GraphModule, written: set[Node]) -> set[Node]:
    """Nodes known to hold zeros only."""
    found: set[Node] = set()
    for node in graph.graph.nodes:
        if node in written:
            continue
        fills = node.target is _aten.full.default and not isinstance(node.args[1], Node) and node.args[1] == 0
        if fills or (node.target in _KEEPS_ZERO and node.args[0] in found):
            found.add(node)
    return found


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
