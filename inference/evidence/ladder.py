"""Ladders of inverse temperatures between prior and posterior: adaptive, sigmoidal and power schedules."""

from __future__ import annotations

import torch
from torch import Tensor

from evidentia.inference.evidence.resampling import effective_fraction

__all__ = ["check_ladder", "finite_or_dead", "next_beta", "power_schedule", "sigmoidal_schedule"]

# Of the search for the next temperature: points per round, rounds, and the smallest step as a power of e.
_POINTS, _ROUNDS, _SMALLEST = 32, 4, -70.0


def finite_or_dead(log_likelihood: Tensor) -> Tensor:
    """Log likelihoods in which NaN and ±inf have become -inf, a weight of 0.

    References:
        none; bookkeeping.

    Example:
        >>> finite_or_dead(torch.tensor([-1.0, torch.nan, torch.inf])).tolist()
        [-1.0, -inf, -inf]
    """
    return torch.where(torch.isfinite(log_likelihood), log_likelihood, -torch.inf)


def next_beta(log_likelihood: Tensor, beta: float, target: float = 0.5) -> float:
    r"""The inverse temperature at which the incremental weights keep a wanted effective sample size.

    The largest \(\beta' \le 1\) with \(\mathrm{ESS}(\ell^{\beta' - \beta}) \ge \mathrm{target} \cdot N\),
    averaged over the copies. The effective size falls monotonically in \(\beta'\), so the root is bracketed:
    the step is found by bisection on its logarithm, 32 points at a time.

    Args:
        log_likelihood: of the present particles, (*copies, N), nats. Non-finite values have weight 0 and do
            not count in N.
        beta: present inverse temperature, in [0, 1).
        target: wanted effective sample size as a fraction of the particles alive, in (0, 1).

    Returns:
        The next inverse temperature, above `beta` and at most 1.

    Raises:
        ValueError: `target` or `beta` out of range, or no finite likelihood in some copy.

    References:
        Jasra, Stephens, Doucet and Tsagaris, 2011, Inference for Lévy-driven stochastic volatility models via
        adaptive sequential Monte Carlo.

    Example:
        >>> next_beta(torch.tensor([-3.0, -2.0, -1.0, 0.0]), 0.0)       # flat: straight to the posterior
        1.0
        >>> ladder = next_beta(-torch.arange(100.0), 0.0)
        >>> 0.03 < ladder < 0.04
        True
    """
    if not 0 < target < 1:
        raise ValueError(f"target: expected a fraction in (0, 1), got {target}. Fix: target=0.5")
    if not 0 <= beta < 1:
        raise ValueError(
            f"beta: expected an inverse temperature in [0, 1), got {beta}. Fix: stop the ladder at 1"
        )
    value = finite_or_dead(log_likelihood).double()
    top = value.amax(-1, keepdim=True)
    if not bool(torch.isfinite(top).all()):
        raise ValueError(
            "log_likelihood: expected at least one finite value in every copy, got none. "
            "Fix: more particles, or a prior under which the data are possible"
        )
    value = value - top
    full = 1.0 - beta

    def kept(step: Tensor) -> Tensor:
        """Effective fraction after each step of a grid, mean over the copies."""
        size = effective_fraction(step.view(-1, *[1] * value.dim()) * value)
        return size.reshape(len(step), -1).mean(1)

    if float(kept(value.new_tensor([full]))) >= target:
        return 1.0
    low, high = _SMALLEST, 0.0
    for _ in range(_ROUNDS):
        grid = torch.linspace(low, high, _POINTS, dtype=value.dtype, device=value.device)
        good = int((kept(full * grid.exp()) >= target).sum())
        low, high = float(grid[max(good - 1, 0)]), float(grid[min(good, _POINTS - 1)])
    # The smallest step still moves: a ladder that stands still would never end.
    return max(beta + full * float(torch.tensor(low, dtype=torch.float64).exp()), beta + 1e-16)


def sigmoidal_schedule(num_steps: int, width: float = 6.0) -> Tensor:
    r"""\(\beta_k = (\sigma(t_k) - \sigma(t_0)) / (\sigma(t_K) - \sigma(t_0))\), t linear, ±width.

    Args:
        num_steps: K, the number of intervals.
        width: half the range of t; larger puts more temperatures near both ends.

    Returns:
        (K + 1,), float64, from exactly 0 to exactly 1.

    Raises:
        ValueError: no step, or a width that is not positive.

    References:
        Grosse, Ghahramani and Adams, 2015, Sandwiching the marginal likelihood using bidirectional Monte
        Carlo.

    Example:
        >>> [round(beta, 4) for beta in sigmoidal_schedule(4).tolist()]
        [0.0, 0.0452, 0.5, 0.9548, 1.0]
    """
    if num_steps < 1 or not width > 0:
        raise ValueError(
            f"sigmoidal_schedule: expected num_steps >= 1 and width > 0, got {num_steps} and {width}. "
            "Fix: sigmoidal_schedule(200)"
        )
    value = torch.linspace(-width, width, num_steps + 1, dtype=torch.float64).sigmoid()
    value = (value - value[0]) / (value[-1] - value[0])
    return value.clamp(0.0, 1.0)


def power_schedule(num_steps: int, exponent: float = 5.0) -> Tensor:
    r"""\(\beta_k = (k / K)^{5}\): temperatures where power posteriors change fastest, near the prior.

    Args:
        num_steps: K, the number of intervals.
        exponent: 5 unless told.

    Returns:
        (K + 1,), float64, from 0 to 1.

    Raises:
        ValueError: no step, or an exponent that is not positive.

    References:
        Friel and Pettitt, 2008, Marginal likelihood estimation via power posteriors.
        Xie, Lewis, Fan, Kuo and Chen, 2011, Improving marginal likelihood estimation for Bayesian
        phylogenetic model selection.

    Example:
        >>> power_schedule(2).tolist()
        [0.0, 0.03125, 1.0]
    """
    if num_steps < 1 or not exponent > 0:
        raise ValueError(
            f"power_schedule: expected num_steps >= 1 and exponent > 0, got {num_steps} and {exponent}. "
            "Fix: power_schedule(32)"
        )
    return torch.linspace(0.0, 1.0, num_steps + 1, dtype=torch.float64) ** exponent


def check_ladder(betas: Tensor, *, from_prior: bool = True) -> Tensor:
    """The ladder as float64, once it is seen to climb strictly to 1.

    Args:
        betas: (K + 1,), inverse temperatures.
        from_prior: whether the first one must be 0.

    Raises:
        ValueError: fewer than two temperatures, not finite, not increasing, or wrong ends.

    References:
        none; a guard.

    Example:
        >>> check_ladder(torch.tensor([0.0, 0.1, 1.0])).dtype
        torch.float64
    """
    value = torch.as_tensor(betas).detach().double()
    if value.dim() != 1 or len(value) < 2:
        raise ValueError(
            f"betas: expected a vector of at least two inverse temperatures, got shape {tuple(value.shape)}. "
            "Fix: betas=sigmoidal_schedule(200)"
        )
    if not bool((value.diff() > 0).all()):
        raise ValueError(
            f"betas: expected strictly increasing finite values, got {value.tolist()[:8]}. "
            "Fix: betas.unique(), or a schedule of fewer steps"
        )
    first = bool(value[0] == 0) if from_prior else bool(value[0] >= 0)
    if not first or value[-1] != 1:
        raise ValueError(
            f"betas: expected to run from {'0' if from_prior else 'at least 0'} to 1, got "
            f"{float(value[0])} to {float(value[-1])}. Fix: (betas - betas[0]) / (betas[-1] - betas[0])"
        )
    return value
