"""What is ranked: every scalar parameter, the log likelihood, the log prior, and the user's functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor

__all__ = ["Quantity", "quantity_values", "rank"]

Quantity: TypeAlias = Callable[[Mapping[str, Tensor]], Tensor]


def quantity_values(
    density: Any,
    position: Tensor,
    data: Mapping[str, Tensor],
    quantities: Mapping[str, Quantity] | None,
    chains: int,
) -> tuple[tuple[str, ...], Tensor, Tensor]:
    """Test quantities at draws.

    Args:
        density: a `LogDensity`, one data set in every `chains` rows.
        position: (R, K, D).
        data: argument -> (R / chains, *shape).
        quantities: name -> function of site -> (R, *shape), data included, to (R,).
        chains: rows of one data set.

    Returns:
        Names, values (R, K, Q) float64, and (Q,) whether a quantity is a parameter.

    Raises:
        ValueError: a function returns another shape.

    References:
        Modrák et al., 2023, Simulation-based calibration checking for Bayesian computation: the choice of
        test quantities.
    """
    names = [name for site in density.sites for name in _entries(site.name, tuple(site.shape))]
    flags = [True] * len(names) + [False, False]
    names += ["log_likelihood", "log_prior"]
    extra = dict(quantities or {})
    many = {name: value.repeat_interleave(chains, 0) for name, value in data.items()} if extra else {}
    columns = []
    for draw in range(position.shape[1]):
        at = position[:, draw].contiguous()
        found = density.evaluate(at)
        values = density.unpack(at)
        likelihood = found.log_likelihood.double()
        parts = [values[site.name].reshape(len(at), -1).double() for site in density.sites]
        parts.append(torch.stack([likelihood, found.log_density.double() - likelihood], 1))
        for name, function in extra.items():
            value = torch.as_tensor(function({**values, **many}))
            if tuple(value.shape) != (len(at),):
                raise ValueError(
                    f"quantity {name!r}: expected shape ({len(at)},), got {tuple(value.shape)}. "
                    "Fix: reduce every dimension but the first"
                )
            parts.append(value[:, None].double())
        columns.append(torch.cat(parts, 1))
    flags += [False] * len(extra)
    return (*names, *extra), torch.stack(columns, 1), torch.tensor(flags)


def rank(draws: Tensor, truth: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """How many draws are below the truth; ties are broken at random, so that discrete quantities are exact.

    Args:
        draws: (N, L, Q).
        truth: (N, Q).
        generator: torch's global one when None.

    Returns:
        (N, Q) long, 0 ... L.

    References:
        Saad, Freer, Ackerman, Mansinghka, 2019, A family of exact goodness-of-fit tests for high-dimensional
        discrete distributions (randomised ranks).

    Example:
        >>> rank(torch.tensor([[[1.0], [2.0], [4.0]]]), torch.tensor([[3.0]])).item()
        2
    """
    below = (draws < truth[:, None]).sum(1)
    ties = (draws == truth[:, None]).sum(1)
    uniform = torch.rand(ties.shape, generator=generator, dtype=torch.float64)
    return below + (uniform * (ties + 1)).floor().long().minimum(ties)


def _entries(name: str, shape: tuple[int, ...]) -> list[str]:
    """`b[0]`, `b[1]` … of a site, or its name where it is one number."""
    indices: list[tuple[int, ...]] = [()]
    for size in shape:
        indices = [(*index, number) for index in indices for number in range(size)]
    return [f"{name}[{','.join(map(str, index))}]" if index else name for index in indices]
