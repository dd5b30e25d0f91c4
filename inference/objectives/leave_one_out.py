"""Means over all particles but one, in log space and in linear time."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def others_logsumexp(log_weight: Tensor) -> Tensor:
    r"""Log-sum-exp over the other particles, \(\log\sum_{j\ne k} w_j\), for every k.

    Subtracting \(w_k\) from the sum cancels when one weight dominates, so the sums before k and after k are
    accumulated apart and joined.

    Args:
        log_weight: (K, *plates), nats.

    Returns:
        (K, *plates), nats; -inf where no other particle has weight, always so for K = 1.

    References:
        none; bookkeeping.

    Example:
        >>> w = torch.tensor([1.0, 2.0, 4.0])
        >>> others_logsumexp(w.log()).exp()
        tensor([6., 5., 3.])
    """
    empty = log_weight.new_full((1, *log_weight.shape[1:]), -math.inf)
    before = torch.cat([empty, torch.logcumsumexp(log_weight, 0)[:-1]])
    after = torch.cat([torch.logcumsumexp(log_weight.flip(0), 0)[:-1].flip(0), empty])
    return torch.logaddexp(before, after)


def others_mean(values: Tensor) -> Tensor:
    r"""Mean over the other particles, \(\frac{1}{K-1}\sum_{j\ne k} v_j\), for every k.

    Args:
        values: (K, *plates), K ≥ 2. An infinite entry makes the mean of every other particle infinite, and
            of no more.

    Returns:
        (K, *plates), the unit of `values`.

    References:
        Kool, van Hoof and Welling, 2019. Buy 4 REINFORCE samples, get a baseline for free!

    Example:
        >>> others_mean(torch.tensor([1.0, 2.0, 6.0]))
        tensor([4.0000, 3.5000, 1.5000])
    """
    empty = values.new_zeros((1, *values.shape[1:]))
    before = torch.cat([empty, values.cumsum(0)[:-1]])
    after = torch.cat([values.flip(0).cumsum(0)[:-1].flip(0), empty])
    return (before + after) / (values.shape[0] - 1)
