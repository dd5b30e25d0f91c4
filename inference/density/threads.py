"""How many threads a computation on many chains is worth."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

__all__ = ["enough_threads"]

# Numbers in the largest tensor below which threads cost more than they bring.
_WORTH_THREADS = 2**18


@contextmanager
def enough_threads(density: Any) -> Iterator[None]:
    """One torch thread inside where the density's tensors are small; the caller's number otherwise.

    Threads that wait for each other make small operations several times slower. The rule looks at sizes
    only, so that a run does not depend on the load of the machine.

    Args:
        density: a `LogDensity`; other densities keep the caller's number.

    References:
        none; bookkeeping.

    Example:
        >>> class Small: largest = 1000
        >>> before = torch.get_num_threads()
        >>> with enough_threads(Small()):
        ...     inside = torch.get_num_threads()
        >>> inside, torch.get_num_threads() == before
        (1, True)
    """
    before = torch.get_num_threads()
    if before > 1 and getattr(density, "largest", _WORTH_THREADS) < _WORTH_THREADS:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
