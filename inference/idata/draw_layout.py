"""What a model's sites look like in one run, and the one layout in which many draws are given to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any, Literal, NamedTuple

import pyro
import torch
from pyro import poutine
from torch import Tensor

__all__ = ["Layout", "ModelSites", "Site", "inspect_model", "lay_out"]

Layout = Literal["plates", "compact", "mapped", "loop"]


class Site(NamedTuple):
    """One sample site as a single run of the model has it.

    Attributes:
        name: the site's name.
        kind: "latent", "observed" or "deterministic".
        shape: shape of its value, without any dimension of draws.
        batch_ndim: how many of these dimensions are batch dimensions.
        plates: name of the plate of each batch dimension, or "" for one outside a plate.
        discrete: whether its values are discrete.
        value: the value it had.

    References:
        none; bookkeeping.
    """

    name: str
    kind: Literal["latent", "observed", "deterministic"]
    shape: tuple[int, ...]
    batch_ndim: int
    plates: tuple[str, ...]
    discrete: bool
    value: Tensor


class ModelSites(NamedTuple):
    """The sites of a model in program order.

    References:
        none; bookkeeping.
    """

    sites: Mapping[str, Site]

    def of(self, kind: str) -> dict[str, Site]:
        """The sites of one kind."""
        return {name: site for name, site in self.sites.items() if site.kind == kind}

    @property
    def nesting(self) -> int:
        """Number of batch dimensions that one run uses; draws go to the left of them."""
        return max((site.batch_ndim for site in self.sites.values()), default=0)

    def is_local(self, name: str) -> bool:
        """Whether a site has a value per datum: it lies in a plate that an observed site lies in."""
        data = {plate for site in self.of("observed").values() for plate in site.plates if plate}
        return bool(data & set(self.sites[name].plates))


def inspect_model(
    model: Callable[..., Any],
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    values: Mapping[str, Tensor] | None = None,
) -> ModelSites:
    """Run a model once and describe its sites; subsampling plates and factors are left out.

    Args:
        model: a Pyro model.
        args: its arguments.
        kwargs: its keywords.
        values: one draw of latent sites, in the shapes of one run; the others are drawn from the prior. A
            flat (improper) site needs a value.

    Raises:
        ValueError: a plate draws its rows at random, or Pyro's own when the model does not run.

    References:
        none; bookkeeping.

    Example:
        >>> from pyro.distributions import Normal
        >>> def model(y):
        ...     b = pyro.sample("b", Normal(torch.zeros(3), 1.0).to_event(1))
        ...     with pyro.plate("data", len(y)):
        ...         pyro.sample("obs", Normal(b.sum(), 1.0), obs=y)
        >>> sites = inspect_model(model, (torch.zeros(5),)).sites
        >>> sites["b"].shape, sites["obs"].plates
        ((3,), ('data',))
    """
    fixed = dict(values or {})
    with torch.no_grad():
        trace = poutine.trace(poutine.condition(model, data=fixed)).get_trace(*args, **(kwargs or {}))
    found: dict[str, Site] = {}
    nodes: dict[str, Any] = dict(trace.nodes)
    for name, node in nodes.items():
        if node["type"] != "sample":
            continue
        if type(node["fn"]).__name__ == "_Subsample":
            _check_whole(name, node["fn"])
            continue
        value = node["value"]
        if not isinstance(value, Tensor) or (node["is_observed"] and value.numel() == 0):
            continue  # pyro.factor observes an empty value
        deterministic = bool(node["infer"].get("_deterministic", False))
        kind: Literal["latent", "observed", "deterministic"] = (
            "deterministic"
            if deterministic
            else "observed"
            if node["is_observed"] and name not in fixed
            else "latent"
        )
        event_dim = int(node["fn"].event_dim)
        batch_ndim = value.dim() - event_dim
        names = {frame.dim: frame.name for frame in node["cond_indep_stack"] if frame.vectorized}
        plates = tuple(names.get(dim - batch_ndim, "") for dim in range(batch_ndim))
        discrete = not value.is_floating_point() or bool(getattr(node["fn"], "has_enumerate_support", False))
        found[name] = Site(name, kind, tuple(value.shape), batch_ndim, plates, discrete, value)
    return ModelSites(found)


def _check_whole(plate: str, law: Any) -> None:
    """Each run of a plate that draws its rows has other rows, so values per datum would have no meaning."""
    if law.subsample_size is not None and law.subsample_size < law.size:
        raise ValueError(
            f"plate '{plate}' draws {law.subsample_size} of {law.size} rows at random in every run, so there "
            "is no log likelihood per datum. Fix: use data_plate and slice the data outside the model"
        )


def lay_out(draws: Mapping[str, Tensor], sites: ModelSites, layout: Layout) -> dict[str, Tensor]:
    """Bring draws (draw, *shape) to the layout in which the model is to see them.

    "plates" puts the draws where a plate to the left of all the model's plates would put them, so a global
    3-vector of a model with one plate is (draw, 1, 3); "compact" leaves it (draw, 3).

    Args:
        draws: site -> (draw, *shape of one run).
        sites: what `inspect_model` found.
        layout: "plates" or "compact".

    Returns:
        Views of the draws.

    References:
        none; bookkeeping.

    Example:
        >>> site = Site("b", "latent", (3,), 0, (), False, torch.zeros(3))
        >>> obs = Site("obs", "observed", (5,), 1, ("data",), False, torch.zeros(5))
        >>> sites = ModelSites({"b": site, "obs": obs})
        >>> lay_out({"b": torch.zeros(7, 3)}, sites, "plates")["b"].shape
        torch.Size([7, 1, 3])
    """
    if layout != "plates":
        return dict(draws)
    return {
        name: value.reshape(
            value.shape[:1] + (1,) * (sites.nesting - sites.sites[name].batch_ndim) + value.shape[1:]
        )
        for name, value in draws.items()
    }


def plate_of_draws(sites: ModelSites, count: int, layout: Layout) -> Any:
    """The plate that holds the draws in the "plates" layout; an empty context in the other.

    References:
        none; bookkeeping.
    """
    if layout == "plates":
        return pyro.plate("_draws", count, dim=-1 - sites.nesting)
    return nullcontext()
