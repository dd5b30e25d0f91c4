"""What one transition of all chains did."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

__all__ = ["Info"]


class Info(NamedTuple):
    r"""What one transition of a batched kernel did; \(C\) chains.

    Attributes:
        acceptance_rate: (C,) probability \(\min(1, e^{-\Delta})\) with which the proposal was accepted; zero
            where the proposal was not finite; one for kernels without an accept step.
        energy: (C,) nats, float64: the Hamiltonian after the momentum was drawn, as E-BFMI needs it; minus
            the log density for kernels without a momentum.
        diverging: (C,) bool: the energy error passed 1000 nats or was not a number.
        num_steps: () long, density evaluations of each chain.
        energy_error: (C,) nats, float64: \(\Delta\), minus the log acceptance ratio before it is cut at zero.
            For an unadjusted kernel it says what an accept step would have seen.

    References:
        Betancourt, 2016, Diagnosing suboptimal cotangent disintegrations in Hamiltonian Monte Carlo.

    Example:
        >>> import torch
        >>> zero = torch.zeros(2, dtype=torch.float64)
        >>> Info(torch.ones(2), zero, zero > 0, torch.tensor(3), zero).num_steps
        tensor(3)
    """

    acceptance_rate: Tensor
    energy: Tensor
    diverging: Tensor
    num_steps: Tensor
    energy_error: Tensor
