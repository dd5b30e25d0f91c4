"""Tempering: swaps between chains at neighbouring temperatures, and tempered transitions of one chain."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from evidentia.inference.mcmc.hmc import hmc_step
from evidentia.inference.mcmc.info import Info
from evidentia.inference.mcmc.ladder import swap_partners
from evidentia.inference.mcmc.metric import Metric
from evidentia.inference.mcmc.points import Point, choose, evaluate_point, metropolis

__all__ = ["Swap", "swap_step", "tempered_transition_step"]


class Swap(NamedTuple):
    """What one round of swaps did.

    Attributes:
        position: (K C, D) after the swaps.
        rate: (K - 1,) float64, mean acceptance over chains; NaN for pairs that were not asked.
        order: (K C,) which row each position came from.

    References:
        none; bookkeeping.
    """

    position: Tensor
    rate: Tensor
    order: Tensor


def swap_step(
    position: Tensor,
    log_likelihood: Tensor,
    betas: Tensor,
    step: int,
    generator: torch.Generator | None = None,
) -> Swap:
    r"""Swap neighbours with probability \(\min(1, e^{(\beta_k - \beta_{k+1})(\ell_{k+1} - \ell_k)})\).

    Rows are ordered by temperature: row \(k C + c\) is chain \(c\) at \(\beta_k\). Even pairs in even
    transitions, odd pairs in odd ones.

    Args:
        position: (K C, D).
        log_likelihood: \(\ell\), (K C,) nats: what beta multiplies.
        betas: (K,).
        step: number of the transition.
        generator: torch's global one when None.

    References:
        Geyer, 1991, Markov chain Monte Carlo maximum likelihood. Syed, Bouchard-Côté, Deligiannidis, Doucet,
        2022, Non-reversible parallel tempering: a scalable highly parallel MCMC scheme.

    Example:
        >>> both = torch.tensor([[0.0], [1.0]])
        >>> swap_step(both, torch.tensor([0.0, 9.0]), torch.tensor([1.0, 0.1]), 0).position
        tensor([[1.],
                [0.]])
    """
    levels = len(betas)
    chains = len(position) // levels
    value = log_likelihood.double().reshape(levels, chains)
    betas = betas.double()
    # Every transition draws the same numbers, so that the stream does not depend on the pairs.
    error = -(betas[:-1] - betas[1:])[:, None] * (value[1:] - value[:-1])
    accepted, rate, _ = metropolis(error, generator)
    lower = swap_partners(levels, step).to(position.device)
    asked = torch.zeros(levels - 1, dtype=torch.bool, device=position.device)
    asked[lower] = True
    accepted = accepted & asked[:, None]
    index = torch.arange(levels * chains, device=position.device).reshape(levels, chains)
    order = index.clone()
    order[:-1] = torch.where(accepted, index[1:], order[:-1])
    order[1:] = torch.where(accepted, index[:-1], order[1:])
    order = order.reshape(-1)
    return Swap(position[order], torch.where(asked, rate.mean(1), torch.nan), order)


def tempered_transition_step(
    state: Point,
    density: Any,
    betas: Sequence[float] | Tensor,
    step_size: Tensor | Sequence[float] | float,
    num_steps: int,
    metric: Metric,
    *,
    generator: torch.Generator | None = None,
) -> tuple[Point, Info]:
    r"""One tempered transition: heat the state up a ladder and cool it down again, accept the end or not.

    With \(1 = \beta_0 > \beta_1 > \dots > \beta_n\), moves \(T_i\) that are reversible at \(\beta_i\) (here
    HMC) lead up, \(\hat x_i = T_i \hat x_{i-1}\), and down, \(\check x_{i-1} = T_i \check x_i\), \(\check x_n
    = \hat x_n\). The end \(\check x_0\) is accepted with probability

    \[ \min\Bigl(1, \exp \sum_{i=0}^{n-1} (\beta_{i+1} - \beta_i)
       \bigl(\ell(\hat x_i) - \ell(\check x_i)\bigr)\Bigr) \]

    Detailed balance holds for any ladder, so a chain crosses valleys and stays exact.

    Args:
        state: of all chains, at \(\beta_0 = 1\).
        density: a `LogDensity`, a tempered density or a plain target.
        betas: \(\beta_1 \dots \beta_n\), decreasing and below one.
        step_size: of the leapfrogs, one or one for each beta.
        num_steps: leapfrogs of each move.
        metric: the inverse mass.
        generator: torch's global one when None.

    Returns:
        The new state and what happened.

    Raises:
        ValueError: a ladder that does not decrease from one, or another number of step sizes.

    References:
        Neal, 1996, Sampling from multimodal distributions using tempered transitions.

    Example:
        >>> from evidentia.inference.density.evaluation import target_of
        >>> from evidentia.inference.mcmc.metric import identity_metric
        >>> normal = target_of(lambda x: -0.5 * (x**2).sum(-1))
        >>> state = evaluate_point(torch.zeros(3, 2), normal)
        >>> metric = identity_metric(state.position)
        >>> state, info = tempered_transition_step(state, normal, [0.8, 0.6], 0.3, 2, metric)
        >>> info.num_steps
        tensor(12)
    """
    ladder = [1.0, *(float(beta) for beta in betas)]
    if len(ladder) < 2 or any(not 0.0 <= low < high for high, low in pairwise(ladder)):
        raise ValueError(
            f"betas: expected numbers that decrease from below 1, got {ladder[1:]}. Fix: [0.5, 0.25]"
        )
    sizes = _per_level(step_size, len(ladder) - 1)
    error = torch.zeros(len(state.position), dtype=torch.float64, device=state.position.device)
    place = state
    for level in range(1, len(ladder)):
        # Heating: the state at the level above is where the weight of this step is taken.
        error -= (ladder[level] - ladder[level - 1]) * place.log_likelihood.double()
        place = _move(place, density, ladder[level], sizes[level - 1], num_steps, metric, generator)
    for level in range(len(ladder) - 1, 0, -1):
        place = _move(place, density, ladder[level], sizes[level - 1], num_steps, metric, generator)
        error += (ladder[level] - ladder[level - 1]) * place.log_likelihood.double()
    proposed = evaluate_point(place.position, density, 1.0)
    accepted, rate, diverging = metropolis(error, generator)
    count = torch.tensor(2 * (len(ladder) - 1) * (num_steps + 1))
    info = Info(rate, -state.log_density.double(), diverging, count, error)
    return choose(accepted, proposed, state), info


def _move(
    place: Point,
    density: Any,
    beta: float,
    step_size: Tensor | float,
    num_steps: int,
    metric: Metric,
    generator: torch.Generator | None,
) -> Point:
    here = evaluate_point(place.position, density, beta)
    moved, _ = hmc_step(here, density, step_size, num_steps, metric, beta=beta, generator=generator)
    return moved


def _per_level(step_size: Tensor | Sequence[float] | float, levels: int) -> list[Any]:
    if isinstance(step_size, Sequence) or (isinstance(step_size, Tensor) and step_size.ndim == 1):
        if len(step_size) != levels:
            raise ValueError(
                f"step_size: expected one or {levels}, got {len(step_size)}. Fix: one for each beta"
            )
        return list(step_size)
    return [step_size] * levels
