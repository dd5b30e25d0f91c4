"""The groups of importance draws: resampled posterior draws, and the log-weight of each."""

from __future__ import annotations

from dataclasses import replace

from evidentia.inference.evidence.importance import estimate, lent
from evidentia.inference.evidence.importance_draws import ImportanceDraws
from evidentia.inference.evidence.pareto import tail_shape
from evidentia.inference.idata.draw_layout import inspect_model
from evidentia.inference.idata.groups import sampled_groups
from evidentia.inference.idata.parts import Group, Groups, Request

__all__ = ["importance_groups"]


def importance_groups(draws: ImportanceDraws, request: Request) -> Groups:
    r"""Groups of draws of a guide, resampled by \(w_k / \sum_j w_j\) into one chain of equal weights.

    Where the weights are per element of a plate, each element is resampled by its own, and its latents are
    kept: there are no others. Where there are global latents, the joint weight picks whole draws.

    Args:
        draws: from `importance_draws`.
        request: the model with its arguments, and the number of draws to resample.

    Returns:
        All groups. `sample_stats` has `log_weight` (chain, draw, *plates), nats: the weight of the draw that
        was picked; its attributes tell what the weights before resampling say: `pareto_k` (the largest),
        `ess` (the smallest) and `num_particles`.

    Raises:
        ValueError: an element has no finite weight.

    References:
        Rubin, 1988, Using the SIR algorithm to simulate posterior distributions.
        Vehtari, Simpson, Gelman, Yao and Gabry, 2024, Pareto smoothed importance sampling.
    """
    if draws.plates:
        request = replace(request, local=True)
    count = len(draws.log_weight)
    with lent(draws.pair):
        picked, log_weight = draws.resample(request.num_draws)
        first = {name: value[0] for name, value in picked.items()}
        sites = inspect_model(request.model, request.args, request.kwargs, first)
        samples = {name: value[None] for name, value in picked.items()}
        groups = sampled_groups(samples, {"log_weight": log_weight[None]}, sites, request)
    attrs = {
        "num_particles": count,
        "ess": float(estimate(draws.log_weight).ess.min()),
        "pareto_k": float(tail_shape(draws.log_weight.reshape(count, -1)).max()),
    }
    values = log_weight[None].detach().cpu().numpy()
    groups.groups["sample_stats"] = Group({"log_weight": (("chain", "draw", *draws.plates), values)}, attrs)
    groups.attrs |= {"inference": "importance"}
    return groups
