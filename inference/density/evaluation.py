"""What a batched log density returns, and how plain torch functions become one."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

__all__ = ["Evaluation", "Target", "Tempered", "as_tempered", "target_of", "tempered_of"]


class Evaluation(NamedTuple):
    r"""A tempered log density at one position per chain.

    \[ \log p_\beta(x) = \log\text{prior}(x) + \log|J(x)| + \beta\,\log\text{likelihood}(x) \]

    Attributes:
        log_density: (C,) nats.
        gradient: (C, D) of the log density.
        log_likelihood: (C,) nats, not multiplied by beta.

    References:
        none; bookkeeping.
    """

    log_density: Tensor
    gradient: Tensor
    log_likelihood: Tensor


Target: TypeAlias = Callable[[Tensor], tuple[Tensor, Tensor]]
Tempered: TypeAlias = Callable[[Tensor, Any], Evaluation]


def target_of(log_density: Callable[[Tensor], Tensor]) -> Target:
    """A plain torch function (C, D) -> (C,) as a target: value and gradient, by autograd.

    Rows must not mix: the value of a chain depends on its own position only.

    Args:
        log_density: differentiable, batched over the leading dimension.

    Returns:
        position (C, D) -> log density (C,) and gradient (C, D), both detached.

    References:
        none; reverse-mode differentiation.

    Example:
        >>> value, gradient = target_of(lambda x: -0.5 * (x**2).sum(-1))(torch.ones(3, 2))
        >>> value.tolist(), gradient[0].tolist()
        ([-1.0, -1.0, -1.0], [-1.0, -1.0])
    """

    def target(position: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            leaf = position.detach().requires_grad_()
            value = log_density(leaf)
            (gradient,) = torch.autograd.grad(value.sum(), leaf)
        return value.detach(), gradient

    return target


def tempered_of(
    log_prior: Callable[[Tensor], Tensor], log_likelihood: Callable[[Tensor], Tensor]
) -> Tempered:
    """Two plain torch functions (C, D) -> (C,) as one tempered density.

    Args:
        log_prior: on unconstrained space, with the log Jacobian in it.
        log_likelihood: raised to the power beta.

    Returns:
        (position (C, D), beta () or (C,)) -> `Evaluation`, detached.

    References:
        none; bookkeeping.

    Example:
        >>> normal = lambda x: -0.5 * (x**2).sum(-1)
        >>> density = tempered_of(normal, lambda x: normal(x - 1.0))
        >>> value, gradient, log_likelihood = density(torch.zeros(1, 1), 0.5)
        >>> value.item(), gradient.item(), log_likelihood.item()
        (-0.25, 0.5, -0.5)
    """

    def tempered(position: Tensor, beta: Tensor | float = 1.0) -> Evaluation:
        with torch.enable_grad():
            leaf = position.detach().requires_grad_()
            likelihood = log_likelihood(leaf)
            value = log_prior(leaf) + beta * likelihood
            (gradient,) = torch.autograd.grad(value.sum(), leaf)
        return Evaluation(value.detach(), gradient, likelihood.detach())

    return tempered


def as_tempered(density: Any) -> Tempered:
    r"""Any density as a tempered one.

    A `LogDensity` gives its `evaluate`; a tempered density is returned as it is; a plain target (one
    argument) counts as likelihood under a flat prior, \(\log p_\beta = \beta \log p\).

    Args:
        density: a `LogDensity`, a `Tempered` or a `Target`.

    Raises:
        ValueError: it is none of these.

    References:
        none; bookkeeping.

    Example:
        >>> normal = as_tempered(target_of(lambda x: -0.5 * (x**2).sum(-1)))
        >>> normal(torch.ones(1, 1), 0.5).gradient
        tensor([[-0.5000]])
    """
    evaluate = getattr(density, "evaluate", None)
    if evaluate is not None:
        return evaluate
    if not callable(density):
        raise ValueError(
            f"density: expected a LogDensity or a function of positions, got {type(density).__name__}. "
            "Fix: compile_density(model, ...), target_of(function) or tempered_of(prior, likelihood)"
        )
    if _arguments(density) >= 2:
        return density

    def tempered(position: Tensor, beta: Tensor | float = 1.0) -> Evaluation:
        value, gradient = density(position)
        column = beta.unsqueeze(-1) if isinstance(beta, Tensor) and beta.dim() else beta
        return Evaluation(beta * value, column * gradient, value)

    return tempered


def _arguments(function: Callable[..., Any]) -> int:
    """How many positional arguments a function can take."""
    kinds = [each.kind for each in inspect.signature(function).parameters.values()]
    if inspect.Parameter.VAR_POSITIONAL in kinds:
        return 2
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(kind in positional for kind in kinds)
