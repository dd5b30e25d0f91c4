"""The values of the particle objectives: pure, differentiable functions of log-weights."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from evidentia.inference.objectives.leave_one_out import others_logsumexp

__all__ = [
    "ciwae_bound",
    "cubo_bound",
    "elbo_bound",
    "iwae_bound",
    "jackknife_bound",
    "miwae_bound",
    "renyi_bound",
]


def elbo_bound(log_weight: Tensor) -> Tensor:
    r"""The evidence lower bound, \(\frac1K\sum_k\log w_k\).

    Args:
        log_weight: \(\log p(x,z_k)-\log q(z_k)\), (K, *plates), nats.

    Returns:
        (*plates), nats per element of the plates; -inf when any weight is zero.

    References:
        Kingma and Welling, 2014. Auto-encoding variational Bayes.

    Example:
        >>> round(elbo_bound(torch.tensor([1.0, 3.0])).item(), 4)
        2.0
    """
    return log_weight.mean(0)


def iwae_bound(log_weight: Tensor) -> Tensor:
    r"""The importance-weighted bound, \(L_K=\log\frac1K\sum_k w_k\).

    Its expectation rises with K towards the log evidence;
    \(K(\log p(x)-E L_K)\to\chi^2(p(z\mid x)\,\|\,q)/2\).

    Args:
        log_weight: (K, *plates), nats.

    Returns:
        (*plates), nats per element of the plates; -inf when all the weights are zero.

    References:
        Burda, Grosse and Salakhutdinov, 2016. Importance weighted autoencoders.

    Example:
        >>> round(iwae_bound(torch.tensor([1.0, 3.0])).item(), 4)
        2.4338
    """
    return torch.logsumexp(log_weight, 0) - math.log(log_weight.shape[0])


def renyi_bound(log_weight: Tensor, alpha: float) -> Tensor:
    r"""The variational Rényi bound, \(\frac{1}{1-\alpha}\log\frac1K\sum_k w_k^{1-\alpha}\).

    α = 0 is the importance-weighted bound and α = 1, the limit, the evidence lower bound. For α ≥ 0 the
    expectation is a lower bound of the log evidence at every K; for α < 0 it is none: it may lie on either
    side.

    Args:
        log_weight: (K, *plates), nats.
        alpha: order of the divergence, finite.

    Returns:
        (*plates), nats per element of the plates.

    Raises:
        ValueError: alpha is not finite.

    References:
        Li and Turner, 2016. Rényi divergence variational inference.

    Example:
        >>> w = torch.tensor([1.0, 3.0])
        >>> [round(renyi_bound(w, alpha).item(), 4) for alpha in (0.0, 0.5, 1.0)]
        [2.4338, 2.2402, 2.0]
    """
    if not math.isfinite(alpha):
        raise ValueError(f"alpha: expected a finite number, got {alpha}. Fix: alpha=0.5, for example")
    power = 1.0 - alpha
    if power == 0.0:
        return elbo_bound(log_weight)
    return iwae_bound(power * log_weight) / power


def cubo_bound(log_weight: Tensor, order: float = 2.0) -> Tensor:
    r"""The chi-square upper bound's estimate, \(\frac1n\log\frac1K\sum_k w_k^n\).

    As K → ∞ it tends to an upper bound of the log evidence. The K-sample estimate lies below that limit
    (Jensen's inequality) and is not an upper bound itself: its kind is "consistent estimate". The
    exponentiated form \(\exp(n\,\mathrm{CUBO})\) is unbiased. It equals `renyi_bound` with α = 1 - n.

    Args:
        log_weight: (K, *plates), nats.
        order: n ≥ 1.

    Returns:
        (*plates), nats per element of the plates.

    Raises:
        ValueError: order below 1.

    References:
        Dieng, Tran, Ranganath, Paisley and Blei, 2017. Variational inference via chi upper bound
        minimization.

    Example:
        >>> round(cubo_bound(torch.tensor([1.0, 3.0]), order=2.0).item(), 4)
        2.6625
    """
    if not 1 <= order < math.inf:
        raise ValueError(f"order: expected a finite number >= 1, got {order}. Fix: order=2")
    return renyi_bound(log_weight, 1.0 - order)


def jackknife_bound(log_weight: Tensor) -> Tensor:
    r"""The first-order jackknife, \(K L_K-(K-1)\,\frac1K\sum_k L^{(-k)}_{K-1}\).

    It removes the 1/K term of the bias of \(L_K\); what is left is of order \(K^{-2}\). It is an estimator
    for evaluation and not a bound.

    Args:
        log_weight: (K, *plates), K ≥ 2, nats.

    Returns:
        (*plates), nats per element of the plates; +inf when exactly one weight is not zero.

    Raises:
        ValueError: K < 2.

    References:
        Nowozin, 2018. Debiasing evidence approximations: on importance-weighted autoencoders and jackknife
        variational inference.

    Example:
        >>> round(jackknife_bound(torch.tensor([1.0, 3.0])).item(), 4)
        2.8676
    """
    size = log_weight.shape[0]
    if size < 2:
        raise ValueError(f"log_weight: the jackknife needs K >= 2 particles, got {size}. Fix: more particles")
    whole = iwae_bound(log_weight)
    without = others_logsumexp(log_weight) - math.log(size - 1)
    value = size * whole - (size - 1) * without.mean(0)
    return torch.where(torch.isneginf(whole), whole, value)  # and not inf - inf


def miwae_bound(log_weight: Tensor, outer: int) -> Tensor:
    r"""The mean of M importance-weighted bounds, \(\frac1M\sum_m L_K^{(m)}\).

    Args:
        log_weight: (M·K, *plates), nats; a group is a run of K neighbouring particles.
        outer: number of groups, M.

    Returns:
        (*plates), nats per element of the plates.

    Raises:
        ValueError: M does not divide the number of particles.

    References:
        Rainforth, Kosiorek, Le, Maddison, Igl, Wood and Teh, 2018. Tighter variational bounds are not
        necessarily better.

    Example:
        >>> w = torch.tensor([1.0, 3.0, 1.0, 3.0])
        >>> round(miwae_bound(w, outer=2).item(), 4)
        2.4338
    """
    return iwae_bound(grouped(log_weight, outer).transpose(0, 1)).mean(0)


def ciwae_bound(log_weight: Tensor, beta: float) -> Tensor:
    r"""A mixture of two bounds, \(\beta\,\mathrm{ELBO}+(1-\beta)\,L_K\).

    Args:
        log_weight: (K, *plates), nats.
        beta: weight of the evidence lower bound, in [0, 1].

    Returns:
        (*plates), nats per element of the plates.

    Raises:
        ValueError: beta outside [0, 1].

    References:
        Rainforth, Kosiorek, Le, Maddison, Igl, Wood and Teh, 2018. Tighter variational bounds are not
        necessarily better.

    Example:
        >>> round(ciwae_bound(torch.tensor([1.0, 3.0]), beta=0.5).item(), 4)
        2.2169
    """
    if not 0 <= beta <= 1:
        raise ValueError(f"beta: expected a number in [0, 1], got {beta}. Fix: beta=0.5")
    if beta == 1:
        return elbo_bound(log_weight)
    if beta == 0:
        return iwae_bound(log_weight)  # the mean may be -inf, and 0 * inf is NaN
    return beta * elbo_bound(log_weight) + (1 - beta) * iwae_bound(log_weight)


def grouped(values: Tensor, outer: int) -> Tensor:
    """Split the particles into `outer` groups of neighbours: (M·K, *plates) → (M, K, *plates).

    Raises:
        ValueError: the groups would not have equal size.

    References:
        none; bookkeeping.

    Example:
        >>> grouped(torch.arange(6), 2).shape
        torch.Size([2, 3])
    """
    size = values.shape[0]
    if outer < 1 or size % outer:
        raise ValueError(
            f"outer: expected a divisor of num_particles={size}, got {outer}. "
            "Fix: num_particles is the total, outer groups times the inner particles of each"
        )
    return values.reshape(outer, size // outer, *values.shape[1:])
