"""Posterior draws for one data set by anything that is no kernel: a guide, a fit, or a function."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from evidentia.inference.idata.draw_layout import inspect_model
from evidentia.inference.idata.draws import Draws
from evidentia.inference.idata.guide_draws import guide_draws
from evidentia.inference.training.fitted import Fit

__all__ = ["is_pair", "posterior_draws"]


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
            return _from_guide(*found.pair, args, kwargs, num_draws)
    if is_pair(found):
        return _from_guide(*found, args, kwargs, num_draws)
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
