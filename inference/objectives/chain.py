"""From coefficients to gradients through the cut: steps 4 to 7 of the leaf-cut."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from evidentia.inference.objectives.leaf_cut import Leaf

__all__ = ["add_gradients", "attach", "chain_back", "gradients", "place", "rescale"]


class _Attach(torch.autograd.Function):
    """A value whose gradient with respect to given tensors is given."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, count: int, *pairs: Tensor) -> Tensor:
        ctx.count = count
        ctx.save_for_backward(*pairs[count:])
        return value.detach().clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        return (None, None, *(grad * saved for saved in ctx.saved_tensors), *(None,) * ctx.count)


def attach(value: Tensor, tensors: Sequence[Tensor], grads: Sequence[Tensor]) -> Tensor:
    r"""The value, with \(\partial/\partial t_i = g_i\): what \(v+T-\mathtt{detach}(T)\), \(T=\sum\langle
    g_i,t_i\rangle\), gives without computing T.

    Args:
        value: a scalar.
        tensors: attached to whatever they depend on.
        grads: of the same shapes. They are constants: a second derivative is refused.

    References:
        Foerster et al., 2018. DiCE: the infinitely differentiable Monte Carlo estimator (the idea of a
        surrogate).

    Example:
        >>> t = torch.ones(2, requires_grad=True)
        >>> attach(torch.tensor(5.0), [t], [torch.tensor([1.0, 2.0])]).backward()
        >>> t.grad
        tensor([1., 2.])
    """
    if not tensors:
        return value.detach()
    return _Attach.apply(value, len(tensors), *tensors, *grads)


def gradients(result: Tensor, inputs: Sequence[Tensor], weight: Tensor) -> list[Tensor | None]:
    r"""\(\partial\,\langle\mathrm{weight},\mathrm{result}\rangle/\partial\,\mathrm{input}\) for every input.

    Args:
        result: (K, *plates).
        inputs: tensors that require a gradient; None comes back for those the result does not touch.
        weight: (K, *plates), without history.

    References:
        none; bookkeeping.
    """
    if not inputs or not result.requires_grad:
        return [None] * len(inputs)
    grads = torch.autograd.grad(result, inputs, weight, retain_graph=True, allow_unused=True)
    return list(grads)


def add_gradients(first: Sequence[Tensor | None], second: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Sum two lists of gradients, where None is zero.

    Args:
        first: gradients.
        second: gradients of the same tensors.

    References:
        none; bookkeeping.
    """
    return [b if a is None else (a if b is None else a + b) for a, b in zip(first, second, strict=True)]


def place(values: Tensor, dims: tuple[int, ...], event_dim: int) -> Tensor:
    """Put a tensor of particles and plates where a sample has them.

    Args:
        values: one dimension for each of `dims`.
        dims: negative batch dimensions, ascending.
        event_dim: number of trailing ones to add.

    References:
        none; bookkeeping.

    Example:
        >>> place(torch.ones(4, 3), (-3, -1), 1).shape
        torch.Size([4, 1, 3, 1])
    """
    shape = [1] * (-dims[0] if dims else 0)
    for dim, size in zip(dims, values.shape, strict=True):
        shape[dim] = size
    return values.reshape((*shape, *(1,) * event_dim))


def rescale(
    leaf: Leaf, gradient: Tensor, ratio: Tensor, dims: tuple[int, ...], *, density: bool = True
) -> Tensor:
    r"""\(g \leftarrow r\,g\), for a site under `poutine.scale` β with \(1-\beta(1-r)\) in place of r.

    1 - r is the share of the path that stands for the explicit part of log q; scaling log q by β scales
    that share.

    Args:
        leaf: the sample.
        gradient: cotangent of the sample, its shape.
        ratio: r, (K, *plates).
        dims: batch dimensions of particles and plates; of the plates alone with one particle.
        density: r comes from the explicit part of log q inside the log-weight (not so in wake-sleep).

    References:
        Tucker, Lawson, Gu and Maddison, 2019. Doubly reparameterized gradient estimators for Monte Carlo
        objectives (β = 1).
    """
    if leaf.particle is not None:
        ratio = ratio[leaf.particle]
    elif len(dims) < ratio.dim():
        ratio = ratio[0]
    factor = place(ratio, dims, leaf.event_dim)
    if density and not (isinstance(leaf.scale, float | int) and leaf.scale == 1.0):
        beta = leaf.scale
        if isinstance(beta, Tensor):
            beta = beta.detach().reshape((*beta.shape, *(1,) * leaf.event_dim))
        factor = 1.0 - beta * (1.0 - factor)
    return gradient * factor


def chain_back(leaves: Sequence[Leaf], grads: Sequence[Tensor | None]) -> list[Tensor | None]:
    r"""Add to each leaf what later samples pass back: \(g_j \mathrel{+}= (\partial z_i/\partial\bar z_j)^\top
    g_i\), from the last sample to the first.

    Args:
        leaves: in order of sampling.
        grads: cotangent of each leaf, or None.

    Returns:
        Cotangents of the same leaves.

    References:
        none; the chain rule.
    """
    whole = list(grads)
    for i in range(len(leaves) - 1, 0, -1):
        cotangent = whole[i]
        if cotangent is None:
            continue
        earlier = [j for j in range(i) if leaves[j].particle == leaves[i].particle]
        if not earlier:
            continue
        passed = torch.autograd.grad(
            leaves[i].value,
            [leaves[j].leaf for j in earlier],
            cotangent,
            retain_graph=True,
            allow_unused=True,
        )
        for j, extra in zip(earlier, passed, strict=True):
            if extra is not None:
                before = whole[j]
                whole[j] = extra if before is None else before + extra
    return whole
