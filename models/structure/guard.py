"""What keeps an operation that is not finite away from the structures without it: 0·∞ is not 0."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Size, Tensor


class _Guard(torch.autograd.Function):
    """The identity; in the backward pass entries that are not finite become 0 where `dead` is true."""

    generate_vmap_rule = True

    @staticmethod
    def forward(value: Tensor, dead: Tensor) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[1])
        ctx.save_for_forward(inputs[1])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (dead,) = ctx.saved_tensors
        return without_infinities(gradients[0], dead), None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, _: None) -> Tensor:
        return tangent.view_as(tangent)


def without_infinities(value: Tensor, dead: Tensor) -> Tensor:
    """0 in place of what is not finite where `dead`, which broadcasts against the value; the rest as it is.

    References:
        none; a guard.

    Example:
        >>> without_infinities(torch.tensor([torch.inf, 1.0, torch.nan]), torch.tensor([True, True, False]))
        tensor([0., 1., nan])
    """
    # One cheap reduction spares the usual case three passes.
    if known(torch.isfinite(value.detach().sum())):
        return value
    return torch.where(dead & ~torch.isfinite(value), 0.0, value)


def known(flag: Tensor, otherwise: bool = False) -> bool:
    """The flag; ``otherwise`` under vmap and in a trace, where a value cannot be looked at.

    References:
        none; a guard.

    Example:
        >>> known(torch.tensor(True)), torch.func.vmap(lambda x: x + known(x > 0))(torch.ones(1))
        (True, tensor([1.]))
    """
    try:
        return bool(flag)
    except RuntimeError:
        return otherwise


def guarded_call(
    op: Callable[..., Tensor],
    source: Tensor,
    weights: Mapping[str, Tensor],
    shapes: Mapping[str, Size],
    dead: Tensor,
) -> Tensor:
    """``op(source, **weights)`` for an operation that is dead in some structures: finite there.

    Args:
        op: the operation.
        source: its input ``(*b, n, width)``.
        weights: its weights ``(*b, *shape)``.
        shapes: of the weights without batch.
        dead: ``(*b)``.

    References:
        none; a guard.

    Example:
        >>> guarded_call(torch.log, torch.zeros(1, 1), {}, {}, torch.tensor(True))
        tensor([[0.]])
    """
    own = {name: guarded(value, dead, shapes[name]) for name, value in weights.items()}
    value = op(guarded(source, dead, source.shape[-2:]), **own)
    return without_infinities(value, dead[..., None, None])


def guarded(value: Tensor, dead: Tensor, shape: Size) -> Tensor:
    """The same tensor ``(*b, *shape)`` for an operation that is dead in some structures of the batch.

    The output does not depend on a dead operation, so the derivatives by its weights and its input are 0.
    The chain rule finds 0·∞ = NaN where the operation is not finite; this puts the 0 back. Every derivative
    that is finite passes unchanged, of any order. Gradients are kept apart by structure, hence a value
    without the batch dimensions of `dead` gets them.

    Args:
        value: a weight or an input of the operation.
        dead: ``(*b)``.
        shape: of the value without batch.

    References:
        none; a guard.

    Example:
        >>> w = torch.tensor(1e3, requires_grad=True)
        >>> term = 0.0 * torch.exp(guarded(w, torch.tensor(True), torch.Size()))
        >>> torch.autograd.grad(term, w)
        (tensor(0.),)
    """
    if not value.requires_grad:
        return value
    batch = torch.broadcast_shapes(value.shape[: value.ndim - len(shape)], dead.shape)
    own, where = value.expand(batch + shape), dead.reshape(dead.shape + (1,) * len(shape))
    if any(map(torch._C._functorch.is_functorch_wrapped_tensor, (value, dead))):
        result: Tensor = _Guard.apply(own, where)
        return result
    # A hook costs a third of a function of our own, but the function transforms do not know it.
    own.register_hook(lambda gradient: without_infinities(gradient, where))
    return own
