"""Langevin steps with gradients estimated on minibatches; no accept step."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias, TypeVar

import torch
from torch import Tensor

from evidentia.inference.mcmc.points import choose

__all__ = [
    "GradientEstimate",
    "PSGLDState",
    "SGLDState",
    "decreasing_step_size",
    "keep_finite",
    "psgld_init",
    "psgld_step",
    "sgld_init",
    "sgld_step",
    "standard_noise",
]

# (position (C, D), generator) -> unbiased estimates of log density (C,) and gradient (C, D).
GradientEstimate: TypeAlias = Callable[[Tensor, "torch.Generator | None"], tuple[Tensor, Tensor]]


class SGLDState(NamedTuple):
    """Where the chains are, with the estimates made there.

    Attributes:
        position: (C, D), unconstrained.
        log_density: (C,) nats, an estimate.
        gradient: (C, D), an estimate.

    References:
        Welling, Teh, 2011, Bayesian learning via stochastic gradient Langevin dynamics.
    """

    position: Tensor
    log_density: Tensor
    gradient: Tensor


class PSGLDState(NamedTuple):
    """As `SGLDState`, with the running mean of squared gradients that preconditions.

    Attributes:
        position: (C, D).
        log_density: (C,) nats, an estimate.
        gradient: (C, D), an estimate.
        square: (C, D).

    References:
        Li, Chen, Carlson, Carin, 2016, Preconditioned stochastic gradient Langevin dynamics for deep neural
        networks.
    """

    position: Tensor
    log_density: Tensor
    gradient: Tensor
    square: Tensor


Tree = TypeVar("Tree", bound=tuple[Any, ...])


def decreasing_step_size(step: int, first: float, *, decay: float = 1.0 / 3.0, offset: float = 10.0) -> float:
    r"""\(h_t = h_0 (1 + t / b)^{-\gamma}\).

    With \(\gamma\) in (1/2, 1] sums of steps diverge and sums of squares do not; weighted averages then lose
    the bias. \(\gamma = 1/3\) is the optimum of their mean squared error, 0 a fixed step.

    Args:
        step: \(t\).
        first: \(h_0\).
        decay: \(\gamma\).
        offset: \(b\).

    References:
        Teh, Thiery, Vollmer, 2016, Consistency and fluctuations for stochastic gradient Langevin dynamics.

    Example:
        >>> decreasing_step_size(30, 0.1, decay=0.5)
        0.05
    """
    return float(first * (1.0 + step / offset) ** -decay)


def sgld_init(
    position: Tensor, estimate: GradientEstimate, generator: torch.Generator | None = None
) -> SGLDState:
    """The state at `position` (C, D).

    References:
        Welling, Teh, 2011, Bayesian learning via stochastic gradient Langevin dynamics.

    Example:
        >>> sgld_init(torch.ones(2, 1), lambda x, generator: (-0.5 * x[:, 0] ** 2, -x)).gradient
        tensor([[-1.],
                [-1.]])
    """
    return SGLDState(position, *estimate(position, generator))


def sgld_step(
    state: SGLDState,
    estimate: GradientEstimate,
    step_size: float,
    *,
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
) -> tuple[SGLDState, Tensor]:
    r"""\(x' = x + h \hat g + \sqrt{2 h T}\, z\), \(h\) the coefficient of the drift.

    Where the log density is \(-\lambda x^2 / 2\) and the gradient's noise has variance \(\tau^2\), the
    stationary variance is \((1 + h \tau^2 / 2) / (\lambda (1 - h \lambda / 2))\): too wide on both counts.

    Args:
        state: of all chains.
        estimate: unbiased gradients, with rows of their own for each chain.
        step_size: \(h\); papers that write \(\epsilon / 2\) have \(\epsilon = 2h\).
        temperature: \(T\).
        generator: torch's global one when None.

    Returns:
        The new state, and (C,) bool: where a step was not finite, and the chain stayed.

    References:
        Welling, Teh, 2011, Bayesian learning via stochastic gradient Langevin dynamics.

    Example:
        >>> estimate = lambda x, generator: (-0.5 * x[:, 0] ** 2, -x)
        >>> state, diverging = sgld_step(sgld_init(torch.ones(2, 1), estimate), estimate, 0.01)
        >>> bool(((state.position - 1).abs() < 1).all()), bool(diverging.any())
        (True, False)
    """
    noise = standard_noise(state.position, generator)
    position = state.position + step_size * state.gradient + math.sqrt(2.0 * step_size * temperature) * noise
    return keep_finite(SGLDState(position, *estimate(position, generator)), state)


def psgld_init(
    position: Tensor, estimate: GradientEstimate, generator: torch.Generator | None = None
) -> PSGLDState:
    """The state at `position` (C, D); the running square begins with one gradient.

    References:
        Li, Chen, Carlson, Carin, 2016, Preconditioned stochastic gradient Langevin dynamics for deep neural
        networks.

    Example:
        >>> psgld_init(3 * torch.ones(1, 1), lambda x, generator: (-0.5 * x[:, 0] ** 2, -x)).square
        tensor([[9.]])
    """
    value, gradient = estimate(position, generator)
    return PSGLDState(position, value, gradient, gradient.square())


def psgld_step(
    state: PSGLDState,
    estimate: GradientEstimate,
    step_size: float,
    *,
    decay: float = 0.99,
    damping: float = 1e-5,
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
) -> tuple[PSGLDState, Tensor]:
    r"""\(x' = x + h G \hat g + \sqrt{2 h T G}\, z\), \(G = 1 / (\varepsilon + \sqrt V)\).

    \(V \leftarrow a V + (1 - a) \hat g^2\), of each chain and coordinate. The paper's term \(\Gamma =
    \partial G / \partial x\) is left out, as there: a bias of order \(1 - a\), besides that of `sgld_step`.

    Args:
        state: of all chains.
        estimate: unbiased gradients.
        step_size: \(h\), in units of \(1/G\).
        decay: \(a\).
        damping: \(\varepsilon\), in the units of the gradient.
        temperature: \(T\).
        generator: torch's global one when None.

    Returns:
        The new state, and (C,) bool: where a step was not finite, and the chain stayed.

    References:
        Li, Chen, Carlson, Carin, 2016, Preconditioned stochastic gradient Langevin dynamics for deep neural
        networks.

    Example:
        >>> estimate = lambda x, generator: (-0.5 * x[:, 0] ** 2, -x)
        >>> state, _ = psgld_step(psgld_init(torch.ones(2, 1), estimate), estimate, 0.01)
        >>> state.square.shape
        torch.Size([2, 1])
    """
    scale = 1.0 / (damping + state.square.sqrt())
    noise = standard_noise(state.position, generator)
    spread = (2.0 * step_size * temperature * scale).sqrt()
    position = state.position + step_size * scale * state.gradient + spread * noise
    value, gradient = estimate(position, generator)
    square = decay * state.square + (1.0 - decay) * gradient.square()
    return keep_finite(PSGLDState(position, value, gradient, square), state)


def standard_noise(like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Standard normal numbers shaped as `like`.

    References:
        none; bookkeeping.

    Example:
        >>> standard_noise(torch.zeros(2, 3), torch.Generator().manual_seed(0)).shape
        torch.Size([2, 3])
    """
    return torch.randn(like.shape, generator=generator, dtype=like.dtype, device=like.device)


def keep_finite(new: Tree, old: Tree) -> tuple[Tree, Tensor]:
    """`new` for the chains where its log density and gradient are finite, `old` for the others.

    Returns:
        The state, and (C,) bool: where the old one was kept.

    References:
        none; bookkeeping.

    Example:
        >>> old = SGLDState(torch.zeros(2, 1), torch.zeros(2), torch.zeros(2, 1))
        >>> new = SGLDState(torch.ones(2, 1), torch.tensor([0.0, torch.nan]), torch.ones(2, 1))
        >>> keep_finite(new, old)[0].position
        tensor([[1.],
                [0.]])
    """
    state: Any = new
    finite = state.log_density.isfinite() & state.gradient.isfinite().all(-1)
    return choose(finite, new, old), ~finite
