"""Annealed importance sampling: forward from the prior, reverse from posterior draws."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from evidentia.inference.evidence.ladder import check_ladder, finite_or_dead, sigmoidal_schedule
from evidentia.inference.evidence.log_evidence import Kind, LogEvidence
from evidentia.inference.evidence.moves import Density, Path, PriorDraws, draws_of, jittered_move
from evidentia.inference.evidence.smc import pilot_path
from evidentia.inference.mcmc.hmc import hmc_init
from evidentia.inference.mcmc.metric import metric_of

__all__ = [
    "annealed_importance",
    "annealed_log_weights",
    "frozen_path",
    "reverse_annealed_importance",
]

# The weights of an annealed run are trusted with this effective size and this largest share.
FEWEST_EFFECTIVE, LARGEST_SHARE = 10.0, 0.3
MAX_LEAPFROGS = 5


def annealed_log_weights(
    density: Density,
    position: Tensor,
    path: Path,
    *,
    reverse: bool = False,
    max_leapfrogs: int = MAX_LEAPFROGS,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Log-weights of annealed chains, one per start.

    \[ \log w = \sum_{k=1}^{K} (\beta_k - \beta_{k-1}) \log \ell(q_{k-1}) \]

    Forward: \(q_0\) from the prior, \(q_k\) from \(q_{k-1}\) by a transition that leaves the temperature
    \(\beta_k\) invariant; \(E\,w = Z\). Reverse: \(q_{K-1}\) from the posterior, \(q_{k-1}\) from \(q_k\)
    by the transition at \(\beta_k\); \(E\,w^{-1} = Z^{-1}\).

    Args:
        density: `LogDensity` or a tempered density. With data of its own for each chain the weights belong to
            as many data sets.
        position: starts (C, D): prior draws, or exact posterior draws in reverse.
        path: frozen metrics and step sizes at each temperature.
        reverse: from the posterior to the prior.
        max_leapfrogs: bound on the cost of a transition.
        generator: random numbers; torch's global generator when None.

    Returns:
        (C,), float64, nats; -inf where the likelihood was not finite.

    Raises:
        ValueError: a ladder that does not climb from 0 to 1.

    References:
        Neal, 2001, Annealed importance sampling.
        Grosse, Ghahramani and Adams, 2015, Sandwiching the marginal likelihood using bidirectional Monte
        Carlo.

    Example:
        >>> from evidentia.inference.density.evaluation import tempered_of
        >>> constant = tempered_of(lambda x: -0.5 * x.square().sum(-1), lambda x: 0.0 * x.sum(-1) - 3.0)
        >>> path = Path(sigmoidal_schedule(5), torch.ones(6, 2), torch.ones(6))
        >>> annealed_log_weights(constant, torch.randn(4, 2), path)
        tensor([-3., -3., -3., -3.], dtype=torch.float64)
    """
    betas = check_ladder(path.betas).tolist()
    last = len(betas) - 1
    state = hmc_init(position, density, 1.0 if reverse else 0.0)
    total = torch.zeros(len(position), dtype=torch.float64, device=position.device)
    # Pairs (k, where the chain moves to next): the weight of interval k is taken before the move.
    for k in range(last, 0, -1) if reverse else range(1, last + 1):
        total = total + (betas[k] - betas[k - 1]) * finite_or_dead(state.log_likelihood).double()
        move = k - 1 if reverse else k
        # No transition at the ends: its result would not be weighted any more.
        if 0 < move < last:
            state = hmc_init(state.position, density, betas[move])
            metric = metric_of(path.covariance[move])
            state, _ = jittered_move(
                state,
                density,
                path.step_size[move],
                metric,
                betas[move],
                max_leapfrogs=max_leapfrogs,
                generator=generator,
            )
    return total


def annealed_importance(
    density: Density,
    num_chains: int = 256,
    *,
    prior_draws: PriorDraws | None = None,
    betas: Tensor | int = 200,
    path: Path | None = None,
    max_leapfrogs: int = MAX_LEAPFROGS,
    generator: torch.Generator | None = None,
) -> LogEvidence:
    r"""The evidence as the mean weight of chains annealed from the prior, \(\log \frac1C \sum_c w_c\).

    Args:
        density: `LogDensity`, or a tempered density with `prior_draws`.
        num_chains: C.
        prior_draws: (num, generator) -> (num, D); the density's own when None.
        betas: inverse temperatures from 0 to 1, or the number of steps of a sigmoidal schedule.
        path: frozen kernels; found by `pilot_path` when None.
        max_leapfrogs: bound on the cost of a transition.
        generator: random numbers; torch's global generator when None.

    Returns:
        `LogEvidence` of kind "consistent estimate" with the delta method's error. When the effective size of
        the weights is below 10 or one weight has more than 0.3 of their sum, the error cannot be estimated:
        it is infinite, the kind "lower bound" (in expectation) and a warning says so. Diagnostics: `method`,
        `warnings`, `ess`, `largest_share`, `num_temperatures`, `log_weight`.

    Raises:
        ValueError: as `annealed_log_weights` and `pilot_path`.

    References:
        Neal, 2001, Annealed importance sampling.

    Example:
        >>> from evidentia.inference.density.evaluation import tempered_of
        >>> def log_normal(x): return -0.5 * x.square().sum(-1) - 0.5 * math.log(2 * math.pi)
        >>> def draws(num, generator): return torch.randn(num, 1, generator=generator, dtype=torch.float64)
        >>> density = tempered_of(log_normal, lambda x: log_normal(x - 1.0))      # evidence N(1; 0, 2)
        >>> g = torch.Generator().manual_seed(0)
        >>> found = annealed_importance(density, prior_draws=draws, betas=20, generator=g)
        >>> error = found.value + 0.25 + 0.5 * math.log(4 * math.pi)
        >>> abs(error) < 4 * found.standard_error < 0.1
        True
    """
    draw = draws_of(density, prior_draws)
    path = frozen_path(density, betas, path, draw, generator)
    log_weight = annealed_log_weights(
        density, draw(num_chains, generator), path, max_leapfrogs=max_leapfrogs, generator=generator
    )
    return _evidence(log_weight, len(path.betas) - 1, "annealed importance sampling", sign=1.0)


def reverse_annealed_importance(
    density: Density,
    posterior_draws: Tensor,
    *,
    exact: bool,
    num_chains: int | None = None,
    prior_draws: PriorDraws | None = None,
    betas: Tensor | int = 200,
    path: Path | None = None,
    max_leapfrogs: int = MAX_LEAPFROGS,
    generator: torch.Generator | None = None,
) -> LogEvidence:
    r"""A stochastic upper bound on the evidence, \(-\log \frac1C \sum_c w_c^{-1}\), from chains that heat up.

    Args:
        density: `LogDensity`, or a tempered density with `prior_draws` (for the pilot only).
        posterior_draws: (M, D), exact, as the latents that generated simulated data are, or of a long chain.
        exact: whether they are exact. Draws of a chain bound the evidence only as well as the chain mixed.
        num_chains: C; M when None. Fewer than M take a spread-out part of the draws, more use them again.
        prior_draws: as in `annealed_importance`, as are `betas`, `path`, `max_leapfrogs` and `generator`.
        betas: inverse temperatures, or the number of steps of a sigmoidal schedule.
        path: frozen kernels; found by `pilot_path` when None.
        max_leapfrogs: bound on the cost of a transition.
        generator: random numbers; torch's global generator when None.

    Returns:
        `LogEvidence` of kind "upper bound" (in expectation), with the diagnostics of `annealed_importance`.
        The error is infinite under the same guard, and does not see that chains share a start.

    Raises:
        ValueError: as `annealed_importance`, or no draws.

    References:
        Grosse, Ghahramani and Adams, 2015, Sandwiching the marginal likelihood using bidirectional Monte
        Carlo.

    Example:
        >>> from evidentia.inference.density.evaluation import tempered_of
        >>> def log_normal(x): return -0.5 * x.square().sum(-1) - 0.5 * math.log(2 * math.pi)
        >>> density = tempered_of(log_normal, lambda x: log_normal(x - 1.0))
        >>> g = torch.Generator().manual_seed(0)
        >>> exact = 0.5 + 0.5**0.5 * torch.randn(400, 1, generator=g, dtype=torch.float64)
        >>> path = Path(sigmoidal_schedule(20), torch.ones(21, 1), torch.ones(21))
        >>> found = reverse_annealed_importance(density, exact, exact=True, path=path, generator=g)
        >>> abs(found.value + 0.25 + 0.5 * math.log(4 * math.pi)) < 4 * found.standard_error < 0.1
        True
    """
    draws = len(posterior_draws)
    count = draws if num_chains is None else num_chains
    if draws == 0 or count < 1:
        raise ValueError(
            f"expected posterior draws (M, D) and num_chains >= 1, got {draws} draws and {count} chains. "
            "Fix: posterior_draws=latents.unsqueeze(0), num_chains=256"
        )
    if path is None:
        path = frozen_path(density, betas, None, draws_of(density, prior_draws), generator)
    # A spread-out part of many draws, or every draw about equally often.
    start = posterior_draws[torch.arange(count, device=posterior_draws.device) * draws // count]
    log_weight = annealed_log_weights(
        density, start, path, reverse=True, max_leapfrogs=max_leapfrogs, generator=generator
    )
    warnings = () if exact else ("not an exact upper bound: it starts from draws of a chain",)
    name = "reverse annealed importance sampling"
    return _evidence(-log_weight, len(path.betas) - 1, name, sign=-1.0, warnings=warnings)


def frozen_path(
    density: Density,
    betas: Tensor | int,
    path: Path | None,
    prior_draws: PriorDraws | None,
    generator: torch.Generator | None,
) -> Path:
    """The path that is given, else that of a pilot over the ladder or a sigmoidal schedule of so many steps.

    References:
        none; bookkeeping.

    Example:
        >>> path = Path(sigmoidal_schedule(5), torch.ones(6, 2), torch.ones(6))
        >>> frozen_path(None, 5, path, None, None) is path
        True
    """
    if path is not None:
        return path
    ladder = sigmoidal_schedule(betas) if isinstance(betas, int) else betas
    return pilot_path(density, ladder, prior_draws=prior_draws, generator=generator)


def _evidence(
    log_weight: Tensor, num_temperatures: int, method: str, *, sign: float, warnings: tuple[str, ...] = ()
) -> LogEvidence:
    """Mean weight with the guard on its error; `sign` -1 turns the mean of 1/w into a bound from above."""
    count = len(log_weight)
    value = float(log_weight.logsumexp(0)) - math.log(count)
    share = log_weight.softmax(0)
    ess, largest = float(1 / share.square().sum()), float(share.max())
    error = float((share * count).std()) / math.sqrt(count) if count > 1 else math.inf
    kind: Kind = "consistent estimate" if sign > 0 else "upper bound"
    if not (ess >= FEWEST_EFFECTIVE and largest <= LARGEST_SHARE):
        error, kind = math.inf, "lower bound" if sign > 0 else "upper bound"
        warnings += (
            f"weights collapsed (effective size {ess:.1f}, largest share {largest:.2f}): no standard error; "
            "more temperatures",
        )
    diagnostics: dict[str, Any] = {
        "method": method,
        "warnings": warnings,
        "ess": ess,
        "largest_share": largest,
        "num_temperatures": num_temperatures,
        "log_weight": sign * log_weight,
    }
    return LogEvidence.checked(sign * value, error, kind, diagnostics)
