"""The values of a family's structure sites at its vertices."""

from __future__ import annotations

from torch import Tensor

from evidentia.models.structure.family import Family


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
