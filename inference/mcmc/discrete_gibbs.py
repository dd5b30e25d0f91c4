"""Gibbs draws and Metropolis walks over discrete values, given everything else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from evidentia.inference.density.discrete import DiscreteSite

__all__ = ["JointDensity", "Sweep", "gibbs_element", "gibbs_sweep", "walk_element"]

# (position (R, D), values (R, E)) -> log density (R,): rows are independent.
JointDensity: TypeAlias = Callable[[Tensor, Tensor], Tensor]


class Sweep(NamedTuple):
    """Discrete values after moves, and what they cost.

    Attributes:
        values: (C, E).
        log_density: (C,) nats.
        acceptance: (C,) float64, mean acceptance of the elements that walked; one where none did.
        evaluations: density evaluations of each chain.

    References:
        none; bookkeeping.
    """

    values: Tensor
    log_density: Tensor
    acceptance: Tensor
    evaluations: int


def gibbs_element(
    position: Tensor,
    values: Tensor,
    log_density: Tensor,
    element: int,
    support: Tensor,
    joint: JointDensity,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    r"""Draw one element from its exact conditional, \(P(k) \propto \pi(q, d_{-e}, k)\).

    All K values of all chains are evaluated in one batch.

    Args:
        position: (C, D).
        values: (C, E).
        log_density: (C,), kept where no value has a finite density.
        element: which of the E.
        support: (K,).
        joint: the density.
        generator: torch's global one when None.

    Returns:
        Values (C, E) and log density (C,) there.

    References:
        Geman, Geman, 1984, Stochastic relaxation, Gibbs distributions, and the Bayesian restoration of
        images.

    Example:
        >>> joint = lambda q, d: torch.where(d[:, 0] == 2, 0.0, -torch.inf)
        >>> zero = torch.zeros(1, 1)
        >>> gibbs_element(zero, zero, torch.zeros(1), 0, torch.arange(3.0), joint)[0]
        tensor([[2.]])
    """
    chains, count = len(values), len(support)
    rows = values.repeat(count, 1)
    rows[:, element] = support.to(values.dtype).repeat_interleave(chains)
    found = joint(position.repeat(count, 1), rows).reshape(count, chains)
    logits = torch.where(found.isnan(), -torch.inf, found).double()
    possible = (logits > -torch.inf).any(0)
    weight = torch.where(possible, logits, 0.0).softmax(0).cumsum(0)
    uniform = torch.rand(chains, generator=generator, dtype=torch.float64, device=values.device)
    index = (weight < uniform * weight[-1]).sum(0).clamp(max=count - 1)
    drawn = rows.reshape(count, chains, -1)[index, torch.arange(chains, device=values.device)]
    value = found.gather(0, index[None])[0]
    return torch.where(possible[:, None], drawn, values), torch.where(possible, value, log_density)


def walk_element(
    position: Tensor,
    values: Tensor,
    log_density: Tensor,
    element: int,
    bounds: tuple[Tensor, Tensor],
    joint: JointDensity,
    generator: torch.Generator | None = None,
    *,
    jump: int = 1,
) -> tuple[Tensor, Tensor, Tensor]:
    r"""One Metropolis step of an element, up or down by 1 to `jump`.

    Args:
        position: (C, D).
        values: (C, E).
        log_density: (C,) at them.
        element: which of the E.
        bounds: least and greatest value, 0-dim; a proposal outside is rejected.
        joint: the density.
        generator: torch's global one when None.
        jump: longest proposal.

    Returns:
        Values (C, E), log density (C,) there, and the acceptance probability (C,) float64.

    References:
        Metropolis, Rosenbluth, Rosenbluth, Teller, Teller, 1953, Equation of state calculations by fast
        computing machines.

    Example:
        >>> joint, zero = lambda q, d: -d[:, 0], torch.zeros(1, 1)
        >>> bounds = torch.tensor(0.0), torch.tensor(0.0)
        >>> walk_element(zero, zero, torch.zeros(1), 0, bounds, joint)[0]
        tensor([[0.]])
    """
    chains, device = len(values), values.device
    noise = torch.rand(3, chains, generator=generator, dtype=torch.float64, device=device)
    length = 1.0 + torch.floor(noise[0] * jump)
    proposed = values.clone()
    proposed[:, element] += torch.where(noise[1] < 0.5, length, -length).to(values.dtype)
    inside = (proposed[:, element] >= bounds[0]) & (proposed[:, element] <= bounds[1])
    # Outside the support a density may be anything, so it is not asked there.
    proposed = torch.where(inside[:, None], proposed, values)
    found = joint(position, proposed)
    rate = torch.exp((found.double() - log_density.double()).clamp(max=0.0)).nan_to_num(0.0)
    rate = torch.where(inside, rate, 0.0)
    accepted = noise[2] < rate
    return (
        torch.where(accepted[:, None], proposed, values),
        torch.where(accepted, found, log_density),
        rate,
    )


def gibbs_sweep(
    position: Tensor,
    values: Tensor,
    log_density: Tensor,
    sites: Sequence[DiscreteSite],
    joint: JointDensity,
    *,
    jump: int = 1,
    generator: torch.Generator | None = None,
) -> Sweep:
    r"""Every element in turn: an exact draw where its support is finite, a Metropolis step where it is not.

    Leaves \(\pi(q, d)\) invariant. It costs one evaluation for each value of each element: where a site can
    be summed out ("sum" of `compile_density`), that is the better way.

    Args:
        position: (C, D).
        values: (C, E), the elements of all sites.
        log_density: (C,) at them.
        sites: what the values are.
        joint: the density.
        jump: longest proposal of a walk.
        generator: torch's global one when None.

    References:
        Geman, Geman, 1984, Stochastic relaxation, Gibbs distributions, and the Bayesian restoration of
        images. Tierney, 1994, Markov chains for exploring posterior distributions.

    Example:
        >>> bit = DiscreteSite("d", (), torch.arange(2.0), torch.zeros(1), torch.ones(1), torch.zeros(1))
        >>> joint = lambda q, d: torch.where(d[:, 0] == 1, 0.0, -torch.inf)
        >>> zero = torch.zeros(1, 1)
        >>> gibbs_sweep(zero, zero, torch.zeros(1), [bit], joint).values
        tensor([[1.]])
    """
    element, evaluations, walked = 0, 0, 0
    total = torch.zeros(len(values), dtype=torch.float64, device=values.device)
    for site in sites:
        for place in range(site.size):
            if site.values is not None:
                values, log_density = gibbs_element(
                    position, values, log_density, element, site.values, joint, generator
                )
                evaluations += len(site.values)
            else:
                bounds = (site.lower[place], site.upper[place])
                values, log_density, rate = walk_element(
                    position, values, log_density, element, bounds, joint, generator, jump=jump
                )
                total, walked, evaluations = total + rate, walked + 1, evaluations + 1
            element += 1
    return Sweep(values, log_density, total / walked if walked else total + 1.0, evaluations)
