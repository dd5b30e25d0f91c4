"""Between flat unconstrained positions and constrained sites, and draws from the prior."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from evidentia.inference.density.map_rows import OwnNoise
from evidentia.inference.density.patches import plain_dirichlet, traceable
from evidentia.inference.density.sites import Structure

__all__ = ["draw_prior", "pack", "unpack", "unpack_with_jacobian"]


def unpack_with_jacobian(structure: Structure, position: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    r"""Constrained sites and \(\log|\det \partial z/\partial x|\).

    Args:
        structure: the sites.
        position: (..., D).

    Returns:
        site -> (..., *shape), and the log determinant (...).

    References:
        Kucukelbir, Tran, Ranganath, Gelman, Blei, 2017, Automatic differentiation variational inference.
    """
    values: dict[str, Tensor] = {}
    total = position.new_zeros(position.shape[:-1])
    # A split's gradient is one concatenation; slices would each fill a vector with zeros.
    parts = position.split([site.size for site in structure.sites], -1)
    for site, flat in zip(structure.sites, parts, strict=True):
        part = flat.reshape((*position.shape[:-1], *site.free))
        value = site.transform(part)
        values[site.name] = value
        change = site.transform.log_abs_det_jacobian(part, value)
        if change.dim() >= position.dim():
            change = change.reshape((*position.shape[:-1], -1)).sum(-1)
        total = total + change
    return values, total


def unpack(structure: Structure, position: Tensor) -> dict[str, Tensor]:
    """Constrained sites of positions.

    Args:
        structure: the sites.
        position: (..., D).

    Returns:
        site -> (..., *shape).

    References:
        none; bookkeeping.
    """
    return unpack_with_jacobian(structure, position)[0]


def pack(structure: Structure, values: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
    """Positions of constrained sites; the inverse of `unpack`.

    Args:
        structure: the sites.
        values: site -> (..., *shape).
        dtype: of the result.

    Returns:
        (..., D).

    Raises:
        ValueError: a site is missing.

    References:
        none; bookkeeping.
    """
    parts = []
    for site in structure.sites:
        if site.name not in values:
            raise ValueError(f"site {site.name!r}: no value, got {sorted(values)}. Fix: give every latent")
        value = torch.as_tensor(values[site.name]).to(dtype)
        if tuple(value.shape[value.dim() - len(site.shape) :]) != site.shape:
            raise ValueError(
                f"site {site.name!r}: expected (..., {', '.join(map(str, site.shape))}), got "
                f"{tuple(value.shape)}. Fix: put chains and draws in front"
            )
        batch = value.shape[: value.dim() - len(site.shape)]
        parts.append(site.transform.inv(value).reshape(*batch, site.size))
    return torch.cat(parts, -1)


def draw_prior(
    structure: Structure,
    model: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    num: int,
    dtype: torch.dtype,
    generator: torch.Generator | None,
) -> Tensor:
    """Independent draws of the latents from the prior, as positions.

    One batched run where the model allows it (mapped over draws), else one run each. Heavy tails stay.

    Args:
        structure: the sites.
        model: the model; only its latents are kept.
        args: its arguments.
        kwargs: its keywords.
        num: number of draws.
        dtype: of the result.
        generator: torch's global one when None.

    Returns:
        (num, D).

    Raises:
        ValueError: a prior is improper.

    References:
        none; ancestral sampling.
    """
    if structure.improper:
        raise ValueError(
            f"sites {list(structure.improper)}: the prior is improper and has no draws. "
            "Fix: give them a proper prior, or start from U(-2, 2)"
        )
    seed = int(torch.randint(2**62, (), generator=generator))

    def one() -> Tensor:
        trace: Any = poutine.trace(model).get_trace(*args, **kwargs)
        values = {site.name: trace.nodes[site.name]["value"] for site in structure.sites}
        return pack(structure, values, dtype)

    def marked(marker: Tensor) -> Tensor:
        with OwnNoise(marker):
            return one()

    def mapped() -> Tensor:
        return torch.func.vmap(marked, randomness="different")(torch.zeros(num))

    state = torch.get_rng_state()
    try:
        with torch.no_grad(), traceable(), poutine.block(), plain_dirichlet():
            torch.manual_seed(seed)
            try:
                drawn = mapped()
            except (RuntimeError, ValueError, NotImplementedError, TypeError, IndexError):
                torch.manual_seed(seed)
                drawn = torch.stack([one() for _ in range(num)])
    finally:
        torch.set_rng_state(state)
    return drawn
