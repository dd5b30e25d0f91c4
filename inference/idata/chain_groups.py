"""Further groups of Markov chains: unconstrained draws, prior densities, the path of the warm-up."""

from __future__ import annotations

import dataclasses

import torch

from evidentia.inference.idata.draw_layout import ModelSites
from evidentia.inference.idata.draws import Draws
from evidentia.inference.idata.log_likelihood import pointwise_log_prob
from evidentia.inference.idata.parts import Group, Groups, Request, dims_of, variable_name

__all__ = ["add_chain_groups", "kept_chains"]


def kept_chains(draws: Draws, most: int | None) -> Draws:
    """At most that many chains, evenly spread, and equally many of every superchain.

    References:
        none; bookkeeping.

    Example:
        >>> run = Draws({}, {"lp": torch.arange(12.0)[:, None]}, {}, "max_steps", "hmc", superchains=3)
        >>> kept_chains(run, 7).stats["lp"].flatten().tolist()
        [0.0, 1.0, 4.0, 5.0, 8.0, 9.0]
    """
    chains = draws.num_chains
    if most is None or chains <= most:
        return draws
    if 1 < draws.superchains <= most:
        size, each = chains // draws.superchains, most // draws.superchains
        index = torch.tensor([k * size + m for k in range(draws.superchains) for m in range(each)])
    else:
        index = torch.linspace(0, chains - 1, most).round().long()
    return dataclasses.replace(
        draws,
        samples={name: value[index] for name, value in draws.samples.items()},
        stats={name: value[index] for name, value in draws.stats.items()},
        unconstrained=None if draws.unconstrained is None else draws.unconstrained[index],
        superchains=draws.superchains if 1 < draws.superchains <= most else 0,
    )


def add_chain_groups(groups: Groups, draws: Draws, sites: ModelSites, request: Request) -> None:
    """Add `log_prior` (nats, by site), `unconstrained_posterior` and `warmup_sample_stats`.

    References:
        Kallioinen, Paananen, Buerkner, Vehtari, 2024, Detecting and diagnosing prior and likelihood
        sensitivity with power-scaling.
    """
    latent = list(sites.of("latent"))
    names = [name for name in latent if request.local or not sites.is_local(name)]
    if names and all(name in draws.samples for name in latent):
        shape = (draws.num_chains, draws.num_draws)
        flat = {name: value.reshape(-1, *value.shape[2:]) for name, value in draws.samples.items()}
        found = pointwise_log_prob(
            request.model, flat, sites, request.args, request.kwargs, names, request.notice
        ).values
        prior = groups.groups["log_prior"] = Group()
        for name, value in found.items():
            dims = ("chain", "draw", *dims_of(sites.sites[name], request)[: value.dim() - 1])
            array = value.reshape(*shape, *value.shape[1:]).cpu().numpy()
            prior.variables[variable_name(name)] = (dims, array)
    if draws.unconstrained is not None:
        values = draws.unconstrained.cpu().numpy()
        groups.groups["unconstrained_posterior"] = Group(
            {"position": (("chain", "draw", "coordinate"), values)},
            {"sites": ", ".join(draws.samples)},
        )
    if draws.warmup:
        groups.groups["warmup_sample_stats"] = Group(
            {name: (("warmup_step",), path.numpy()) for name, path in draws.warmup.items()},
            {"of": "means over chains"},
        )
