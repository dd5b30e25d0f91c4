"""The groups of a posterior over structures: draws of structures and weights, and a table of them all."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evidentia.inference.idata.draw_layout import inspect_model
from evidentia.inference.idata.groups import sampled_groups
from evidentia.inference.idata.network_draws import lift_noise, network_weights
from evidentia.inference.idata.own_data import check_own_data
from evidentia.inference.idata.parts import Group, Groups, Request
from evidentia.inference.structure.linear import sample_weights
from evidentia.inference.structure.posterior import StructurePosterior
from evidentia.inference.structure.sites import prior_vertices

__all__ = ["structure_groups"]

_TOP = 1000  # structures kept in the table


def structure_groups(posterior: StructurePosterior, request: Request, seed: int) -> Groups:
    """Groups of a `StructurePosterior`.

    Draws of structures are those of the Gibbs chains, or independent draws from the enumerated posterior as
    one chain; each gets an exact draw of its weights given the structure. `posterior` has the gates by
    name, the index of the structure, its log evidence and the weights; the extra group `structures` has one
    entry per structure, the most probable first. `lp` is log evidence + log prior (weights integrated out).

    Args:
        posterior: the result of enumeration or Gibbs sampling.
        request: the model and its arguments (x, y).
        seed: seed of the draws.

    Raises:
        ValueError: x or y is not that of the posterior, or there are neither exact draws of the weights nor
            guides to draw them from.

    References:
        Hoeting, Madigan, Raftery, Volinsky, 1999, Bayesian model averaging: a tutorial.
    """
    if len(request.args) < 2:
        raise ValueError("to_idata: give the data of the model: to_idata(posterior, model, x, y)")
    x, y = request.args[:2]
    check_own_data(posterior, x, y)
    gates = posterior.sample(request.num_draws, seed)[None] if posterior.draws is None else posterior.draws
    gates = gates.double()
    chains, count, width = gates.shape
    # A stream of its own: with the seed of the structures the weights would depend on which structure was
    # drawn.
    weights_seed = int(np.random.SeedSequence([seed, 1]).generate_state(1)[0])
    request = replace(request, model=lift_noise(posterior, request.model, torch.as_tensor(x)))
    draw = sample_weights if posterior.problem is not None else partial(network_weights, posterior)
    weights = draw(posterior.model or request.model, x, y, gates.reshape(-1, width), weights_seed)
    weights = {name: value.to(torch.as_tensor(x).dtype) if value.is_floating_point() else value
               for name, value in weights.items()}  # fmt: skip
    samples = {name: value.reshape(chains, count, *value.shape[1:]) for name, value in weights.items()}
    rows = _rows(posterior.gates, gates.reshape(-1, width)).reshape(chains, count)
    evidence = posterior.log_evidence[rows]
    stats = {"lp": evidence + posterior.log_prior[rows]}
    first = {name: value[0, 0] for name, value in samples.items()}
    request = replace(request, dims=_weight_dims(posterior, samples) | dict(request.dims))
    sites = inspect_model(request.model, request.args, request.kwargs, first)
    request = replace(request, prior_latents=_prior_latents(posterior, request, x, seed))
    result = sampled_groups(samples, stats, sites, request)
    result.groups["sample_stats"].attrs["lp_space"] = "structures; weights integrated out"
    rank = _ranking(posterior)
    place = torch.full((len(posterior.gates),), -1)
    place[rank] = torch.arange(len(rank))
    names = list(posterior.family.gate_names)
    for group in ("posterior", "prior"):
        if group in result.groups:
            _one_gate_variable(result.groups[group], posterior, names)
    variables = result.groups["posterior"].variables
    variables["gate"] = (("chain", "draw", "gate_name"), gates.to(torch.int8).numpy())
    variables["structure_index"] = (("chain", "draw"), place[rows].numpy())
    variables["log_evidence"] = (("chain", "draw"), evidence.numpy())
    result.groups["structures"] = _table(posterior, rank)
    result.coords |= {
        "gate_name": names,
        "structure": [posterior.family.label(posterior.gates[row]) for row in rank.tolist()],
    }
    result.attrs |= {
        "inference": "enumeration" if posterior.draws is None else "structure_gibbs",
        "log_evidence_kind": posterior.kind,
        "num_structures": len(posterior.gates),
    }
    return result


def _prior_latents(posterior: StructurePosterior, request: Request, x: Any, seed: int) -> dict[str, Tensor]:
    """Relaxed gates at vertices, as in the posterior."""
    stream = int(np.random.SeedSequence([seed, 2]).generate_state(1)[0])
    drawn = prior_vertices(posterior.family, request.prior_draws, torch.Generator().manual_seed(stream))
    return {name: value.to(torch.as_tensor(x).dtype) for name, value in drawn.items()}


def _weight_dims(posterior: StructurePosterior, samples: dict[str, Tensor]) -> dict[str, list[str]]:
    """Weights with one entry per gate get the gates' names."""
    count = posterior.family.num_gates
    wanted = [f"w/{edge.name}" for edge in posterior.family.edges]
    return {name: ["gate_name"] for name in wanted if name in samples and samples[name].shape[2:] == (count,)}


def _rows(gates: Tensor, draws: Tensor) -> Tensor:
    """Row of `gates` (S, G) of each of `draws` (D, G)."""
    where = {row.tobytes(): i for i, row in enumerate(gates.to(torch.uint8).numpy())}
    return torch.tensor([where[row.tobytes()] for row in draws.to(torch.uint8).numpy()])


def _ranking(posterior: StructurePosterior) -> Tensor:
    """Rows of the most probable structures, the best first."""
    score = posterior.log_evidence + posterior.log_prior
    return score.argsort(descending=True, stable=True)[:_TOP]


def _one_gate_variable(group: Group, posterior: StructurePosterior, names: list[str]) -> None:
    """Replace the gates that are spread over sites by one variable with named gates."""
    edges = [edge.name.replace("/", ".") for edge in posterior.family.edges]
    parts = [group.variables.pop(f"arch.{edge}") for edge in edges if f"arch.{edge}" in group.variables]
    for name in list(group.variables):
        if any(name == f"gamma.{edge}" or name.startswith(f"gamma.{edge}.") for edge in edges):
            del group.variables[name]
    if parts and sum(part[1].shape[-1] for part in parts) == len(names):
        joined = torch.cat([torch.as_tensor(part[1]) for part in parts], -1)
        vertices = bool(((joined == 0) | (joined == 1)).all())
        joined = joined.to(torch.int8) if vertices else joined
        group.variables["gate"] = (("chain", "draw", "gate_name"), joined.numpy())


def _table(posterior: StructurePosterior, rank: Tensor) -> Group:
    """One entry per structure."""
    columns: dict[str, Any] = {
        "log_evidence": posterior.log_evidence,
        "standard_error": posterior.standard_error,
        "log_prior": posterior.log_prior,
        "probability": posterior.probability,
    }
    if posterior.draws is None:
        columns["probability_se"] = posterior.probability_se
    variables: dict[str, tuple[tuple[str, ...], Any]] = {
        name: (("structure",), column[rank].numpy()) for name, column in columns.items()
    }
    gates = posterior.gates[rank]
    variables["num_parameters"] = (("structure",), posterior.family.num_parameters(gates).numpy())
    variables["structure_gate"] = (("structure", "gate_name"), gates.to(torch.int8).numpy())
    return Group(variables, {"kind": posterior.kind})
