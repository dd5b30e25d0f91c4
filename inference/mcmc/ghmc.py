"""Generalised HMC: one leapfrog at a time, a momentum that persists, and acceptance without reversals."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from evidentia.inference.mcmc.hmc import hmc_proposal
from evidentia.inference.mcmc.info import Info
from evidentia.inference.mcmc.metric import Metric, draw_momentum
from evidentia.inference.mcmc.points import DIVERGENCE, Point, choose, column, evaluate_point

__all__ = ["GHMCState", "ghmc_init", "ghmc_step"]


class GHMCState(NamedTuple):
    r"""Where the chains are in the space of positions, momenta and slices.

    Attributes:
        point: position, log density and gradient.
        momentum: (C, D), \(N(0, S^{-1})\) in the stationary law.
        slice: (C,) float64, uniform on (-1, 1) in the stationary law.

    References:
        Neal, 2020, Non-reversibly updating a uniform [0,1] value for Metropolis accept/reject decisions.
    """

    point: Point
    momentum: Tensor
    slice: Tensor

    @property
    def position(self) -> Tensor:
        """(C, D)."""
        return self.point.position

    @property
    def log_density(self) -> Tensor:
        """(C,) nats."""
        return self.point.log_density


def ghmc_init(
    position: Tensor,
    density: Any,
    metric: Metric,
    *,
    beta: Tensor | float = 1.0,
    generator: torch.Generator | None = None,
) -> GHMCState:
    """The state at `position` (C, D), with momenta and slices from their stationary laws.

    Args:
        position: where the chains start.
        density: a `LogDensity`, a tempered density or a plain target.
        metric: the inverse mass.
        beta: inverse temperature, () or (C,).
        generator: torch's global one when None.

    References:
        Horowitz, 1991, A generalized guided Monte Carlo algorithm.

    Example:
        >>> from evidentia.inference.density.evaluation import target_of
        >>> from evidentia.inference.mcmc.metric import identity_metric
        >>> normal, start = target_of(lambda x: -0.5 * (x**2).sum(-1)), torch.ones(3, 2)
        >>> ghmc_init(start, normal, identity_metric(start)).slice.shape
        torch.Size([3])
    """
    momentum = draw_momentum(metric, position, generator)
    uniform = torch.rand(len(position), generator=generator, dtype=torch.float64, device=position.device)
    return GHMCState(evaluate_point(position, density, beta), momentum, 2.0 * uniform - 1.0)


def ghmc_step(
    state: GHMCState,
    density: Any,
    step_size: Tensor | float,
    damping: Tensor | float,
    metric: Metric,
    *,
    drift: Tensor | float | None = None,
    beta: Tensor | float = 1.0,
    generator: torch.Generator | None = None,
) -> tuple[GHMCState, Info]:
    r"""One transition: refresh the momentum in part, drift the slice, one leapfrog, accept or turn round.

    \[ p \leftarrow e^{-\gamma e} p + \sqrt{1 - e^{-2\gamma e}}\, \xi, \qquad
       u \leftarrow (u + 1 + \delta) \bmod 2 - 1 \]

    The leapfrog to \((q', p')\) is accepted if \(|u| < e^{-(H' - H)}\), and then \(u \leftarrow u\, e^{H' -
    H}\); else \(p \leftarrow -p\). As \(u\) moves slowly, rejections come in runs and momentum lasts between
    them. Leaves \(\pi(q)\, N(p; 0, S^{-1})\, U(u; -1, 1)\) invariant.

    Args:
        state: of all chains.
        density: as in `ghmc_init`.
        step_size: \(e\), () or (C,).
        damping: \(\gamma\), () or (C,): how fast momentum is forgotten.
        metric: the inverse mass.
        drift: \(\delta\), () or (C,); half of \(1 - e^{-2\gamma e}\) when None.
        beta: inverse temperature, () or (C,).
        generator: torch's global one when None.

    Returns:
        The new state and what happened. A step that is not finite turns round and counts as divergent.

    References:
        Horowitz, 1991, A generalized guided Monte Carlo algorithm. Neal, 2020, Non-reversibly updating a
        uniform [0,1] value for Metropolis accept/reject decisions.

    Example:
        >>> from evidentia.inference.density.evaluation import target_of
        >>> from evidentia.inference.mcmc.metric import identity_metric
        >>> normal, start = target_of(lambda x: -0.5 * (x**2).sum(-1)), torch.ones(3, 2)
        >>> state = ghmc_init(start, normal, identity_metric(start))
        >>> state, info = ghmc_step(state, normal, 0.1, 1.0, identity_metric(start))
        >>> bool((info.acceptance_rate > 0.9).all())
        True
    """
    point, momentum, slice_ = state
    keep, fresh, share = _refreshment(step_size, damping)
    noise = draw_momentum(metric, point.position, generator)
    momentum = column(keep) * momentum + column(fresh) * noise
    slice_ = torch.remainder(slice_ + 1.0 + (0.5 * share if drift is None else drift), 2.0) - 1.0
    end, energy, error = hmc_proposal(point, momentum, density, step_size, 1, metric, beta)
    finite = error.isfinite()
    accepted = finite & (slice_.abs().log() < -error)
    proposed = Point(end.position, end.log_density, end.gradient, end.log_likelihood)
    # Where the step was accepted |u| e^error is below one; elsewhere the exponential is not looked at.
    scaled = slice_ * error.where(accepted, torch.zeros_like(error)).exp()
    moved = GHMCState(
        choose(accepted, proposed, point), torch.where(accepted[:, None], end.momentum, -momentum), scaled
    )
    rate = torch.where(finite, torch.exp(-error.clamp(min=0.0)), 0.0)
    diverging = ~(finite & (error <= DIVERGENCE))
    return moved, Info(rate, energy, diverging, torch.tensor(1), error)


def _refreshment(step_size: Tensor | float, damping: Tensor | float) -> tuple[Any, Any, Any]:
    """Weights of the old and the new momentum, and the square of the latter."""
    time = step_size * damping
    if isinstance(time, Tensor):
        shares = -torch.expm1(-2.0 * time)
        return torch.exp(-time), shares.sqrt(), shares
    share = -math.expm1(-2.0 * time)
    return math.exp(-time), math.sqrt(share), share
