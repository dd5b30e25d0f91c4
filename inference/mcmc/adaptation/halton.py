"""Halton's sequence: jitter that fills the unit interval evenly."""

from __future__ import annotations

__all__ = ["halton"]


def halton(index: int, base: int = 2) -> float:
    r"""The radical inverse \(\sum_k d_k b^{-k-1}\) of \(n = \sum_k d_k b^k\), between 0 and 1.

    Args:
        index: \(n \ge 1\); with 0 the value is 0.
        base: \(b\), a prime.

    Raises:
        ValueError: a negative index, or a base below 2.

    References:
        Halton, 1960, On the efficiency of certain quasi-random sequences of points in evaluating
        multi-dimensional integrals. Hoffman, Radul, Sountsov, 2021, An adaptive-MCMC scheme for setting
        trajectory lengths in Hamiltonian Monte Carlo.

    Example:
        >>> [halton(n) for n in (1, 2, 3, 4)]
        [0.5, 0.25, 0.75, 0.125]
    """
    if index < 0 or base < 2:
        raise ValueError(f"halton: expected index >= 0 and base >= 2, got {index} and {base}")
    value, digit = 0.0, 1.0
    while index:
        digit /= base
        index, rest = divmod(index, base)
        value += rest * digit
    return value
