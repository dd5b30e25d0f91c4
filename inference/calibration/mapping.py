"""A random program run for many rows at once, with noise of its own in each."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from evidentia.inference.density.packing import _OwnNoise
from evidentia.inference.density.patches import plain_dirichlet, traceable

__all__ = ["FAILURES", "map_rows"]

# What a program that cannot be mapped raises.
FAILURES = (RuntimeError, NotImplementedError, TypeError, IndexError)


def map_rows(
    run: Callable[[Mapping[str, Tensor]], dict[str, Tensor]],
    rows: Mapping[str, Tensor],
    count: int,
    chunk: int = 5000,
) -> dict[str, Tensor]:
    """`run` for every row, mapped.

    Args:
        run: name -> tensor of one row, to name -> tensor.
        rows: name -> (count, *shape); may be empty.
        count: rows.
        chunk: rows at a time.

    Returns:
        name -> (count, *shape).

    Raises:
        RuntimeError: the program cannot be mapped; see `FAILURES`.

    References:
        none; it is `torch.func.vmap`.

    Example:
        >>> found = map_rows(lambda row: {"z": torch.distributions.Normal(0.0, 1.0).sample()}, {}, 3)
        >>> len(found["z"].unique())
        3
    """

    def one(marker: Tensor, row: dict[str, Tensor]) -> dict[str, Tensor]:
        # Tensors that noise is written into must be mapped, or all rows would get the same noise.
        with _OwnNoise(marker):
            found = run(row)
        return {name: value + torch.zeros_like(marker, dtype=value.dtype) for name, value in found.items()}

    each = torch.func.vmap(one, randomness="different")
    parts = []
    with torch.no_grad(), traceable(), plain_dirichlet():
        for begin in range(0, count, chunk):
            piece = {name: value[begin : begin + chunk] for name, value in rows.items()}
            parts.append(each(torch.zeros(min(chunk, count - begin)), piece))
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
