"""Checks of data before any inference: what is wrong, where, and the fix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

_COLLINEAR = 1e-8  # relative norm of what is left of a standardised column


def check_data(x: Any, y: Any = None, names: Sequence[str] | None = None) -> tuple[Tensor, Tensor]:
    """Return x (n, d) and y (n,) or (n, w) as float64 tensors, or say what is wrong with them.

    `y=None` checks x alone (y comes back empty). Everything is checked once, before any computation, so
    that a NaN is reported by row and column and not as a failed Cholesky factorisation.

    Args:
        x: features; a vector is read as one column.
        y: response.
        names: of the columns of x, for messages.

    Raises:
        ValueError: no rows, wrong number of dimensions, lengths differ, wrong number of names, NaN or
        infinity.

    References:
        none; a guard.

    Example:
        >>> x, y = check_data([[1.0], [2.0]], [0.0, 1.0], ["age"])
        >>> x.dtype, y.shape
        (torch.float64, torch.Size([2]))
        >>> check_data([[1.0], [float("nan")]], [0.0, 1.0], ["age"])
        Traceback (most recent call last):
        ValueError: x: 1 value of 2 is NaN or infinite, the first in row 1, column 'age'; drop or impute it
    """
    x = _tensor("x", x)
    if x.dim() == 1:
        x = x[:, None]
    if x.dim() != 2:
        raise ValueError(
            f"x: expected shape (rows, columns), got {tuple(x.shape)}; reshape x to two dimensions"
        )
    labels = list(names) if names is not None else [str(i) for i in range(x.shape[1])]
    if len(labels) != x.shape[1]:
        raise ValueError(
            f"x: {x.shape[1]} columns but {len(labels)} names {labels}; give one name per column"
        )
    if x.shape[0] == 0:
        raise ValueError("x: no rows; give at least one observation")
    _finite("x", x, labels)
    if y is None:
        return x, x.new_zeros(0)
    y = _tensor("y", y)
    if y.dim() not in (1, 2):
        raise ValueError(f"y: expected shape (rows,) or (rows, outputs), got {tuple(y.shape)}")
    if y.shape[0] != x.shape[0]:
        raise ValueError(f"y: {y.shape[0]} rows, but x has {x.shape[0]}; give one response per row of x")
    _finite("y", y, [str(i) for i in range(y.shape[1])] if y.dim() == 2 else None)
    return x, y


def check_design(design: Tensor, names: Sequence[str], *, intercept: bool = True) -> None:
    """Refuse a design whose Gram matrix is singular, naming the constant, duplicate or collinear columns.

    A g-prior needs the inverse of the Gram matrix of every subset of columns. Proper priors (NormalPrior,
    NormalInverseGamma) do not, and need no such check.

    Args:
        design: (n, P).
        names: of its columns.
        intercept: the columns are used after centring.

    Raises:
        ValueError: constant columns (with an intercept; zero columns without), duplicates (up to sign and
        scale),
            other linear dependence, or more columns than rows.

    References:
        Liang, Paulo, Molina, Clyde and Berger, 2008. Mixtures of g priors for Bayesian variable selection.

    Example:
        >>> check_design(torch.tensor([[1.0, 2.0], [2.0, 4.0], [0.0, 0.0]]), ["a", "b"])
        Traceback (most recent call last):
        ValueError: column 'b' repeats 'a' up to a linear map; drop it, or use NormalPrior()
    """
    rest = "or use NormalPrior()"
    design = design.double()
    centred = design - design.mean(0) if intercept else design
    norm = centred.norm(dim=0)
    constant = [names[i] for i in (norm <= 1e-12 * design.norm(dim=0)).nonzero().flatten().tolist()]
    if constant:
        what = "constant" if intercept else "zero"
        raise ValueError(f"{what} column{_s(constant)} {_list(constant)}: drop {_it(constant)}, {rest}")
    unit = centred / norm
    similar = (unit.T @ unit).abs().triu(1) > 1 - _COLLINEAR
    for left, right in similar.nonzero().tolist():
        raise ValueError(
            f"column {names[right]!r} repeats {names[left]!r} up to a linear map; drop it, {rest}"
        )
    freedom = design.shape[0] - int(intercept)
    if design.shape[1] > freedom:
        raise ValueError(
            f"{design.shape[1]} columns but only {freedom} degrees of freedom in {design.shape[0]} rows: the "
            f"full model cannot be fitted; use fewer columns, {rest}"
        )
    left_over = torch.linalg.qr(unit).R.diagonal().abs()
    dependent = [names[i] for i in (left_over < _COLLINEAR).nonzero().flatten().tolist()]
    if dependent:
        raise ValueError(
            f"column{_s(dependent)} {_list(dependent)} {'is a' if len(dependent) == 1 else 'are'} linear "
            f"combination{_s(dependent)} of the columns before; drop {_it(dependent)}, {rest}"
        )


def check_conditional_rows(rows: Any, total: int) -> None:
    """Refuse a number of rows to condition on that leaves none on one side; None stands for half of them.

    Args:
        rows: an integer, or None.
        total: rows of the data.

    Raises:
        ValueError: not an integer between 1 and total − 1.

    References:
        none; a guard.

    Example:
        >>> check_conditional_rows(4, 4)
        Traceback (most recent call last):
        ValueError: conditional_rows: expected an integer from 1 to 3 (there are 4 rows), got 4. Fix: ...
    """
    if rows is None or (isinstance(rows, int) and not isinstance(rows, bool) and 1 <= rows < total):
        return
    raise ValueError(
        f"conditional_rows: expected an integer from 1 to {total - 1} (there are {total} rows), got "
        f"{rows!r}. Fix: e.g. {max(total // 2, 1)}, or None for half of them, or conditional=False"
    )


def _tensor(name: str, value: Any) -> Tensor:
    try:
        array = hasattr(value, "__array__") and not isinstance(value, Tensor)  # pandas among them
        tensor = torch.as_tensor(np.array(value) if array else value).detach()
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"{name}: cannot be read as numbers ({error}); give a tensor or a numeric array"
        ) from error
    if tensor.is_complex():
        raise ValueError(f"{name}: complex numbers are not supported; give real values")
    return tensor.double()


def _finite(name: str, value: Tensor, labels: Sequence[str] | None) -> None:
    bad = ~torch.isfinite(value)
    count = int(bad.sum())
    if not count:
        return
    first = bad.nonzero()[0].tolist()
    column = f", column {labels[first[1]]!r}" if labels is not None else ""
    verb, plural = ("is", "") if count == 1 else ("are", "s")
    raise ValueError(
        f"{name}: {count} value{plural} of {value.numel()} {verb} NaN or infinite, "
        f"the first in row {first[0]}"
        f"{column}; drop or impute it"
    )


def _list(names: Sequence[str]) -> str:
    return ", ".join(repr(name) for name in names)


def _s(names: Sequence[str]) -> str:
    return "" if len(names) == 1 else "s"


def _it(names: Sequence[str]) -> str:
    return "it" if len(names) == 1 else "them"
