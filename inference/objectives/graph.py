"""Look into autograd's graph: which tensors a result depends on, and whether batch norm couples particles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

__all__ = ["coupling_node", "upstream"]


def upstream(results: Sequence[Tensor]) -> tuple[list[Tensor], list[Any]]:
    """The leaf tensors that results depend on, and the batch-norm nodes in training mode on the way.

    Args:
        results: tensors, with or without history.

    Returns:
        Leaf tensors that require a gradient, in order of discovery, and autograd nodes.

    References:
        none; bookkeeping.

    Example:
        >>> import torch
        >>> a, b = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
        >>> leaves, nodes = upstream([(a * 2).sum()])
        >>> len(leaves), leaves[0] is a, nodes
        (1, True, [])
    """
    leaves: list[Tensor] = []
    norms: list[Any] = []
    seen: set[Any] = set()
    stack: list[Any] = []
    for result in results:
        if result.grad_fn is not None:
            stack.append(result.grad_fn)
        elif result.requires_grad:
            leaves.append(result)
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        kind = type(node).__name__
        if kind == "AccumulateGrad":  # one node for each leaf tensor
            leaves.append(node.variable)
            continue
        if "BatchNorm" in kind and _normalises_batch(node):
            norms.append(node)
        stack.extend(after for after, _ in node.next_functions if after is not None and after not in seen)
    return leaves, norms


def coupling_node(norms: Sequence[Any], samples: Sequence[Tensor]) -> Any | None:
    """The first batch-norm node that has one of the samples upstream, or None.

    Batch norm of data alone shifts every particle alike; only what is normalised over the samples couples
    them.

    Args:
        norms: nodes found by `upstream`.
        samples: leaves of the particles.

    References:
        none; bookkeeping.
    """
    for node in norms:
        stack, seen = [node], set()
        while stack:
            current = stack.pop()
            if current in seen:
                continue
            seen.add(current)
            if type(current).__name__ == "AccumulateGrad":
                if any(current.variable is sample for sample in samples):
                    return node
                continue
            stack.extend(after for after, _ in current.next_functions if after is not None)
    return None


def _normalises_batch(node: Any) -> bool:
    """Batch statistics of more than one row. Instance norm runs the same operation on one row."""
    if not getattr(node, "_saved_training", True):
        return False
    saved = getattr(node, "_saved_input", None)
    return saved is None or saved.shape[0] > 1
