"""Temperatures of parallel tempering: a first ladder, and one whose neighbours swap equally often."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["equalised_ladder", "first_ladder", "swap_partners"]


def first_ladder(num_temperatures: int, lowest: float) -> Tensor:
    r"""\(\beta_k = \beta_K + (1 - \beta_K)(1 - k/K)^4\), from 1 down to `lowest`; (K + 1,) float64.

    Raises:
        ValueError: fewer than two temperatures, or `lowest` outside [0, 1).

    References:
        Friel, Pettitt, 2008, Marginal likelihood estimation via power posteriors (ladders of powers).

    Example:
        >>> first_ladder(3, 0.0)
        tensor([1.0000, 0.0625, 0.0000], dtype=torch.float64)
    """
    if num_temperatures < 2:
        raise ValueError(f"num_temperatures: expected a number >= 2, got {num_temperatures}. Fix: 8")
    if not 0.0 <= lowest < 1.0:
        raise ValueError(f"lowest_beta: expected between 0 and 1, got {lowest}. Fix: lowest_beta=0.02")
    share = torch.linspace(1.0, 0.0, num_temperatures, dtype=torch.float64)
    return lowest + (1.0 - lowest) * share**4


def equalised_ladder(betas: Tensor, swap_rate: Tensor) -> Tensor:
    r"""The ladder at whose steps the communication barrier \(\Lambda(\beta)\) grows equally.

    \(\Lambda(\beta_k) = \sum_{j \ge k} (1 - a_j)\), \(a_j\) the swap acceptance of the pair \((j, j + 1)\),
    is interpolated and cut into equal parts; first and last temperature stay.

    Args:
        betas: (K,) decreasing.
        swap_rate: (K - 1,) mean acceptance of neighbours.

    Returns:
        (K,) decreasing, float64.

    References:
        Syed, Bouchard-Côté, Deligiannidis, Doucet, 2022, Non-reversible parallel tempering: a scalable highly
        parallel MCMC scheme.

    Example:
        >>> equalised_ladder(torch.tensor([1.0, 0.5, 0.0]), torch.tensor([0.8, 0.4]))
        tensor([1.0000, 0.3333, 0.0000], dtype=torch.float64)
    """
    betas = betas.double()
    # A pair that never failed still has a length, so that the barrier stays invertible.
    barrier = torch.cat([betas.new_zeros(1), (1.0 - swap_rate.double()).clamp(min=1e-3).cumsum(0)])
    wanted = torch.linspace(0.0, 1.0, len(betas), dtype=torch.float64, device=betas.device) * barrier[-1]
    right = torch.searchsorted(barrier, wanted).clamp(1, len(betas) - 1)
    left = right - 1
    share = (wanted - barrier[left]) / (barrier[right] - barrier[left])
    ladder = betas[left] + share * (betas[right] - betas[left])
    ladder[0], ladder[-1] = betas[0], betas[-1]
    return ladder


def swap_partners(num_temperatures: int, step: int) -> Tensor:
    """The neighbours that may swap at transition `step`: lower indices, even ones in even transitions.

    The fixed alternation lets a state travel in one direction, where random choices would diffuse.

    References:
        Okabe, Kawata, Okamoto, Mikami, 2001, Replica-exchange Monte Carlo method for the isobaric-isothermal
        ensemble. Syed, Bouchard-Côté, Deligiannidis, Doucet, 2022, Non-reversible parallel tempering.

    Example:
        >>> swap_partners(5, 0), swap_partners(5, 1)
        (tensor([0, 2]), tensor([1, 3]))
    """
    return torch.arange(step % 2, num_temperatures - 1, 2)
