"""Exchanges between the ranks of a job: sum, gather, and broadcast of tensors of any type, bit for bit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch import distributed as dist

from evidentia.inference.training.distributed import Ranks

__all__ = ["RankError", "broadcast", "from_bytes", "gather", "sum_of", "to_bytes"]


class RankError(RuntimeError):
    """Another rank of the job is gone.

    References:
        none; bookkeeping.
    """


def sum_of(ranks: Ranks, vector: Tensor) -> Tensor:
    """The sum of the vectors of all ranks, the same bits on every rank; the vector itself is overwritten.

    Raises:
        RankError: another rank is gone.

    References:
        none; bookkeeping.
    """
    with _reached(ranks):
        dist.all_reduce(vector)
    return vector


def gather(ranks: Ranks, value: Tensor) -> list[Tensor]:
    """The tensors of all ranks, of one shape and type, by rank.

    Raises:
        RankError: another rank is gone.

    References:
        none; bookkeeping.
    """
    found = [torch.empty_like(value) for _ in range(ranks.size)]
    with _reached(ranks):
        dist.all_gather(found, value)
    return found


def broadcast(ranks: Ranks, tensors: Sequence[Tensor]) -> None:
    """Write the values of rank 0 into the tensors of every rank.

    Raises:
        RankError: another rank is gone.

    References:
        none; bookkeeping.
    """
    if tensors:
        data = to_bytes(tensors)
        with _reached(ranks):
            dist.broadcast(data, 0)
        from_bytes(data, tensors)


def to_bytes(tensors: Sequence[Tensor]) -> Tensor:
    """The bytes of tensors of any type, one after the other, on the CPU.

    References:
        none; bookkeeping.

    Example:
        >>> to_bytes([torch.tensor(True), torch.zeros(2)]).shape
        torch.Size([9])
    """
    parts = [tensor.detach().cpu().reshape(-1).contiguous().view(torch.uint8) for tensor in tensors]
    return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.uint8)


def from_bytes(data: Tensor, tensors: Sequence[Tensor]) -> None:
    """Write bytes made by `to_bytes` into tensors of the same shapes and types, bit for bit.

    References:
        none; bookkeeping.

    Example:
        >>> w = torch.zeros(2)
        >>> from_bytes(to_bytes([torch.tensor([1.0, float("nan")])]), [w]); w
        tensor([1., nan])
    """
    sizes = [tensor.numel() * tensor.element_size() for tensor in tensors]
    with torch.no_grad():
        for part, tensor in zip(data.split(sizes), tensors, strict=True):
            # A copy begins at an address that fits every type.
            tensor.copy_(part.clone().view(tensor.dtype).reshape(tensor.shape))


@contextmanager
def _reached(ranks: Ranks) -> Iterator[None]:
    """Say what a broken connection means."""
    try:
        yield
    except RuntimeError as error:
        raise RankError(
            f"data_parallel: rank {ranks.rank} lost another of the {ranks.size} ranks ({error}). Fix: start "
            "the same command again; it continues at the last checkpoint if the script loads one"
        ) from error
