"""The leapfrog integrator of Hamiltonian dynamics, for all chains at once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from evidentia.inference.density.evaluation import as_tempered
from evidentia.inference.density.phase import Phase as Phase
from evidentia.inference.mcmc.metric import Metric
from evidentia.inference.mcmc.points import column

__all__ = ["Phase", "integrate"]


def integrate(
    start: Phase,
    density: Any,
    step_size: Tensor | float,
    num_steps: int,
    metric: Metric,
    beta: Tensor | float = 1.0,
) -> Phase:
    r"""`num_steps` leapfrogs; volume preserving, and undone by the same call at \(-p\).

    \[ p_{1/2} = p + \tfrac e2 g(q), \quad q' = q + e\, S p_{1/2}, \quad p' = p_{1/2} + \tfrac e2 g(q') \]

    Args:
        start: where to begin; its gradient is used, not computed.
        density: a `LogDensity` (its fused leapfrog is used), a tempered density or a plain target.
        step_size: \(e\), one for all chains or (C,).
        num_steps: leapfrogs, the same for all chains.
        metric: \(S\), the inverse mass matrix.
        beta: inverse temperature, () or (C,).

    Returns:
        The end of the trajectory; not finite where a chain diverged.

    References:
        Neal, 2011, MCMC using Hamiltonian dynamics. Hairer, Lubich, Wanner, 2006, Geometric numerical
        integration.

    Example:
        >>> from evidentia.inference.density.evaluation import target_of
        >>> from evidentia.inference.mcmc.metric import identity_metric
        >>> normal, q = target_of(lambda x: -0.5 * (x**2).sum(-1)), torch.ones(1, 1)
        >>> start = Phase(q, torch.zeros(1, 1), -q, torch.tensor([-0.5]), torch.zeros(1))
        >>> end = integrate(start, normal, 0.01, 157, identity_metric(q))  # a quarter turn
        >>> round(float(end.momentum), 3)
        -1.0
    """
    fused = getattr(density, "leapfrog", None)
    covariance = metric.covariance
    if fused is not None:
        step = torch.as_tensor(column(step_size), dtype=start.position.dtype, device=start.position.device)
        phase: Any = start
        for _ in range(num_steps):
            phase = fused(phase.position, phase.momentum, phase.gradient, step, covariance, beta)
        return phase
    evaluate = as_tempered(density)
    position, momentum, gradient = start.position, start.momentum, start.gradient
    value: Any = start
    for number in range(num_steps):
        # Two half kicks between two drifts are one whole kick.
        momentum = _kick(momentum, gradient, step_size, 0.5 if number == 0 else 1.0)
        position = _drift(position, momentum, step_size, metric)
        value = evaluate(position, beta)
        gradient = value.gradient
    if num_steps > 0:
        momentum = _kick(momentum, gradient, step_size, 0.5)
    return Phase(position, momentum, gradient, value.log_density, value.log_likelihood)


def _kick(momentum: Tensor, gradient: Tensor, step_size: Tensor | float, part: float) -> Tensor:
    if isinstance(step_size, Tensor):
        return torch.addcmul(momentum, column(step_size), gradient, value=part)
    return torch.add(momentum, gradient, alpha=part * step_size)


def _drift(position: Tensor, momentum: Tensor, step_size: Tensor | float, metric: Metric) -> Tensor:
    if isinstance(step_size, Tensor):
        moved = momentum @ metric.covariance if metric.is_dense else momentum * metric.covariance
        return torch.addcmul(position, column(step_size), moved)
    if metric.is_dense:
        return torch.addmm(position, momentum, metric.covariance, alpha=step_size)
    return torch.addcmul(position, momentum, metric.covariance, value=step_size)
