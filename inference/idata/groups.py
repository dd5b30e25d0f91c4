"""The groups of a finished inference, built from draws of all its latent sites.

Every result becomes the same groups: posterior, sample_stats, log_likelihood, posterior_predictive, prior,
prior_predictive, observed_data, and constant_data where the model has inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from evidentia.inference.idata.chain_groups import add_chain_groups, kept_chains
from evidentia.inference.idata.discrete_draws import fill_discrete, summed_log_likelihood
from evidentia.inference.idata.draw_layout import ModelSites, inspect_model
from evidentia.inference.idata.draws import Draws
from evidentia.inference.idata.guide_draws import guide_draws
from evidentia.inference.idata.log_likelihood import (
    PointwiseLogLikelihood,
    observed_names,
    pointwise_log_likelihood,
)
from evidentia.inference.idata.parts import Group, Groups, Request, add_variable, dims_of, variable_name
from evidentia.inference.idata.predictive import predictive
from evidentia.inference.idata.reference import add_data, add_prior
from evidentia.inference.training.fitted import Fit

__all__ = ["draws_groups", "fit_groups", "sampled_groups"]


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
    ran = draws.num_chains
    draws = kept_chains(draws, request.max_chains)
    first = {name: value[0, 0] for name, value in draws.samples.items()}
    sites = inspect_model(request.model, request.args, request.kwargs, first)
    groups = sampled_groups(dict(draws.samples), dict(draws.stats), sites, request)
    add_chain_groups(groups, draws, sites, request)
    groups.groups["sample_stats"].attrs |= {"lp_space": "unconstrained", "superchains": draws.superchains}
    groups.attrs |= {"inference": draws.sampler, "stopped": draws.stopped, "chains_run": ran}
    if draws.log_evidence is not None:
        groups.attrs |= {
            "log_evidence_smc": draws.log_evidence.value,
            "log_evidence_smc_se": draws.log_evidence.standard_error,
        }
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
            add_variable(
                posterior, sites.sites[name], unflat(flat[name] if name in flat else forward[name]), request
            )
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
        dims = ("chain", "draw", *dims_of(site, request)[:ndim])
        result.groups["log_likelihood"].variables[variable_name(name)] = (
            dims,
            unflat(pointwise.values[name]).cpu().numpy(),
        )
        add_variable(result.groups["posterior_predictive"], site, unflat(forward[name]), request)
    add_prior(result, sites, request, names, kept, pointwise.layout)
    add_data(result, sites, request, names)
    return result


def _how(local: Sequence[str], integrated: Sequence[str]) -> str:
    """Whether log likelihoods condition on local latents or integrate them out."""
    if not local:
        return "none"
    return "integrated out" if set(local) <= set(integrated) else "conditioned on"
