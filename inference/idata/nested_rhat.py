"""Nested R-hat: convergence of many short chains, which the usual R-hat cannot judge."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["nested_rhat"]


def nested_rhat(draws: np.ndarray[Any, Any], superchain: np.ndarray[Any, Any]) -> float:
    r"""Ratio of spreads between and within groups of chains that began at one point.

    With superchains k = 1..K of M chains of N draws,

        B   = Var_k(mean of superchain k)
        W   = mean_k [ Var_m(mean of chain m in k) + mean_m Var_n(draws of chain m) ]
        nR  = sqrt(1 + B / W).

    The usual R-hat of stationary chains is about \(\sqrt{1 + 1/\mathrm{ESS} - 1/N}\) with the ESS of one
    chain, so that short autocorrelated chains never pass. Here the means of whole groups are compared: the
    value is about \(\sqrt{1 + 1/\mathrm{ESS}}\) with the ESS of a superchain. It detects a remainder of the
    starting points only if the chains of a superchain share theirs. As in the usual R-hat, draws are replaced
    by normal scores of their ranks, and the larger value of location and spread (distance from the median)
    counts.

    Args:
        draws: (chain, draw), one scalar.
        superchain: (chain,), the group each chain belongs to; groups of one size.

    Raises:
        ValueError: fewer than two groups, or groups of different sizes.

    References:
        Margossian, Hoffman, Sountsov, Riou-Durand, Vehtari and Gelman, 2024, Nested R-hat: assessing the
        convergence of Markov chain Monte Carlo when running many short chains.

    Example:
        >>> draws = np.random.default_rng(0).normal(size=(64, 50))
        >>> groups = np.repeat(np.arange(16), 4)
        >>> round(nested_rhat(draws, groups), 2), nested_rhat(draws + groups[:, None], groups) > 2
        (1.0, True)
    """
    superchain = np.asarray(superchain)
    names, sizes = np.unique(superchain, return_counts=True)
    if len(names) < 2 or len(superchain) != len(draws) or sizes.min() != sizes.max():
        raise ValueError(
            f"superchain: expected a group for each of {len(draws)} chains, at least two groups, all of one "
            f"size, got {len(superchain)} entries and groups of {sizes.tolist()} chains"
        )
    ordered = draws[np.argsort(superchain, kind="stable")]
    shape = (len(names), int(sizes[0]), -1)
    scores = (_normal_scores(each).reshape(shape) for each in (ordered, np.abs(ordered - np.median(ordered))))
    return max(map(_ratio, scores))


def _normal_scores(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    from scipy.special import ndtri
    from scipy.stats import rankdata

    ranks: Any = rankdata(values, axis=None)
    scores: np.ndarray[Any, Any] = ndtri((ranks - 0.375) / (values.size + 0.25))
    return scores


def _ratio(grouped: np.ndarray[Any, Any]) -> float:
    """The formula, for draws (superchain, chain, draw)."""
    chain_means = grouped.mean(2)
    within_chain = grouped.var(2, ddof=1).mean(1) if grouped.shape[2] > 1 else 0.0
    between_chains = chain_means.var(1, ddof=1) if grouped.shape[1] > 1 else 0.0
    between = chain_means.mean(1).var(ddof=1)
    return float(np.sqrt(1.0 + between / np.mean(within_chain + between_chains)))
