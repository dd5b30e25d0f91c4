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
    start = torch.rand(
        total.shape[:-1] + (1,), dtype=torch.float64, device=total.device, generator=generator
    )
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


def genealogical_variance(log_weight: Tensor, eve: Tensor, num_resampled: int) -> Tensor:
    r"""Relative variance of the evidence of one particle run, from which first ancestors survived.

    With normalised last weights \(w\), first ancestors \(E_i\) and n resamplings of N particles

    \[ V = 1 - \Bigl(\frac{N}{N - 1}\Bigr)^{n + 1} \Bigl(1 - \sum_e \bigl(\sum_{i : E_i = e} w_i\bigr)^2\Bigr). \]

    Without a resampling it is the delta method of importance sampling. It was derived for multinomial
    resampling; systematic resampling varies less, so the number is on the safe side.

    Args:
        log_weight: last incremental weights, before the last resampling, (*copies, N), nats.
        eve: index of each particle's ancestor among the prior draws, (*copies, N).
        num_resampled: resamplings n between the prior draws and these weights.

    Returns:
        Variance of the evidence over its square, (*copies); 0 where the formula is negative.

    References:
        Lee and Whiteley, 2018, Variance estimation in the particle filter.

    Example:
        >>> equal, alone, one = torch.zeros(4), torch.arange(4), torch.zeros(4, dtype=torch.long)
        >>> genealogical_variance(equal, alone, 0).item(), genealogical_variance(equal, one, 1).item()
        (0.0, 1.0)
    """
    count = log_weight.shape[-1]
    if count < 2:
        return torch.full(log_weight.shape[:-1], math.inf, dtype=log_weight.dtype, device=log_weight.device)
    weight = log_weight.double().softmax(-1)
    family = torch.zeros_like(weight).scatter_add(-1, eve, weight)
    inflation = (count / (count - 1)) ** (num_resampled + 1)
    value = 1 - inflation * (1 - family.square().sum(-1))
    # Equal weights leave a rounding error of either sign.
    return torch.where(value > 1e-12, value, 0.0)
