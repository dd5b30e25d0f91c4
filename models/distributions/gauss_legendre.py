"""Gauss-Legendre nodes on the unit interval, as tensors."""

import functools

import numpy as np
from torch import Tensor


def unit_nodes(number: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Points and weights with ``∫_0^1 f = Σ_i weight_i f(point_i)``, exact to degree ``2 number - 1``.

    Args:
        number: how many nodes.
        like: tensor whose type and device are taken.

    Example:
        >>> import torch
        >>> points, weights = unit_nodes(3, torch.zeros((), dtype=torch.float64))
        >>> round(float((weights * points**5).sum()), 12)  # 1/6
        0.166666666667

    References:
        none; bookkeeping.
    """
    points, weights = _legendre(number)
    # new tensors on every call: a cached one would be a foreign constant during graph capture
    return like.new_tensor(points), like.new_tensor(weights)


@functools.cache
def _legendre(number: int) -> tuple[np.ndarray, np.ndarray]:
    points, weights = np.polynomial.legendre.leggauss(number)
    return (points + 1) / 2, weights / 2
