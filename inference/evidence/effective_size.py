"""How many independent draws a set of chains is worth: autocovariances by FFT, cut by Geyer's rule."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["effective_size"]


def effective_size(series: Tensor) -> Tensor:
    r"""Effective sample size of the mean of several series at once, over all chains.

    \(\mathrm{ess} = CN / \hat\tau\), \(\hat\tau = -1 + 2 \sum_k \hat P_k\), where
    \(\hat P_k = \hat\rho_{2k} + \hat\rho_{2k+1}\) is summed while positive and never allowed to increase.
    Each chain is cut in two halves first, and \(\hat\rho\) compares the autocovariance within the halves with
    the variance over all of them: chains that disagree lower the size. At most \(CN \log_{10} CN\).

    Args:
        series: (chain, draw, *event); each entry of the event is a series of its own.

    Returns:
        (*event), float64. CN where a series is constant; NaN where it is not finite.

    Raises:
        ValueError: fewer than 8 draws, or no axis of chains.

    References:
        Geyer, 1992. Practical Markov chain Monte Carlo.
        Vehtari, Gelman, Simpson, Carpenter and Bürkner, 2021. Rank-normalization, folding, and localization:
        an improved R-hat for assessing convergence of MCMC.

    Example:
        >>> noise = torch.randn(4, 4000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        >>> step = noise.clone()
        >>> for n in range(1, 4000):  # an AR(1) series: tau = (1 + .5) / (1 - .5) = 3
        ...     step[:, n] = 0.5 * step[:, n - 1] + noise[:, n]
        >>> bool((16_000 / effective_size(step) - 3).abs() < 0.3)
        True
    """
    if series.dim() < 2 or series.shape[1] < 8 or series.shape[0] < 1:
        raise ValueError(
            f"effective_size: expected (chain, draw, *event) with at least 8 draws, got "
            f"{tuple(series.shape)}. Fix: series[None] for one chain, or more draws"
        )
    event = series.shape[2:]
    flat = series.detach().double().reshape(*series.shape[:2], -1)
    half = flat.shape[1] // 2
    split = torch.cat([flat[:, :half], flat[:, -half:]])  # (2C, half, E)
    rho = _autocorrelation(split)
    size = split.shape[0] * half
    tau = _initial_monotone(rho).clamp_min(1 / math.log10(size))
    result = size / tau
    spread = split.amax((0, 1)) - split.amin((0, 1))
    result = torch.where(spread < 1e-15, float(size), result)
    result = torch.where(flat.isfinite().all(0).all(0), result, math.nan)
    return result.reshape(event)


def _autocorrelation(split: Tensor) -> Tensor:
    """ρ_t of chains (C, n, E), by lag: (n, E)."""
    chains, draws, _ = split.shape
    mean = split.mean(1)
    centred = (split - mean[:, None]).movedim(1, -1)  # the FFT runs along the last axis
    spectrum = torch.fft.rfft(centred, n=2 ** math.ceil(math.log2(2 * draws)))
    power = (spectrum.real.square() + spectrum.imag.square()).mean(0)
    covariance = torch.fft.irfft(power)[..., :draws].movedim(-1, 0) / draws  # (n, E), biased
    within = covariance[0] * draws / (draws - 1)
    total = covariance[0]
    if chains > 1:
        total = total + mean.var(0)
    return 1 - (within - covariance) / total.clamp_min(torch.finfo(total.dtype).tiny)


def _initial_monotone(rho: Tensor) -> Tensor:
    """τ by Geyer's initial monotone sequence, (E,), from the autocorrelations (n, E)."""
    draws = rho.shape[0]
    rho = torch.cat([torch.ones_like(rho[:1]), rho[1:]])
    last = (draws - 3) // 2
    pairs = rho[0 : 2 * last + 2 : 2] + rho[1 : 2 * last + 2 : 2]  # (last + 1, E)
    index = torch.arange(last + 1, device=rho.device)[:, None]
    stop = torch.where(pairs <= 0, index, last).amin(
        0
    )  # the first pair that is not positive, or the last one
    monotone = torch.where(index < stop, pairs, 0.0).cummin(0).values.clamp_min(0)
    even = rho[2 * stop, torch.arange(rho.shape[1], device=rho.device)]
    pair = pairs[stop, torch.arange(rho.shape[1], device=rho.device)]
    tail = torch.where(pair >= 0, even, even.clamp_min(0))
    return -1 + 2 * monotone.sum(0) + tail
