"""The latent sites of a model as plain data."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

__all__ = ["Site", "Structure"]


class Site(NamedTuple):
    """A continuous latent site.

    Attributes:
        name: as in the model.
        shape: of its constrained value, plates included.
        size: number of unconstrained coordinates.
        transform: unconstrained -> constrained.
        plates: names of the plates around it.
        free: shape of its unconstrained value.

    References:
        none; bookkeeping.
    """

    name: str
    shape: tuple[int, ...]
    size: int
    transform: Any
    plates: tuple[str, ...]
    free: tuple[int, ...]


class Structure(NamedTuple):
    """What a model consists of, the same at every draw.

    Attributes:
        sites: continuous latents, in the model's order.
        discrete: name -> shape of the discrete latents.
        dtypes: name -> type of the discrete latents' values.
        summed: whether the discrete latents are summed out (else they are given).
        prior: names of further sites that count as prior.
        likelihood: names of the sites that count as likelihood.
        improper: the latents whose prior cannot be drawn from.
        max_plate_nesting: depth of the plates.
        supports: whether some support carries tensors of its own.
        largest: numbers in the largest tensor that a run makes.

    References:
        none; bookkeeping.
    """

    sites: tuple[Site, ...]
    discrete: dict[str, tuple[int, ...]]
    dtypes: dict[str, torch.dtype]
    summed: bool
    prior: tuple[str, ...]
    likelihood: tuple[str, ...]
    improper: tuple[str, ...]
    max_plate_nesting: int
    supports: dict[str, tuple[Tensor, ...]]
    largest: int

    @property
    def dim(self) -> int:
        """Number of unconstrained coordinates."""
        return sum(site.size for site in self.sites)
