"""A model run for many draws by torch's vmap: for programs that are written for one draw, such as `X @ b`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from evidentia.inference.density.patches import traceable

__all__ = ["mapped"]

Run = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]


def mapped(run: Run, draws: Mapping[str, Tensor], count: int, chunk: int) -> dict[str, Tensor]:
    """`run` for every draw; each has random numbers of its own.

    Args:
        run: values of the latents of one draw -> tensors of one draw.
        draws: site -> (draw, *shape); may be empty.
        count: number of draws.
        chunk: draws at a time.

    Returns:
        name -> (draw, *shape).

    Raises:
        Exception: whatever torch raises where the program branches on a value or cannot be mapped.

    References:
        none; it is `torch.func.vmap`.

    Example:
        >>> mapped(lambda one: {"y": one["b"].sum()}, {"b": torch.ones(3, 2)}, 3, 2)["y"]
        tensor([2., 2., 2.])
    """

    def one(number: Tensor, values: dict[str, Tensor]) -> dict[str, Tensor]:
        # What does not depend on the draw still gets a row for each.
        return {
            name: value + torch.zeros_like(number, dtype=value.dtype) for name, value in run(values).items()
        }

    with traceable(), torch.no_grad():
        each = torch.func.vmap(one, randomness="different")
        parts = [
            each(
                torch.zeros(min(chunk, count - start)),
                {name: value[start : start + chunk] for name, value in draws.items()},
            )
            for start in range(0, count, chunk)
        ]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
