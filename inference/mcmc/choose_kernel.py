"""The kernels there are, by their word."""

from __future__ import annotations

import difflib
import importlib
import inspect
import pkgutil
from typing import Any

from evidentia.inference.mcmc.batched import BatchedKernel

__all__ = ["kernel_classes", "kernel_of"]


def kernel_classes() -> dict[str, type[BatchedKernel]]:
    """Every concrete batched kernel of this package under its `name`; found, not listed.

    References:
        none; bookkeeping.

    Example:
        >>> "hmc" in kernel_classes()
        True
    """
    import evidentia.inference.mcmc as package

    found: dict[str, type[BatchedKernel]] = {}
    for info in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
        for value in vars(importlib.import_module(info.name)).values():
            if isinstance(value, type) and issubclass(value, BatchedKernel) and not inspect.isabstract(value):
                found[value.name] = value
    return dict(sorted(found.items()))


def kernel_of(kernel: str | BatchedKernel, **settings: Any) -> BatchedKernel:
    """A kernel from its word, or the one given.

    Args:
        kernel: a name, or a kernel with its settings.
        settings: for a name: keywords of its class.

    Raises:
        ValueError: an unknown name.

    References:
        none; bookkeeping.

    Example:
        >>> kernel_of("hmc").name
        'hmc'
    """
    if isinstance(kernel, BatchedKernel):
        return kernel
    known = kernel_classes()
    if kernel not in known:
        near = difflib.get_close_matches(str(kernel), [*known, "nuts"], 1)
        raise ValueError(
            f"kernel: expected one of {[*known, 'nuts']} or a kernel object, got {kernel!r}. "
            + (f"Fix: kernel={near[0]!r}" if near else "Fix: kernel='hmc'")
        )
    return known[kernel](**settings)
