"""The ensemble's covariance with forgetting, shrunk to its diagonal: the metric of a warm-up."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from evidentia.inference.mcmc.metric import Metric, metric_of

__all__ = [
    "Moments",
    "final_metric",
    "init_moments",
    "moments_count",
    "prefers_dense",
    "shrunk_covariance",
    "update_moments",
]

# Past this many dimensions a dense matrix costs more than it gives.
LARGEST_DENSE = 300


class Moments(NamedTuple):
    """Exponentially weighted moments over chains and iterations.

    Attributes:
        mean: (D,) float64.
        covariance: (D, D) float64, or (D,) when only variances are kept.
        updates: how many there were.

    References:
        West, 1979, Updating mean and variance estimates: an improved method.
    """

    mean: Tensor
    covariance: Tensor
    updates: int


def prefers_dense(num_chains: int, dim: int) -> bool:
    r"""Whether an ensemble can carry a dense metric: \(C \ge 2D\) and \(D \le 300\).

    References:
        none; bookkeeping.

    Example:
        >>> prefers_dense(64, 32), prefers_dense(64, 33)
        (True, False)
    """
    return num_chains >= 2 * dim and dim <= LARGEST_DENSE


def init_moments(position: Tensor, *, dense: bool) -> Moments:
    """No moments yet, for positions (C, D).

    References:
        none; bookkeeping.

    Example:
        >>> init_moments(torch.zeros(4, 2), dense=True).covariance.shape
        torch.Size([2, 2])
    """
    dim = position.shape[-1]
    zero = torch.zeros(dim, dtype=torch.float64, device=position.device)
    return Moments(zero, zero.new_zeros(dim, dim) if dense else zero, 0)


def update_moments(state: Moments, position: Tensor, *, forgetting: float = 0.97) -> Moments:
    r"""Mix in the ensemble, with \(\delta_i = x_i - m\) and weight \(w\):

    \[ m' = m + w \bar\delta, \qquad
       S' = (1 - w) S + w\, \overline{\delta \delta^\top} - w^2 \bar\delta \bar\delta^\top \]

    The weight is \(\max(2/(t + 2), (1 - \rho) \min(1, C / 2D))\): the later half of what few chains have
    seen, and a short memory where there are many.

    Args:
        state: the moments before.
        position: (C, D), finite.
        forgetting: \(\rho\), of a large ensemble.

    References:
        West, 1979, Updating mean and variance estimates: an improved method.

    Example:
        >>> state = update_moments(init_moments(torch.zeros(2, 1), dense=False), torch.tensor([[1.0], [3.0]]))
        >>> state.mean, state.covariance
        (tensor([2.], dtype=torch.float64), tensor([1.], dtype=torch.float64))
    """
    chains, dim = position.shape
    weight = max(2.0 / (state.updates + 2), (1.0 - forgetting) * min(1.0, chains / (2 * dim)))
    delta = position.double() - state.mean
    shift = delta.mean(0)
    if state.covariance.ndim == 2:
        covariance = torch.addmm(state.covariance, delta.mT, delta, beta=1.0 - weight, alpha=weight / chains)
        covariance = torch.addr(covariance, shift, shift, alpha=-(weight**2))
    else:
        covariance = torch.lerp(state.covariance, delta.square().mean(0), weight) - (weight * shift).square()
    return Moments(torch.add(state.mean, shift, alpha=weight), covariance, state.updates + 1)


def moments_count(state: Moments, num_chains: int, forgetting: float = 0.97) -> float:
    r"""Positions behind the moments, \(C \min(t, 2 / (1 - \rho))\); an upper bound, as draws are correlated.

    References:
        none; bookkeeping.

    Example:
        >>> moments_count(init_moments(torch.zeros(4, 2), dense=False)._replace(updates=3), 4)
        12.0
    """
    return float(num_chains) * min(float(state.updates), 2.0 / max(1.0 - forgetting, 1e-3))


def shrunk_covariance(covariance: Tensor, count: float) -> Tensor:
    r"""\((1 - a) S + a \operatorname{diag} S\) with \(a = D / (D + C/2)\), \(C\) the `count` of positions.

    Args:
        covariance: (D, D).
        count: positions it was computed from.

    References:
        Ledoit, Wolf, 2004, A well-conditioned estimator for large-dimensional covariance matrices.

    Example:
        >>> shrunk_covariance(torch.tensor([[1.0, 0.8], [0.8, 1.0]]), count=4)
        tensor([[1.0000, 0.4000],
                [0.4000, 1.0000]])
    """
    weight = len(covariance) / (len(covariance) + count / 2)
    diagonal = covariance.diagonal()
    shrunk: Tensor = (1.0 - weight) * covariance
    return shrunk + torch.diag(weight * diagonal)


def final_metric(state: Moments, like: Tensor, *, forgetting: float = 0.97) -> Metric | None:
    """The metric of the moments, in the dtype of the positions `like` (C, D).

    Returns:
        None while there are too few positions, or while some coordinate has not moved: keep the old metric.

    References:
        Hoffman, Radul, Sountsov, 2021, An adaptive-MCMC scheme for setting trajectory lengths in Hamiltonian
        Monte Carlo.

    Example:
        >>> final_metric(init_moments(torch.zeros(4, 2), dense=True), torch.zeros(4, 2)) is None
        True
    """
    chains, dim = like.shape
    count = moments_count(state, chains, forgetting)
    if count < (2 * dim if state.covariance.ndim == 2 else 50):
        return None
    covariance = state.covariance
    variance = covariance.diagonal() if covariance.ndim == 2 else covariance
    if not bool(((variance > 1e-16 * (1.0 + state.mean.square())) & variance.isfinite()).all()):
        return None
    try:
        metric = metric_of(shrunk_covariance(covariance, count) if covariance.ndim == 2 else covariance)
    except ValueError:
        return None
    return Metric(*(part.to(like.dtype) for part in metric))
