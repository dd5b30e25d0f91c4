"""Draws of a network's weights given structures, from the guides that gave the structures' evidence."""

from __future__ import annotations

from typing import Any

import torch
from pyro import poutine
from pyro.distributions import Delta
from torch import Tensor

from evidentia.inference.structure.posterior import StructurePosterior
from evidentia.inference.structure.sites import structure_sites

__all__ = ["lift_noise", "network_weights"]


def network_weights(
    posterior: StructurePosterior, model: Any, x: Tensor, y: Tensor, gates: Tensor, seed: int = 0
) -> dict[str, Tensor]:
    """One draw of every latent site per row of `gates`, weights from the guide of its structure.

    Args:
        posterior: of networks (`enumerate_structures` with evidence other than "exact").
        model: the family's model.
        x: inputs, for their dtype.
        y: not used; the same arguments as `sample_weights`.
        gates: (draws, G), 0 or 1, each a row of `posterior.gates`.
        seed: of the draws.

    Returns:
        Site -> (draws, *shape).

    Raises:
        ValueError: there are no guides.

    References:
        Hoeting, Madigan, Raftery, Volinsky, 1999, Bayesian model averaging: a tutorial.
    """
    network = posterior.network
    advice = "Fix: use evidence='exact', or export one structure and fit it alone"
    if network is None:
        raise ValueError(f"to_idata: this posterior has no draws of the weights. {advice}")
    where = {row.tobytes(): i for i, row in enumerate(network.gates.to(torch.uint8).numpy())}
    rows = torch.tensor([where[row.tobytes()] for row in gates.to(torch.uint8).numpy()])
    loc, scale = network.guide["loc"][rows], network.guide["scale"][rows]
    noise = torch.randn(loc.shape, generator=torch.Generator().manual_seed(seed), dtype=loc.dtype)
    if "scale_tril" in network.guide:
        factor = network.guide["scale_tril"][rows]
        noise = (factor @ noise[..., None])[..., 0]
        # Per weight the spread is that of `scale`, which has the prior's where a weight is dead.
        noise = noise / factor.square().sum(-1).sqrt()
    values = (loc + scale * noise).detach()
    sites = structure_sites(posterior.family, gates)
    start = 0
    for name, shape in model.weight_shapes.items():
        part = values[:, start : start + shape.numel()]
        sites[f"w/{name}"] = part.reshape(len(gates), *shape).to(x.dtype)
        start += shape.numel()
    if values.shape[1] > start:
        sites["noise"] = values[:, start].exp().to(x.dtype)  # a latent noise scale, last in the guide
    elif "noise" in network.hyper:
        sites["noise"] = network.hyper["noise"][rows].detach().to(x.dtype)
    return sites


def lift_noise(posterior: StructurePosterior, model: Any, x: Tensor) -> Any:
    """The model, with a noise scale that was learned per structure turned from a parameter into a site.

    The site's law is the best structure's value, so that draws of the prior use that one.

    References:
        none; bookkeeping.
    """
    network = posterior.network
    if network is None or "noise" not in network.hyper:
        return model
    (row,) = (network.gates == posterior.gates[posterior.map_index].to(network.gates)).all(-1).nonzero()[0]
    best = network.hyper["noise"][row].detach().to(x.dtype)
    return poutine.lift(model, prior={"noise": Delta(best)})
