"""Triangular solves with a matrix that no chain changes, as products with its inverse."""

from __future__ import annotations

import math
from typing import Any, final

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

__all__ = ["IllConditionedError", "flat_inverse", "replace_solves", "triangular_inverse"]

_aten = torch.ops.aten
# Above this condition number (one-norm) a product with the inverse loses digits that a solve would keep.
LARGEST_CONDITION = 1e5


@final
class IllConditionedError(ArithmeticError):
    """A triangular matrix whose inverse should not be multiplied with.

    References:
        none; bookkeeping.
    """


def triangular_inverse(matrix: Tensor, upper: bool, unit: bool) -> Tensor:
    r"""\(L^{-1}\) of a triangular matrix, computed in float64.

    Args:
        matrix: (..., D, D).
        upper: which triangle counts.
        unit: whether its diagonal counts as ones.

    Raises:
        IllConditionedError: the condition number is above 1e5, or not finite.

    References:
        Higham, 2002, Accuracy and stability of numerical algorithms, chapter 14.

    Example:
        >>> triangular_inverse(torch.tensor([[2.0, 0.0], [1.0, 1.0]]), False, False)
        tensor([[ 0.5000,  0.0000],
                [-0.5000,  1.0000]])
    """
    wide = matrix.to(torch.float64)
    wide = wide.triu() if upper else wide.tril()
    if unit:
        wide = wide - torch.diag_embed(wide.diagonal(dim1=-2, dim2=-1) - 1)
    eye = torch.eye(wide.shape[-1], dtype=torch.float64, device=matrix.device)
    inverse = torch.linalg.solve_triangular(wide, eye.expand_as(wide), upper=upper)
    condition = torch.linalg.matrix_norm(wide, 1) * torch.linalg.matrix_norm(inverse, 1)
    if not bool((condition <= LARGEST_CONDITION).all()):
        raise IllConditionedError(f"condition number {float(condition.max()):.3g}")
    return inverse.to(matrix.dtype)


def flat_inverse(matrix: Tensor, upper: bool, unit: bool) -> Tensor:
    r"""\(L^{-\top}\) of one matrix with leading dimensions of size one, as (D, D): right factor of flat rows.

    Args:
        matrix: (1, ..., D, D).
        upper: which triangle counts.
        unit: whether its diagonal counts as ones.

    Raises:
        IllConditionedError: see `triangular_inverse`.

    References:
        none; bookkeeping.
    """
    size = matrix.shape[-1]
    return triangular_inverse(matrix.reshape(size, size), upper, unit).mT.contiguous()


def replace_solves(graph: GraphModule, varying: set[Node]) -> int:
    """Replace every solve whose matrix does not vary; how many there were.

    Args:
        graph: a recorded graph; it is changed.
        varying: nodes that depend on the chains.

    References:
        none; bookkeeping.
    """
    found = 0
    for node in list(graph.graph.nodes):
        if node.target is not _aten.linalg_solve_triangular.default:
            continue
        matrix, right = node.args[0], node.args[1]
        if not isinstance(matrix, Node) or matrix in varying or node not in varying:
            continue
        keywords: dict[str, Any] = dict(node.kwargs)
        upper, unit = bool(keywords.get("upper")), bool(keywords.get("unitriangular", False))
        size, shape = node.meta["shape"][-2], node.meta["shape"]
        left = keywords.get("left", True)
        single = math.prod(matrix.meta["shape"]) == size**2 and left
        call: Any = graph.graph.call_function
        with graph.graph.inserting_before(node):
            if single and shape[-1] == 1:
                # One matrix for all columns: a flat product instead of one small product each.
                inverse = call(flat_inverse, (matrix, upper, unit))
                rows = call(torch.reshape, (right, [-1, size]))
                new = call(torch.reshape, (call(torch.mm, (rows, inverse)), list(shape)))
                varying.update((rows, new.args[0]))
            else:
                inverse = call(triangular_inverse, (matrix, upper, unit))
                new = call(torch.matmul, (inverse, right) if left else (right, inverse))
        new.meta.update(node.meta)
        varying.add(new)
        node.replace_all_uses_with(new)
        graph.graph.erase_node(node)
        found += 1
    return found
