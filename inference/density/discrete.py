"""What a compiled density knows about the discrete sites that are its inputs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor

from evidentia.inference.density.log_density import LogDensity
from evidentia.inference.density.sites import preserved_random_state

__all__ = ["DiscreteSite", "discrete_sites", "pack_discrete", "unpack_discrete"]


class DiscreteSite(NamedTuple):
    """One discrete latent site.

    Attributes:
        name: of the site.
        shape: of its value.
        values: (K,) the support of every element where it is finite, else None.
        lower: (size,) least value of each element, possibly -inf.
        upper: (size,) greatest value, possibly inf.
        first: (size,) one draw from the prior.
        dtype: of the model's own values: integers for Categorical, floating point for Poisson.

    References:
        none; bookkeeping.
    """

    name: str
    shape: tuple[int, ...]
    values: Tensor | None
    lower: Tensor
    upper: Tensor
    first: Tensor
    dtype: torch.dtype = torch.long

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


def discrete_sites(density: Any, *, seed: int = 0) -> tuple[DiscreteSite, ...]:
    """The discrete sites that are inputs of `density`, in the order of the program.

    Args:
        density: a `LogDensity` compiled with discrete="given"; anything else has none.
        seed: of the one run of the model; the caller's random stream is put back.

    Raises:
        ValueError: a site whose elements are not numbers, such as one-hot vectors.

    References:
        none; bookkeeping.

    Example:
        >>> import pyro
        >>> from evidentia.inference.density.log_density import compile_density
        >>> def model(y):
        ...     loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
        ...     sign = pyro.sample("sign", dist.Bernoulli(0.5))
        ...     pyro.sample("y", dist.Normal(loc + sign, 1.0), obs=y)
        >>> density = compile_density(model, torch.tensor(0.3), num_chains=2, discrete="given")
        >>> discrete_sites(density)[0].values
        tensor([0., 1.], dtype=torch.float64)
    """
    if not isinstance(density, LogDensity):
        return ()
    bound = density._bound
    given = tuple(bound.joint.given)
    if not given:
        return ()
    args, kwargs = bound.first_arguments()
    with preserved_random_state(seed), torch.no_grad(), bound.tracing(), poutine.block():
        nodes: Any = poutine.trace(bound.joint.plain).get_trace(*args, **kwargs).nodes
        return tuple(_site(name, nodes[name]["fn"], nodes[name]["value"]) for name in given)


def unpack_discrete(sites: tuple[DiscreteSite, ...], values: Tensor) -> dict[str, Tensor]:
    """Values (..., E) of all elements → site → (..., *shape).

    References:
        none; bookkeeping.

    Example:
        >>> one = torch.zeros(2)
        >>> site = DiscreteSite("k", (2,), None, one, one, one)
        >>> unpack_discrete((site,), torch.tensor([[1.0, 2.0]]))["k"]
        tensor([[1., 2.]])
    """
    found, begin = {}, 0
    for site in sites:
        found[site.name] = values[..., begin : begin + site.size].reshape(*values.shape[:-1], *site.shape)
        begin += site.size
    return found


def pack_discrete(sites: tuple[DiscreteSite, ...], values: Mapping[str, Tensor]) -> Tensor:
    """Site → (C, *shape) → (C, E) float64.

    References:
        none; bookkeeping.

    Example:
        >>> one = torch.zeros(1)
        >>> pack_discrete((DiscreteSite("k", (), None, one, one, one),), {"k": torch.tensor([3, 4])})
        tensor([[3.],
                [4.]], dtype=torch.float64)
    """
    parts = [values[site.name].double().reshape(len(values[site.name]), site.size) for site in sites]
    return torch.cat(parts, -1)


def _site(name: str, law: Any, value: Tensor) -> DiscreteSite:
    base = law
    while isinstance(base, dist.Independent | dist.MaskedDistribution | dist.ExpandedDistribution):
        base = base.base_dist
    if base.event_shape:
        raise ValueError(
            f"site {name!r}: {type(base).__name__} has vectors as values. Fix: write it as a Categorical"
        )
    size = value.numel()

    def whole(number: Any, missing: float) -> Tensor:
        bound = torch.as_tensor(missing if number is None else number, dtype=torch.float64)
        return bound.expand(value.shape).reshape(size) if bound.numel() > 1 else bound.reshape(1).expand(size)

    values = None
    if base.has_enumerate_support:
        try:
            values = base.enumerate_support(expand=False).reshape(-1).double()
        except NotImplementedError:  # elements with different supports, walked over instead
            values = None
    support = base.support
    lower = whole(getattr(support, "lower_bound", None), -math.inf)
    upper = whole(getattr(support, "upper_bound", None), math.inf)
    first = value.detach().double().reshape(size)
    return DiscreteSite(name, tuple(value.shape), values, lower, upper, first, value.dtype)
