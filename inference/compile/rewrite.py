"""Rewrites of a recorded graph that leave every result the same bit for bit."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Graph, Node

from evidentia.inference.compile.memory import Memory

__all__ = ["drop_idle", "fold_uniform", "merge_equal", "narrow", "reuse_memory"]

_aten = torch.ops.aten

_SHAPES = {_aten.view.default, _aten.expand.default, _aten.reshape.default, _aten._unsafe_view.default}
_NEUTRAL: dict[Any, float] = {
    _aten.sub.Tensor: 0,
    _aten.mul.Tensor: 1,
    _aten.mul.Scalar: 1,
    _aten.div.Tensor: 1,
    _aten.div.Scalar: 1,
    _aten.pow.Tensor_Scalar: 1,
}  # x + 0 is missing: it makes -0 a 0
_BINARY = {_aten.add.Tensor, _aten.sub.Tensor, _aten.mul.Tensor, _aten.div.Tensor}
_UNARY = {
    _aten.neg.default, _aten.exp.default, _aten.log.default, _aten.log1p.default, _aten.tanh.default,
    _aten.sigmoid.default, _aten.sqrt.default, _aten.reciprocal.default, _aten.pow.Tensor_Scalar,
    _aten.mul.Scalar, _aten.div.Scalar,
}  # fmt: skip


def _tanh_backward_(gradient: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
    """Backward pass of the tangent over its first argument."""
    return _aten.tanh_backward.grad_input(gradient, output, grad_input=gradient)


_IN_PLACE: dict[Any, Any] = {
    _aten.add.Tensor: torch.Tensor.add_,
    _aten.sub.Tensor: torch.Tensor.sub_,
    _aten.mul.Tensor: torch.Tensor.mul_,
    _aten.mul.Scalar: torch.Tensor.mul_,
    _aten.div.Tensor: torch.Tensor.div_,
    _aten.div.Scalar: torch.Tensor.div_,
    _aten.pow.Tensor_Scalar: torch.Tensor.pow_,
    _aten.neg.default: torch.Tensor.neg_,
    _aten.exp.default: torch.Tensor.exp_,
    _aten.log.default: torch.Tensor.log_,
    _aten.log1p.default: torch.Tensor.log1p_,
    _aten.tanh.default: torch.Tensor.tanh_,
    _aten.tanh_backward.default: _tanh_backward_,
    _aten.sigmoid.default: torch.Tensor.sigmoid_,
    _aten.sqrt.default: torch.Tensor.sqrt_,
}
_COMMUTES = {_aten.add.Tensor, _aten.mul.Tensor}


def _layout(node: Any) -> tuple[Any, ...] | None:
    """Shape, strides and type of what a node returned while recording."""
    meta = node.meta.get("tensor_meta") if isinstance(node, Node) else None
    return None if meta is None or not hasattr(meta, "stride") else (meta.shape, meta.stride, meta.dtype)


def _dense(node: Any) -> bool:
    layout = _layout(node)
    return layout is not None and layout[1] == torch._prims_common.make_contiguous_strides_for(layout[0])


def drop_idle(graph: Graph) -> None:
    """Drop views that change nothing, double transposes, and operations with a neutral number.

    References:
        none; bookkeeping.
    """
    memory = Memory(graph.nodes)
    for node in list(graph.nodes):
        source = node.args[0] if node.args else None
        if not isinstance(source, Node) or _layout(node) is None:
            continue
        other = node.args[1] if len(node.args) > 1 else None
        same = _layout(node) == _layout(source)
        if node.target in _SHAPES and same:
            pass
        elif node.target is _aten.t.default and source.target is _aten.t.default:
            source = source.args[0]
        elif not (
            node.target in _NEUTRAL and same and len(node.args) == 2 and not node.kwargs
            and isinstance(other, int | float) and other == _NEUTRAL[node.target]
            and memory.replaceable(node)
        ):  # fmt: skip
            continue
        node.replace_all_uses_with(source)
        graph.erase_node(node)


def fold_uniform(graph: Graph, literals: dict[Node, torch.Tensor], shrink: Any) -> None:
    """Read one number where a constant tensor holds the same number everywhere.

    Args:
        graph: the graph.
        literals: the constant nodes and their values.
        shrink: makes a node for a constant without dimensions: (value, before which node) -> node.

    References:
        none; bookkeeping.
    """
    for literal, value in literals.items():
        number = value.reshape(-1)[0] if value.numel() else None
        if number is None or not value.is_floating_point() or bool((value != number).any()):
            continue
        for node in list(literal.users):
            others = [given for given in node.all_input_nodes if given is not literal]
            if node.target not in _BINARY or len(others) != 1 or node.kwargs or not _dense(node):
                continue
            if _layout(others[0]) != _layout(node) or value.dtype != node.meta["tensor_meta"].dtype:
                continue
            if node.args[1] is literal and number.item() == _NEUTRAL.get(node.target):
                node.update_arg(1, number.item())
            elif value.dim():
                node.replace_input_with(literal, shrink(number.clone(), node))


def narrow(graph: Graph) -> None:
    """Compute on the small side of an `expand`, and let operations broadcast by themselves.

    References:
        none; bookkeeping.
    """
    memory = Memory(graph.nodes)
    for node in list(graph.nodes):
        if node.target not in _BINARY | _UNARY or not _dense(node) or not memory.replaceable(node):
            continue
        tensors = node.all_input_nodes
        small = [_before_expand(given) for given in tensors]
        if small == tensors or any(_layout(given) is None for given in small):
            continue
        shape = torch.broadcast_shapes(*(given.meta["tensor_meta"].shape for given in small))
        types = {given.meta["tensor_meta"].dtype for given in small}
        full = node.meta["tensor_meta"].shape
        if len(types) > 1 or not all(map(_dense, small)):
            continue
        if shape == full:
            node.args = torch.fx.map_arg(node.args, dict(zip(tensors, small, strict=True)).__getitem__)
        elif all(user.target in _BINARY | _UNARY and _dense(user) for user in node.users):
            args = torch.fx.map_arg(node.args, dict(zip(tensors, small, strict=True)).__getitem__)
            with graph.inserting_before(node):
                new = graph.call_function(node.target, args, node.kwargs)
                wide = graph.call_function(_aten.expand.default, (new, list(full)))
            empty = torch.empty(shape, dtype=node.meta["tensor_meta"].dtype, device="meta")
            new.meta["tensor_meta"] = torch.fx.passes.shape_prop._extract_tensor_metadata(empty)
            wide.meta["tensor_meta"] = torch.fx.passes.shape_prop._extract_tensor_metadata(empty.expand(full))
            for one in (new, wide):
                memory.place[one], memory.root[one] = memory.place[node], new
            node.replace_all_uses_with(wide)
            graph.erase_node(node)


def _before_expand(node: Node) -> Node:
    while node.target is _aten.expand.default:
        node = node.args[0]  # type: ignore[assignment]
    return node


def merge_equal(graph: Graph, pure: Any) -> None:
    """Compute equal expressions once.

    References:
        none; bookkeeping.
    """
    memory = Memory(graph.nodes)
    seen: dict[Any, Node] = {}
    for node in list(graph.nodes):
        if node.op != "call_function" or not pure(node) or not memory.replaceable(node):
            continue
        key = repr((node.target, node.args, sorted(node.kwargs.items())))
        first = seen.setdefault(key, node)
        if first is not node:
            node.replace_all_uses_with(first)
            graph.erase_node(node)


def reuse_memory(graph: Graph) -> None:
    """Write elementwise results over operands that nobody reads again; the last rewrite of all.

    References:
        none; bookkeeping.
    """
    memory = Memory(graph.nodes)
    for node in list(graph.nodes):
        if node.target not in _IN_PLACE or not _dense(node):
            continue
        order = (0, 1) if node.target in _COMMUTES and len(node.args) == 2 and not node.kwargs else (0,)
        for which in order:
            given = node.args[which]
            if isinstance(given, Node) and _dead(memory, given, node):
                rest = tuple(value for place, value in enumerate(node.args) if place != which)
                node.args, node.target = (given, *rest), _IN_PLACE[node.target]
                old, new = memory.root[node], memory.root[given]
                memory.shared[new] += memory.shared.pop(old)
                for one in memory.shared[new]:
                    memory.root[one] = new
                if old in memory.returned:
                    memory.returned.add(new)
                break


def _dead(memory: Memory, given: Node, node: Node) -> bool:
    """Whether the memory of an operand is the graph's own, of the right form, and read for the last time."""
    root = memory.root[given]
    others = [one for one in node.all_input_nodes if one is not given]
    return (
        root.op == "call_function"
        and _dense(root)
        and _layout(root)[0].numel() == _layout(node)[0].numel()  # type: ignore[index]
        and _layout(given) == _layout(node)
        and root not in memory.returned
        and all(memory.root[one] is not root for one in others)
        and node.args.count(given) == 1
        and memory.last_use(given) == memory.place[node]
    )
