"""The optimal bridge between two samples: its fixed point, its standard error, its signs of trouble."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from evidentia.inference.evidence.effective_size import effective_size

__all__ = ["BridgeSolution", "solve_bridge"]

TOLERANCE = 1e-10
MAX_ITERATIONS = 1000


class BridgeSolution(NamedTuple):
    """The solutions of E bridge equations; every field is (E,).

    Attributes:
        value: log of the normalising constant, nats.
        standard_error: its Monte-Carlo error, nats.
        iterations: how many the slowest equation took.
        converged: whether the last change was below 1e-10 in at most 1000 iterations.
        oscillating: whether the iterates swung around without coming closer.
        ess: effective size of the draws, of the series l1: the n1 of the weights s1 and s2.
        ess_f1: effective size of the series f1, which the standard error uses.
        overlap: the smaller effective fraction of the samples: of f1 at the draws, of f2 at the proposals.

    References:
        Meng and Wong, 1996. Simulating ratios of normalizing constants via a simple identity.
    """

    value: Tensor
    standard_error: Tensor
    iterations: int
    converged: Tensor
    oscillating: Tensor
    ess: Tensor
    ess_f1: Tensor
    overlap: Tensor


def solve_bridge(draws_ratio: Tensor, proposal_ratio: Tensor) -> BridgeSolution:
    r"""The optimal bridge by iteration, and its relative mean squared error.

    With l1, l2 the log ratios target / proposal at draws of the target and of the proposal, n1 = ess(l1),
    s_i = n_i / (n1 + n2) and c = median(l1), iterate

        exp(r) <- mean_j[exp(l2_j - c) / (s1 exp(l2_j - c) + s2 exp(r))]
                  / mean_i[1 / (s1 exp(l1_i - c) + s2 exp(r))]

    from r = 0; the value is r + c. With p = exp(l - c - r), f2 = p / (s1 p + s2) at the proposals and
    f1 = 1 / (s1 p + s2) at the N1 draws,

        se^2 = var(f2) / (mean(f2)^2 n2) + var(f1) / (mean(f1)^2 ess(f1)).

    Args:
        draws_ratio: l1, (chain, draw, E), nats; finite.
        proposal_ratio: l2, (n2, E), nats; -inf where the target has no mass.

    References:
        Meng and Wong, 1996. Simulating ratios of normalizing constants via a simple identity.
        Frühwirth-Schnatter, 2004. Estimating marginal likelihoods for mixture and Markov switching models
        using bridge sampling techniques.

    Example:
        >>> random = torch.Generator().manual_seed(0)
        >>> x = torch.randn(4, 500, 1, generator=random, dtype=torch.float64)       # target: 5 N(0, 1)
        >>> z = 1.5 * torch.randn(2000, 1, generator=random, dtype=torch.float64)   # proposal: N(0, 1.5^2)
        >>> ratio = lambda x: math.log(5 * 1.5) - x.square() / 2 + (x / 1.5).square() / 2
        >>> found = solve_bridge(ratio(x), ratio(z))
        >>> bool((found.value - math.log(5)).abs() < 3 * found.standard_error), bool(found.converged)
        (True, True)
    """
    chains, length, _ = draws_ratio.shape
    n2 = proposal_ratio.shape[0]
    ess = effective_size(draws_ratio).clamp(max=chains * length)
    l1 = draws_ratio.reshape(chains * length, -1).double()
    l2 = proposal_ratio.double()
    centre = l1.median(0).values
    l1, l2 = l1 - centre, l2 - centre
    log_s1, log_s2 = (ess / (ess + n2)).log(), (n2 / (ess + n2)).log()
    root, iterations, change, swings = _iterate(l1 + log_s1, l2 + log_s1, log_s1, log_s2)
    p1, p2 = (l1 - root).exp(), (l2 - root).exp()
    s1, s2 = log_s1.exp(), log_s2.exp()
    f1, f2 = 1 / (s1 * p1 + s2), 1 / (s1 + s2 / p2)  # p2 = 0 gives f2 = 0
    ess_f1 = effective_size(f1.reshape(chains, length, -1)).clamp(max=chains * length)
    variance = _relative_variance(f2) / n2 + _relative_variance(f1) / ess_f1
    return BridgeSolution(
        value=root + centre,
        standard_error=variance.sqrt(),
        iterations=iterations,
        converged=change < TOLERANCE,
        oscillating=swings >= 10,
        ess=ess,
        ess_f1=ess_f1,
        overlap=torch.minimum(_kish(f1) / f1.shape[0], _kish(f2) / n2),
    )


def _iterate(l1: Tensor, l2: Tensor, log_s1: Tensor, log_s2: Tensor) -> tuple[Tensor, int, Tensor, Tensor]:
    """The fixed point r (E,), the iterations, the last change, and how often it swung back undamped.

    `l1` and `l2` hold log s1 already.
    """
    root = torch.zeros_like(log_s1)
    before = torch.full_like(root, math.inf)
    swings = torch.zeros_like(root)
    size1, size2 = math.log(l1.shape[0]), math.log(l2.shape[0])
    iteration = 0
    while iteration < MAX_ITERATIONS:
        iteration += 1
        top = (l2 - log_s1 - torch.logaddexp(l2, log_s2 + root)).logsumexp(0) - size2
        bottom = (-torch.logaddexp(l1, log_s2 + root)).logsumexp(0) - size1
        change = top - bottom - root
        swings = swings + ((change * before < 0) & (change.abs() >= before.abs() * (1 - 1e-2))).double()
        root, before = root + change, change
        if not bool((change.abs() >= TOLERANCE).any()):
            break
    return root, iteration, before.abs(), swings


def _relative_variance(value: Tensor) -> Tensor:
    """var / mean^2 of each column."""
    return value.var(0) / value.mean(0).square()


def _kish(value: Tensor) -> Tensor:
    """(Σ v)² / Σ v² of each column."""
    return value.sum(0).square() / value.square().sum(0)
