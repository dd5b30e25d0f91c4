"""Single-gate moves of a conjugate linear model through the sweep operator, batched over chains.

For a symmetric matrix M with the response as last row and an active set S, the tableau is

    T_SS = −M_SS⁻¹,   T_SR = M_SS⁻¹ M_SR,   T_RR = M_RR − M_RS M_SS⁻¹ M_SR.

One look at its diagonal and last column gives the evidence of *every* single flip; performing a flip is a
rank-one update.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from evidentia.models.linear.blocks import RANK_FLOOR, Blocks, cholesky


class Tableau(NamedTuple):
    """Swept matrices (chains, P+1, P+1), log-determinants (chains,) and open gates (chains, P).

    References:
        Goodnight, 1979. A tutorial on the SWEEP operator.
    """

    matrix: Tensor
    log_det: Tensor
    gates: Tensor


def start(matrix: Tensor, gates: Tensor, floor: float = RANK_FLOOR) -> Tableau:
    """The tableau of the augmented `matrix` (P+1, P+1) at `gates` (chains, P); `floor` as in `cholesky`.

    Raises:
        ValueError: the active columns are collinear.

    References:
        Goodnight, 1979. A tutorial on the SWEEP operator.

    Example:
        >>> m = torch.tensor([[2.0, 1.0], [1.0, 3.0]], dtype=torch.float64)
        >>> start(m, torch.tensor([[1.0]], dtype=torch.float64)).matrix[0]
        tensor([[-0.5000,  0.5000],
                [ 0.5000,  2.5000]], dtype=torch.float64)
    """
    inside = torch.cat([gates, torch.zeros_like(gates[:, :1])], 1)
    factor = cholesky(matrix, inside, floor)
    inverse = inside[:, :, None] * torch.cholesky_inverse(factor) * inside[:, None, :]
    solved = inverse @ matrix
    outside = 1 - inside
    cross = inside[:, :, None] * solved * outside[:, None, :]
    rest = outside[:, :, None] * (matrix - matrix @ solved) * outside[:, None, :]
    log_det = 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return Tableau(cross + cross.mT + rest - inverse, log_det, gates)


def here(tableau: Tableau) -> Blocks:
    """Blocks (chains,) of the present gates.

    References:
        Goodnight, 1979. A tutorial on the SWEEP operator.
    """
    return Blocks(tableau.log_det, tableau.matrix[:, -1, -1].clamp_min(0), tableau.gates.sum(-1))


def neighbours(tableau: Tableau) -> Blocks:
    """Blocks (chains, P) after flipping each single gate.

    Opening and closing share one formula: log det grows by log|T_jj|, the residual falls by T_jy²/T_jj.

    References:
        Goodnight, 1979. A tutorial on the SWEEP operator.
    """
    matrix, log_det, gates = tableau
    pivot = matrix.diagonal(dim1=-2, dim2=-1)[:, :-1]
    residual = matrix[:, -1, -1, None] - matrix[:, :-1, -1].square() / pivot
    size = gates.sum(-1, keepdim=True) + 1 - 2 * gates
    return Blocks(log_det[:, None] + pivot.abs().log(), residual.clamp_min(0), size)


def flip(tableau: Tableau, index: Tensor, active: Tensor) -> Tableau:
    """Flip gate `index` (chains,) in the chains where `active` (chains,) is true; `tableau` is not changed.

    References:
        Goodnight, 1979. A tutorial on the SWEEP operator.

    Example:
        >>> m = torch.tensor([[2.0, 1.0], [1.0, 3.0]], dtype=torch.float64)
        >>> closed = start(m, torch.zeros(1, 1, dtype=torch.float64))
        >>> flip(closed, torch.tensor([0]), torch.tensor([True])).matrix[0, 1, 1]
        tensor(2.5000, dtype=torch.float64)
    """
    matrix, log_det, gates = tableau
    chain = torch.arange(len(index))
    column = matrix[chain, index]
    pivot = torch.where(active, column[chain, index], 1.0)
    swept = matrix - (column * (active / pivot)[:, None])[:, :, None] * column[:, None, :]
    line = torch.where(active[:, None], column / pivot.abs()[:, None], column)
    line[chain, index] = torch.where(active, -1 / pivot, column[chain, index])
    swept[chain, index] = line
    swept[chain, :, index] = line
    moved = gates.clone()
    moved[chain, index] = torch.where(active, 1 - gates[chain, index], gates[chain, index])
    return Tableau(swept, log_det + pivot.abs().log(), moved)
