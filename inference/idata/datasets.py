"""Plain groups as xarray data sets; no time stamp, so that equal results are equal files."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyro
import torch

from evidentia.inference.idata.files import SCHEMA
from evidentia.inference.idata.parts import Groups
from evidentia.inference.idata.results import check_mandatory

__all__ = ["datasets"]


def datasets(groups: Groups, arviz_version: str) -> dict[str, Any]:
    """One `xarray.Dataset` for each group, with the versions that made it among its attributes.

    Args:
        groups: all groups of a result.
        arviz_version: of the ArviZ that will hold them.

    Returns:
        Group name -> data set.

    Raises:
        ValueError: a mandatory group is missing, or a coordinate has another length than its dimension.

    References:
        none; bookkeeping.
    """
    import xarray as xr

    check_mandatory(groups)
    common = {
        "schema": SCHEMA, "torch": torch.__version__, "pyro": pyro.__version__, "arviz": arviz_version
    }  # fmt: skip
    found: dict[str, Any] = {}
    for name, group in groups.groups.items():
        sizes = {d: n for dims, v in group.variables.values() for d, n in zip(dims, np.shape(v), strict=True)}
        coords = {dim: np.asarray(groups.coords.get(dim, np.arange(size))) for dim, size in sizes.items()}
        wrong = {dim: (len(coords[dim]), size) for dim, size in sizes.items() if len(coords[dim]) != size}
        if wrong:
            raise ValueError(f"coords: (values, size of the dimension) differ: {wrong}")
        attrs = {key: _attribute(value) for key, value in (common | groups.attrs | group.attrs).items()}
        found[name] = xr.Dataset(group.variables, coords, attrs)
    return found


def _attribute(value: Any) -> Any:
    """A value netCDF can keep."""
    return value if isinstance(value, int | float) and not isinstance(value, bool) else str(value)
