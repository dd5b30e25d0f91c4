"""Euclidean metrics: a covariance used as inverse mass matrix, diagonal or dense."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Metric", "draw_momentum", "identity_metric", "kinetic", "metric_of", "velocity", "whiten"]


class Metric(NamedTuple):
    r"""A covariance \(S\) in the role of the inverse mass matrix, with its factor \(L L^\top = S\).

    Attributes:
        covariance: (D,) variances or (D, D).
        factor: (D,) standard deviations, or (D, D) lower Cholesky factor \(L\).
        inverse: (D,) or (D, D), \(L^{-1}\): kept so that no step solves a triangular system.

    References:
        Neal, 2011, MCMC using Hamiltonian dynamics.

    Example:
        >>> metric_of(torch.tensor([4.0, 1.0])).factor
        tensor([2., 1.])
    """

    covariance: Tensor
    factor: Tensor
    inverse: Tensor

    @property
    def is_dense(self) -> bool:
        """Whether the covariance is a matrix."""
        return self.covariance.ndim == 2


def metric_of(covariance: Tensor) -> Metric:
    r"""The metric of a covariance \(S = L L^\top\); factors are computed in float64.

    Args:
        covariance: (D,) variances, or a positive definite (D, D).

    Returns:
        `Metric` in the dtype of the covariance.

    Raises:
        ValueError: another shape, or a covariance that is not positive definite.

    References:
        Neal, 2011, MCMC using Hamiltonian dynamics.

    Example:
        >>> metric_of(torch.tensor([[4.0, 2.0], [2.0, 2.0]])).factor
        tensor([[2., 0.],
                [1., 1.]])
    """
    dtype = covariance.dtype
    if covariance.ndim == 1:
        if not bool(((covariance > 0) & covariance.isfinite()).all()):
            raise ValueError("covariance: expected positive finite variances. Fix: shrink or clamp them")
        factor = covariance.sqrt()
        return Metric(covariance, factor, factor.reciprocal())
    if covariance.ndim != 2 or covariance.shape[0] != covariance.shape[1]:
        raise ValueError(f"covariance: expected shape (D,) or (D, D), got {tuple(covariance.shape)}")
    factor, failed = torch.linalg.cholesky_ex(covariance.double())
    if int(failed) or not bool(factor.isfinite().all()):
        raise ValueError(
            "covariance: expected a positive definite matrix. Fix: shrink it towards its diagonal "
            "(`shrunk_covariance`)"
        )
    inverse = torch.linalg.solve_triangular(
        factor, torch.eye(len(factor), dtype=factor.dtype, device=factor.device), upper=False
    )
    return Metric(covariance, factor.to(dtype), inverse.to(dtype))


def identity_metric(like: Tensor) -> Metric:
    """The diagonal metric of unit variances for positions `like` (C, D).

    References:
        none; bookkeeping.

    Example:
        >>> identity_metric(torch.zeros(5, 2)).covariance
        tensor([1., 1.])
    """
    one = torch.ones(like.shape[-1], dtype=like.dtype, device=like.device)
    return Metric(one, one, one)


def draw_momentum(metric: Metric, like: Tensor, generator: torch.Generator | None = None) -> Tensor:
    r"""Momenta \(p = L^{-\top} z \sim N(0, S^{-1})\), \(z \sim N(0, I)\).

    Args:
        metric: the metric.
        like: (C, D) positions: shape, dtype and device of the result.
        generator: torch's global one when None.

    Returns:
        (C, D).

    References:
        Neal, 2011, MCMC using Hamiltonian dynamics.

    Example:
        >>> metric = metric_of(torch.tensor([1e4]))
        >>> bool(draw_momentum(metric, torch.zeros(9, 1)).abs().max() < 0.1)
        True
    """
    noise = torch.randn(like.shape, generator=generator, dtype=like.dtype, device=like.device)
    return noise @ metric.inverse if metric.is_dense else noise * metric.inverse


def velocity(metric: Metric, momentum: Tensor) -> Tensor:
    r"""\(\dot q = S p\), shape (C, D).

    References:
        Neal, 2011, MCMC using Hamiltonian dynamics.

    Example:
        >>> velocity(metric_of(torch.tensor([4.0, 1.0])), torch.ones(1, 2))
        tensor([[4., 1.]])
    """
    return momentum @ metric.covariance if metric.is_dense else momentum * metric.covariance


def kinetic(metric: Metric, momentum: Tensor) -> Tensor:
    r"""Kinetic energy \(\tfrac12 p^\top S p\), shape (C,), nats, summed in float64.

    References:
        Neal, 2011, MCMC using Hamiltonian dynamics.

    Example:
        >>> kinetic(metric_of(torch.tensor([4.0, 1.0])), torch.ones(1, 2))
        tensor([2.5000], dtype=torch.float64)
    """
    return 0.5 * torch.linalg.vecdot(momentum.double(), velocity(metric, momentum).double())


def whiten(metric: Metric, value: Tensor) -> Tensor:
    r"""\(L^{-1} x\), shape (C, D): displacements whose covariance is near the identity when \(S\) fits.

    References:
        Hoffman, Radul, Sountsov, 2021, An adaptive-MCMC scheme for setting trajectory lengths.

    Example:
        >>> whiten(metric_of(torch.tensor([4.0, 1.0])), torch.ones(1, 2))
        tensor([[0.5000, 1.0000]])
    """
    return value @ metric.inverse.mT if metric.is_dense else value * metric.inverse
