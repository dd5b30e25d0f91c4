"""Posterior draws for one data set by anything that is no kernel: a guide, a fit, or a function."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from evidentia.inference.density.map_rows import map_rows
from evidentia.inference.idata.draw_layout import inspect_model
from evidentia.inference.idata.draws import Draws
from evidentia.inference.idata.guide_draws import guide_draws
from evidentia.inference.training.fitted import Fit

__all__ = ["amortised_draws", "is_pair", "posterior_draws"]


def is_pair(method: Any) -> bool:
    """Whether `method` is a model and a guide.

    References:
        none; bookkeeping.

    Example:
        >>> is_pair((print, print)), is_pair(print)
        (True, False)
    """
    return isinstance(method, tuple) and len(method) == 2 and all(callable(each) for each in method)


def posterior_draws(
    method: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], num_draws: int
) -> dict[str, Tensor]:
    """L draws for the data set in `args` and `kwargs`.

    Args:
        method: a `Fit` or a pair, whose guide is run on these data (amortised: nothing is fitted); or a
            function of the arguments that returns one of them, or `Draws`, or site -> (L, *shape).
        args: of the model.
        kwargs: of the model.
        num_draws: L.

    Returns:
        site -> (L, *shape), constrained.

    Raises:
        ValueError: fewer draws than L, or something else was returned.

    References:
        none; bookkeeping.

    Example:
        >>> posterior_draws(lambda y: {"mean": torch.zeros(4)}, (torch.ones(2),), {}, 4)["mean"].shape
        torch.Size([4])
    """
    found: Any = method
    if not (isinstance(found, Fit | Draws | Mapping) or is_pair(found)):
        found = found(*args, **kwargs)
    if isinstance(found, Fit):
        with found.scope():
            return _from_guide(found.pair[0], found.pair[1], args, kwargs, num_draws)
    if is_pair(found):
        return _from_guide(found[0], found[1], args, kwargs, num_draws)
    if isinstance(found, Draws):
        samples = {name: value.flatten(0, 1) for name, value in found.samples.items()}
    elif isinstance(found, Mapping):
        samples = dict(found)
    else:
        raise ValueError(
            f"method: expected a Fit, a pair, Draws or site -> draws, got {type(found).__name__}. "
            "Fix: return {'site': tensor of shape (num_draws, ...)}"
        )
    short = {name: len(value) for name, value in samples.items() if len(value) < num_draws}
    if short:
        raise ValueError(f"method: expected {num_draws} draws of every site, got {short}. Fix: num_draws")
    # Evenly spread, so that neighbours of a chain are as far apart as they can be.
    return {name: value[torch.arange(num_draws) * len(value) // num_draws] for name, value in samples.items()}


def _from_guide(
    model: Callable[..., Any], guide: Callable[..., Any], args: Any, kwargs: Mapping[str, Any], num_draws: int
) -> dict[str, Tensor]:
    sites = inspect_model(model, args, kwargs)
    return guide_draws(model, guide, sites, args, kwargs, num_draws=num_draws).samples


def amortised_draws(
    method: Any,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    data: Mapping[str, Tensor],
    num_draws: int,
) -> dict[str, Tensor]:
    """L draws of an amortised guide for each of N data sets, in mapped runs.

    Args:
        method: a `Fit` or a pair.
        args: of the model, without the data.
        kwargs: of the model, without the data.
        data: argument -> (N, *shape).
        num_draws: L.

    Returns:
        site -> (N, L, *shape) of every site of the guide.

    Raises:
        RuntimeError: the guide cannot be mapped; take `posterior_draws` for each data set.

    References:
        none; it is `torch.func.vmap`.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> def guide(y):
        ...     pyro.sample("mean", dist.Normal(y, 1.0))
        >>> amortised_draws((guide, guide), (), {}, {"y": torch.zeros(5)}, 3)["mean"].shape
        torch.Size([5, 3])
    """
    if isinstance(method, Fit):
        with method.scope():
            return amortised_draws(tuple(method.pair), args, kwargs, data, num_draws)
    _, guide = method
    rows = {name: value.repeat_interleave(num_draws, 0) for name, value in data.items()}
    num = len(next(iter(data.values())))

    def run(one: Mapping[str, Tensor]) -> dict[str, Tensor]:
        trace: Any = poutine.trace(guide).get_trace(*args, **kwargs, **one)
        return {
            name: node["value"]
            for name, node in trace.nodes.items()
            if node["type"] == "sample"
            and not node["is_observed"]
            and type(node["fn"]).__name__ != "_Subsample"
        }

    found = map_rows(run, rows, num * num_draws)
    return {name: value.reshape(num, num_draws, *value.shape[1:]) for name, value in found.items()}
