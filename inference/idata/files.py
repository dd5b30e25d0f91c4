"""Checks before an InferenceData is written and while a file is read; nothing in a file is executed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from evidentia.inference.idata.parts import MANDATORY

__all__ = ["SCHEMA", "check_complete", "check_hdf5", "check_schema"]

SCHEMA = 1
_HDF5 = b"\x89HDF\r\n\x1a\n"


def check_complete(idata: Any) -> None:
    """Refuse to save an InferenceData that lacks a mandatory group of which no attribute says why.

    Raises:
        ValueError: naming the groups.

    References:
        none; bookkeeping.
    """
    there = set(idata.groups())
    missing = [name for name in MANDATORY if name not in there and name not in idata.posterior.attrs]
    if missing:
        raise ValueError(f"save: the mandatory groups {missing} are missing; build it with to_idata")


def check_hdf5(path: Path | str) -> None:
    """Refuse a file that does not begin like HDF5, a pickle among them.

    Raises:
        ValueError: showing how it begins.
        OSError: it cannot be opened.

    References:
        none; bookkeeping.
    """
    with open(path, "rb") as file:
        head = file.read(len(_HDF5))
    if head != _HDF5:
        raise ValueError(f"{path}: expected a netCDF-4 (HDF5) file, but it begins with {head!r}")


def check_schema(path: Path | str, found: Any) -> None:
    """Refuse a file of a newer schema.

    Raises:
        ValueError: naming both schemas.

    References:
        none; bookkeeping.

    Example:
        >>> check_schema("draws.nc", 1)
    """
    if int(found) > SCHEMA:
        raise ValueError(f"{path}: schema {found} is newer than {SCHEMA}; use a newer evidentia to read it")
