"""The values of a family's structure sites at its vertices."""

from __future__ import annotations

import torch
from torch import Tensor

from evidentia.models.structure.family import Family


def prior_vertices(family: Family, num_draws: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Draws of the relaxed structure sites from the prior masses of the vertices; empty without such edges.

    The program draws interior gates there. A posterior over vertices belongs to the prior `log_mass`, under
    which the gates of a relaxed cube are independent.

    References:
        Maddison, Mnih, Teh, 2017, The Concrete distribution.

    Example:
        >>> from evidentia.models.structure.ops import Constant, GLM
        >>> family = Family(1).edge("x", "f", ops={"a": Constant(), "b": GLM()}, domain="simplex")
        >>> prior_vertices(family, 2, torch.Generator().manual_seed(0))["gamma/x->f"].exp()
        tensor([[1., 0.],
                [0., 1.]], dtype=torch.float64)
    """
    parts, relaxed = [], []
    for edge in family.edges:
        count = len(edge.ops)
        one = torch.eye(count, dtype=torch.float64)
        uniform = torch.rand(num_draws, count, dtype=torch.float64, generator=generator)
        if edge.domain.is_cube:
            odds = edge.prior.vertex_log_mass(one) - edge.prior.vertex_log_mass(torch.zeros_like(one))
            parts.append((uniform.logit() < odds).double())
        else:
            best = (edge.prior.log_mass(one) - (-uniform.log()).log()).argmax(-1)
            parts.append(one[best])
        if not edge.domain.name.endswith("vertex"):
            relaxed.append(f"gamma/{edge.name}")
    sites = structure_sites(family, torch.cat(parts, -1))
    return {name: sites[name] for name in relaxed}


def structure_sites(family: Family, gates: Tensor) -> dict[str, Tensor]:
    """The structure sites of the family's model at vertices: indices, one bit per operation, log or logit
    gates.

    References:
        Maddison, Mnih, Teh, 2017, The Concrete distribution.
    """
    sites: dict[str, Tensor] = {}
    start = 0
    for edge in family.edges:
        part = gates[:, start : start + len(edge.ops)]
        start += len(edge.ops)
        vertex = edge.domain.name.endswith("vertex")
        if edge.domain.is_cube and vertex:
            sites |= {f"gamma/{edge.name}/{op}": part[:, i] for i, op in enumerate(edge.ops)}
        elif edge.domain.is_cube:
            sites[f"gamma/{edge.name}"] = part.logit()
        else:
            sites[f"gamma/{edge.name}"] = part.argmax(-1) if vertex else part.log()
    return sites
