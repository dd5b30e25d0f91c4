"""Local expectation gradients: each coordinate is summed out exactly while the others stay as drawn."""

from __future__ import annotations

import torch
from torch import Tensor

from evidentia.inference.gradients.score_function import lift

__all__ = ["local_expectation", "local_expectation_categorical", "neighbours", "neighbours_categorical"]


def neighbours(bits: Tensor) -> Tensor:
    """A draw and its D neighbours at one flipped bit.

    Args:
        bits: (*batch, D).

    Returns:
        (D + 1, *batch, D): the draw itself, then bit 0 flipped, bit 1 flipped …

    References:
        Titsias and Lázaro-Gredilla, 2015. Local expectation gradients for black box variational inference.

    Example:
        >>> neighbours(torch.tensor([1.0, 0.0]))
        tensor([[1., 0.],
                [0., 0.],
                [1., 1.]])
    """
    size = bits.shape[-1]
    change = torch.cat([bits.new_zeros(1, size), torch.eye(size, dtype=bits.dtype, device=bits.device)])
    change = change.reshape(size + 1, *(1,) * (bits.dim() - 1), size)
    return (bits - change).abs()


def local_expectation(values: Tensor, bits: Tensor, logits: Tensor) -> Tensor:
    r"""\(g_d=p_d(1-p_d)\big(f(b_d=1,b_{-d})-f(b_d=0,b_{-d})\big)\) with the other bits as drawn.

    A Rao–Blackwell form of REINFORCE; D + 1 evaluations of f for one draw.

    Args:
        values: f at the rows of `neighbours`, (D + 1, *batch).
        bits: the draw, (*batch, D).
        logits: θ, (*batch, D).

    Returns:
        (*batch, D), the unit of f.

    References:
        Titsias and Lázaro-Gredilla, 2015. Local expectation gradients for black box variational inference.

    Example:
        >>> bits = torch.tensor([1.0, 0.0])
        >>> local_expectation(neighbours(bits).sum(-1), bits, torch.zeros(2))
        tensor([0.2500, 0.2500])
    """
    p = logits.detach().sigmoid()
    change = (values[:1] - values[1:]).movedim(0, -1)  # f(b) - f(b with bit d flipped), (*batch, D)
    return p * (1 - p) * change * (2 * bits - 1)


def neighbours_categorical(draws: Tensor) -> Tensor:
    """A draw of D choices and its D(C - 1) neighbours at one changed choice.

    Args:
        draws: one-hot, (*batch, D, C).

    Returns:
        (1 + D(C - 1), *batch, D, C): the draw, then choice 0 moved on by 1 … C - 1, then choice 1 …

    References:
        Titsias and Lázaro-Gredilla, 2015. Local expectation gradients for black box variational inference.

    Example:
        >>> neighbours_categorical(torch.tensor([[1.0, 0.0, 0.0]]))[:, 0]
        tensor([[1., 0., 0.],
                [0., 1., 0.],
                [0., 0., 1.]])
    """
    choices, categories = draws.shape[-2:]
    rows = [draws]
    for choice in range(choices):
        for step in range(1, categories):
            moved = draws.clone()
            moved[..., choice, :] = draws[..., choice, :].roll(step, -1)
            rows.append(moved)
    return torch.stack(rows)


def local_expectation_categorical(values: Tensor, draws: Tensor, logits: Tensor) -> Tensor:
    r"""\(g_{dc}=p_{dc}\big(f(z_d=c)-\sum_{c'}p_{dc'}f(z_d=c')\big)\) with the other choices as drawn.

    Args:
        values: f at the rows of `neighbours_categorical`, (1 + D(C - 1), *batch).
        draws: the draw, one-hot (*batch, D, C).
        logits: θ, (*batch, D, C).

    Returns:
        (*batch, D, C), the unit of f.

    References:
        Titsias and Lázaro-Gredilla, 2015. Local expectation gradients for black box variational inference.

    Example:
        >>> draw = torch.tensor([[1.0, 0.0]])
        >>> values = neighbours_categorical(draw)[:, 0, 0]  # f is the indicator of category 0
        >>> local_expectation_categorical(values, draw, torch.zeros(1, 2))
        tensor([[ 0.2500, -0.2500]])
    """
    choices, categories = draws.shape[-2:]
    p = logits.detach().softmax(-1)
    moved = values[1:].movedim(0, -1)
    moved = moved.reshape(*moved.shape[:-1], choices, categories - 1)
    stay = lift(values[0], moved).expand(*moved.shape[:-1], 1)
    by_step = torch.cat([stay, moved], -1)  # f at category (drawn + step) mod C
    drawn = draws.argmax(-1, keepdim=True)
    step = (torch.arange(categories, device=draws.device) - drawn) % categories
    f = by_step.gather(-1, step.expand(by_step.shape))
    return p * (f - (p * f).sum(-1, keepdim=True))
