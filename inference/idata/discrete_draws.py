"""Discrete latents that a sampler summed out: draws of them, and log likelihoods without them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer import config_enumerate, infer_discrete
from torch import Tensor

from evidentia.inference.idata.draw_layout import ModelSites

__all__ = ["fill_discrete", "summed_log_likelihood"]


def fill_discrete(
    model: Callable[..., Any],
    sites: ModelSites,
    draws: Mapping[str, Tensor],
    missing: Sequence[str],
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
) -> dict[str, Tensor]:
    r"""Draw \(k_s \sim p(k \mid \theta_s, y)\), so that \((\theta_s, k_s)\) are joint posterior draws.

    Args:
        model: a Pyro model whose missing sites can be enumerated.
        sites: what `inspect_model` found.
        draws: site -> (draw, *shape of one run) of the other latents.
        missing: names of the discrete sites.
        args: the model's arguments.
        kwargs: its keywords.

    Returns:
        Missing site -> (draw, *shape of one run).

    References:
        Obermeyer, Bingham, Jankowiak et al., 2019, Tensor variable elimination for plated factor graphs.
    """
    count = len(next(iter(draws.values())))
    rows: dict[str, list[Tensor]] = {name: [] for name in missing}
    with torch.no_grad(), pyro.validation_enabled(False):
        for draw in range(count):
            fixed = poutine.condition(model, data={name: value[draw] for name, value in draws.items()})
            inferred = infer_discrete(config_enumerate(fixed), first_available_dim=-1 - sites.nesting)
            trace = poutine.trace(inferred).get_trace(*args, **(kwargs or {}))
            for name in missing:
                rows[name].append(trace.nodes[name]["value"])
    return {name: torch.stack(values) for name, values in rows.items()}


def summed_log_likelihood(
    model: Callable[..., Any],
    sites: ModelSites,
    draws: Mapping[str, Tensor],
    local: Sequence[str],
    obs: str,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
) -> Tensor:
    r"""\(\log p(y_i \mid \theta_s) = \log \sum_k p(k, y_i \mid \theta_s)\): local discrete latents summed
    out.

    Args:
        model: a Pyro model.
        sites: what `inspect_model` found.
        draws: site -> (draw, *shape of one run) of all other latents.
        local: names of discrete latents with a value per datum.
        obs: name of the observed site.
        args: the model's arguments.
        kwargs: its keywords.

    Returns:
        (draw, *batch shape of the observation), float64, nats per datum.

    References:
        Merkle, Furr, Rabe-Hesketh, 2019, Bayesian comparison of latent variable models.
    """
    count = len(next(iter(draws.values())))
    site = sites.sites[obs]
    shape = site.shape[: site.batch_ndim]
    rows = []
    with torch.no_grad(), pyro.validation_enabled(False):
        for draw in range(count):
            fixed = poutine.condition(model, data={name: value[draw] for name, value in draws.items()})
            summed = poutine.enum(config_enumerate(fixed), first_available_dim=-1 - sites.nesting)
            trace = poutine.trace(summed).get_trace(*args, **(kwargs or {}))
            trace.compute_log_prob()
            joint = torch.as_tensor(trace.nodes[obs]["unscaled_log_prob"]).double()
            for name in local:
                joint = joint + trace.nodes[name]["unscaled_log_prob"]
            rows.append(joint.reshape(-1, *shape).logsumexp(0))
    return torch.stack(rows)
