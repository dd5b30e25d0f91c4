"""The moving part of a gradient kernel's state, and the accept step all adjusted kernels share."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeVar, overload

import torch
from torch import Tensor

from evidentia.inference.density.evaluation import as_tempered

__all__ = ["DIVERGENCE", "Decision", "Point", "choose", "column", "evaluate_point", "metropolis"]

# Energy error in nats past which a trajectory is called divergent.
DIVERGENCE = 1000.0

Tree = TypeVar("Tree", bound=tuple[Any, ...])


class Point(NamedTuple):
    """Where the chains are, with everything the next step would otherwise compute again.

    Attributes:
        position: (C, D), unconstrained.
        log_density: (C,) nats.
        gradient: (C, D) of the log density.
        log_likelihood: (C,) nats, the part that beta multiplies.

    References:
        Cabezas, Corenflos, Lao, Louf, 2024, BlackJAX: composable Bayesian inference in JAX.
    """

    position: Tensor
    log_density: Tensor
    gradient: Tensor
    log_likelihood: Tensor


class Decision(NamedTuple):
    """What the accept step decided, per chain.

    Attributes:
        accepted: (C,) bool.
        acceptance_rate: (C,) float64 probability with which it could have been accepted.
        diverging: (C,) bool.

    References:
        none; bookkeeping.
    """

    accepted: Tensor
    acceptance_rate: Tensor
    diverging: Tensor


def evaluate_point(position: Tensor, density: Any, beta: Tensor | float = 1.0) -> Point:
    """The point at `position`.

    Args:
        position: (C, D).
        density: a `LogDensity`, a tempered density or a plain target.
        beta: inverse temperature, () or (C,).

    References:
        none; bookkeeping.

    Example:
        >>> from evidentia.inference.density.evaluation import target_of
        >>> evaluate_point(torch.ones(1, 2), target_of(lambda x: -0.5 * (x**2).sum(-1))).gradient
        tensor([[-1., -1.]])
    """
    value = as_tempered(density)(position, beta)
    return Point(position, value.log_density, value.gradient, value.log_likelihood)


def metropolis(energy_error: Tensor, generator: torch.Generator | None = None) -> Decision:
    r"""Accept with probability \(\min(1, e^{-\Delta})\); an error that is not finite is never accepted.

    Args:
        energy_error: (C,) \(\Delta\), float64 nats: minus the log of the full acceptance ratio.
        generator: torch's global one when None.

    References:
        Metropolis, Rosenbluth, Rosenbluth, Teller, Teller, 1953, Equation of state calculations by fast
        computing machines. Hastings, 1970, Monte Carlo sampling methods using Markov chains.

    Example:
        >>> metropolis(torch.tensor([-1.0, float("nan"), float("inf"), -float("inf")])).accepted
        tensor([ True, False, False, False])
    """
    # Both infinities and NaN become an error that nothing accepts.
    error = energy_error.nan_to_num(nan=torch.inf, posinf=torch.inf, neginf=torch.inf)
    rate = torch.exp(-error.clamp(min=0.0))
    uniform = torch.rand(rate.shape, generator=generator, dtype=rate.dtype, device=rate.device)
    return Decision(uniform < rate, rate, error > DIVERGENCE)


def choose(accepted: Tensor, new: Tree, old: Tree) -> Tree:
    """`new` for the chains that accepted and `old` for the others, field by field.

    References:
        none; bookkeeping.

    Example:
        >>> one, two = Decision(*torch.zeros(3, 2)), Decision(*torch.ones(3, 2))
        >>> choose(torch.tensor([True, False]), two, one).accepted
        tensor([1., 0.])
    """
    rows = accepted[:, None]
    parts = [torch.where(rows if a.ndim == 2 else accepted, a, b) for a, b in zip(new, old, strict=True)]
    return type(new)(*parts)


@overload
def column(value: Tensor) -> Tensor: ...
@overload
def column(value: Tensor | float) -> Tensor | float: ...
def column(value: Tensor | float) -> Tensor | float:
    """A step size () or (C,) in the shape that multiplies (C, D).

    References:
        none; bookkeeping.

    Example:
        >>> column(torch.ones(3)).shape
        torch.Size([3, 1])
    """
    return value[:, None] if isinstance(value, Tensor) and value.ndim == 1 else value
