"""The groups that do not depend on the posterior: draws from the prior, what was observed, the covariates."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evidentia.inference.idata.draw_layout import Layout, ModelSites
from evidentia.inference.idata.parts import Group, Groups, Request, add_variable, dims_of, variable_name
from evidentia.inference.idata.predictive import predictive

__all__ = ["add_data", "add_prior"]


def add_prior(
    result: Groups,
    sites: ModelSites,
    request: Request,
    names: Sequence[str],
    kept: Sequence[str],
    layout: Layout,
) -> None:
    """Add draws from the prior; an improper prior is recorded as the reason why there are none.

    References:
        Gabry, Simpson, Vehtari, Betancourt, Gelman, 2019, Visualization in Bayesian workflow.
    """
    prior, prior_predictive = Group(), Group()
    try:
        drawn = dict(request.prior_latents) | predictive(
            request.model, sites, request.args, request.kwargs, draws=request.prior_latents,
            num_draws=request.prior_draws, layout=layout,
        )  # fmt: skip
    except (ValueError, NotImplementedError) as error:
        reason = f"improper: {error}".splitlines()[0]
        result.attrs |= {"prior": reason, "prior_predictive": reason}
        return
    for name in kept:
        add_variable(prior, sites.sites[name], drawn[name][None], request)
    for name in names:
        add_variable(prior_predictive, sites.sites[name], drawn[name][None], request)
    result.groups |= {"prior": prior, "prior_predictive": prior_predictive}


def add_data(result: Groups, sites: ModelSites, request: Request, names: Sequence[str]) -> None:
    """Add what `obs=` received and the other tensors among the model's arguments.

    References:
        none; bookkeeping.
    """
    observed, constant = Group(), Group()
    plates: dict[str, int] = {}
    for name in names:
        site = sites.sites[name]
        observed.variables[variable_name(name)] = (dims_of(site, request), site.value.detach().cpu().numpy())
        plates |= {plate: size for plate, size in zip(site.plates, site.shape, strict=False) if plate}
    seen = [site.value for site in sites.of("observed").values()]
    for name, value in _arguments(request).items():
        if not isinstance(value, Tensor | np.ndarray):
            continue
        array = torch.as_tensor(value)
        if any(array.shape == other.shape and torch.equal(array.to(other.dtype), other) for other in seen):
            continue
        asked = list(request.dims.get(name, ()))
        dims = [f"{name}_dim_{i}" for i in range(array.dim())]
        if array.dim() and len(plates) == 1 and array.shape[0] in plates.values():
            dims[0] = next(iter(plates))
        if asked:
            dims = asked if len(asked) == array.dim() else [*dims[: array.dim() - len(asked)], *asked]
        constant.variables[name] = (tuple(dims), array.detach().cpu().numpy())
    result.groups["observed_data"] = observed
    if constant.variables:
        result.groups["constant_data"] = constant


def _arguments(request: Request) -> dict[str, Any]:
    """The model's arguments by name."""
    target = getattr(request.model, "forward", request.model)
    try:
        bound = inspect.signature(target).bind(*request.args, **request.kwargs)
    except (TypeError, ValueError):
        return {f"arg{i}": value for i, value in enumerate(request.args)} | dict(request.kwargs)
    found: dict[str, Any] = {}
    for name, value in bound.arguments.items():
        kind = bound.signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_POSITIONAL:
            found |= {f"{name}{i}": each for i, each in enumerate(value)}
        elif kind is inspect.Parameter.VAR_KEYWORD:
            found |= value
        else:
            found[name] = value
    return found
