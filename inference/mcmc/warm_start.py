"""Where many chains begin: tempered particles, prior draws, uniform numbers, or positions of the caller."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from evidentia.inference.evidence.log_evidence import LogEvidence
from evidentia.inference.evidence.smc import tempered_smc
from evidentia.inference.mcmc.starts import uniform_start

__all__ = ["START_NAMES", "Start", "first_positions", "superchain_count"]

START_NAMES = ("auto", "smc", "prior", "uniform")
_LOG = logging.getLogger("evidentia")
COPIES = 4  # of the tempered particles, so that the rough evidence has an error
LEAST_PARTICLES = 16  # of one copy


class Start(NamedTuple):
    """First positions, and what finding them told.

    Attributes:
        position: (C, D).
        how: "smc", "prior", "uniform" or "given".
        log_evidence: of the tempered particles, rough; None for other starts.

    References:
        none; bookkeeping.
    """

    position: Tensor
    how: str
    log_evidence: LogEvidence | None = None


def first_positions(
    density: Any,
    start: str | Mapping[str, Tensor] | Tensor,
    num_chains: int,
    generator: torch.Generator,
) -> Start:
    """First positions of the chains on unconstrained space.

    "auto" tempers particles from the prior to the posterior where there is a likelihood and a prior to draw
    from; otherwise positions are uniform on (-2, 2). Tempered starts matter: a start far out can leave single
    chains stuck, and the more chains the more of them.

    Args:
        density: a `LogDensity`.
        start: "auto", "smc", "prior", "uniform", constrained values by site (each with or without a leading
            chain dimension), or unconstrained positions (C, D) or (D,).
        num_chains: C.
        generator: random numbers.

    Raises:
        ValueError: an unknown name, a wrong shape, missing sites, or a density that is not finite there.

    References:
        Del Moral, Doucet and Jasra, 2006, Sequential Monte Carlo samplers.
    """
    if isinstance(start, Tensor | Mapping):
        return Start(_given(density, start, num_chains), "given")
    if start not in START_NAMES:
        raise ValueError(
            f"start: expected one of {list(START_NAMES)}, site values or positions, got {start!r}. "
            "Fix: start='auto'"
        )
    if start == "auto":
        if not (density.has_likelihood and density.proper_prior):
            return first_positions(density, "uniform", num_chains, generator)
        try:
            return first_positions(density, "smc", num_chains, generator)
        except ValueError as error:  # no prior draw has a finite likelihood, or the ladder does not climb
            _LOG.warning("sample: no tempered start (%s); chains start from uniform positions", error)
            return first_positions(density, "uniform", num_chains, generator)
    if start == "smc":
        # Few chains still need enough particles for their metric.
        particles = max(LEAST_PARTICLES, math.ceil(num_chains / COPIES))
        found = tempered_smc(density, particles, num_copies=COPIES, generator=generator)
        chosen = torch.arange(num_chains) * len(found.position) // num_chains
        return Start(found.position[chosen], "smc", found.log_evidence)
    if start == "prior":
        return Start(density.prior_draws(num_chains, generator), "prior")
    return Start(uniform_start(density, num_chains, density.dim, density.dtype, generator), "uniform")


def _given(density: Any, start: Mapping[str, Tensor] | Tensor, num_chains: int) -> Tensor:
    if isinstance(start, Tensor):
        position = start
    else:
        wanted = {site.name: tuple(site.shape) for site in density.sites}
        if missing := sorted(set(wanted) - set(start)):
            raise ValueError(
                f"start: no value for {missing}, got {sorted(start)}. Fix: give every latent site"
            )
        values = {}
        for name, shape in wanted.items():
            value = torch.as_tensor(start[name], dtype=density.dtype)
            if tuple(value.shape) not in (shape, (num_chains, *shape)):
                raise ValueError(
                    f"start: '{name}' has shape {tuple(value.shape)}, expected {shape} or "
                    f"{(num_chains, *shape)}. Fix: one value for all chains, or one for each"
                )
            values[name] = value.expand(num_chains, *shape)
        position = density.pack(values)
    if tuple(position.shape) not in ((density.dim,), (num_chains, density.dim)):
        raise ValueError(
            f"start: positions have shape {tuple(position.shape)}, expected ({num_chains}, {density.dim}) or "
            f"({density.dim},), unconstrained. Fix: give a mapping of site values instead"
        )
    position = position.to(density.dtype).expand(num_chains, density.dim).contiguous()
    value = density(position)
    if not bool(torch.isfinite(value).all()):
        bad = int((~torch.isfinite(value)).nonzero()[0, 0])
        raise ValueError(
            f"start: the log density of chain {bad} is {float(value[bad])}. Fix: start inside the support, "
            "or leave `start` out"
        )
    return position


def superchain_count(num_chains: int, wanted: int | None) -> int:
    """How many groups of chains share a start: about 16, or none where chains are few.

    Raises:
        ValueError: a number that does not divide the chains.

    References:
        Margossian, Hoffman, Sountsov, Riou-Durand, Vehtari and Gelman, 2024, Nested R-hat.

    Example:
        >>> superchain_count(256, None), superchain_count(8, None), superchain_count(64, 8)
        (16, 0, 8)
    """
    if wanted is None:
        return next((k for k in (16, 12, 10, 8) if num_chains >= 4 * k and num_chains % k == 0), 0)
    if wanted and (wanted < 2 or num_chains % wanted):
        raise ValueError(
            f"num_superchains: expected 0 or a number >= 2 that divides {num_chains} chains, got {wanted}"
        )
    return wanted
