"""A point of phase space, for every chain."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

__all__ = ["Phase"]


class Phase(NamedTuple):
    """A point of phase space for every chain, with the density there.

    Attributes:
        position: (C, D).
        momentum: (C, D).
        gradient: (C, D) of the log density.
        log_density: (C,) nats.
        log_likelihood: (C,) nats.

    References:
        Neal, 2011, MCMC using Hamiltonian dynamics.
    """

    position: Tensor
    momentum: Tensor
    gradient: Tensor
    log_density: Tensor
    log_likelihood: Tensor
