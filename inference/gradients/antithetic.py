"""Gradients of bits from antithetic pairs: one uniform number decides two draws."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from evidentia.inference.gradients.score_function import lift

__all__ = ["AntitheticPair", "antithetic_pair", "arm", "disarm"]


class AntitheticPair(NamedTuple):
    """Two coupled draws of the same bits, each with the right law.

    Attributes:
        uniform: u, (n, *batch, D).
        bits: b = 1[u > 1 - p], (n, *batch, D).
        opposite: b̃ = 1[u < p], (n, *batch, D).

    References:
        Yin and Zhou, 2019. ARM: augment-REINFORCE-merge gradient for stochastic binary networks.
    """

    uniform: Tensor
    bits: Tensor
    opposite: Tensor


def antithetic_pair(logits: Tensor, num_draws: int) -> AntitheticPair:
    r"""Draw u and the pair \(b=1[u>1-p]\), \(\tilde b=1[u<p]\) with \(p=\mathrm{sigmoid}(\theta)\).

    Args:
        logits: θ, (*batch, D).
        num_draws: n pairs.

    Returns:
        `AntitheticPair`.

    References:
        Yin and Zhou, 2019. ARM: augment-REINFORCE-merge gradient for stochastic binary networks.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> pair = antithetic_pair(torch.zeros(2), 3)
        >>> (pair.bits + pair.opposite).unique()  # at p = 1/2 they are always opposite
        tensor([1.])
    """
    p = logits.detach().sigmoid()
    uniform = torch.rand((num_draws, *logits.shape), dtype=logits.dtype, device=logits.device)
    return AntitheticPair(uniform, (uniform > 1 - p).to(p.dtype), (uniform < p).to(p.dtype))


def arm(values: Tensor, opposite_values: Tensor, pair: AntitheticPair) -> Tensor:
    r"""Augment-REINFORCE-merge: \(g=\frac1n\sum_i\big(f(b_i)-f(\tilde b_i)\big)\big(u_i-\tfrac12\big)\).

    Unbiased for \(\nabla_\theta\,\mathbb E f\). Its variance is never below DisARM's, which is its mean given
    the pair.

    Args:
        values: f(b), (n, *batch).
        opposite_values: f(b̃), (n, *batch).
        pair: as drawn by `antithetic_pair`.

    Returns:
        (*batch, D), the unit of f.

    References:
        Yin and Zhou, 2019. ARM: augment-REINFORCE-merge gradient for stochastic binary networks.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> pair = antithetic_pair(torch.zeros(1), 20000)
        >>> bool((arm(pair.bits[:, 0], pair.opposite[:, 0], pair) - 0.25).abs() < 0.01)
        True
    """
    return (lift(values - opposite_values, pair.uniform) * (pair.uniform - 0.5)).mean(0)


def disarm(values: Tensor, opposite_values: Tensor, pair: AntitheticPair, logits: Tensor) -> Tensor:
    r"""DisARM (also U2G): the uniform numbers of ARM are integrated out.

    \[ g=\frac1n\sum_i\tfrac12\big(f(b_i)-f(\tilde b_i)\big)(-1)^{\tilde b_i}\,1[b_i\ne\tilde b_i]\,
    \mathrm{sigmoid}(|\theta|) \]

    Args:
        values: f(b), (n, *batch).
        opposite_values: f(b̃), (n, *batch).
        pair: as drawn by `antithetic_pair`.
        logits: θ, (*batch, D).

    Returns:
        (*batch, D), the unit of f.

    References:
        Dong, Mnih and Tucker, 2020. DisARM: an antithetic gradient estimator for binary latent variables.
        Yin, Ho, Yan, Qian and Zhou, 2020. Probabilistic best subset selection via gradient-based
        optimization (the same estimator, called U2G).

    Example:
        >>> pair = AntitheticPair(torch.tensor([[0.9]]), torch.tensor([[1.0]]), torch.tensor([[0.0]]))
        >>> disarm(torch.tensor([1.0]), torch.tensor([0.0]), pair, torch.zeros(1))
        tensor([0.2500])
    """
    # (-1)^b̃ 1[b ≠ b̃] is b - b̃.
    sign = pair.bits - pair.opposite
    return (0.5 * lift(values - opposite_values, sign) * sign * logits.detach().abs().sigmoid()).mean(0)
