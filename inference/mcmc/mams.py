"""Metropolis-adjusted microcanonical sampling: isokinetic paths, accepted or not."""

from __future__ import annotations

import math
from typing import Any, ClassVar, final

import torch
from torch import Tensor

from evidentia.inference.mcmc.info import Info
from evidentia.inference.mcmc.isokinetic import draw_direction, isokinetic_path
from evidentia.inference.mcmc.metric import Metric
from evidentia.inference.mcmc.microcanonical import check_dim
from evidentia.inference.mcmc.points import Point, choose, metropolis
from evidentia.inference.mcmc.tuned import TunedKernel

__all__ = ["MAMS", "mams_step"]


def mams_step(
    point: Point,
    density: Any,
    step_size: Tensor | float,
    num_steps: int,
    metric: Metric,
    *,
    beta: Tensor | float = 1.0,
    generator: torch.Generator | None = None,
) -> tuple[Point, Info]:
    r"""One adjusted transition: a uniform direction, an isokinetic path, accepted with \(\min(1,
    e^{-\Delta})\).

    The path reversed is a path, and \(\Delta\) has the Jacobian of the turns in it, so \(\pi\) is invariant.

    Args:
        point: of all chains, from `evaluate_point`.
        density: as in `mclmc_step`.
        step_size: \(e\), () or (C,), in the whitened space.
        num_steps: the same for all chains.
        metric: which whitens.
        beta: inverse temperature, () or (C,).
        generator: torch's global one when None.

    Raises:
        ValueError: one dimension.

    References:
        Robnik, Cohn-Gordon, Seljak, 2025, Metropolis adjusted microcanonical Hamiltonian Monte Carlo.

    Example:
        >>> from evidentia.inference.density.evaluation import target_of
        >>> from evidentia.inference.mcmc.metric import identity_metric
        >>> from evidentia.inference.mcmc.points import evaluate_point
        >>> normal, start = target_of(lambda x: -0.5 * (x**2).sum(-1)), torch.ones(3, 2)
        >>> point, info = mams_step(evaluate_point(start, normal), normal, 0.1, 3, identity_metric(start))
        >>> bool((info.acceptance_rate > 0.9).all())
        True
    """
    check_dim(point.position)
    direction = draw_direction(point.position, generator)
    path = isokinetic_path(point, direction, density, step_size, num_steps, metric, beta)
    accepted, rate, diverging = metropolis(path.energy_error, generator)
    info = Info(rate, -point.log_density.double(), diverging, torch.tensor(num_steps), path.energy_error)
    return choose(accepted, path.point, point), info


@final
class MAMS(TunedKernel):
    r"""Metropolis-adjusted microcanonical sampling, tuned to an acceptance of 0.9.

    Paths have \(n = \lceil 2 h L / e \rceil\) steps, \(h\) uniform on (0, 1) and shared by all chains, \(L =
    \sqrt D\) in the whitened space, at most 256.

    References:
        Robnik, Cohn-Gordon, Seljak, 2025, Metropolis adjusted microcanonical Hamiltonian Monte Carlo.

    Example:
        >>> MAMS(num_chains=8).target_accept_prob
        0.9
    """

    name: ClassVar[str] = "mams"
    optimal_acceptance: ClassVar[float] = 0.9

    def transition(
        self, point: Point, density: Any, step_size: float, metric: Metric, generator: torch.Generator | None
    ) -> tuple[Point, Info]:
        """`mams_step` with a random number of steps."""
        share = float(torch.rand((), generator=generator))
        length = 2.0 * share * math.sqrt(point.position.shape[-1])
        num_steps = min(256, max(1, math.ceil(length / step_size)))
        return mams_step(
            point, density, step_size, num_steps, metric, beta=self.beta, generator=generator
        )  # fmt: skip
