"""Moves of a path from prior to posterior: metric out of the particles, step size out of the acceptance."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from evidentia.inference.mcmc.adaptation.mass import LARGEST_DENSE, shrunk_covariance
from evidentia.inference.mcmc.hmc import HMCState, hmc_step
from evidentia.inference.mcmc.info import Info
from evidentia.inference.mcmc.metric import Metric

__all__ = ["Density", "Path", "PriorDraws", "draws_of", "jittered_move", "particle_covariance"]

# A `LogDensity` or a tempered density: whatever `as_tempered` takes.
Density = Any
PriorDraws = Callable[[int, torch.Generator | None], Tensor]

# Trajectory in whitened space (a quarter of a Gaussian's period), jittered by half; most leapfrogs of a move.
TRAJECTORY, MAX_LEAPFROGS = 1.5, 16
TARGET_ACCEPTANCE = 0.8
# A dense metric needs this many effective particles per dimension.
_PER_DIMENSION = 2


class Path(NamedTuple):
    """How to move at each inverse temperature: frozen settings that a run along the path only reads.

    Attributes:
        betas: (S + 1,), float64, climbing from 0 to 1.
        covariance: the inverse mass at each of them, (S + 1, D, D) or (S + 1, D).
        step_size: leapfrog step in whitened space, (S + 1,).

    References:
        none; bookkeeping.
    """

    betas: Tensor
    covariance: Tensor
    step_size: Tensor

    def at(self, betas: Tensor) -> Path:
        """The path at other temperatures: precision and step size linear in between, exact for Gaussians.

        Args:
            betas: (K + 1,), float64, in [0, 1].

        References:
            none; linear interpolation.

        Example:
            >>> path = Path(torch.tensor([0.0, 1.0]), torch.tensor([[1.0], [0.25]]), torch.ones(2))
            >>> path.at(torch.tensor([0.0, 0.5, 1.0])).covariance.flatten().tolist()
            [1.0, 0.4000000059604645, 0.25]
        """
        own = self.betas.to(betas)
        right = torch.searchsorted(own, betas).clamp(1, len(own) - 1)
        share = (betas - own[right - 1]) / (own[right] - own[right - 1])
        if self.covariance.dim() == 3:
            precision = torch.linalg.inv(self.covariance)
            covariance = torch.linalg.inv(_between(precision, right, share))
            covariance = (covariance + covariance.mT) / 2
        else:
            covariance = 1 / _between(1 / self.covariance, right, share)
        return Path(betas, covariance, _between(self.step_size, right, share))


def _between(value: Tensor, right: Tensor, share: Tensor) -> Tensor:
    """Linear interpolation of the first dimension."""
    share = share.to(value).view(-1, *[1] * (value.dim() - 1))
    return value[right - 1] + share * (value[right] - value[right - 1])


def particle_covariance(position: Tensor, log_weight: Tensor) -> Tensor:
    r"""Covariance of weighted particles, shrunk to its diagonal by \(D / (D + n / 2)\), n the effective size.

    Args:
        position: (M, D).
        log_weight: (M,), nats; -inf is weight 0 and its position is not read.

    Returns:
        (D, D), with nothing off the diagonal when n < 2 D; its diagonal (D,) when D > 300.

    References:
        Ledoit and Wolf, 2004, A well-conditioned estimator for large-dimensional covariance matrices.

    Example:
        >>> draws = torch.randn(4000, 2, generator=torch.Generator().manual_seed(0))
        >>> particle_covariance(draws, torch.zeros(4000)).shape
        torch.Size([2, 2])
    """
    dim = position.shape[-1]
    weight = log_weight.softmax(0).to(position)
    # 0 times an overflowed position is not 0.
    kept = torch.where((weight > 0).unsqueeze(-1), position, 0.0)
    size = float(1 / weight.square().sum())
    centred = torch.where((weight > 0).unsqueeze(-1), kept - weight @ kept, 0.0)
    correction = 1 - 1 / size if size > 1.5 else 1.0
    variance = (weight @ centred.square() / correction).clamp(min=1e-10)
    if dim > LARGEST_DENSE:
        return variance
    if size < _PER_DIMENSION * dim:
        return variance.diag()
    covariance = (centred.mT * weight) @ centred / correction
    covariance.diagonal().copy_(variance)
    return shrunk_covariance(covariance, size)


def jittered_move(
    state: HMCState,
    density: Density,
    step_size: Tensor,
    metric: Metric,
    beta: Tensor | float,
    *,
    max_leapfrogs: int = MAX_LEAPFROGS,
    generator: torch.Generator | None = None,
) -> tuple[HMCState, Info]:
    """One Hamiltonian transition of all particles, of a random length that does not depend on them.

    The trajectory is 1.5 in whitened space times a uniform number in (0.5, 1.5), so that no direction is met
    at a full period; the number of leapfrogs is at most `max_leapfrogs`.

    Args:
        state: (C, D) and what belongs to it.
        density: a `LogDensity` or a tempered density.
        step_size: () or (C,); their mean sets the number of leapfrogs.
        metric: inverse mass.
        beta: inverse temperature, () or (C,).
        max_leapfrogs: bound on the cost.
        generator: random numbers; torch's global generator when None.

    References:
        Neal, 2011, MCMC using Hamiltonian dynamics.

    Example:
        >>> from evidentia.inference.density.evaluation import tempered_of
        >>> from evidentia.inference.mcmc.hmc import hmc_init
        >>> from evidentia.inference.mcmc.metric import identity_metric
        >>> normal = lambda x: -0.5 * x.square().sum(-1)
        >>> density = tempered_of(normal, normal)
        >>> state = hmc_init(torch.zeros(4, 2), density)
        >>> metric = identity_metric(state.position)
        >>> state, info = jittered_move(state, density, torch.tensor(0.5), metric, 1.0)
        >>> state.position.shape
        torch.Size([4, 2])
    """
    jitter = 0.5 + float(torch.rand((), device=state.position.device, generator=generator))
    wanted = math.ceil(TRAJECTORY * jitter / max(float(step_size.mean()), 1e-10) - 0.5)
    leapfrogs = min(max(wanted, 1), max_leapfrogs)
    return hmc_step(state, density, step_size, leapfrogs, metric, beta=beta, generator=generator)


def draws_of(density: object, prior_draws: PriorDraws | None) -> PriorDraws:
    """The prior sampler: the one that is given, else the density's own.

    Raises:
        ValueError: neither exists.

    References:
        none; bookkeeping.

    Example:
        >>> def draws(num, generator): return torch.randn(num, 1, generator=generator)
        >>> draws_of(None, draws) is draws
        True
    """
    found = prior_draws or getattr(density, "prior_draws", None)
    if found is None:
        raise ValueError(
            "prior_draws: expected a function (num, generator) -> (num, D) beside a plain density, got None. "
            "Fix: prior_draws=lambda num, generator: torch.randn(num, 2, generator=generator)"
        )
    return found
