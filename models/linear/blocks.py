"""Linear algebra of conjugate linear models: sufficient statistics and sub-block determinants.

Every conjugate evidence in this library needs two numbers per structure: the log-determinant of a
sub-block of one symmetric matrix, and the Schur complement of the response in that sub-block. `blocks`
computes them for any list of structures, `all_blocks` for all 2^K of them at a cost per structure that
does not grow with K.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

_CHUNK_BYTES = 2**25  # of one batch of matrices: small enough to stay near the caches
RANK_FLOOR = 1e-13  # a pivot below this share of its diagonal entry is rounding error: a dependent column
ROUNDING_FLOOR = 2.0**-48  # where a ridge bounds the pivots away from zero: right to about 6 % at this share


class Statistics(NamedTuple):
    """Sufficient statistics of a linear-Gaussian likelihood.

    Shapes: `gram` X'X (P, P), `moment` X'y (P,), `energy` y'y (). `rows` is the number of observations
    (not an integer once the likelihood is tempered); `intercept` says that a flat intercept was integrated
    out, so that X and y were centred.
    """

    gram: Tensor
    moment: Tensor
    energy: Tensor
    rows: float
    intercept: bool

    @property
    def degrees(self) -> float:
        """Degrees of freedom m: rows − 1 with a flat intercept, else rows."""
        return self.rows - float(self.intercept)

    def power(self, beta: float) -> Statistics:
        """Statistics of the likelihood raised to the power beta: everything is multiplied by beta."""
        return Statistics(
            self.gram * beta, self.moment * beta, self.energy * beta, self.rows * beta, self.intercept
        )


class Blocks(NamedTuple):
    """Per structure: log det of the active block, Schur complement of the response, active columns."""

    log_det: Tensor
    residual: Tensor
    size: Tensor


def statistics(design: Tensor, y: Tensor, *, intercept: bool) -> Statistics:
    """Gram matrix, moment and energy of `design` (n, P) and `y` (n,), centred when there is a flat intercept.

    Example:
        >>> statistics(torch.tensor([[1.0], [3.0]]), torch.tensor([0.0, 2.0]), intercept=True).gram
        tensor([[2.]])
    """
    if intercept:
        design, y = design - design.mean(0), y - y.mean()
    return Statistics(design.T @ design, design.T @ y, y @ y, float(y.shape[0]), intercept)


def augment(gram: Tensor, moment: Tensor, energy: Tensor) -> Tensor:
    """The symmetric matrix [[gram, moment], [moment', energy]] of shape (P+1, P+1)."""
    top = torch.cat([gram, moment[:, None]], 1)
    return torch.cat([top, torch.cat([moment, energy.reshape(1)])[None]], 0)


def masked(matrix: Tensor, gates: Tensor) -> Tensor:
    """γγ'∘matrix + diag(1 − γ²), shape (S, P, P): closed gates become rows of the identity.

    For a matrix G + I this is I + diag(γ) G diag(γ) at any real γ, the scaled-weight model w = γu.
    """
    return gates[:, :, None] * matrix * gates[:, None, :] + torch.diag_embed(1 - gates.square())


def cholesky(matrix: Tensor, gates: Tensor, floor: float = RANK_FLOOR, columns: int | None = None) -> Tensor:
    """Cholesky factors (S, P, P) of the masked matrices; a singular one raises ValueError.

    A pivot must exceed `floor` times its diagonal entry: the rank test where the matrix is a Gram matrix
    (`RANK_FLOOR`), a test that rounding did not swamp the ridge where there is one (`ROUNDING_FLOOR`). Only
    the first `columns` columns belong to the design.
    """
    whole = masked(matrix, gates)
    factor, info = torch.linalg.cholesky_ex(whole)
    diagonal = whole.diagonal(dim1=-2, dim2=-1)
    small = (factor.diagonal(dim1=-2, dim2=-1).square() <= floor * diagonal).any(-1) | (info > 0)
    if bool(small.any()):
        which = int(small.nonzero()[0, 0])
        raise ValueError(_singular(gates[which, :columns].nonzero().flatten().tolist(), floor))
    return factor


def chunks(structures: int, columns: int, chunk_size: int | None = None) -> list[slice]:
    """Slices of range(structures) such that one batch of (columns, columns) matrices stays small."""
    size = chunk_size or max(1, _CHUNK_BYTES // (8 * (columns + 1) ** 2))
    return [slice(i, min(i + size, structures)) for i in range(0, structures, size)]


def blocks(matrix: Tensor, gates: Tensor, chunk_size: int | None = None, floor: float = RANK_FLOOR) -> Blocks:
    """Log-determinants and Schur complements of sub-blocks of an augmented matrix, batched over structures.

    With M = [[A, b], [b', c]] and active set S: log det A_SS and c − b_S' A_SS⁻¹ b_S. The response is the
    last row of the Cholesky factorisation, so that no triangular solve is needed; its diagonal entry is
    doubled there, so that a response without noise does not look like one more dependent column.

    Args:
        matrix: (P+1, P+1), symmetric; positive definite without the response.
        gates: (S, P), 0 or 1 per column; real gates are read as in `masked`.
        chunk_size: structures factorised at once.
        floor: see `cholesky`.

    Raises:
        ValueError: a sub-block is singular (collinear columns).

    References:
        Furnival and Wilson, 1974. Regressions by leaps and bounds.

    Example:
        >>> m = torch.tensor([[2.0, 0.0, 1.0], [0.0, 4.0, 2.0], [1.0, 2.0, 3.0]], dtype=torch.float64)
        >>> blocks(m, torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]], dtype=torch.float64)).residual
        tensor([3.0000, 2.5000, 1.5000], dtype=torch.float64)
    """
    structures, columns = gates.shape
    energy = matrix[-1, -1] if matrix[-1, -1] > 0 else matrix.new_ones(())
    matrix = matrix.clone()
    matrix[-1, -1] += energy
    log_det, residual = [], []
    for part in chunks(structures, columns, chunk_size):
        rows = torch.cat([gates[part], gates.new_ones(part.stop - part.start, 1)], 1)
        diagonal = cholesky(matrix, rows, floor, columns).diagonal(dim1=-2, dim2=-1)
        log_det.append(2 * diagonal[:, :-1].log().sum(-1))
        residual.append((diagonal[:, -1].square() - energy).clamp_min(0))
    if not log_det:
        return Blocks(gates.new_zeros(0), gates.new_zeros(0), gates.new_zeros(0))
    return Blocks(torch.cat(log_det), torch.cat(residual), gates.sum(-1))


def all_blocks(matrix: Tensor, widths: Sequence[int] | None = None, floor: float = RANK_FLOOR) -> Blocks:
    """`blocks` of every one of the 2^K subsets, by an elimination tree.

    Columns (or consecutive groups of `widths` columns) are decided one after another. A branch keeps only
    the Schur complement of the columns still undecided, so the work is Σ_k 2^k (P−k)² – a constant per
    structure – instead of P³/3 per structure.

    Returns:
        Blocks with entries (2^K,); the entry of gates γ is at index Σ_k 2^k γ_k.

    Raises:
        ValueError: a pivot is not above `floor` (collinear columns, see `cholesky`).

    References:
        Furnival and Wilson, 1974. Regressions by leaps and bounds.

    Example:
        >>> m = torch.tensor([[2.0, 0.0, 1.0], [0.0, 4.0, 2.0], [1.0, 2.0, 3.0]], dtype=torch.float64)
        >>> all_blocks(m).residual
        tensor([3.0000, 2.5000, 2.0000, 1.5000], dtype=torch.float64)
    """
    columns = matrix.shape[0] - 1
    widths = [1] * columns if widths is None else list(widths)
    tree = matrix[:, :, None]  # structures last: every operation below is a long contiguous one
    log_det, size, pivots = matrix.new_zeros(1), matrix.new_zeros(1), []
    for width in widths:
        branch, branch_log_det = tree, log_det
        for _ in range(width):
            pivot, column = branch[0, 0], branch[1:, 0]
            pivots.append(pivot)
            branch = torch.addcmul(branch[1:, 1:], (column / pivot)[:, None], column[None, :], value=-1.0)
            branch_log_det = branch_log_det + pivot.log()
        tree = torch.cat([tree[width:, width:], branch], -1)
        log_det = torch.cat([log_det, branch_log_det])
        size = torch.cat([size, size + width])
    _check_pivots(pivots, matrix, floor)
    return Blocks(log_det, tree[0, 0].clamp_min(0), size)


def _check_pivots(pivots: list[Tensor], matrix: Tensor, floor: float) -> None:
    """Refuse a pivot that is nothing but rounding error: its column is a combination of the earlier ones."""
    counts = torch.tensor([len(pivot) for pivot in pivots])
    least = (floor * matrix.diagonal()[:-1]).repeat_interleave(counts)
    if pivots and not bool((torch.cat(pivots) > least).all()):
        bad = [bool((pivot > floor * matrix[i, i]).all()) for i, pivot in enumerate(pivots)].index(False)
        raise ValueError(_singular(list(range(bad + 1)), floor))


def bic_log_bayes_factor(data: Statistics, gates: Tensor) -> Tensor:
    """Schwarz's approximation of the log Bayes factor against the empty model, (S, P) -> (S,) nats.

    `−½ [n log(1 − R²) + k log n]`, an approximation with no prior behind it: never compare it with an
    exact evidence.

    References:
        Schwarz, 1978. Estimating the dimension of a model.

    Example:
        >>> x = torch.tensor([[1.0], [-1.0], [2.0], [-2.0]], dtype=torch.float64)
        >>> data = statistics(x, x[:, 0] + x[:, 0].square(), intercept=True)
        >>> bic_log_bayes_factor(data, torch.ones(1, 1))
        tensor([0.8013], dtype=torch.float64)
    """
    block = blocks(augment(data.gram, data.moment, data.energy), gates.double())
    return -0.5 * (data.rows * (block.residual / data.energy).log() + block.size * math.log(data.rows))


def _singular(columns: Sequence[int], floor: float) -> str:
    if floor < RANK_FLOOR:
        return (
            f"the design columns {list(columns)} are linearly dependent, and so large beside the prior that "
            "rounding hides its ridge. Fix: standardise the columns, drop a duplicate or collinear one, or "
            "give a smaller prior scale"
        )
    return (
        f"the design columns {list(columns)} are linearly dependent: their Gram matrix is singular; "
        "drop a duplicate, constant or collinear column, or use a proper prior, e.g. NormalPrior(scale=1.0)"
    )
