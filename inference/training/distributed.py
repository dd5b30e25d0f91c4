"""The plain parts of data-parallel training: shards, weights, one vector for a step, torchrun's group."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import NamedTuple

import torch
from torch import Tensor
from torch import distributed as dist

from evidentia.inference.training.finite import all_finite

__all__ = ["Ranks", "Reduced", "join", "pack", "shard_weights", "unpack"]

_VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_LAUNCH = "python -m torch.distributed.run --nproc-per-node 2 --max-restarts 0 script.py"


class Ranks(NamedTuple):
    """The place of this process among the processes of a job.

    Attributes:
        rank: its number r, counted from 0.
        size: how many there are, R.

    References:
        none; bookkeeping.
    """

    rank: int
    size: int

    def shard(self, rows: int) -> slice:
        r"""The rows of this rank, \(\lfloor rN/R \rfloor \ldots \lfloor (r+1)N/R \rfloor - 1\).

        Shards cover every row once; their sizes differ by one row at most.

        Args:
            rows: rows of the whole data set, N.

        Raises:
            ValueError: fewer rows than ranks.

        References:
            none; bookkeeping.

        Example:
            >>> [list(range(5))[Ranks(rank, 2).shard(5)] for rank in range(2)]
            [[0, 1], [2, 3, 4]]
        """
        if rows < self.size:
            raise ValueError(
                f"shard: expected at least one row for each of {self.size} ranks, got {rows} rows. "
                "Fix: start fewer processes"
            )
        return slice(self.rank * rows // self.size, (self.rank + 1) * rows // self.size)


def shard_weights(rows: Sequence[int]) -> list[float]:
    r"""The weight of every rank's loss in the mean over ranks, \(w_r = R\,n_r / \sum_s n_s\).

    With \(L_r = G + (N/n_r) \sum_{i \in r} g_i\) (what a scaled plate gives),
    \(\frac1R \sum_r w_r L_r = G + \sum_i g_i\), the loss of all the rows. Equal shards have weight 1.

    Args:
        rows: the rows \(n_r\) of every rank.

    Raises:
        ValueError: no ranks, or a rank without rows.

    References:
        none; derived here.

    Example:
        >>> shard_weights([3, 1])
        [1.5, 0.5]
    """
    if not rows or min(rows) < 1:
        raise ValueError(f"shard_weights: expected at least one row on every rank, got {list(rows)}")
    return [len(rows) * count / sum(rows) for count in rows]


def pack(
    loss: float, gradients: Sequence[Tensor | None], likes: Sequence[Tensor], weight: float, ranks: Ranks
) -> Tensor:
    r"""One step of this rank as a vector; the sum of the vectors of all ranks is the step of the job.

    The entries are \(w_r L_r / R\), the gradient times \(w_r / R\), one mark for each parameter that has a
    gradient, and one mark for each rank, set by a rank whose numbers are not finite.

    Args:
        loss: \(L_r\) in nats.
        gradients: one for each parameter, None where the loss does not depend on it.
        likes: the parameters.
        weight: \(w_r\), see `shard_weights`.
        ranks: the place of this process.

    Returns:
        float64 on the CPU, so that the mean is rounded once.

    References:
        Li, Zhao, Varma et al., 2020, PyTorch distributed: Experiences on accelerating data parallel training.

    Example:
        >>> w = torch.zeros(2)
        >>> pack(3.0, [torch.ones(2)], [w], 1.0, Ranks(0, 2)).tolist()
        [1.5, 0.5, 0.5, 1.0, 0.0, 0.0]
    """
    present = [
        torch.zeros_like(p) if g is None else g.detach() for g, p in zip(gradients, likes, strict=True)
    ]
    flat = [gradient.reshape(-1).to("cpu", torch.float64) for gradient in present]
    values = torch.cat([torch.tensor([loss], dtype=torch.float64), *flat]) * (weight / ranks.size)
    used = torch.tensor([g is not None for g in gradients], dtype=torch.float64)
    failed = torch.zeros(ranks.size, dtype=torch.float64)
    failed[ranks.rank] = float(not all_finite(loss, gradients))
    return torch.cat([values, used, failed])


class Reduced(NamedTuple):
    """A step of the whole job.

    Attributes:
        loss: in nats, for the whole data set.
        gradients: one for each parameter; None where no rank has one.
        failed: the ranks whose loss or gradient was not finite.

    References:
        none; bookkeeping.
    """

    loss: float
    gradients: tuple[Tensor | None, ...]
    failed: tuple[int, ...]


def unpack(total: Tensor, likes: Sequence[Tensor], size: int) -> Reduced:
    """Take the sum of the ranks' vectors apart again.

    Args:
        total: the sum over ranks of what `pack` returns.
        likes: the parameters, whose shapes and types the gradients get.
        size: number of ranks R.

    References:
        none; bookkeeping.

    Example:
        >>> likes = [torch.zeros(2)]
        >>> step = sum(pack(2.0 * r, [torch.full((2,), r)], likes, 1.0, Ranks(r, 2)) for r in range(2))
        >>> unpack(step, likes, 2)
        Reduced(loss=1.0, gradients=(tensor([0.5000, 0.5000]),), failed=())
    """
    counts = [like.numel() for like in likes]
    head, *flat, used, failed = total.split([1, *counts, len(counts), size])
    gradients = tuple(
        part.reshape(like.shape).to(like) if mark else None
        for part, like, mark in zip(flat, likes, used.tolist(), strict=True)
    )
    return Reduced(float(head), gradients, tuple(failed.nonzero().flatten().tolist()))


@contextmanager
def join(timeout: float = 60.0, environment: Mapping[str, str] | None = None) -> Iterator[Ranks]:
    """Enter the gloo group of the job that torchrun started, and leave it at the end of the block.

    Args:
        timeout: seconds after which a silent peer counts as dead (gloo's own 30 minutes look like a hang).
        environment: the variables that torchrun sets; `os.environ` when None.

    Yields:
        Rank and number of ranks.

    Raises:
        ValueError: not started by torchrun, a value out of range, or a group exists already.

    References:
        Li, Zhao, Varma et al., 2020, PyTorch distributed: Experiences on accelerating data parallel training.

    Example:
        >>> try:
        ...     with join(environment={"RANK": "0"}):
        ...         pass
        ... except ValueError as error:
        ...     print(str(error)[:59])
        join: the variables WORLD_SIZE, MASTER_ADDR, MASTER_PORT ar
    """
    given = os.environ if environment is None else environment
    missing = [name for name in _VARIABLES if not given.get(name)]
    if missing:
        raise ValueError(
            f"join: the variables {', '.join(missing)} are not set, so this process belongs to no job. "
            f"Fix: start it with {_LAUNCH}"
        )
    if not (
        given["RANK"].isdecimal() and given["WORLD_SIZE"].isdecimal() and given["MASTER_PORT"].isdecimal()
    ):
        values = ", ".join(f"{name}={given[name]!r}" for name in _VARIABLES)
        raise ValueError(f"join: expected whole numbers, got {values}. Fix: start it with {_LAUNCH}")
    ranks = Ranks(int(given["RANK"]), int(given["WORLD_SIZE"]))
    if not ranks.rank < ranks.size:
        raise ValueError(f"join: expected 0 <= RANK < WORLD_SIZE, got {ranks.rank} of {ranks.size}")
    if not timeout > 0:
        raise ValueError(f"join: expected a timeout > 0 seconds, got {timeout}")
    if dist.is_initialized():
        raise ValueError("join: this process is in a group already. Fix: call join once, around all the fits")
    dist.init_process_group(
        "gloo",
        init_method=f"tcp://{given['MASTER_ADDR']}:{given['MASTER_PORT']}",
        rank=ranks.rank,
        world_size=ranks.size,
        timeout=timedelta(seconds=timeout),
    )
    try:
        yield ranks
    finally:
        dist.destroy_process_group()
