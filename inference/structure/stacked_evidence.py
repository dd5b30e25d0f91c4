"""Evidence bounds from log importance weights: ELBO, IWAE, plain importance sampling, each with its error."""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class Bounds(NamedTuple):
    """Estimates per structure, in nats for the whole data set, ``(S,)`` each.

    ``elbo`` and ``iwae`` estimate lower bounds of the log evidence without bias; ``importance`` is the log of the mean
    of all weights, a consistent estimate. ``pareto_k`` is the shape of the weights' upper tail: above 0.7 the
    importance estimate and its error are not to be trusted.
    """

    elbo: Tensor
    elbo_se: Tensor
    iwae: Tensor
    iwae_se: Tensor
    importance: Tensor
    importance_se: Tensor
    pareto_k: Tensor


def bounds(log_weight: Tensor) -> Bounds:
    """Evidence bounds from independent batches of log-weights.

    ``elbo = mean log w``, ``iwae = mean_b log mean_k w_bk``, ``importance = log mean_{bk} w_bk``. The errors are those of
    means over draws, of a mean over batches, and of the delta method.

    Args:
        log_weight: ``(B, K, S)``, B ≥ 2 batches of K draws.

    Returns:
        :class:`Bounds`, each entry ``(S,)``, in nats.

    References:
        Burda, Grosse & Salakhutdinov, 2016. Importance weighted autoencoders.

    Example:
        >>> result = bounds(torch.full((4, 5, 1), -2.0))
        >>> float(result.elbo), float(result.iwae), float(result.iwae_se)
        (-2.0, -2.0, 0.0)
    """
    batches, particles, _ = log_weight.shape
    total = batches * particles
    per_batch = torch.logsumexp(log_weight, 1) - math.log(particles)
    flat = log_weight.flatten(0, 1)
    importance = torch.logsumexp(flat, 0) - math.log(total)
    ratio = (flat - importance).exp()
    return Bounds(
        elbo=flat.mean(0),
        elbo_se=flat.std(0) / math.sqrt(total),
        iwae=per_batch.mean(0),
        iwae_se=per_batch.std(0) / math.sqrt(batches),
        importance=importance,
        importance_se=ratio.std(0) / math.sqrt(total),
        pareto_k=tail_shape(flat),
    )


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
    flat = usable & (ordered[-1] - ordered[-size - 1] < 1e-12)
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
    quartile = excess[int(n / 4 + 0.5) - 1].clamp(min=np.finfo(float).tiny)
    b = (1 - (grid / (j - 0.5)).sqrt()).unsqueeze(-1) / (3 * quartile) + 1 / excess[-1]
    k = torch.log1p(-b.unsqueeze(1) * excess).mean(1)
    profile = n * ((-(b / k)).log() - k - 1)
    weight = torch.softmax(profile, 0)
    best = (b * weight).sum(0)
    shape = torch.log1p(-best * excess).mean(0)
    return (n * shape + 5.0) / (n + 10)
