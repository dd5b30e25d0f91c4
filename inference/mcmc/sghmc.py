"""Hamiltonian steps with friction and gradients estimated on minibatches; no accept step."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from evidentia.inference.mcmc.stochastic_gradient import GradientEstimate, keep_finite, standard_noise

__all__ = ["SGHMCState", "sghmc_init", "sghmc_step"]


class SGHMCState(NamedTuple):
    """As `SGLDState`, with a momentum.

    Attributes:
        position: (C, D).
        log_density: (C,) nats, an estimate.
        gradient: (C, D), an estimate.
        momentum: (C, D), in the units of a move.

    References:
        Chen, Fox, Guestrin, 2014, Stochastic gradient Hamiltonian Monte Carlo.
    """

    position: Tensor
    log_density: Tensor
    gradient: Tensor
    momentum: Tensor


def sghmc_init(
    position: Tensor,
    estimate: GradientEstimate,
    step_size: float,
    *,
    generator: torch.Generator | None = None,
) -> SGHMCState:
    r"""The state at `position` (C, D), with moves \(v \sim N(0, h)\).

    References:
        Chen, Fox, Guestrin, 2014, Stochastic gradient Hamiltonian Monte Carlo.

    Example:
        >>> sghmc_init(torch.ones(2, 1), lambda x, generator: (-0.5 * x[:, 0] ** 2, -x), 0.1).momentum.shape
        torch.Size([2, 1])
    """
    momentum = math.sqrt(step_size) * standard_noise(position, generator)
    return SGHMCState(position, *estimate(position, generator), momentum)


def sghmc_step(
    state: SGHMCState,
    estimate: GradientEstimate,
    step_size: float,
    *,
    friction: float = 0.1,
    noise_estimate: float = 0.0,
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
) -> tuple[SGHMCState, Tensor]:
    r"""\(v' = (1 - \alpha) v + h \hat g + \sqrt{2 (\alpha - B) h T}\, z\), \(x' = x + v'\).

    Friction takes away what the gradient's noise brings in; with \(B = h \tau^2 / 2\), \(\tau^2\) the
    variance of the gradient's noise, no more noise is added than is missing.

    Args:
        state: of all chains.
        estimate: unbiased gradients.
        step_size: \(h\), the square of a leapfrog's step.
        friction: \(\alpha\) in (0, 1].
        noise_estimate: \(B\), below \(\alpha\).
        temperature: \(T\).
        generator: torch's global one when None.

    Returns:
        The new state, and (C,) bool: where a step was not finite, and the chain stayed.

    Raises:
        ValueError: \(\alpha\) or \(B\) out of range.

    References:
        Chen, Fox, Guestrin, 2014, Stochastic gradient Hamiltonian Monte Carlo.

    Example:
        >>> estimate = lambda x, generator: (-0.5 * x[:, 0] ** 2, -x)
        >>> state, _ = sghmc_step(sghmc_init(torch.ones(2, 1), estimate, 0.01), estimate, 0.01)
        >>> bool(((state.position - 1).abs() < 1).all())
        True
    """
    if not 0.0 <= noise_estimate < friction <= 1.0:
        raise ValueError(
            f"friction, noise_estimate: expected 0 <= noise_estimate < friction <= 1, got {friction} and "
            f"{noise_estimate}. Fix: friction=0.1, noise_estimate=0.0"
        )
    spread = math.sqrt(2.0 * (friction - noise_estimate) * step_size * temperature)
    noise = standard_noise(state.position, generator)
    momentum = (1.0 - friction) * state.momentum + step_size * state.gradient + spread * noise
    position = state.position + momentum
    return keep_finite(SGHMCState(position, *estimate(position, generator), momentum), state)
