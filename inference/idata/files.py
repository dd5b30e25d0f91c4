"""Files of draws: written complete, and checked while read; nothing in one is executed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from evidentia.inference.idata.parts import MANDATORY

__all__ = ["SCHEMA", "check_schema", "checked_reading", "save"]

SCHEMA = 1
_HDF5 = b"\x89HDF\r\n\x1a\n"


def save(idata: Any, path: Path | str) -> None:
    """Write netCDF (h5netcdf); the same InferenceData gives the same bytes.

    Raises:
        ValueError: a mandatory group is missing and no attribute says why.
        OSError: the disk refuses.

    References:
        none; bookkeeping.
    """
    there = set(idata.groups())
    missing = [name for name in MANDATORY if name not in there and name not in idata.posterior.attrs]
    if missing:
        raise ValueError(f"save: the mandatory groups {missing} are missing; build it with to_idata")
    idata.to_netcdf(str(path), engine="h5netcdf")


@contextmanager
def checked_reading(path: Path | str) -> Iterator[None]:
    """Refuse a file that does not begin like HDF5, a pickle among them, and one that cannot be read whole.

    Raises:
        ValueError: saying how it begins, or what stopped the reader inside the block.
        OSError: it cannot be opened.

    References:
        none; bookkeeping.
    """
    with open(path, "rb") as file:
        head = file.read(len(_HDF5))
    if head != _HDF5:
        raise ValueError(f"{path}: expected a netCDF-4 (HDF5) file, but it begins with {head!r}")
    try:
        yield
    except (OSError, KeyError, RuntimeError, AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: it is no whole netCDF file of draws ({error})") from error


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
