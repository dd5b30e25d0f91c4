"""How heavy the tail of importance weights is: a generalised Pareto fit, many columns at once."""

import math

import torch
from torch import Tensor


def tail_shape(log_weight: Tensor) -> Tensor:
    """Shape k of a generalised Pareto law fitted to the largest weights of each column.

    The tail is the ``min(N/5, 3 sqrt(N))`` largest weights. The estimator averages a profile
    likelihood over a grid (Zhang & Stephens), then shrinks k a little towards ½, as in Pareto smoothed
    importance sampling.

    Args:
        log_weight: ``(N, S)``.

    Returns:
        ``(S,)``; ``-inf`` where the weights do not vary, NaN where they are not finite or N < 25.

    References:
        Zhang & Stephens, 2009. A new and efficient estimation method for the generalized Pareto distribution.
        Vehtari, Simpson, Gelman, Yao & Gabry, 2024. Pareto smoothed importance sampling.

    Example:
        >>> uniform = torch.rand(4000, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        >>> bool((tail_shape(-0.9 * uniform.log()) - 0.9).abs() < 0.15)   # Pareto weights with k = 0.9
        True
    """
    draws, columns = log_weight.shape
    size = math.ceil(min(draws / 5, 3 * math.sqrt(draws)))
    result = torch.full((columns,), math.nan, dtype=log_weight.dtype, device=log_weight.device)
    if size < 5:
        return result
    ordered = log_weight.double().sort(0).values
    top = ordered[-1]
    usable = log_weight.isfinite().all(0)
    # Differences of this size are rounding: the weights are equal.
    flat = usable & (ordered[-1] - ordered[-size - 1] < 1e-8)
    result[flat] = -math.inf
    pick = usable & ~flat
    if bool(pick.any()):
        excess = (ordered[-size:] - top)[:, pick].exp() - (ordered[-size - 1] - top)[pick].exp()
        result[pick] = _fit(excess).to(result)
    return result


def _fit(excess: Tensor) -> Tensor:
    """Zhang and Stephens' estimate for sorted excesses ``(n, S)``."""
    n = excess.shape[0]
    grid = 30 + int(math.sqrt(n))
    j = torch.arange(1, grid + 1, dtype=excess.dtype, device=excess.device)
    quartile = excess[int(n / 4 + 0.5) - 1].clamp(min=torch.finfo(excess.dtype).tiny)
    b = (1 - (grid / (j - 0.5)).sqrt()).unsqueeze(-1) / (3 * quartile) + 1 / excess[-1]
    k = torch.log1p(-b.unsqueeze(1) * excess).mean(1)
    profile = n * ((-(b / k)).log() - k - 1)
    weight = torch.softmax(profile, 0)
    best = (b * weight).sum(0)
    shape = torch.log1p(-best * excess).mean(0)
    return (n * shape + 5.0) / (n + 10)
