"""Straight-through gradients: the value is hard, the derivative is that of something soft. Biased."""

from __future__ import annotations

import torch
from torch import Tensor

from evidentia.inference.gradients.score_function import one_hot

__all__ = [
    "conditional_gumbels",
    "rao_blackwell_straight_through",
    "straight_through",
    "straight_through_gumbel",
]


def _attach(hard: Tensor, soft: Tensor) -> Tensor:
    """The numbers of `hard` with the derivative of `soft`."""
    return hard.detach() + (soft - soft.detach())


def _exponentials(shape: tuple[int, ...], like: Tensor) -> Tensor:
    tiny = torch.finfo(like.dtype).tiny
    return -torch.rand(shape, dtype=like.dtype, device=like.device).clamp_min(tiny).log()


def _hard(logits: Tensor, num_draws: int) -> tuple[Tensor, Tensor]:
    """One-hot maxima of Gumbel utilities, and the utilities: (n, *batch, C)."""
    utilities = logits - _exponentials((num_draws, *logits.shape), logits).log()
    return one_hot(utilities.argmax(-1), logits.shape[-1], logits.dtype), utilities


def straight_through(logits: Tensor, num_draws: int, *, categorical: bool = False) -> Tensor:
    r"""A hard draw whose derivative is that of its mean p(θ).

    With \(f\) linear in every coordinate and one coordinate the gradient is exact; otherwise it is biased.

    Args:
        logits: θ, (*batch, D) bits, or (*batch, C) with the categories last.
        num_draws: n.
        categorical: one choice among the last dimension, else bits.

    Returns:
        (n, *batch, D or C), attached to `logits`.

    References:
        Bengio, Léonard and Courville, 2013. Estimating or propagating gradients through stochastic neurons
        for conditional computation.

    Example:
        >>> theta = torch.zeros(1, requires_grad=True)
        >>> draw = straight_through(theta, 1)
        >>> torch.autograd.grad(draw.sum(), theta)
        (tensor([0.2500]),)
    """
    p = logits.softmax(-1) if categorical else logits.sigmoid()
    if categorical:
        hard, _ = _hard(logits.detach(), num_draws)
    else:
        hard = torch.bernoulli(p.detach().expand(num_draws, *p.shape))
    return _attach(hard, p)


def straight_through_gumbel(
    logits: Tensor, num_draws: int, temperature: float, *, categorical: bool = False
) -> Tensor:
    r"""A hard Gumbel maximum whose derivative is that of \(\mathrm{softmax}((\theta+G)/\tau)\).

    For bits \(\mathrm{sigmoid}((\theta+\mathrm{logit}\,u)/\tau)\). Biased; the bias falls and the variance
    rises as τ falls.

    Args:
        logits: θ, (*batch, D) bits, or (*batch, C) with the categories last.
        num_draws: n.
        temperature: τ > 0.
        categorical: one choice among the last dimension, else bits.

    Returns:
        (n, *batch, D or C), attached to `logits`.

    Raises:
        ValueError: the temperature is not positive.

    References:
        Jang, Gu and Poole, 2017. Categorical reparameterization with Gumbel-Softmax.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> straight_through_gumbel(torch.zeros(3), 2, 0.5, categorical=True).sum(-1)
        tensor([1., 1.])
    """
    _check_temperature(temperature)
    if not categorical:
        logits = _as_pairs(logits)
    hard, utilities = _hard(logits.detach(), num_draws)
    soft = ((utilities - logits.detach() + logits) / temperature).softmax(-1)
    draw = _attach(hard, soft)
    return draw if categorical else draw[..., 0]


def conditional_gumbels(logits: Tensor, hard: Tensor, exponentials: Tensor) -> Tensor:
    r"""Utilities \(\theta+G\) drawn again, given which of them was the largest.

    With active index i, \(E_j\sim\mathrm{Exp}(1)\) and \(Z=\sum_j e^{\theta_j}\):
    \(U_i=-\log E_i+\log Z\) and \(U_j=-\log\!\big(E_j/e^{\theta_j}+E_i/Z\big)\) for \(j\ne i\).

    Args:
        logits: θ, (*batch, C).
        hard: one-hot, (*m, *batch, C).
        exponentials: E, (*m, *batch, C).

    Returns:
        (*m, *batch, C), differentiable in `logits`.

    References:
        Paulus, Maddison and Krause, 2021. Rao-Blackwellizing the straight-through Gumbel-softmax gradient
        estimator.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> hard = torch.tensor([0.0, 1.0, 0.0]).expand(1000, 3)
        >>> u = conditional_gumbels(torch.tensor([2.0, -1.0, 0.5]), hard, torch.rand(1000, 3))
        >>> u.argmax(-1).unique()
        tensor([1])
    """
    total = logits.logsumexp(-1, keepdim=True)
    top = total - (exponentials * hard).sum(-1, keepdim=True).log()
    rest = -torch.logaddexp(exponentials.log() - logits, -top)
    return torch.where(hard > 0, top, rest)


def rao_blackwell_straight_through(
    logits: Tensor, num_draws: int, temperature: float, num_redraws: int = 20, *, categorical: bool = False
) -> Tensor:
    r"""Straight-through Gumbel with its soft part averaged over redraws of the utilities given the hard one.

    The mean of the gradient is that of `straight_through_gumbel`, its variance is smaller.

    Args:
        logits: θ, (*batch, D) bits, or (*batch, C) with the categories last.
        num_draws: n.
        temperature: τ > 0.
        num_redraws: M ≥ 1.
        categorical: one choice among the last dimension, else bits.

    Returns:
        (n, *batch, D or C), attached to `logits`.

    Raises:
        ValueError: the temperature is not positive, or M < 1.

    References:
        Paulus, Maddison and Krause, 2021. Rao-Blackwellizing the straight-through Gumbel-softmax gradient
        estimator.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> rao_blackwell_straight_through(torch.zeros(3), 2, 0.5, categorical=True).sum(-1)
        tensor([1., 1.])
    """
    _check_temperature(temperature)
    if num_redraws < 1:
        raise ValueError(f"num_redraws: expected a number >= 1, got {num_redraws}. Fix: num_redraws=20")
    if not categorical:
        logits = _as_pairs(logits)
    hard, _ = _hard(logits.detach(), num_draws)
    noise = _exponentials((num_redraws, *hard.shape), logits)
    # The Jacobian is averaged, not the function: as utilities of θ + G the redraws move with θ one to one.
    utilities = conditional_gumbels(logits.detach(), hard.expand(noise.shape), noise)
    soft = ((utilities - logits.detach() + logits) / temperature).softmax(-1)
    draw = _attach(hard, soft.mean(0))
    return draw if categorical else draw[..., 0]


def _as_pairs(logits: Tensor) -> Tensor:
    """A bit as a choice of two: index 0 stands for 1."""
    return torch.stack([logits, torch.zeros_like(logits)], -1)


def _check_temperature(temperature: float) -> None:
    if not temperature > 0:
        raise ValueError(f"temperature: expected a positive number, got {temperature}. Fix: temperature=0.5")
