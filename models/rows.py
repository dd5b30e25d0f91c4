"""The rows of an unsupervised model: how many there are, and the plate that holds them."""

from __future__ import annotations

from typing import Any

import pyro
import torch
from torch import Tensor

__all__ = ["row_plate"]


def row_plate(x: Tensor | None, size: int | None, width: int, owner: str) -> Any:
    r"""The plate "data" over the rows of x, or over `size` rows to be drawn.

    With n rows at hand and N = `size` rows in all, the log densities inside are scaled by N/n, so that a
    bound on a minibatch is an unbiased estimate of the bound on the data set. The caller slices the rows.

    Args:
        x: (n, width), or None when the rows are drawn from the prior predictive.
        size: number of rows of the whole data set; n when None.
        width: number of columns.
        owner: name of the model, for messages.

    Returns:
        The plate, to be entered; its batch dimension is -1.

    Raises:
        ValueError: x has another shape, or `size` is missing or smaller than n.

    References:
        Hoffman, Blei, Wang, Paisley, 2013, Stochastic variational inference.

    Example:
        >>> with row_plate(torch.zeros(4, 2), 100, 2, "Model") as rows:
        ...     len(rows)
        4
    """
    if x is None:
        if size is None or size < 1:
            raise ValueError(
                f"{owner}: expected a number of rows to draw when x is None, got size={size}. "
                "Fix: model(size=100)"
            )
        return pyro.plate("data", size, dim=-1)
    if x.dim() != 2 or x.shape[1] != width or len(x) < 1:
        raise ValueError(
            f"{owner}: expected x of shape (n, {width}), got {tuple(x.shape)}. Fix: flatten each datum, "
            "x.flatten(1)"
        )
    if size is not None and size < len(x):
        raise ValueError(
            f"{owner}: expected size to be at least the {len(x)} rows of x, got {size}. "
            "Fix: pass the number of rows of the whole data set"
        )
    rows = torch.arange(len(x), device=x.device)
    return pyro.plate("data", size=len(x) if size is None else size, subsample=rows, dim=-1)
