"""Score-function gradients: they need values of f and nothing else of it."""

from __future__ import annotations

import torch
from torch import Tensor

from evidentia.inference.objectives.leave_one_out import others_mean

__all__ = ["lift", "reinforce", "rloo", "score"]


def lift(values: Tensor, draws: Tensor) -> Tensor:
    """Append ones to the shape of f's values until they broadcast with the draws.

    Args:
        values: (n, *batch).
        draws: (n, *batch, *event).

    References:
        none; bookkeeping.

    Example:
        >>> lift(torch.zeros(5, 2), torch.zeros(5, 2, 3)).shape
        torch.Size([5, 2, 1])
    """
    return values.reshape(*values.shape, *(1,) * (draws.dim() - values.dim()))


def score(draws: Tensor, logits: Tensor, *, categorical: bool = False) -> Tensor:
    r"""\(\partial\log p(z)/\partial\theta=z-p\) of bits or of one-hot vectors.

    Args:
        draws: bits (n, *batch, *event), or one-hot vectors with the categories in the last dimension.
        logits: θ, (*batch, *event).
        categorical: the last dimension is one choice among its entries; else each entry is a bit.

    Returns:
        The shape of `draws`.

    References:
        Williams, 1992. Simple statistical gradient-following algorithms for connectionist reinforcement
        learning.

    Example:
        >>> score(torch.tensor([[1.0, 0.0]]), torch.zeros(2))
        tensor([[ 0.5000, -0.5000]])
    """
    return draws - (logits.softmax(-1) if categorical else logits.sigmoid())


def reinforce(
    values: Tensor,
    draws: Tensor,
    logits: Tensor,
    *,
    categorical: bool = False,
    baseline: Tensor | float = 0.0,
) -> Tensor:
    r"""The score-function estimator of \(\nabla_\theta\,\mathbb E_{p(z\mid\theta)}f(z)\).

    \[ g=\frac1n\sum_i\big(f(z_i)-b\big)\,\partial_\theta\log p(z_i) \]

    Unbiased for any b that does not depend on the draws; its variance grows with the spread of f.

    Args:
        values: f(z), (n, *batch).
        draws: z, bits or one-hot (n, *batch, *event).
        logits: θ, (*batch, *event).
        categorical: see `score`.
        baseline: b, broadcasting with `values`.

    Returns:
        (*batch, *event), the unit of f.

    References:
        Williams, 1992. Simple statistical gradient-following algorithms for connectionist reinforcement
        learning.

    Example:
        >>> bits = torch.tensor([[1.0], [0.0]])
        >>> reinforce(bits.sum(-1), bits, torch.zeros(1))
        tensor([0.2500])
    """
    return (lift(values - baseline, draws) * score(draws, logits, categorical=categorical)).mean(0)


def rloo(values: Tensor, draws: Tensor, logits: Tensor, *, categorical: bool = False) -> Tensor:
    r"""REINFORCE with the mean of the other draws as the baseline of each.

    \[ g=\frac1n\sum_i\Big(f(z_i)-\frac{1}{n-1}\sum_{j\ne i}f(z_j)\Big)\,\partial_\theta\log p(z_i) \]

    Args:
        values: f(z), (n, *batch), n ≥ 2.
        draws: z, bits or one-hot (n, *batch, *event).
        logits: θ, (*batch, *event).
        categorical: see `score`.

    Returns:
        (*batch, *event), the unit of f.

    Raises:
        ValueError: fewer than two draws.

    References:
        Kool, van Hoof and Welling, 2019. Buy 4 REINFORCE samples, get a baseline for free!

    Example:
        >>> bits = torch.tensor([[1.0], [0.0]])
        >>> rloo(bits.sum(-1) + 100.0, bits, torch.zeros(1))
        tensor([0.5000])
    """
    if values.shape[0] < 2:
        raise ValueError(
            f"values: the leave-one-out baseline needs at least 2 draws, got {values.shape[0]}. "
            "Fix: num_particles=2, or reinforce"
        )
    return reinforce(values - others_mean(values), draws, logits, categorical=categorical)


def one_hot(index: Tensor, size: int, dtype: torch.dtype) -> Tensor:
    """Indices as one-hot vectors in the last dimension.

    References:
        none; bookkeeping.

    Example:
        >>> one_hot(torch.tensor(1), 3, torch.float32)
        tensor([0., 1., 0.])
    """
    # torch's own one_hot looks at the largest index, which a captured graph cannot.
    return (index[..., None] == torch.arange(size, device=index.device)).to(dtype)
