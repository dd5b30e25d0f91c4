"""Any number of chains through a program that was recorded for one number."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

__all__ = ["in_chunks"]


def in_chunks(
    run: Callable[[Sequence[Tensor]], tuple[Tensor, ...]], inputs: Sequence[Tensor], size: int
) -> tuple[Tensor, ...]:
    """Run in pieces of `size` rows; the last piece is padded with its last row.

    Args:
        run: exactly `size` rows of every input -> outputs with as many rows.
        inputs: tensors with the same number of rows.
        size: C of the recording.

    References:
        none; bookkeeping.

    Example:
        >>> in_chunks(lambda part: (part[0] * 2,), [torch.arange(5)], 2)
        (tensor([0, 2, 4, 6, 8]),)
    """
    columns: list[tuple[Tensor, ...]] = []
    for begin in range(0, len(inputs[0]), size):
        part = [tensor[begin : begin + size] for tensor in inputs]
        missing = size - len(part[0])
        if missing:
            part = [torch.cat([each, each[-1:].expand(missing, *each.shape[1:])]) for each in part]
        result = run(part)
        columns.append(tuple(each[: size - missing] for each in result) if missing else result)
    if len(columns) == 1:
        return columns[0]
    return tuple(torch.cat(column) for column in zip(*columns, strict=True))
