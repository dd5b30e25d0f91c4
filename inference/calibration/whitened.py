"""A log density in coordinates in which the average posterior has unit covariance."""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor

from evidentia.inference.density.evaluation import Evaluation

__all__ = ["Whitened", "within_covariance"]


@final
class Whitened:
    r"""The density of \(z = L^{-1} (x - m)\), up to the constant \(\log |L|\).

    Kernels take their own metric from the spread of all their chains. Where every chain has a data set of
    its own, that is the spread between posteriors; with the posteriors' means taken out by \(m\), and their
    mean covariance by \(L\), it is not.

    Args:
        density: a `LogDensity` or anything with `evaluate`.
        factor: (D, D) lower triangular \(L\).
        shift: (C, D) or (D,) \(m\).
        temper: multiplies every inverse temperature: 1 for the posterior, 0 for the prior.

    References:
        none; a change of coordinates.

    Example:
        >>> from types import SimpleNamespace
        >>> normal = SimpleNamespace(
        ...     evaluate=lambda x, beta=1.0: Evaluation(-0.5 * (x**2).sum(-1), -x, 0 * x))
        >>> Whitened(normal, 2 * torch.eye(1), torch.ones(1)).evaluate(torch.zeros(1, 1)).gradient
        tensor([[-2.]])
    """

    def __init__(self, density: Any, factor: Tensor, shift: Tensor, temper: float = 1.0) -> None:
        self.density, self.factor, self.shift, self.temper = density, factor, shift, temper

    def __repr__(self) -> str:
        return f"Whitened({self.density!r}, temper={self.temper})"

    def evaluate(self, position: Tensor, beta: Tensor | float = 1.0) -> Evaluation:
        """Log density, gradient and log likelihood at whitened positions (C, D)."""
        found = self.density.evaluate(self.outward(position), beta * self.temper)
        return Evaluation(found.log_density, found.gradient @ self.factor, found.log_likelihood)

    def outward(self, position: Tensor) -> Tensor:
        r"""\(x = m + L z\)."""
        return self.shift + position @ self.factor.mT

    def inward(self, position: Tensor) -> Tensor:
        r"""\(z = L^{-1} (x - m)\)."""
        moved: Tensor = (position - self.shift).mT
        return torch.linalg.solve_triangular(self.factor, moved, upper=False).mT


def within_covariance(draws: Tensor) -> tuple[Tensor, Tensor]:
    r"""Mean over data sets of the covariance of their draws, and the means that were taken out.

    A hundredth of the variances' shrinkage keeps it positive definite.

    Args:
        draws: (N, S, D), S draws for each of N data sets.

    Returns:
        (D, D) and (N, D).

    References:
        none; analysis of variance.

    Example:
        >>> covariance, mean = within_covariance(torch.tensor([[[0.0], [2.0]], [[5.0], [7.0]]]))
        >>> covariance.item(), mean.flatten().tolist()
        (2.0, [1.0, 6.0])
    """
    mean = draws.mean(1)
    residual = draws - mean[:, None]
    covariance = torch.einsum("nsd,nse->de", residual, residual) / (len(draws) * (draws.shape[1] - 1))
    variance = covariance.diagonal().clamp(min=1e-12).diag()
    return 0.99 * covariance + 0.01 * variance, mean
