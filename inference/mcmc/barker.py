"""The Barker proposal: the gradient chooses only the sign of each increment."""

from __future__ import annotations

from typing import Any, ClassVar, final

import torch
from torch import Tensor
from torch.nn.functional import softplus

from evidentia.inference.mcmc.info import Info
from evidentia.inference.mcmc.metric import Metric, identity_metric
from evidentia.inference.mcmc.points import Point, choose, column, evaluate_point, metropolis
from evidentia.inference.mcmc.tuned import TunedKernel

__all__ = ["Barker", "BarkerState", "barker_init", "barker_proposal", "barker_step", "draw_increment"]

# What moves: position, log density, gradient, log likelihood.
BarkerState = Point


def barker_init(position: Tensor, density: Any, beta: Tensor | float = 1.0) -> BarkerState:
    """The state at `position` (C, D).

    References:
        Livingstone, Zanella, 2022, The Barker proposal: combining robustness and efficiency in gradient-based
        MCMC.

    Example:
        >>> from evidentia.inference.density.evaluation import target_of
        >>> barker_init(torch.ones(1, 2), target_of(lambda x: -0.5 * (x**2).sum(-1))).log_density
        tensor([-1.])
    """
    return evaluate_point(position, density, beta)


def _whitened(metric: Metric, gradient: Tensor) -> Tensor:
    r"""\(L^\top g\), the gradient with respect to \(L^{-1} q\)."""
    return gradient @ metric.factor if metric.is_dense else gradient * metric.factor


def draw_increment(
    state: BarkerState,
    step_size: Tensor | float,
    metric: Metric,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Increments \(w\) of the whitened coordinates: \(\pm z_i\), plus with probability \(\sigma(z_i g_i)\).

    Here \(z_i \sim N(0, e^2)\) and \(g\) is the gradient in whitened coordinates, so that \(w_i\) has
    density \(2 N(w; 0, e^2)\, \sigma(w g_i)\).

    Args:
        state: of all chains.
        step_size: \(e\), () or (C,).
        metric: preconditioner.
        generator: torch's global one when None.

    Returns:
        (C, D).

    References:
        Livingstone, Zanella, 2022, The Barker proposal: combining robustness and efficiency in gradient-based
        MCMC.

    Example:
        >>> steep = BarkerState(torch.zeros(1, 1), torch.zeros(1), torch.full((1, 1), 1e9), torch.zeros(1))
        >>> bool(draw_increment(steep, 1.0, identity_metric(steep.position)) > 0)
        True
    """
    like = state.position
    noise = torch.randn(like.shape, generator=generator, dtype=like.dtype, device=like.device)
    noise = noise * column(step_size)
    uniform = torch.rand(like.shape, generator=generator, dtype=like.dtype, device=like.device)
    uphill = uniform < torch.sigmoid(noise * _whitened(metric, state.gradient))
    return torch.where(uphill, noise, -noise)


def barker_proposal(
    state: BarkerState,
    increment: Tensor,
    density: Any,
    metric: Metric,
    beta: Tensor | float = 1.0,
) -> tuple[BarkerState, Tensor]:
    r"""The proposal \(q' = q + L w\) and minus the log of its acceptance ratio:

    \[ \frac{\pi(q')}{\pi(q)} \prod_i \frac{1 + e^{-w_i g_i}}{1 + e^{w_i g'_i}} \]

    Args:
        state: of all chains.
        increment: (C, D) \(w\), from `draw_increment`.
        density: a `LogDensity`, a tempered density or a plain target.
        metric: preconditioner.
        beta: inverse temperature.

    Returns:
        The proposed state and (C,) float64 nats.

    References:
        Livingstone, Zanella, 2022, The Barker proposal: combining robustness and efficiency in gradient-based
        MCMC.

    Example:
        >>> from evidentia.inference.density.evaluation import target_of
        >>> flat = target_of(lambda x: 0 * x.sum(-1))
        >>> state = barker_init(torch.zeros(1, 1), flat)
        >>> barker_proposal(state, torch.ones(1, 1), flat, identity_metric(state.position))[1]
        tensor([0.], dtype=torch.float64)
    """
    move = increment @ metric.factor.mT if metric.is_dense else increment * metric.factor
    proposed = evaluate_point(state.position + move, density, beta)
    here = softplus(-increment * _whitened(metric, state.gradient)).sum(-1, dtype=torch.float64)
    there = softplus(increment * _whitened(metric, proposed.gradient)).sum(-1, dtype=torch.float64)
    change = proposed.log_density.double() - state.log_density.double()
    return proposed, there - here - change


def barker_step(
    state: BarkerState,
    density: Any,
    step_size: Tensor | float,
    metric: Metric | None = None,
    *,
    beta: Tensor | float = 1.0,
    generator: torch.Generator | None = None,
) -> tuple[BarkerState, Info]:
    """One transition with the Barker proposal and a Metropolis accept step.

    Args:
        state: of all chains.
        density: a `LogDensity`, a tempered density or a plain target.
        step_size: () or (C,); the acceptance is best near 0.4.
        metric: preconditioner; unit variances when None.
        beta: inverse temperature, () or (C,).
        generator: torch's global one when None.

    References:
        Livingstone, Zanella, 2022, The Barker proposal: combining robustness and efficiency in gradient-based
        MCMC.

    Example:
        >>> from evidentia.inference.density.evaluation import target_of
        >>> normal = target_of(lambda x: -0.5 * (x**2).sum(-1))
        >>> state = barker_init(torch.zeros(3, 2), normal)
        >>> bool((barker_step(state, normal, 0.01)[1].acceptance_rate > 0.9).all())
        True
    """
    metric = identity_metric(state.position) if metric is None else metric
    increment = draw_increment(state, step_size, metric, generator)
    proposed, error = barker_proposal(state, increment, density, metric, beta)
    accepted, rate, diverging = metropolis(error, generator)
    info = Info(rate, -state.log_density.double(), diverging, torch.tensor(1), error)
    return choose(accepted, proposed, state), info


@final
class Barker(TunedKernel):
    """The Barker kernel, tuned to an acceptance of 0.40: slower than `MALA`, hard to break.

    References:
        Livingstone, Zanella, 2022, The Barker proposal: combining robustness and efficiency in gradient-based
        MCMC. Vogrinc, Livingstone, Zanella, 2023, Optimal design of the Barker proposal and other locally
        balanced Metropolis-Hastings algorithms.

    Example:
        >>> Barker(num_chains=8).target_accept_prob
        0.4
    """

    name: ClassVar[str] = "barker"
    optimal_acceptance: ClassVar[float] = 0.40

    def transition(
        self, point: Point, density: Any, step_size: float, metric: Metric, generator: torch.Generator | None
    ) -> tuple[Point, Info]:
        """`barker_step`."""
        return barker_step(point, density, step_size, metric, beta=self.beta, generator=generator)
