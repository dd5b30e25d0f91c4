"""Draws of a model's own programs: the posterior predictive, the prior, the prior predictive."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor

from evidentia.inference.density.map_rows import map_rows
from evidentia.inference.idata.draw_layout import Layout, ModelSites, lay_out, plate_of_draws
from evidentia.inference.idata.log_likelihood import shaped

__all__ = ["predictive"]

_CHUNK = 1000  # draws at a time by vmap


def predictive(
    model: Callable[..., Any],
    sites: ModelSites,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    draws: Mapping[str, Tensor] | None = None,
    num_draws: int | None = None,
    layout: Layout = "loop",
) -> dict[str, Tensor]:
    """Run a model forward with its observations removed, once per draw of its latents or from the prior.

    Args:
        model: a Pyro model.
        sites: what `inspect_model` found with the same arguments.
        args: the model's arguments. Observed values among them are ignored.
        kwargs: its keywords.
        draws: site -> (draw, *shape of one run) of the latents; None draws them from the prior.
        num_draws: number of draws from the prior.
        layout: a layout in which the model is known to vectorise, or "loop". Without draws of the latents
            only "plates" and "mapped" can be used; anything that goes wrong in a vectorised run is done
            again draw by draw.

    Returns:
        Every site that is not among `draws` -> (draw, *shape of one run): latents, observed and
        deterministic sites.

    Raises:
        ValueError: neither `draws` nor `num_draws` is given.

    References:
        Gabry, Simpson, Vehtari, Betancourt, Gelman, 2019, Visualization in Bayesian workflow.

    Example:
        >>> from pyro.distributions import Normal
        >>> from evidentia.inference.idata.draw_layout import inspect_model
        >>> def model(y):
        ...     mean = pyro.sample("mean", Normal(0.0, 1.0))
        ...     with pyro.plate("data", len(y)):
        ...         pyro.sample("obs", Normal(mean, 1.0), obs=y)
        >>> y = torch.zeros(3)
        >>> drawn = predictive(model, inspect_model(model, (y,)), (y,), num_draws=5)
        >>> drawn["mean"].shape, drawn["obs"].shape
        (torch.Size([5]), torch.Size([5, 3]))
    """
    given = {name: value for name, value in (draws or {}).items() if name in sites.of("latent")}
    count = len(next(iter(given.values()))) if given else num_draws
    if count is None:
        raise ValueError("predictive: pass draws of the latents, or num_draws for draws from the prior")
    free = poutine.uncondition(model)
    wanted = [name for name in sites.sites if name not in given]
    if layout != "loop" and (given or layout != "compact"):
        state = torch.get_rng_state()
        try:
            if layout == "mapped":
                found = map_rows(
                    lambda one: _run(poutine.condition(free, data=dict(one)), wanted, args, kwargs or {}),
                    given, count, _CHUNK,
                )  # fmt: skip
                return {name: shaped(found[name], (count, *sites.sites[name].shape), name) for name in wanted}
            conditioned = poutine.condition(free, data=lay_out(given, sites, layout))
            with plate_of_draws(sites, count, layout):
                values = _run(conditioned, wanted, args, kwargs or {})
            return {name: shaped(values[name], (count, *sites.sites[name].shape), name) for name in wanted}
        except Exception:
            # The loop below decides whether the model itself is at fault.
            torch.set_rng_state(state)
    rows: dict[str, list[Tensor]] = {name: [] for name in wanted}
    for draw in range(count):
        single = {name: value[draw] for name, value in given.items()}
        values = _run(poutine.condition(free, data=single), wanted, args, kwargs or {})
        for name in wanted:
            rows[name].append(values[name])
    return {name: torch.stack(values) for name, values in rows.items()}


def _run(model: Callable[..., Any], names: list[str], args: Any, kwargs: Any) -> dict[str, Tensor]:
    """Values of the sites in one run."""
    with torch.no_grad(), pyro.validation_enabled(False):
        trace = poutine.trace(model).get_trace(*args, **kwargs)
    nodes: Any = trace.nodes
    return {name: nodes[name]["value"] for name in names}
