"""What groups of a finished inference are made of: plain arrays with named dimensions; no ArviZ here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from evidentia.inference.idata.draw_layout import Site

__all__ = ["MANDATORY", "Group", "Groups", "Request", "add_variable", "dims_of", "variable_name"]

MANDATORY = (
    "posterior",
    "sample_stats",
    "log_likelihood",
    "posterior_predictive",
    "prior",
    "prior_predictive",
    "observed_data",
)


@dataclass
class Group:
    """Variables of one group: name -> (dimension names, array), and the group's attributes.

    References:
        none; bookkeeping.
    """

    variables: dict[str, tuple[tuple[str, ...], Any]] = field(default_factory=dict)
    attrs: dict[str, Any] = field(default_factory=dict)


@dataclass
class Groups:
    """All the groups, their coordinates, and attributes common to all.

    References:
        none; bookkeeping.
    """

    groups: dict[str, Group] = field(default_factory=dict)
    coords: dict[str, Any] = field(default_factory=dict)
    attrs: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Request:
    """What is wanted from a result, and the model's arguments.

    Attributes:
        model: the Pyro model.
        args: its arguments.
        kwargs: its keywords.
        obs: names of the observed sites; all when None.
        num_draws: draws from a guide, or of enumerated structures.
        prior_draws: draws from the prior.
        local: whether latents with a value per datum are saved.
        dims: names of a variable's event dimensions.
        notice: called with notices; the logger when None.
        max_chains: Markov chains that are kept; all when None.
        prior_latents: site -> (prior_draws, *shape) of latents whose prior is not the program's own.

    References:
        none; bookkeeping.
    """

    model: Callable[..., Any]
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    obs: str | Sequence[str] | None = None
    num_draws: int = 1000
    prior_draws: int = 500
    local: bool = False
    dims: Mapping[str, Sequence[str]] = field(default_factory=dict)
    notice: Callable[[str], object] | None = None
    max_chains: int | None = None
    prior_latents: Mapping[str, Tensor] = field(default_factory=dict)


def variable_name(site: str) -> str:
    """A site's name as a variable's name: netCDF reads "/" as a group, so it becomes ".".

    References:
        none; bookkeeping.

    Example:
        >>> variable_name("w/x->f/one/weight")
        'w.x->f.one.weight'
    """
    return site.replace("/", ".")


def dims_of(site: Site, request: Request) -> tuple[str, ...]:
    """Names of a site's dimensions: its plates, then the names asked for or `<variable>_dim_<i>`.

    Raises:
        ValueError: the number of names asked for is not that of the event dimensions.

    References:
        none; bookkeeping.
    """
    variable = variable_name(site.name)
    asked = list(request.dims.get(site.name, request.dims.get(variable, ())))
    event_ndim = len(site.shape) - site.batch_ndim
    if asked and len(asked) not in (event_ndim, len(site.shape)):
        raise ValueError(
            f"dims['{site.name}']: {asked} names {len(asked)} dimensions, but the site has {event_ndim} "
            f"event dimensions (shape {site.shape})"
        )
    if len(asked) == len(site.shape) and asked:
        return tuple(asked)
    plates = [plate or f"{variable}_dim_{i}" for i, plate in enumerate(site.plates)]
    events = asked or [f"{variable}_dim_{i}" for i in range(site.batch_ndim, len(site.shape))]
    return (*plates, *events)


def add_variable(group: Group, site: Site, value: Tensor, request: Request) -> None:
    """Put the draws (chain, draw, *shape) of a site into a group.

    References:
        none; bookkeeping.
    """
    group.variables[variable_name(site.name)] = (
        ("chain", "draw", *dims_of(site, request)),
        value.detach().cpu().numpy(),
    )
