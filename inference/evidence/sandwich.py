"""Bidirectional Monte Carlo: an evidence between a stochastic lower and a stochastic upper bound."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from evidentia.inference.evidence.annealed import (
    MAX_LEAPFROGS,
    annealed_importance,
    frozen_path,
    reverse_annealed_importance,
)
from evidentia.inference.evidence.log_evidence import LogEvidence
from evidentia.inference.evidence.moves import Density, Path, PriorDraws, draws_of

__all__ = ["Sandwich", "bidirectional"]


class Sandwich(NamedTuple):
    """A stochastic lower and a stochastic upper bound on one log evidence, and the gap between them.

    Attributes:
        lower: forward, from the prior.
        upper: reverse, from the posterior.
        gap: upper minus lower, nats; the error of either is no larger, in expectation.

    References:
        Grosse, Ghahramani and Adams, 2015, Sandwiching the marginal likelihood using bidirectional Monte
        Carlo.
    """

    lower: LogEvidence
    upper: LogEvidence
    gap: float

    def __str__(self) -> str:
        return f"[{self.lower.value:.4f}, {self.upper.value:.4f}] nats, gap {self.gap:.4f}"


def bidirectional(
    density: Density,
    posterior_draws: Tensor,
    num_chains: int = 256,
    *,
    exact: bool = True,
    prior_draws: PriorDraws | None = None,
    betas: Tensor | int = 200,
    path: Path | None = None,
    max_leapfrogs: int = MAX_LEAPFROGS,
    generator: torch.Generator | None = None,
) -> Sandwich:
    """Bidirectional Monte Carlo: the evidence of simulated data between two bounds with one frozen path.

    Data simulated from the model come with one exact posterior draw, the latents that generated them.

    Args:
        density: `LogDensity`, or a tempered density with `prior_draws`, given the simulated data.
        posterior_draws: (M, D); the generating latents (1, D), or draws of a chain with `exact=False`.
        num_chains: C of each direction.
        exact: whether the draws are exact.
        prior_draws: as in `annealed_importance`, as are `betas`, `path`, `max_leapfrogs` and `generator`.
        betas: inverse temperatures, or the number of steps of a sigmoidal schedule.
        path: frozen kernels; found by `pilot_path` when None.
        max_leapfrogs: bound on the cost of a transition.
        generator: random numbers; torch's global generator when None.

    Returns:
        `Sandwich`, whose text is the interval and its gap.

    Raises:
        ValueError: as the two directions.

    References:
        Grosse, Ghahramani and Adams, 2015, Sandwiching the marginal likelihood using bidirectional Monte
        Carlo.

    Example:
        >>> from evidentia.inference.density.evaluation import tempered_of
        >>> constant = tempered_of(lambda x: -0.5 * x.square().sum(-1), lambda x: 0.0 * x.sum(-1) - 3.0)
        >>> draws = lambda num, generator: torch.randn(num, 2, generator=generator)
        >>> found = bidirectional(constant, torch.zeros(1, 2), 8, betas=5, prior_draws=draws)
        >>> round(found.lower.value, 4), round(found.upper.value, 4), abs(round(found.gap, 4))
        (-3.0, -3.0, 0.0)
    """
    draw = draws_of(density, prior_draws)
    path = frozen_path(density, betas, path, draw, generator)
    lower = annealed_importance(
        density, num_chains, prior_draws=draw, path=path, max_leapfrogs=max_leapfrogs, generator=generator
    )
    upper = reverse_annealed_importance(
        density,
        posterior_draws,
        exact=exact,
        num_chains=num_chains,
        path=path,
        max_leapfrogs=max_leapfrogs,
        generator=generator,
    )
    return Sandwich(lower, upper, upper.value - lower.value)
