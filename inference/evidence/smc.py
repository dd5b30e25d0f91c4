"""Tempered sequential Monte Carlo from prior draws: a fast evidence, and the warm start of every chain."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from evidentia.inference.evidence.ladder import check_ladder
from evidentia.inference.evidence.log_evidence import LogEvidence
from evidentia.inference.evidence.moves import Density, Path, PriorDraws, draws_of
from evidentia.inference.evidence.sweep import Sweep, sweep

__all__ = ["SMCResult", "pilot_path", "tempered_smc"]


class SMCResult(NamedTuple):
    r"""Posterior particles, the evidence, and everything a chain needs to start from them.

    Attributes:
        position: (copies * particles, D), equally weighted draws of the posterior on unconstrained space.
        log_evidence: `LogEvidence` with method, warnings, the copies and the genealogical error.
        betas: (S + 1,), float64, from 0 to 1.
        log_increments: (copies, S), float64, nats: logs of the mean incremental weights.
        acceptance: (S,), mean acceptance of the moves at each temperature above 0.
        num_gradients: calls of the density with its gradient, each for all particles together.
        covariance: of the weighted particles at the last temperature, (D, D), or (D,) when D > 300.
        step_size: (), leapfrog step at the last temperature in the space whitened by `covariance`.
        path: settings of all temperatures, for annealed importance sampling and power posteriors.

    References:
        Del Moral, Doucet and Jasra, 2006, Sequential Monte Carlo samplers.
    """

    position: Tensor
    log_evidence: LogEvidence
    betas: Tensor
    log_increments: Tensor
    acceptance: Tensor
    num_gradients: int
    covariance: Tensor
    step_size: Tensor
    path: Path


def tempered_smc(
    density: Density,
    num_particles: int = 256,
    *,
    num_copies: int = 4,
    prior_draws: PriorDraws | None = None,
    betas: Tensor | None = None,
    target: float = 0.5,
    num_moves: int | None = 3,
    double_moves: bool = False,
    generator: torch.Generator | None = None,
) -> SMCResult:
    r"""Temper particles from the prior to the posterior along \(p(\theta)\, \ell(\theta)^{\beta}\).

    \[ \log \hat Z = \sum_s \log \frac1N \sum_i \ell(\theta_i)^{\beta_s - \beta_{s - 1}} \]

    At each temperature the particles are weighted, resampled systematically within their copy, and moved by
    Hamiltonian transitions whose metric is the covariance of the weighted particles of all copies. The step
    size follows the acceptance. Ladder, metric and step size are shared by the copies, which run in one
    batch.

    Args:
        density: `LogDensity`, or a tempered density with `prior_draws`.
        num_particles: N, particles of one copy.
        num_copies: copies; 4 or more give a standard error that sees everything but a mode all copies miss.
        prior_draws: (num, generator) -> (num, D); the density's own when None.
        betas: ladder from 0 to 1; when None the effective sample size falls to `target` at each step.
        target: wanted effective fraction of the particles.
        num_moves: transitions at each temperature, 3 for a fast start; when None 2 to 12, until neither a
            direction nor the log likelihood is correlated with those of the ancestors.
        double_moves: run once more with twice the moves and report the drift of the log evidence.
        generator: random numbers; torch's global generator when None.

    Returns:
        `SMCResult`. The evidence is the log of the mean of the copies', its kind "consistent estimate". Its
        standard error is the standard deviation of the copies over the root of their number, or the error
        from the genealogy of the particles where that is larger. Diagnostics: `method`, `warnings`, `copies`,
        `copies_error`, `genealogical_error`, `num_temperatures`, `num_moves`, `num_gradients`,
        `min_acceptance`, `stuck_betas`, `move_drift`.

    Raises:
        ValueError: fewer than 2 particles or 1 copy, no prior draws, a bad ladder, or prior draws all of
            which have a non-finite likelihood.

    References:
        Del Moral, Doucet and Jasra, 2006, Sequential Monte Carlo samplers.
        Lee and Whiteley, 2018, Variance estimation in the particle filter.

    Example:
        >>> from evidentia.inference.density.evaluation import tempered_of
        >>> def log_normal(x): return -0.5 * x.square().sum(-1) - 0.5 * math.log(2 * math.pi)
        >>> def draws(num, generator): return torch.randn(num, 1, generator=generator, dtype=torch.float64)
        >>> density = tempered_of(log_normal, lambda x: log_normal(x - 1.0))      # evidence N(1; 0, 2)
        >>> found = tempered_smc(density, prior_draws=draws, generator=torch.Generator().manual_seed(0))
        >>> error = found.log_evidence.value + 0.25 + 0.5 * math.log(4 * math.pi)
        >>> abs(error) < 5 * found.log_evidence.standard_error, found.position.shape
        (True, torch.Size([1024, 1]))
    """
    if num_particles < 2 or num_copies < 1:
        raise ValueError(
            f"tempered_smc: expected num_particles >= 2 and num_copies >= 1, got {num_particles} and "
            f"{num_copies}. Fix: tempered_smc(density, 256, num_copies=4)"
        )
    if num_moves is not None and num_moves < 1:
        raise ValueError(f"num_moves: expected a number >= 1, got {num_moves}. Fix: num_moves=3, or None")
    draw, size = draws_of(density, prior_draws), (num_copies, num_particles)
    ladder = None if betas is None else check_ladder(betas)
    run = sweep(density, draw(math.prod(size), generator), size, ladder, target, num_moves, generator)
    doubled = None
    if double_moves:
        moves = tuple(2 * count for count in run.moves)
        start = draw(math.prod(size), generator)
        doubled = sweep(density, start, size, run.path.betas, target, moves, generator)
    return SMCResult(
        run.position,
        _evidence(run, doubled, size),
        run.path.betas,
        run.log_increments,
        run.acceptance,
        run.num_gradients + (doubled.num_gradients if doubled else 0),
        run.path.covariance[-1],
        run.path.step_size[-1],
        run.path,
    )


def pilot_path(
    density: Density,
    betas: Tensor,
    *,
    prior_draws: PriorDraws | None = None,
    num_particles: int = 512,
    generator: torch.Generator | None = None,
) -> Path:
    """Metric and step size at each temperature, tuned in a sequential Monte Carlo run of its own.

    An annealed run must not adapt: its weights are unbiased only for kernels that were chosen beforehand.

    Args:
        density: `LogDensity`, or a tempered density with `prior_draws`.
        betas: inverse temperatures of the annealed run, from 0 to 1.
        prior_draws: (num, generator) -> (num, D); the density's own when None.
        num_particles: of the pilot.
        generator: random numbers; torch's global generator when None.

    Raises:
        ValueError: as `tempered_smc`, or a bad ladder.

    References:
        Neal, 2001, Annealed importance sampling.

    Example:
        >>> from evidentia.inference.density.evaluation import tempered_of
        >>> normal = lambda x: -0.5 * x.square().sum(-1)
        >>> draws = lambda num, generator: torch.randn(num, 2, generator=generator)
        >>> betas = torch.linspace(0.0, 1.0, 10)
        >>> pilot_path(tempered_of(normal, normal), betas, prior_draws=draws).covariance.shape
        torch.Size([10, 2, 2])
    """
    ladder = check_ladder(betas)
    run = tempered_smc(density, num_particles, num_copies=1, prior_draws=prior_draws, generator=generator)
    return run.path.at(ladder)


def _evidence(run: Sweep, doubled: Sweep | None, size: tuple[int, int]) -> LogEvidence:
    """Value, error bar and warnings of the copies."""
    copies = run.log_increments.sum(-1)
    value = _log_mean(copies)
    genealogical = math.sqrt(max(float(run.variance.mean()), 0.0) / size[0])
    # The spread of few copies is itself uncertain: 4 of them can agree by chance. The genealogical error does
    # not vary, but does not see slow mixing.
    spread = float(copies.std()) / math.sqrt(size[0]) if size[0] > 1 else 0.0
    error = max(spread, genealogical)
    warnings = []
    if size[0] < 4:
        warnings.append(f"standard error from {size[0]} copies only: num_copies=4 or more")
    if run.alive < size[1] / 4:
        warnings.append(f"only {run.alive} of {size[1]} prior draws of a copy have a finite likelihood")
    lowest = float(run.acceptance.min())
    if lowest < 0.4:
        warnings.append(f"acceptance fell to {lowest:.2f}: the moves did not mix at some temperature")
    if run.stuck:
        warnings.append(
            f"the moves did not forget the ancestors at {len(run.stuck)} of {len(run.moves)} temperatures: "
            "more num_moves, or separate modes"
        )
    drift = None
    if doubled is not None:
        again = doubled.log_increments.sum(-1)
        drift = _log_mean(again) - value
        both = math.hypot(error, math.sqrt(max(float(doubled.variance.mean()), 0.0) / size[0]))
        if abs(drift) > 3 * both:
            warnings.append(f"log evidence drifts by {drift:.3f} nats when the moves double: more num_moves")
    diagnostics: dict[str, Any] = {
        "method": "tempered SMC",
        "warnings": tuple(warnings),
        "copies": tuple(copies.tolist()),
        "copies_error": spread if size[0] > 1 else None,
        "genealogical_error": genealogical,
        "num_temperatures": len(run.path.betas) - 1,
        "num_moves": run.moves,
        "num_gradients": run.num_gradients,
        "min_acceptance": lowest,
        "move_drift": drift,
        "stuck_betas": run.stuck,
    }
    return LogEvidence.checked(value, error, "consistent estimate", diagnostics)


def _log_mean(log_value: Tensor) -> float:
    return float(log_value.logsumexp(0)) - math.log(len(log_value))
