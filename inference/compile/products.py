"""Rewrites of the matrix products of a recorded graph; results agree to rounding, not bit for bit."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Graph, GraphModule, Node

__all__ = ["faster_products"]

_aten = torch.ops.aten

_NARROW = range(2, 16)  # columns of a result for which a row-major product is slow
_SMALL = 50_000  # multiplications below which nothing is gained
_MUCH = 10_000_000  # multiplications from which oneDNN is faster than torch's own library
_FEW = 8_192  # results below which a call of oneDNN costs more than it saves


def faster_products(graph: GraphModule, *, onednn: bool = True) -> GraphModule:
    r"""Replace products and hyperbolic tangents on the CPU in single precision by faster equals.

    A narrow result is computed transposed, \(AB = (B^\top A^\top)^\top\), which takes a third of the time or
    less. A tangent of a linear layer, \(\tanh(x W^\top + b)\), is one call of oneDNN, whose tangent has an
    error of 0.65 units in the last place (that of torch 0.5) and takes a quarter of the time. It also does
    large products. Which rule applies depends on shapes alone, so that equal graphs give equal bits.

    Args:
        graph: what `capture` returned; it is changed.
        onednn: whether its operators may be used; inductor cannot compile them.

    Returns:
        The same module; it is not recompiled.

    References:
        none; the equalities are elementary, the thresholds were measured.

    Example:
        >>> from evidentia.inference.compile.capture import capture
        >>> x, w = torch.ones(200, 100), torch.ones(100, 4)
        >>> graph = faster_products(capture(lambda: x @ w, [x, w]))
        >>> [node.name for node in graph.graph.nodes][2:-1]
        ['t_default', 't_default_1', 'mm_default', 't_default_2', 'clone_default']
    """
    nodes = graph.graph
    for node in list(nodes.nodes):
        if onednn and node.target is _aten.tanh.default:
            _linear_tanh(nodes, node)
    for node in list(nodes.nodes):
        product = node.target in (_aten.mm.default, _aten.addmm.default) and not node.kwargs
        if product and not _narrow(nodes, node) and onednn:
            _large(nodes, node)
    return graph


def _value(node: Any) -> torch.Tensor | None:
    """What a node returned while recording, if it is a plain float32 tensor on the CPU."""
    seen = node.meta.get("val") if isinstance(node, Node) else None
    if not isinstance(seen, torch.Tensor) or seen.dtype is not torch.float32 or seen.device.type != "cpu":
        return None
    return seen


def _narrow(graph: Graph, node: Node) -> bool:
    """Compute a tall result of few columns as the transpose of a wide one."""
    *bias, left, right = node.args
    result, one, two = _value(node), _value(left), _value(right)
    if result is None or one is None or two is None:
        return False
    rows, columns = result.shape
    if columns not in _NARROW or rows <= columns or rows * columns * one.shape[1] < _SMALL:
        return False
    if bias and (seen := _value(bias[0])) is not None and seen.shape != (columns,):
        return False
    with graph.inserting_before(node):
        column = [graph.call_function(_aten.unsqueeze.default, (given, 1)) for given in bias]
        product: Any = node.target
        wide = graph.call_function(product, (*column, _turned(graph, right), _turned(graph, left)))
        back = graph.call_function(_aten.t.default, (wide,))
        # The optimizer's kernels, and views, want the layout there was.
        new = graph.call_function(_aten.clone.default, (back,), {"memory_format": torch.contiguous_format})
    new.meta = dict(node.meta)
    node.replace_all_uses_with(new)
    graph.erase_node(node)
    return True


def _large(graph: Graph, node: Node) -> None:
    """Let oneDNN multiply where there is much to do."""
    *bias, left, right = node.args
    result, one, other = _value(node), _value(left), _value(right)
    if result is None or one is None or other is None or not torch.backends.mkldnn.is_available():
        return
    if result.numel() * one.shape[1] < _MUCH or not one.is_contiguous():
        return
    if bias and ((added := _value(bias[0])) is None or added.shape != result.shape[1:]):
        return
    with graph.inserting_before(node):
        weight = _turned(graph, right)
        args: tuple[Any, ...] = (left, weight, bias[0] if bias else None, "none", [], "")
        new = graph.call_function(torch.ops.mkldnn._linear_pointwise.default, args)
    new.meta = dict(node.meta)
    node.replace_all_uses_with(new)
    graph.erase_node(node)


def _turned(graph: Graph, node: Any) -> Any:
    """The transpose, without a second one."""
    return node.args[0] if node.target is _aten.t.default else graph.call_function(_aten.t.default, (node,))


def _linear_tanh(graph: Graph, node: Node) -> None:
    """Let oneDNN add the bias and take the tangent while it multiplies."""
    linear: Any = node.args[0]
    while linear.target in (_aten.view.default, _aten._unsafe_view.default) and len(linear.users) == 1:
        linear = linear.args[0]
    if linear.target is not _aten.addmm.default or linear.kwargs or len(linear.users) != 1:
        return
    bias, x, turned = linear.args
    result, weight = _value(linear), turned.args[0] if turned.target is _aten.t.default else None
    inputs = [_value(given) for given in (bias, x, weight)]
    if result is None or result.numel() < _FEW or not torch.backends.mkldnn.is_available():
        return
    if any(given is None or not given.is_contiguous() for given in inputs) or inputs[0].dim() != 1:  # type: ignore[union-attr]
        return
    with graph.inserting_before(linear):
        new = graph.call_function(
            torch.ops.mkldnn._linear_pointwise.default, (x, weight, bias, "tanh", [], "")
        )
    new.meta = dict(linear.meta)
    linear.replace_all_uses_with(new)
    tangent: Any = node.args[0]
    node.replace_all_uses_with(tangent)
    for gone in (node, linear):
        graph.erase_node(gone)
