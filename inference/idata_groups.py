"""The groups of a finished inference as plain arrays with named dimensions; no ArviZ here.

Every result becomes the same groups: posterior, sample_stats, log_likelihood, posterior_predictive, prior,
prior_predictive, observed_data, and constant_data where the model has inputs.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from evidentia.inference.discrete_draws import fill_discrete, summed_log_likelihood
from evidentia.inference.draw_layout import Layout, ModelSites, Site, inspect_model
from evidentia.inference.draws import Draws
from evidentia.inference.fitted import Fit
from evidentia.inference.guide_draws import guide_draws
from evidentia.inference.log_likelihood import (
    PointwiseLogLikelihood,
    observed_names,
    pointwise_log_likelihood,
)
from evidentia.inference.predictive import predictive
from torch import Tensor

__all__ = ["MANDATORY", "Group", "Groups", "Request", "draws_groups", "fit_groups", "variable_name"]

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


def variable_name(site: str) -> str:
    """A site's name as a variable's name: netCDF reads "/" as a group, so it becomes ".".

    References:
        none; bookkeeping.

    Example:
        >>> variable_name("w/x->f/one/weight")
        'w.x->f.one.weight'
    """
    return site.replace("/", ".")


def fit_groups(fit: Fit, request: Request) -> Groups:
    """Groups of a variational fit: draws of the guide as one chain, with the log densities of model and
    guide.

    References:
        Yao, Vehtari, Simpson, Gelman, 2018, Yes, but did it work? Evaluating variational inference.
    """
    _, guide = fit.pair
    with fit.scope():
        first = _one_guide_draw(guide, request)
        sites = inspect_model(request.model, request.args, request.kwargs, first)
        drawn = guide_draws(
            request.model, guide, sites, request.args, request.kwargs, num_draws=request.num_draws
        )
        stats = {
            "lp": drawn.log_joint[None],
            "log_guide": drawn.log_guide[None],
        }
        samples = {name: value[None] for name, value in drawn.samples.items()}
        groups = sampled_groups(samples, stats, sites, request)
    groups.groups["sample_stats"].attrs["lp_space"] = "constrained"
    groups.attrs |= {"inference": "svi", "stopped": fit.stopped, "skipped_updates": fit.skipped}
    return groups


def _one_guide_draw(guide: Callable[..., Any], request: Request) -> dict[str, Tensor]:
    from pyro import poutine

    with torch.no_grad():
        trace = poutine.trace(guide).get_trace(*request.args, **request.kwargs)
    nodes: dict[str, Any] = dict(trace.nodes)
    return {
        name: node["value"]
        for name, node in nodes.items()
        if node["type"] == "sample" and not node["infer"].get("is_auxiliary") and not node["is_observed"]
        and type(node["fn"]).__name__ != "_Subsample"
    }  # fmt: skip


def draws_groups(draws: Draws, request: Request) -> Groups:
    """Groups of Markov chain draws.

    Raises:
        ValueError: there are no draws.

    References:
        Vehtari, Gelman, Simpson, Carpenter, Buerkner, 2021, Rank-normalization, folding, and localization.
    """
    if draws.num_draws == 0:
        raise ValueError("to_idata: there are no draws yet. Fix: continue the run from its state")
    first = {name: value[0, 0] for name, value in draws.samples.items()}
    sites = inspect_model(request.model, request.args, request.kwargs, first)
    groups = sampled_groups(dict(draws.samples), dict(draws.stats), sites, request)
    groups.groups["sample_stats"].attrs["lp_space"] = "unconstrained"
    groups.attrs |= {"inference": draws.sampler, "stopped": draws.stopped}
    return groups


def sampled_groups(
    samples: Mapping[str, Tensor], stats: Mapping[str, Tensor], sites: ModelSites, request: Request
) -> Groups:
    """Groups of any result that has joint draws of all latent sites.

    Args:
        samples: site -> (chain, draw, *shape of one run).
        stats: name -> (chain, draw).
        sites: what `inspect_model` found.
        request: the rest.

    References:
        Merkle, Furr, Rabe-Hesketh, 2019, Bayesian comparison of latent variable models: conditional versus
        marginal likelihoods.
    """
    chains, count = next(iter(stats.values())).shape[:2]
    flat = {name: value.reshape(chains * count, *value.shape[2:]) for name, value in samples.items()}
    names = observed_names(sites, request.obs)
    missing = [name for name, site in sites.of("latent").items() if name not in flat and site.discrete]
    integrated: list[str] = []
    if missing:
        flat |= fill_discrete(request.model, sites, flat, missing, request.args, request.kwargs)
    if len(names) == 1:
        integrated = [name for name in missing if sites.is_local(name)]
    if integrated:
        others = {name: value for name, value in flat.items() if name not in integrated}
        summed = summed_log_likelihood(
            request.model, sites, others, integrated, names[0], request.args, request.kwargs
        )
        pointwise = PointwiseLogLikelihood({names[0]: summed}, "loop")
    else:
        pointwise = pointwise_log_likelihood(
            request.model, flat, sites, request.args, request.kwargs, obs=names, notice=request.notice
        )

    def unflat(value: Tensor) -> Tensor:
        return value.reshape(chains, count, *value.shape[1:])

    forward = predictive(
        request.model, sites, request.args, request.kwargs, draws=flat, layout=pointwise.layout
    )
    local = [name for name in sites.of("latent") if sites.is_local(name)]
    kept = [name for name in sites.sites if name not in names]
    kept = [name for name in kept if request.local or not sites.is_local(name)]
    result = Groups()
    posterior = Group()
    for name in kept:
        if name in flat or name in forward:
            _add(posterior, sites.sites[name], unflat(flat[name] if name in flat else forward[name]), request)
    if local and not request.local:
        posterior.attrs["local_latents_left_out"] = ", ".join(local)
    result.groups["posterior"] = posterior
    result.groups["sample_stats"] = Group(
        {name: (("chain", "draw"), value.detach().cpu().numpy()) for name, value in stats.items()}
    )
    result.groups["log_likelihood"] = Group(attrs={"local_latents": _how(local, integrated)})
    result.groups["posterior_predictive"] = Group()
    for name in names:
        site = sites.sites[name]
        ndim = pointwise.values[name].dim() - 1
        dims = ("chain", "draw", *_dims(site, request)[:ndim])
        result.groups["log_likelihood"].variables[variable_name(name)] = (
            dims,
            unflat(pointwise.values[name]).cpu().numpy(),
        )
        _add(result.groups["posterior_predictive"], site, unflat(forward[name]), request)
    add_prior(result, sites, request, names, kept, pointwise.layout)
    add_data(result, sites, request, names)
    return result


def _how(local: Sequence[str], integrated: Sequence[str]) -> str:
    """Whether log likelihoods condition on local latents or integrate them out."""
    if not local:
        return "none"
    return "integrated out" if set(local) <= set(integrated) else "conditioned on"


def _dims(site: Site, request: Request) -> tuple[str, ...]:
    """Names of a site's dimensions: its plates, then the names asked for or `<variable>_dim_<i>`."""
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


def _add(group: Group, site: Site, value: Tensor, request: Request) -> None:
    group.variables[variable_name(site.name)] = (
        ("chain", "draw", *_dims(site, request)),
        value.detach().cpu().numpy(),
    )


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
        drawn = predictive(
            request.model, sites, request.args, request.kwargs, num_draws=request.prior_draws, layout=layout
        )
    except (ValueError, NotImplementedError) as error:
        reason = f"improper: {error}".splitlines()[0]
        result.attrs |= {"prior": reason, "prior_predictive": reason}
        return
    for name in kept:
        _add(prior, sites.sites[name], drawn[name][None], request)
    for name in names:
        _add(prior_predictive, sites.sites[name], drawn[name][None], request)
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
        observed.variables[variable_name(name)] = (_dims(site, request), site.value.detach().cpu().numpy())
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
