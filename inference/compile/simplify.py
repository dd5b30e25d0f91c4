"""Make a recorded graph cheaper to replay without gradients, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.fx import GraphModule, Node

from evidentia.inference.compile.memory import Memory
from evidentia.inference.compile.purity import is_pure
from evidentia.inference.compile.rewrite import drop_idle, fold_uniform, merge_equal, narrow, reuse_memory

__all__ = ["simplify"]

_aten = torch.ops.aten

# Without gradients these hand on their argument.
_IDENTITY = {_aten.detach.default, _aten.alias.default, _aten.lift_fresh.default}

# Filled with one number whatever the values of their argument are.
_FILLS = {
    _aten.new_zeros.default, _aten.new_ones.default, _aten.new_full.default, _aten.zeros_like.default,
    _aten.ones_like.default, _aten.full_like.default, _aten.zeros.default, _aten.ones.default,
    _aten.full.default,
}  # fmt: skip

# Calls of an operator object are slower than torch's own bindings of the same kernel.
_BINDINGS: dict[Any, Callable[..., Any]] = {
    _aten.add.Tensor: torch.add,
    _aten.addmm.default: torch.addmm,
    _aten.bmm.default: torch.bmm,
    _aten.cat.default: torch.cat,
    _aten.div.Tensor: torch.div,
    _aten.exp.default: torch.exp,
    _aten.expand.default: torch.Tensor.expand,
    _aten.log.default: torch.log,
    _aten.log1p.default: torch.log1p,
    _aten.mm.default: torch.mm,
    _aten.mul.Tensor: torch.mul,
    _aten.neg.default: torch.neg,
    _aten.permute.default: torch.permute,
    _aten.pow.Tensor_Scalar: torch.pow,
    _aten.reciprocal.default: torch.reciprocal,
    _aten.sigmoid.default: torch.sigmoid,
    _aten.sqrt.default: torch.sqrt,
    _aten.sub.Tensor: torch.sub,
    _aten.sum.default: torch.sum,
    _aten.sum.dim_IntList: torch.sum,
    _aten.t.default: torch.t,
    _aten.tanh.default: torch.tanh,
    _aten.transpose.int: torch.transpose,
    _aten.unsqueeze.default: torch.unsqueeze,
    _aten.view.default: torch.Tensor.view,
    _aten.where.self: torch.where,
    _aten.zeros_like.default: torch.zeros_like,
    _aten.ones_like.default: torch.ones_like,
}


def simplify(graph: GraphModule, *, bindings: bool = True) -> GraphModule:
    """Drop what a replay without gradients does not need; the results stay the same bit for bit.

    Detached copies become their source, operations on literals alone are done once here, unused results go.
    Random operations are kept even when unused, because they move the generator.

    Args:
        graph: what `capture` returned; it is changed.
        bindings: call torch's own functions in place of operator objects.

    Returns:
        The same module, recompiled.

    References:
        none; bookkeeping.

    Example:
        >>> from evidentia.inference.compile.capture import capture
        >>> x = torch.ones(2)
        >>> graph = capture(lambda: x.detach() * (torch.tensor(2.0) + 1.0), [x])
        >>> len(graph.graph.nodes), len(simplify(graph).graph.nodes)
        (7, 4)
    """
    nodes = graph.graph
    for node in list(nodes.nodes):
        if node.target in _IDENTITY:
            node.replace_all_uses_with(node.args[0])
            nodes.erase_node(node)
    fold_uniform(nodes, _fold(graph), lambda value, node: _literal(graph, value, node))
    _sweep(graph)
    drop_idle(nodes)
    narrow(nodes)
    merge_equal(nodes, is_pure)
    drop_idle(nodes)
    _sweep(graph)
    if bindings:
        reuse_memory(nodes)
        for node in nodes.nodes:
            if node.target in _BINDINGS:
                node.target = _BINDINGS[node.target]
    graph.delete_all_unused_submodules()
    graph.recompile()
    return graph


def _sweep(graph: GraphModule) -> None:
    """Erase what computes and has no reader."""
    for node in reversed(list(graph.graph.nodes)):
        unused = not node.users and node.op not in ("placeholder", "output")
        if unused and (node.op == "get_attr" or is_pure(node)):
            graph.graph.erase_node(node)


def _literal(graph: GraphModule, value: torch.Tensor, before: Node) -> Node:
    """A node for a constant."""
    position = 0
    while hasattr(graph, f"_literal{position}"):
        position += 1
    graph.register_buffer(f"_literal{position}", value)
    with graph.graph.inserting_before(before):
        return graph.graph.get_attr(f"_literal{position}")


def _fold(graph: GraphModule) -> dict[Node, torch.Tensor]:
    """Compute what depends on literals alone. Tensors kept by reference are not literals: they may change.

    Returns:
        The nodes that hold the results, with their values.
    """
    memory = Memory(graph.graph.nodes)
    written = {node for node, root in memory.root.items() if root in memory.last_write}
    values: dict[Node, Any] = {}
    for node in list(graph.graph.nodes):
        if not is_pure(node) or node in written:
            continue
        if node.target is _aten.lift_fresh_copy.default:
            source = node.args[0]
            if isinstance(source, Node) and source.op == "get_attr" and source not in written:
                values[node] = getattr(graph, str(source.target)).clone()
        elif all(given in values for given in node.all_input_nodes) or _is_fill(node):
            args, kwargs = torch.fx.map_arg(
                (node.args, node.kwargs), lambda one: values[one] if one in values else _like(one)
            )
            values[node] = node.target(*args, **kwargs)
    literals = {}
    for node, value in values.items():
        if isinstance(value, torch.Tensor) and any(user not in values for user in node.users):
            new = _literal(graph, value, node)
            new.meta, literals[new] = dict(node.meta), value
            node.replace_all_uses_with(new)
    return literals


def _is_fill(node: Node) -> bool:
    return node.target in _FILLS and all("val" in given.meta for given in node.all_input_nodes)


def _like(node: Node) -> torch.Tensor | None:
    """Memory of the form of what a node returned; its values mean nothing."""
    seen = node.meta.get("val")
    if not isinstance(seen, torch.Tensor):
        return None
    return torch.empty_strided(seen.shape, seen.stride(), dtype=seen.dtype, device=seen.device)
