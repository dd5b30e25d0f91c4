"""The coefficients of the elementary objectives: three to six lines of tensor code each."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from evidentia.inference.objectives.bounds import elbo_bound, iwae_bound, jackknife_bound, renyi_bound
from evidentia.inference.objectives.leave_one_out import others_logsumexp, others_mean


class Coefficients(NamedTuple):
    r"""What multiplies each gradient in the ascent direction of one objective.

    \[ g=\sum_k a_k\,\partial_\theta\log p(x,z_k)+\sum_k b_k\,\frac{\partial\log w_k}{\partial z_k}
    \frac{dz_k}{d\phi}+\sum_k s_k\,\partial_\phi\log q(z_k) \]

    The second sum holds φ fixed in log w (the path through reparameterised sites); the third holds z fixed.

    Attributes:
        value: the objective, (*plates), nats.
        theta: a, (K, *plates).
        path: b, (K, *plates).
        ratio: r = b/a where that is safe at every weight: one backward pass then suffices. None when a can
            vanish while b does not.
        score_reparam: s of the reparameterised sites, (K, *plates).
        score_other: s of the other sites, (K, *plates); None when the combination does not support them.

    References:
        Tucker, Lawson, Gu and Maddison, 2019. Doubly reparameterized gradient estimators for Monte Carlo
        objectives.

    Example:
        >>> from evidentia.inference.objectives.coefficients import coefficients
        >>> coefficients(torch.zeros(2), "iwae", "dreg").path
        tensor([0.2500, 0.2500])
    """

    value: Tensor
    theta: Tensor
    path: Tensor
    ratio: Tensor | None
    score_reparam: Tensor
    score_other: Tensor | None


def normalised(log_weight: Tensor) -> Tensor:
    """The softmax over particles, with zeros where the sum is zero or infinite.

    Args:
        log_weight: (K, *plates), nats.

    Returns:
        (K, *plates).

    References:
        none; bookkeeping.

    Example:
        >>> normalised(torch.tensor([[0.0, -torch.inf], [0.0, -torch.inf]]))
        tensor([[0.5000, 0.0000],
                [0.5000, 0.0000]])
    """
    total = torch.logsumexp(log_weight, 0, keepdim=True)
    return torch.where(torch.isinf(total), 0.0, (log_weight - total).exp())


def _finite(values: Tensor) -> Tensor:
    """Zeros in place of infinities: particles of weight zero have no useful score. NaN stays."""
    return torch.where(torch.isinf(values), 0.0, values)


def _total(value: Tensor, a: Tensor, score_other: Tensor | None) -> Coefficients:
    """The total derivative: path and explicit part share the coefficient a."""
    return Coefficients(value, a, a, torch.ones_like(a), -a, score_other)


def _path_only(value: Tensor, a: Tensor, ratio: Tensor, score_other: Tensor | None = None) -> Coefficients:
    """No explicit part for reparameterised sites."""
    return Coefficients(value, a, a * ratio, ratio, torch.zeros_like(a), score_other)


def elbo_triple(log_weight: Tensor, gradient: str, baseline: Tensor | float | None) -> Coefficients:
    """ELBO, "total" or "stl"; score sites against the mean of the other particles, or a given baseline."""
    size = log_weight.shape[0]
    a = torch.full_like(log_weight, 1.0 / size)
    base: Tensor | float = others_mean(log_weight) if size > 1 else (0.0 if baseline is None else baseline)
    if isinstance(base, Tensor):
        base = _finite(base)
    other = _finite(log_weight - base) / size
    if gradient == "stl":
        return _path_only(elbo_bound(log_weight), a, torch.ones_like(a), other)
    return _total(elbo_bound(log_weight), a, other)


def iwae_triple(log_weight: Tensor, gradient: str) -> Coefficients:
    """IWAE, "total", "stl", "dreg", "vimco" or "loo"."""
    value, weight = iwae_bound(log_weight), normalised(log_weight)
    if gradient == "dreg":
        return _path_only(value, weight, weight)
    if gradient == "stl":
        return _path_only(value, weight, torch.ones_like(weight))
    if gradient == "total":
        return _total(value, weight, _finite(value - weight))
    size = log_weight.shape[0]
    if gradient == "vimco":
        rest = torch.logaddexp(others_logsumexp(log_weight), others_mean(log_weight)) - math.log(size)
    else:
        rest = others_logsumexp(log_weight) - math.log(size - 1)
    # Any function of the other particles is a valid baseline; where this one is infinite, take zero.
    return _total(value, weight, _finite(value - _finite(rest) - weight))


def rws_triple(log_weight: Tensor, gradient: str) -> Coefficients:
    """Reweighted wake-sleep: θ ascends IWAE, φ descends KL(p‖q); "total" or "dreg"."""
    value, weight = iwae_bound(log_weight), normalised(log_weight)
    if gradient == "dreg":
        return _path_only(value, weight, 1.0 - weight)
    zero = torch.zeros_like(weight)
    return Coefficients(value, weight, zero, zero, weight, weight)


def renyi_triple(log_weight: Tensor, gradient: str, alpha: float) -> Coefficients:
    """Rényi, "total" or "dreg"; α = 1 is the ELBO, where the general formula is 0/0."""
    if alpha == 1.0:
        return elbo_triple(log_weight, "stl" if gradient == "dreg" else gradient, None)
    value, weight = renyi_bound(log_weight, alpha), normalised((1.0 - alpha) * log_weight)
    if gradient == "dreg":
        return _path_only(value, weight, alpha + (1.0 - alpha) * weight)
    return _total(value, weight, _finite(value - weight))


def tail_adaptive_triple(log_weight: Tensor, gradient: str, beta: float) -> Coefficients:
    r"""Weights from ranks: \(g_k=(\mathrm{rank}_k/K)^\beta\), rank 1 for the largest weight."""
    at_least = (log_weight[None] >= log_weight[:, None]).to(log_weight.dtype).mean(1)  # rank / K
    a = torch.where(torch.isneginf(log_weight), 0.0, at_least.clamp_min(0.5 / log_weight.shape[0]) ** beta)
    total = a.sum(0)
    a = a / torch.where(total == 0, 1.0, total)
    if gradient == "stl":
        return _path_only(elbo_bound(log_weight), a, torch.ones_like(a))
    return _total(elbo_bound(log_weight), a, None)


def jackknife_triple(log_weight: Tensor, gradient: str) -> Coefficients:
    r"""First-order jackknife, "total" or "dreg": \(K\,t-\frac{K-1}{K}\sum_k t^{(-k)}\) of the terms' triples.

    Weight j in the bound without k is \(w_j/S_{-k}\), so the sum over k ≠ j is again a sum over others.
    """
    size = log_weight.shape[0]
    weight, without = normalised(log_weight), others_logsumexp(log_weight)
    factor = (size - 1) / size

    def others(power: int) -> Tensor:
        inverse = torch.where(torch.isneginf(without), -math.inf, -power * without)
        return (power * log_weight + others_logsumexp(inverse)).exp()

    value = jackknife_bound(log_weight)
    a = size * weight - factor * others(1)
    if gradient == "dreg":
        b = size * weight.square() - factor * others(2)
        return Coefficients(value, a, b, None, torch.zeros_like(a), None)
    # The bound without j says nothing about z_j and is at hand: a baseline for the score of z_j.
    rest = _finite(without - math.log(size - 1))
    return _total(value, a, _finite(value - rest - a))
