"""A minibatch and the plate that scales it: the bound stays unbiased for the whole data set."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pyro
import torch
from torch import Tensor

__all__ = ["data_plate", "minibatches"]


@contextmanager
def data_plate(
    size: int, subsample_size: int | None = None, *, name: str = "data", dim: int = -1
) -> Iterator[Tensor]:
    r"""A plate over the rows at hand that scales their log densities by `size / subsample_size`.

    With \(N\) rows in all and \(n\) in the batch the bound is
    \(\mathcal L = G + (N/n)\sum_{i \in \text{batch}} g_i\), whose mean over batches is the full bound.
    The caller slices the rows; the plate never draws rows of its own, so a data-parallel rank keeps its
    shard.

    Args:
        size: number of rows of the whole data set, N.
        subsample_size: number of rows passed to the model, n; `size` when None.
        name: the plate's name.
        dim: its batch dimension, counted from the right.

    Yields:
        The positions 0 ... n - 1 in the batch.

    Raises:
        ValueError: n is not between 1 and N.

    References:
        Hoffman, Blei, Wang, Paisley, 2013, Stochastic variational inference.

    Example:
        >>> from pyro.distributions import Normal
        >>> def model(batch):
        ...     with data_plate(100, len(batch)):
        ...         pyro.sample("obs", Normal(0.0, 1.0), obs=batch)
        >>> trace = pyro.poutine.trace(model).get_trace(torch.zeros(4))
        >>> trace.nodes["obs"]["scale"]
        25.0
    """
    count = size if subsample_size is None else subsample_size
    if not 1 <= count <= size:
        raise ValueError(
            f"data_plate '{name}': expected 1 <= subsample_size <= size, got subsample_size={count}, "
            f"size={size}. Fix: pass the number of rows of the whole data set as size"
        )
    index = torch.arange(count)
    with pyro.plate(name, size=size, subsample=index, dim=dim):
        yield index


def minibatches(size: int, batch_size: int) -> Iterator[Tensor]:
    """One epoch of row indices in random order, the last short batch dropped.

    Args:
        size: number of rows.
        batch_size: rows in a batch.

    Yields:
        (batch_size,) int64 indices, drawn from torch's generator.

    Raises:
        ValueError: `batch_size` is not between 1 and `size`.

    References:
        none; bookkeeping.

    Example:
        >>> sorted(torch.cat(list(minibatches(6, 3))).tolist())
        [0, 1, 2, 3, 4, 5]
    """
    if not 1 <= batch_size <= size:
        raise ValueError(f"batch_size: expected between 1 and {size} (the rows), got {batch_size}")
    order = torch.randperm(size)
    for start in range(0, size - batch_size + 1, batch_size):
        yield order[start : start + batch_size]
