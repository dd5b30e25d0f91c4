"""What the leaf-cut cannot treat: particles that influence each other, point masses with parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pyro.infer.util import is_validation_enabled
from torch import Tensor

from evidentia.inference.objectives.graph import coupling_node, upstream
from evidentia.inference.objectives.leaf_cut import Leaf
from evidentia.inference.objectives.plates import sample_sites
from evidentia.inference.objectives.site_checks import base_distribution, is_delta

__all__ = ["check_coupling", "check_points"]


def check_points(guide_trace: Any, samples: Sequence[Tensor], gradient: str) -> None:
    r"""Raise when a point mass or a factor of the guide depends on more than the guide's samples.

    A site \(\delta(z-T_\phi(u))\) has no density whose score has mean zero: the identity behind "stl",
    "dreg" and wake-sleep does not hold for φ. The total derivative needs none.

    Args:
        guide_trace: of a guide that was cut.
        samples: the leaves.
        gradient: for the message.

    Raises:
        ValueError: naming the site.

    References:
        none; derived.
    """
    for site in sample_sites(guide_trace):
        base: Any = base_distribution(site["fn"])
        if is_delta(site["fn"]):
            parts = [base.v, base.log_density]
        elif site["is_observed"]:
            parts = [getattr(base, "log_factor", None)]
        else:
            continue
        live = [part for part in parts if isinstance(part, Tensor) and part.requires_grad]
        if not live:
            continue
        found, _ = upstream(live)
        if any(not any(one is sample for sample in samples) for one in found):
            raise ValueError(
                f"site '{site['name']}': its {type(base).__name__} depends on the guide's parameters, which "
                f"gradient={gradient!r} cannot separate from the samples. Fix: gradient='total', or draw the "
                "site from a distribution with these parameters"
            )


def check_coupling(leaves: Sequence[Leaf], norms: Sequence[Any], log_q: Tensor) -> None:
    """Raise when batch norm in training mode normalises over the particles.

    Each particle's gradient is scaled by its own factor, which is right only if nothing but its own
    log-weight depends on it.

    Args:
        leaves: the samples.
        norms: batch-norm nodes upstream of log p.
        log_q: of the guide; searched, like later samples, when Pyro's validation is on.

    Raises:
        ValueError: with the ways out.

    References:
        Ioffe and Szegedy, 2015. Batch normalization: accelerating deep network training by reducing internal
        covariate shift (what is refused).
    """
    nodes = list(norms)
    if is_validation_enabled() and len(leaves) > 1:
        nodes += upstream([log_q, *(leaf.value for leaf in leaves[1:])])[1]
    if nodes and coupling_node(nodes, [leaf.leaf for leaf in leaves]) is not None:
        raise ValueError(
            "batch norm in training mode: expected particles that do not influence each other, got a layer "
            "that normalises over them. Fix: module.eval(), LayerNorm, or gradient='total'"
        )
