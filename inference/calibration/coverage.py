"""Coverage of central intervals, and distance from the truth against what the data taught."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Coverage", "contraction", "coverage", "z_scores"]


class Coverage(NamedTuple):
    """How often central intervals hold the truth.

    Attributes:
        nominal: (K,) exact probabilities for uniform ranks, next to the levels asked for.
        observed: (K, ...) fractions of data sets.
        lower: (K,) of the binomial band about `nominal`, each level by itself.
        upper: (K,).

    References:
        none; bookkeeping.
    """

    nominal: Tensor
    observed: Tensor
    lower: Tensor
    upper: Tensor


def coverage(
    ranks: Tensor, num_draws: int, levels: Sequence[float] = (0.5, 0.8, 0.95), *, band: float = 0.95
) -> Coverage:
    r"""Fractions of data sets whose truth lies in the central interval of its draws, from the ranks.

    The interval of level p keeps the ranks with \(|r - L/2| \le h\), \(h\) the nearest to p; its exact
    probability is the share of those ranks, so that discreteness is no miscalibration. The band has the
    binomial quantiles of the count.

    Args:
        ranks: (N, ...) whole numbers 0 ... L.
        num_draws: L.
        levels: of the intervals.
        band: probability inside, at one level.

    Raises:
        ValueError: a level is not between 0 and 1.

    References:
        Cook, Gelman, Rubin, 2006, Validation of software for Bayesian models using posterior quantiles.

    Example:
        >>> found = coverage(torch.arange(100), 99, [0.5])
        >>> found.nominal.item(), found.observed.item()
        (0.5, 0.5)
    """
    wanted = torch.as_tensor(levels, dtype=torch.float64)
    if bool(((wanted <= 0) | (wanted >= 1)).any()):
        raise ValueError(f"levels: expected between 0 and 1, got {list(levels)}. Fix: levels=[0.5, 0.9]")
    num, cells = len(ranks), num_draws + 1
    # Ranks kept: as many as L + 1 in parity, since the interval is central.
    kept = ((wanted * cells - cells % 2) / 2).round().clamp(min=0) * 2 + cells % 2
    kept = kept.clamp(min=2 - cells % 2, max=cells - (2 if cells > 2 else 0))
    nominal = kept / cells
    distance = (2 * ranks.long() - num_draws).abs()
    shape = (-1, *(1,) * ranks.dim())
    observed = (distance[None] <= (kept.reshape(shape) - 1)).double().mean(1)
    count = torch.arange(num + 1, dtype=torch.float64)
    choose = math.lgamma(num + 1) - torch.lgamma(count + 1) - torch.lgamma(num - count + 1)
    chance = nominal[:, None]
    mass = (choose + torch.xlogy(count, chance) + torch.xlogy(num - count, 1 - chance)).exp()
    below = mass.cumsum(1)
    tail = (1.0 - band) / 2.0
    lower = (below < tail).sum(1).double() / num
    upper = (below < 1.0 - tail).sum(1).double() / num
    return Coverage(nominal, observed, lower, upper.clamp(max=1.0))


def z_scores(truth: Tensor, mean: Tensor, sd: Tensor) -> Tensor:
    r"""Posterior scores \(z = (\bar\theta - \theta^*) / s\); for a right posterior, mean 0 and mean square 1.

    Args:
        truth: (N, Q).
        mean: (N, Q) of the posteriors.
        sd: (N, Q) of the posteriors.

    Returns:
        (N, Q); NaN where a posterior has no width.

    References:
        Schad, Betancourt, Vasishth, 2021, Toward a principled Bayesian workflow in cognitive science.

    Example:
        >>> z_scores(torch.zeros(1, 1), torch.ones(1, 1), torch.full((1, 1), 2.0)).item()
        0.5
    """
    return torch.where(sd > 0, (mean - truth) / sd, torch.nan)


def contraction(truth: Tensor, sd: Tensor) -> Tensor:
    r"""\(1 - s^2 / \operatorname{Var}(\theta^*)\): 0 where the data taught nothing, near 1 where all.

    The prior's variance is that of the true values, so heavy tails make it large.

    Args:
        truth: (N, Q).
        sd: (N, Q) of the posteriors.

    Returns:
        (N, Q).

    References:
        Schad, Betancourt, Vasishth, 2021, Toward a principled Bayesian workflow in cognitive science.

    Example:
        >>> contraction(torch.tensor([[-1.0], [1.0]]), torch.ones(2, 1)).flatten().tolist()
        [0.5, 0.5]
    """
    return 1.0 - sd.square() / truth.var(0).clamp(min=1e-300)
