"""Systematic resampling: particles copied or dropped in proportion to weights kept in log space."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["effective_fraction", "genealogical_variance", "systematic_resample"]


def systematic_resample(log_weight: Tensor, generator: torch.Generator | None = None) -> Tensor:
    r"""Ancestors drawn with one uniform number per copy: particle i has \(N w_i\) offspring in expectation.

    With normalised weights \(w\), their running sum \(c\) and one \(u \sim U(0, 1)\), the j-th ancestor is
    the first i with \(c_i > (u + j) / N\). Offspring differ from \(N w_i\) by less than one, and a particle
    of weight 0 is never chosen.

    Args:
        log_weight: (*copies, N), nats, up to a constant per copy; -inf is weight 0. Copies are resampled
            apart from each other.
        generator: random numbers; torch's global generator when None.

    Returns:
        Indices along the last dimension, (*copies, N), ascending.

    Raises:
        ValueError: NaN or +inf weights, or a copy whose weights are all 0.

    References:
        Carpenter, Clifford and Fearnhead, 1999, Improved particle filter for nonlinear problems.
        Douc, Cappé and Moulines, 2005, Comparison of resampling schemes for particle filtering.

    Example:
        >>> weight = torch.tensor([0.0, 0.5, 0.25, 0.25])
        >>> systematic_resample(weight.log(), torch.Generator().manual_seed(0)).tolist()
        [1, 1, 2, 3]
    """
    top = log_weight.amax(-1, keepdim=True)
    if not bool(torch.isfinite(top).all()):
        raise ValueError(
            f"log_weight: expected a finite largest value in every copy, got {top.flatten().tolist()[:8]}. "
            "Fix: give every copy at least one particle of finite weight, and mark bad ones by -inf"
        )
    count = log_weight.shape[-1]
    # Single precision would lose offspring in the running sum of many particles.
    total = (log_weight - top).double().exp().cumsum(-1)
    total = total / total[..., -1:]
    start = torch.rand((*total.shape[:-1], 1), dtype=torch.float64, device=total.device, generator=generator)
    point = (start + torch.arange(count, dtype=torch.float64, device=total.device)) / count
    # Rounding up to 1 would point behind the last particle.
    return torch.searchsorted(total, point.clamp(max=math.nextafter(1.0, 0.0)), right=True)


def effective_fraction(log_weight: Tensor) -> Tensor:
    r"""Effective sample size of weights as a fraction of those alive, \((\sum w)^2 / (A \sum w^2)\).

    Args:
        log_weight: (*copies, N), nats; -inf is weight 0 and does not count in A, the number alive.

    Returns:
        (*copies), in (0, 1]; NaN where nothing is alive.

    References:
        Kong, Liu and Wong, 1994, Sequential imputations and Bayesian missing data problems.

    Example:
        >>> effective_fraction(torch.tensor([0.0, 0.0, -torch.inf])).item()
        1.0
    """
    alive = (log_weight > -torch.inf).sum(-1)
    size = 2 * log_weight.logsumexp(-1) - (2 * log_weight).logsumexp(-1)
    return size.exp() / alive


def genealogical_variance(log_weight: Tensor, eve: Tensor) -> Tensor:
    r"""What one weighting adds to the relative variance of the evidence of a particle run.

    With normalised weights \(w\) and the index \(E_i\) of each particle's first ancestor, over N particles

    \[ V = \frac{N}{N - 1} \sum_e \Bigl[ \Bigl(\sum_{i : E_i = e} w_i\Bigr)^2
        - \Bigl(\sum_{i : E_i = e} \frac1N\Bigr)^2 \Bigr]. \]

    Summed over the weightings of a run it is Lee and Whiteley's estimator to first order, but for the noise
    that resampling itself adds to the families' sizes: their factor \((N / (N - 1))^{n + 1}\) takes out what
    the multinomial law adds on average; here it is left out exactly, whatever the resampling. For one
    weighting it is the delta method of importance sampling. Particles that moved far from their siblings make
    it the sum of the delta methods; particles that did not move are seen as one.

    Args:
        log_weight: incremental weights before resampling, (*copies, N), nats.
        eve: index of each particle's ancestor among the prior draws, (*copies, N).

    Returns:
        Addition to the variance of the evidence over its square, (*copies). It may be negative.

    References:
        Lee and Whiteley, 2018, Variance estimation in the particle filter.

    Example:
        >>> weight = torch.tensor([0.75, 0.25]).log()
        >>> round(genealogical_variance(weight, torch.arange(2)).item(), 6)       # 2 (0.75² + 0.25² - ½)
        0.25
    """
    count = log_weight.shape[-1]
    weight = log_weight.double().softmax(-1)
    family = torch.zeros_like(weight)
    after = family.scatter_add(-1, eve, weight)
    before = family.scatter_add(-1, eve, torch.full_like(weight, 1 / count))
    return (after.square() - before.square()).sum(-1) * (count / (count - 1))
