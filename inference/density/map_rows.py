"""Run a program for many rows at once by torch's vmap, with noise of its own for each row."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, final

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from evidentia.inference.density.patches import plain_dirichlet, traceable

__all__ = ["FAILURES", "OwnNoise", "map_rows"]

_NOISE = {"normal_", "cauchy_", "exponential_", "uniform_", "log_normal_", "geometric_", "bernoulli_"}

# What a program that cannot be mapped raises.
FAILURES = (RuntimeError, NotImplementedError, TypeError, IndexError)


@final
class OwnNoise(TorchFunctionMode):
    """Makes tensors that are filled with noise mapped ones; `vmap` asks for that to draw for each row.

    References:
        none; bookkeeping.
    """

    def __init__(self, marker: Tensor) -> None:
        super().__init__()
        self._marker = marker

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in _NOISE:
            own = args[0].clone() + torch.zeros_like(args[0]) * self._marker.to(args[0].dtype)
            args = (own, *args[1:])
        return func(*args, **(kwargs or {}))


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
        with OwnNoise(marker):
            found = run(row)
        return {name: value + torch.zeros_like(marker, dtype=value.dtype) for name, value in found.items()}

    each = torch.func.vmap(one, randomness="different")
    parts = []
    with torch.no_grad(), traceable(), plain_dirichlet():
        for begin in range(0, count, chunk):
            piece = {name: value[begin : begin + chunk] for name, value in rows.items()}
            parts.append(each(torch.zeros(min(chunk, count - begin)), piece))
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
