"""Rewrites of a recorded graph that keep its values: one function each, all on graphs with known shapes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch.fx import Graph, GraphModule, Node

from evidentia.inference.compile.purity import is_pure, written_nodes
from evidentia.inference.density.constants import (
    VIEWS,
    drop_neutral,
    fold_constants,
    free_fills,
    inline_scalars,
    replace,
)
from evidentia.inference.density.products import turn_products as turn_products

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
        if not is_pure(source) or not _fresh(source):
            continue
        packet = getattr(_aten, name.removeprefix("aten::").removesuffix("_"), None)
        if name.startswith("aten::") and target._overloadname in (packet.overloads() if packet else ()):
            node.target = getattr(packet, target._overloadname)


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
        replace(graph, node, new)


def drop_views(graph: GraphModule) -> None:
    """A view with the shape and strides of its source is the source.

    References:
        none; bookkeeping.
    """
    for node in list(graph.graph.nodes):
        if node.target in VIEWS and isinstance(node.args[0], Node):
            source = node.args[0]
            same_shape = node.meta["shape"] == source.meta.get("shape")
            if same_shape and _same_strides(node, source) and node.meta["dtype"] == source.meta["dtype"]:
                replace(graph, node, source)


def merge_equal(graph: GraphModule) -> None:
    """The same operation on the same arguments is done once.

    References:
        none; common sub-expression elimination.
    """
    written = written_nodes(graph.graph.nodes)
    seen: dict[Any, Node] = {}
    for node in list(graph.graph.nodes):
        if node.op == "get_attr":
            key: Any = ("get_attr", id(getattr(graph, str(node.target))))
        elif is_pure(node) and node not in written:
            key = (node.target, _frozen(node.args), _frozen(node.kwargs))
        else:
            continue
        if node in written:
            continue
        if key in seen:
            replace(graph, node, seen[key])
        else:
            seen[key] = node


def drop_dead(graph: GraphModule) -> None:
    """Operations whose results nobody uses go.

    References:
        none; dead code elimination.
    """
    for node in reversed(list(graph.graph.nodes)):
        if not node.users and (node.op == "get_attr" or is_pure(node)):
            graph.graph.erase_node(node)


def any_strides(graph: GraphModule) -> None:
    """Views that also work on another layout, since rewrites keep values and shapes but not strides.

    References:
        none; bookkeeping.
    """
    written = written_nodes(graph.graph.nodes)
    for node in graph.graph.nodes:
        if node.target is _aten.view.default and node not in written:
            node.target = torch.reshape
    graph.recompile()


REWRITES: tuple[Callable[[GraphModule], None], ...] = (
    make_functional,
    drop_views,
    turn_products,
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
