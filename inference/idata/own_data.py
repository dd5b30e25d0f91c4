"""Is the data given to `to_idata` that of the posterior, and if not, where do they differ."""

from __future__ import annotations

from typing import Any

from evidentia.inference.structure.posterior import StructurePosterior
from evidentia.inference.validate import check_data
from evidentia.models.response import check_response_shape

__all__ = ["check_own_data"]


def check_own_data(posterior: StructurePosterior, x: Any, y: Any) -> None:
    """Refuse data other than those the posterior was computed from; numbers in less precision are the same.

    Args:
        posterior: with its data; without them nothing is checked.
        x: inputs.
        y: response.

    Raises:
        ValueError: another shape or other values, with the first place that differs.

    References:
        none; a guard.

    Example:
        >>> from evidentia.inference.structure.enumerate import enumerate_structures
        >>> from evidentia.models.regression import NormalPrior, SubsetRegression
        >>> model = SubsetRegression(["a"], NormalPrior())
        >>> posterior = enumerate_structures(model, [[1.0], [2.0]], [1.0, 2.0])
        >>> check_own_data(posterior, [[1.0], [2.0]], [1.0, 3.0])
        Traceback (most recent call last):
        ValueError: to_idata: y is not that of the posterior: 1 of 2 values differ, the first in row 1: ...
    """
    if posterior.data is None:
        return
    x, y = check_data(x, y)
    own_x, own_y = posterior.data
    if x.shape == own_x.shape:
        check_response_shape("to_idata", x, y, own_y.shape)
    for name, given, own in (("x", x, own_x), ("y", y, own_y)):
        if given.shape != own.shape:
            raise ValueError(
                f"to_idata: {name} has shape {tuple(given.shape)}, expected {tuple(own.shape)}, that of the "
                f"posterior. Fix: pass the {name} that the posterior was computed from"
            )
        other = (given != own) & (given.float() != own.float())
        if bool(other.any()):
            place = other.nonzero()[0].tolist()
            where = f"row {place[0]}" + (f", column {place[1]}" if len(place) > 1 else "")
            raise ValueError(
                f"to_idata: {name} is not that of the posterior: {int(other.sum())} of {other.numel()} "
                f"values differ, the first in {where}: got {float(given[tuple(place)]):.6g}, expected "
                f"{float(own[tuple(place)]):.6g}. Fix: pass the {name} that the posterior was computed from"
            )
