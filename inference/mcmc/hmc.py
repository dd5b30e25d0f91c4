"""Hamiltonian Monte Carlo, one shared and jittered number of leapfrogs for all chains."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from evidentia.inference.mcmc.info import Info
from evidentia.inference.mcmc.integrator import Phase, integrate
from evidentia.inference.mcmc.metric import Metric, draw_momentum, kinetic
from evidentia.inference.mcmc.points import Point, choose, evaluate_point, metropolis

__all__ = ["HMCState", "hmc_init", "hmc_proposal", "hmc_step", "hmc_transition"]

# What moves: position, log density, gradient, log likelihood.
HMCState = Point


def hmc_init(position: Tensor, density: Any, beta: Tensor | float = 1.0) -> HMCState:
    """The state at `position` (C, D).

    Args:
        position: where the chains start.
        density: a `LogDensity`, a tempered density or a plain target.
        beta: inverse temperature, () or (C,).

    References:
        Duane, Kennedy, Pendleton, Roweth, 1987, Hybrid Monte Carlo.

    Example:
        >>> from evidentia.inference.density.evaluation import target_of
        >>> hmc_init(torch.ones(1, 2), target_of(lambda x: -0.5 * (x**2).sum(-1))).log_density
        tensor([-1.])
    """
    return evaluate_point(position, density, beta)


def hmc_proposal(
    state: HMCState,
    momentum: Tensor,
    density: Any,
    step_size: Tensor | float,
    num_steps: int,
    metric: Metric,
    beta: Tensor | float = 1.0,
) -> tuple[Phase, Tensor, Tensor]:
    r"""The deterministic part: follow the flow from \((q, p)\).

    Args:
        state: of all chains.
        momentum: (C, D) \(p \sim N(0, S^{-1})\).
        density: as in `hmc_init`.
        step_size: () or (C,).
        num_steps: leapfrogs.
        metric: the inverse mass.
        beta: inverse temperature.

    Returns:
        The end of the trajectory, the energy \(H = -\log\pi(q) + \tfrac12 p^\top S p\) at its start and the
        energy error \(H' - H\), both (C,) float64 nats. Density and kinetic differences are added in float64.

    References:
        Duane, Kennedy, Pendleton, Roweth, 1987, Hybrid Monte Carlo.

    Example:
        >>> from evidentia.inference.density.evaluation import target_of
        >>> from evidentia.inference.mcmc.metric import identity_metric
        >>> normal = target_of(lambda x: -0.5 * (x**2).sum(-1))
        >>> state = hmc_init(torch.ones(1, 2), normal)
        >>> end, energy, error = hmc_proposal(
        ...     state, torch.ones(1, 2), normal, 0.01, 3, identity_metric(state.position))
        >>> float(energy), bool(error.abs() < 1e-4)
        (2.0, True)
    """
    start = Phase(state.position, momentum, state.gradient, state.log_density, state.log_likelihood)
    end = integrate(start, density, step_size, num_steps, metric, beta)
    before, after = kinetic(metric, momentum), kinetic(metric, end.momentum)
    here = state.log_density.double()
    return end, before - here, (after - before) - (end.log_density.double() - here)


def hmc_transition(
    state: HMCState,
    density: Any,
    step_size: Tensor | float,
    num_steps: int,
    metric: Metric,
    *,
    beta: Tensor | float = 1.0,
    generator: torch.Generator | None = None,
) -> tuple[HMCState, Info, Phase]:
    """As `hmc_step`, with the end of the trajectories before the accept step, which adaptation needs.

    References:
        Duane, Kennedy, Pendleton, Roweth, 1987, Hybrid Monte Carlo.

    Example:
        >>> from evidentia.inference.density.evaluation import target_of
        >>> from evidentia.inference.mcmc.metric import identity_metric
        >>> normal = target_of(lambda x: -0.5 * (x**2).sum(-1))
        >>> state = hmc_init(torch.ones(3, 2), normal)
        >>> hmc_transition(state, normal, 0.5, 3, identity_metric(state.position))[2].momentum.shape
        torch.Size([3, 2])
    """
    momentum = draw_momentum(metric, state.position, generator)
    end, energy, error = hmc_proposal(state, momentum, density, step_size, num_steps, metric, beta)
    accepted, rate, diverging = metropolis(error, generator)
    proposed = Point(end.position, end.log_density, end.gradient, end.log_likelihood)
    info = Info(rate, energy, diverging, torch.tensor(num_steps), error)
    return choose(accepted, proposed, state), info, end


def hmc_step(
    state: HMCState,
    density: Any,
    step_size: Tensor | float,
    num_steps: int,
    metric: Metric,
    *,
    beta: Tensor | float = 1.0,
    generator: torch.Generator | None = None,
) -> tuple[HMCState, Info]:
    r"""One transition: draw \(p\), follow the flow, accept with probability \(\min(1, e^{-(H' - H)})\).

    Leaves \(\pi\) invariant for any step size, number of steps and metric that do not depend on the state of
    the chain. A beta of shape (C,) makes the batch a ladder of temperatures.

    Args:
        state: of all chains.
        density: a `LogDensity`, a tempered density or a plain target.
        step_size: () or (C,).
        num_steps: leapfrogs, the same for all chains.
        metric: the inverse mass.
        beta: inverse temperature, () or (C,).
        generator: torch's global one when None.

    Returns:
        The new state and what happened. A trajectory that is not finite is rejected and counts as divergent.

    References:
        Duane, Kennedy, Pendleton, Roweth, 1987, Hybrid Monte Carlo. Neal, 2011, MCMC using Hamiltonian
        dynamics.

    Example:
        >>> from evidentia.inference.density.evaluation import target_of
        >>> from evidentia.inference.mcmc.metric import identity_metric
        >>> normal = target_of(lambda x: -0.5 * (x**2).sum(-1))
        >>> state = hmc_init(torch.ones(3, 2), normal)
        >>> state, info = hmc_step(state, normal, 0.1, 3, identity_metric(state.position))
        >>> bool((info.acceptance_rate > 0.9).all())
        True
    """
    return hmc_transition(state, density, step_size, num_steps, metric, beta=beta, generator=generator)[:2]
