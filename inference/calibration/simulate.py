"""Parameters and data drawn together from a model: the truths of a calibration study."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from pyro import poutine
from torch import Tensor

from evidentia.inference.density.map_rows import FAILURES, map_rows
from evidentia.inference.density.patches import traceable

__all__ = ["Simulated", "simulate"]


class Simulated(NamedTuple):
    r"""\(\theta_i \sim p(\theta), \; y_i \sim p(y \mid \theta_i)\).

    Attributes:
        values: latent site -> (N, *shape), constrained.
        data: argument of the model -> (N, *shape).

    References:
        none; bookkeeping.
    """

    values: dict[str, Tensor]
    data: dict[str, Tensor]


def simulate(
    model: Callable[..., Any],
    *args: Any,
    data: str | Mapping[str, str] = "y",
    num: int,
    seed: int = 0,
    **kwargs: Any,
) -> Simulated:
    """Draw parameters from the prior and data given them, all in one mapped run where the model allows it.

    The argument that holds the data is given as None, and the model draws it; or, where the keywords have a
    data set of that name (its values do not matter, its shape does), observed sites are drawn instead. The
    random stream of the caller is put back.

    Args:
        model: a Pyro model.
        args: its other arguments, as are further keywords.
        data: the argument that holds the data. Its site is the observed one, else the model's return value,
            else a site called "obs" or like the argument; say {argument: site} where that is not so.
        num: N.
        seed: of the draws.

    Raises:
        ValueError: the site of the data cannot be told.

    References:
        Talts, Betancourt, Simpson, Vehtari, Gelman, 2018, Validating Bayesian inference algorithms with
        simulation-based calibration.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> def model(y=None):
        ...     mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        ...     return pyro.sample("obs", dist.Normal(mean, 0.1), obs=y)
        >>> drawn = simulate(model, num=1000)
        >>> bool((drawn.data["y"] - drawn.values["mean"]).std() < 0.11)
        True
    """
    if num < 1:
        raise ValueError(f"num: expected a number >= 1, got {num}. Fix: num=200")
    named: dict[str, str | None] = dict(data) if isinstance(data, Mapping) else {data: None}
    options: dict[str, Any] = dict.fromkeys(named) | kwargs

    def run(_: Mapping[str, Tensor]) -> dict[str, Tensor]:
        trace: Any = poutine.trace(poutine.uncondition(model)).get_trace(*args, **options)
        sites = {
            name: node
            for name, node in trace.nodes.items()
            if node["type"] == "sample" and type(node["fn"]).__name__ != "_Subsample"
        }
        found = {}
        for argument, site in named.items():
            place = _site_of(sites, argument, site, trace.nodes["_RETURN"]["value"])
            found[f"data {argument}"] = (
                trace.nodes["_RETURN"]["value"] if place is None else sites[place]["value"]
            )
            sites = {name: node for name, node in sites.items() if name != place}
        # Sites that the model observes whatever its data are no latents.
        return found | {
            f"site {name}": node["value"]
            for name, node in sites.items()
            if not (node["is_observed"] or node["infer"].get("was_observed"))
            and not node["infer"].get("_deterministic")
        }

    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        try:
            drawn = map_rows(run, {}, num)
        except FAILURES:
            torch.manual_seed(seed)
            with traceable():
                rows = [run({}) for _ in range(num)]
            drawn = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
    parts: dict[str, dict[str, Tensor]] = {"site": {}, "data": {}}
    for name, value in drawn.items():
        kind, _, own = name.partition(" ")
        parts[kind][own] = value.detach()
    return Simulated(parts["site"], parts["data"])


def _site_of(sites: Mapping[str, Any], argument: str, given: str | None, returned: Any) -> str | None:
    """The site that is the data; None where only the return value is."""
    if given is not None:
        if given not in sites:
            raise ValueError(
                f"data: no site {given!r}, got {sorted(sites)}. Fix: data={{{argument!r}: site}}"
            )
        return given
    observed = [name for name, node in sites.items() if node["infer"].get("was_observed")]
    if len(observed) == 1:
        return observed[0]
    if isinstance(returned, Tensor):
        return next((name for name, node in sites.items() if node["value"] is returned), None)
    for name in ("obs", argument):
        if name in sites:
            return name
    raise ValueError(
        f"data: cannot tell which site is the argument {argument!r}, got {sorted(sites)}. "
        f"Fix: data={{{argument!r}: site}}, or let the model return its observation"
    )
