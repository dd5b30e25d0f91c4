"""Draws of the log likelihood at many temperatures: all power posteriors run as one batch of chains."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from evidentia.inference.density.evaluation import Evaluation, Tempered, as_tempered
from evidentia.inference.evidence.ladder import check_ladder, finite_or_dead, power_schedule
from evidentia.inference.evidence.moves import (
    MAX_LEAPFROGS,
    TARGET_ACCEPTANCE,
    Density,
    PriorDraws,
    draws_of,
    jittered_move,
)
from evidentia.inference.evidence.sweep import Sweep, sweep
from evidentia.inference.mcmc.hmc import hmc_init
from evidentia.inference.mcmc.metric import identity_metric

__all__ = ["PowerPosteriors", "power_posteriors"]


class PowerPosteriors(NamedTuple):
    """Log likelihoods under prior times likelihood to the power beta, for each beta.

    Attributes:
        betas: (B,), float64, climbing to 1.
        log_likelihood: (B, P, N), float64, nats: P chains of N draws; -inf where it was not finite. Chains
            are independent of each other given the adaptation, and so are the temperatures.
        prior_log_likelihood: (M,), float64, nats: independent draws of the prior.
        acceptance: (B,), mean acceptance after the warm-up; 1 at the prior, where draws are independent.

    References:
        Friel and Pettitt, 2008, Marginal likelihood estimation via power posteriors.
    """

    betas: Tensor
    log_likelihood: Tensor
    prior_log_likelihood: Tensor
    acceptance: Tensor


def power_posteriors(
    density: Density,
    betas: Tensor | int | str = 32,
    *,
    num_chains: int = 16,
    num_draws: int = 100,
    warmup_steps: int = 30,
    prior_draws: PriorDraws | None = None,
    max_leapfrogs: int = MAX_LEAPFROGS,
    generator: torch.Generator | None = None,
) -> PowerPosteriors:
    r"""Run chains at every temperature in one batch, each temperature with a metric and step size of its own.

    A sequential Monte Carlo run over the same ladder gives starts and covariances \(L_b L_b^\top\); chains
    move in \(u = L_b^{-1} x\). At \(\beta = 0\) draws are independent.

    Args:
        density: `LogDensity`, or a tempered density with `prior_draws`.
        betas: inverse temperatures that climb to 1; a number of intervals of the schedule \((k/K)^5\); or
            "adaptive", for the ladder of equal effective sample sizes.
        num_chains: P, chains at each temperature, at least 4: they carry the error bars.
        num_draws: N of each chain.
        warmup_steps: transitions before, in which the step sizes follow the acceptance.
        prior_draws: (num, generator) -> (num, D); the density's own when None.
        max_leapfrogs: bound on the cost of a transition.
        generator: random numbers; torch's global generator when None.

    Returns:
        `PowerPosteriors`.

    Raises:
        ValueError: fewer than 4 chains or 1 draw, a bad ladder, or as `tempered_smc`.

    References:
        Friel and Pettitt, 2008, Marginal likelihood estimation via power posteriors.

    Example:
        >>> from evidentia.inference.density.evaluation import tempered_of
        >>> normal = lambda x: -0.5 * x.square().sum(-1)
        >>> draws = lambda num, generator: torch.randn(num, 2, generator=generator)
        >>> found = power_posteriors(
        ...     tempered_of(normal, normal), 4, num_chains=4, num_draws=10, prior_draws=draws)
        >>> found.log_likelihood.shape
        torch.Size([5, 4, 10])
    """
    if num_chains < 4 or num_draws < 1:
        raise ValueError(
            f"power_posteriors: expected num_chains >= 4 and num_draws >= 1, got {num_chains} and "
            f"{num_draws}. Fix: num_chains=16, num_draws=100"
        )
    if isinstance(betas, str) and betas != "adaptive":
        raise ValueError(
            f'betas: expected a tensor, a number or "adaptive", got {betas!r}. Fix: betas="adaptive"'
        )
    draw, size = draws_of(density, prior_draws), (4, max(128, math.ceil(num_chains / 4)))
    run = sweep(density, draw(math.prod(size), generator), size, None, 0.5, 3, generator)
    if isinstance(betas, str):
        ladder = run.path.betas
    else:
        wanted = power_schedule(betas) if isinstance(betas, int) else betas
        ladder = check_ladder(wanted, from_prior=False).to(run.path.betas)
        # Again, through the wanted temperatures as well: a coarse ladder alone would kill the particles.
        union = torch.cat([run.path.betas, ladder]).unique()
        run = sweep(density, draw(math.prod(size), generator), size, union, 0.5, 3, generator)
    prior = as_tempered(density)(draw(4 * num_chains * num_draws, generator), 0.0).log_likelihood
    prior = finite_or_dead(prior).double()
    warm = ladder[ladder > 0]
    value, rate = _chains(density, warm, run, (num_chains, num_draws, warmup_steps), max_leapfrogs, generator)
    if ladder[0] == 0:
        value = torch.cat([prior[: num_chains * num_draws].view(1, num_chains, num_draws), value])
        rate = torch.cat([rate.new_ones(1), rate])
    return PowerPosteriors(ladder, value, prior, rate)


def _chains(
    density: Density,
    betas: Tensor,
    run: Sweep,
    counts: tuple[int, int, int],
    max_leapfrogs: int,
    generator: torch.Generator | None,
) -> tuple[Tensor, Tensor]:
    """Log likelihoods (B, P, N) and acceptance (B,) of chains at temperatures of a sweep, all above 0."""
    chains, draws, warmup = counts
    stage = torch.searchsorted(run.path.betas, betas)
    covariance = run.path.covariance[stage]
    dense = covariance.dim() == 3
    factor = torch.linalg.cholesky(covariance) if dense else covariance.sqrt()
    # Particles of one copy are siblings in order: take them from all over.
    pick = torch.linspace(0, len(run.position) - 1, chains, device=betas.device).long()
    start = torch.stack([run.stages[int(index)][pick] for index in stage])
    if dense:
        start = torch.linalg.solve_triangular(factor, start.mT, upper=False).mT
    else:
        start = start / factor.unsqueeze(1)
    whitened = _whitened(density, factor, chains)
    beta = betas.to(start).repeat_interleave(chains)
    state = hmc_init(start.flatten(0, 1), whitened, beta)
    metric = identity_metric(state.position)
    step = run.path.step_size[stage].clone()
    found = torch.empty(len(betas), chains, draws, dtype=torch.float64, device=betas.device)
    total = found.new_zeros(len(betas))
    for index in range(-warmup, draws):
        state, info = jittered_move(
            state,
            whitened,
            step.repeat_interleave(chains),
            metric,
            beta,
            max_leapfrogs=max_leapfrogs,
            generator=generator,
        )
        rate = info.acceptance_rate.view(-1, chains).mean(1)
        if index < 0:
            step = step * ((rate - TARGET_ACCEPTANCE) / math.sqrt(index + warmup + 1)).exp().to(step)
        else:
            found[..., index] = finite_or_dead(state.log_likelihood).view(-1, chains)
            total += rate
    return found, total / draws


def _whitened(density: Density, factor: Tensor, chains: int) -> Tempered:
    r"""The density of u with x = L u, L (B, D, D) or (B, D): one per temperature, its constant left out."""
    inner = as_tempered(density)

    def tempered(position: Tensor, beta: Tensor) -> Evaluation:
        group = position.unflatten(0, (-1, chains))
        x = group @ factor.mT if factor.dim() == 3 else group * factor.unsqueeze(1)
        value = inner(x.flatten(0, 1), beta)
        gradient = value.gradient.unflatten(0, (-1, chains))
        gradient = gradient @ factor if factor.dim() == 3 else gradient * factor.unsqueeze(1)
        return Evaluation(value.log_density, gradient.flatten(0, 1), value.log_likelihood)

    return tempered
