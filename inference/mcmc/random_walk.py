"""Random-walk Metropolis with the ensemble's covariance: no gradient is used."""

from __future__ import annotations

from typing import Any, ClassVar, final

import torch
from torch import Tensor

from evidentia.inference.mcmc.info import Info
from evidentia.inference.mcmc.metric import Metric, identity_metric
from evidentia.inference.mcmc.points import Decision, Point, choose, column, evaluate_point, metropolis
from evidentia.inference.mcmc.tuned import TunedKernel

__all__ = ["RandomWalk", "RandomWalkState", "random_walk_init", "random_walk_proposal", "random_walk_step"]

# What moves: position, log density, gradient (carried along, never used), log likelihood.
RandomWalkState = Point


def random_walk_init(position: Tensor, density: Any, beta: Tensor | float = 1.0) -> RandomWalkState:
    """The state at `position` (C, D).

    Args:
        position: where the chains start.
        density: a `LogDensity`, a tempered density or a plain target. Where there is no gradient, a target
            that returns zeros for it will do.
        beta: inverse temperature, () or (C,).

    References:
        Metropolis, Rosenbluth, Rosenbluth, Teller, Teller, 1953, Equation of state calculations by fast
        computing machines.

    Example:
        >>> def box(x): return torch.where((x.abs() < 1).all(-1), 0.0, -torch.inf), torch.zeros_like(x)
        >>> random_walk_init(torch.zeros(1, 2), box).log_density
        tensor([0.])
    """
    return evaluate_point(position, density, beta)


def random_walk_proposal(
    state: RandomWalkState,
    noise: Tensor,
    density: Any,
    step_size: Tensor | float,
    metric: Metric,
    beta: Tensor | float = 1.0,
) -> tuple[RandomWalkState, Tensor]:
    r"""The proposal \(q' = q + s L z\) for given noise, and minus the log acceptance ratio.

    Args:
        state: of all chains.
        noise: (C, D) \(z\).
        density: as in `random_walk_init`.
        step_size: \(s\), () or (C,).
        metric: gives \(L\).
        beta: inverse temperature.

    Returns:
        The proposed state and \(\log\pi(q) - \log\pi(q')\), (C,) float64 nats.

    References:
        Metropolis, Rosenbluth, Rosenbluth, Teller, Teller, 1953, Equation of state calculations by fast
        computing machines.

    Example:
        >>> from evidentia.inference.density.evaluation import target_of
        >>> normal = target_of(lambda x: -0.5 * (x**2).sum(-1))
        >>> state = random_walk_init(torch.zeros(1, 1), normal)
        >>> random_walk_proposal(state, torch.ones(1, 1), normal, 2.0, identity_metric(state.position))[1]
        tensor([2.], dtype=torch.float64)
    """
    move = noise @ metric.factor.mT if metric.is_dense else noise * metric.factor
    proposed = evaluate_point(state.position + column(step_size) * move, density, beta)
    return proposed, state.log_density.double() - proposed.log_density.double()


def random_walk_step(
    state: RandomWalkState,
    density: Any,
    step_size: Tensor | float,
    metric: Metric | None = None,
    *,
    beta: Tensor | float = 1.0,
    generator: torch.Generator | None = None,
) -> tuple[RandomWalkState, Info]:
    r"""One Metropolis transition with a Gaussian proposal.

    A proposal outside the support is rejected; it counts as divergent only when the density is not a number.

    Args:
        state: of all chains.
        density: as in `random_walk_init`.
        step_size: () or (C,); best near \(2.38 / \sqrt D\) with a fitting metric.
        metric: gives the covariance of the proposal; unit variances when None.
        beta: inverse temperature, () or (C,).
        generator: torch's global one when None.

    References:
        Roberts, Gelman, Gilks, 1997, Weak convergence and optimal scaling of random walk Metropolis
        algorithms.

    Example:
        >>> def box(x): return torch.where((x.abs() < 1).all(-1), 0.0, -torch.inf), torch.zeros_like(x)
        >>> state = random_walk_init(torch.zeros(50, 2), box)
        >>> for _ in range(5):
        ...     state, info = random_walk_step(state, box, 1.0)
        >>> bool(state.position.abs().max() < 1), bool(info.diverging.any())
        (True, False)
    """
    metric = identity_metric(state.position) if metric is None else metric
    like = state.position
    noise = torch.randn(like.shape, generator=generator, dtype=like.dtype, device=like.device)
    proposed, error = random_walk_proposal(state, noise, density, step_size, metric, beta)
    decision: Decision = metropolis(error, generator)
    info = Info(
        decision.acceptance_rate,
        -state.log_density.double(),
        error.isnan() | (error == -torch.inf),
        torch.tensor(1),
        error,
    )
    return choose(decision.accepted, proposed, state), info


@final
class RandomWalk(TunedKernel):
    """Random-walk Metropolis, tuned to an acceptance of 0.234: the baseline, and for rough densities.

    References:
        Roberts, Gelman, Gilks, 1997, Weak convergence and optimal scaling of random walk Metropolis
        algorithms. Haario, Saksman, Tamminen, 2001, An adaptive Metropolis algorithm.

    Example:
        >>> RandomWalk(num_chains=8).needs_gradient
        False
    """

    name: ClassVar[str] = "random_walk"
    needs_gradient: ClassVar[bool] = False
    optimal_acceptance: ClassVar[float] = 0.234

    def transition(
        self, point: Point, density: Any, step_size: float, metric: Metric, generator: torch.Generator | None
    ) -> tuple[Point, Info]:
        """`random_walk_step`."""
        return random_walk_step(point, density, step_size, metric, beta=self.beta, generator=generator)
