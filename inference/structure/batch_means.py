"""Monte-Carlo standard errors of Markov chain averages by batch means."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def batch_means_error(draws: Tensor) -> Tensor:
    """Standard error of the mean over chains and draws.

    Each chain is cut into about √draws batches; the variance of the batch means around the common mean, over
    all chains, estimates the variance of one batch mean, disagreement between chains included.

    Args:
        draws: (chains, draws, *event).

    Returns:
        (*event); NaN with fewer than four draws in all.

    References:
        Flegal, Haran and Jones, 2008. Markov chain Monte Carlo: can we trust the third significant figure?

    Example:
        >>> draws = torch.randn(4, 2500, generator=torch.Generator().manual_seed(0))
        >>> bool(0.008 < batch_means_error(draws) < 0.012)
        True
    """
    chains, length = draws.shape[:2]
    batches = min(length, max(2, math.isqrt(length)))
    if chains * length < 4:
        return torch.full(draws.shape[2:], torch.nan, dtype=torch.float64)
    size = length // batches
    means = (
        draws[:, length - batches * size :].double().reshape(chains * batches, size, *draws.shape[2:]).mean(1)
    )
    return means.std(0) / math.sqrt(chains * batches)
