"""Samples on two levels: M of the global latents and, for each, K of the latents in local plates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, final

import pyro
import torch
from pyro.infer.util import is_validation_enabled
from torch import Tensor

from evidentia.inference.objectives.leaf_cut import Cut, Leaf
from evidentia.inference.objectives.nesting import run_pair
from evidentia.inference.objectives.plates import (
    PARTICLE_PLATE,
    IndependentPlates,
    independent_plates,
    sample_sites,
)
from evidentia.inference.objectives.site_checks import check_data, check_match, check_shapes, check_supported
from evidentia.inference.objectives.site_log_prob import SiteTerm, site_term

__all__ = ["InnerPlate", "TwoLevels", "run_two_levels"]

_INNER = "num_particles_inner"


@final
class InnerPlate(pyro.plate):
    """The plate of the inner particles: it holds only sites that lie in the local plates.

    Args:
        names: of the local plates.
        size: inner particles.
        dim: negative batch dimension.

    References:
        none; bookkeeping.
    """

    def __init__(self, names: tuple[str, ...], size: int, dim: int) -> None:
        super().__init__(_INNER, size, dim=dim)
        self.local = frozenset(names)

    def _process_message(self, msg: Any) -> None:
        # Handlers further in have run: the local plates' frames are in the stack already.
        if any(frame.name in self.local for frame in msg["cond_indep_stack"]):
            super()._process_message(msg)


class TwoLevels(NamedTuple):
    """Log-probabilities of M global samples and K local ones for each, in nats.

    Attributes:
        log_p: of the local sites, (M, K, *plates).
        log_q_reparam: of the guide's local reparameterised sites, (M, K, *plates).
        log_q_other: of its other local sites, (M, K, *plates), or None.
        score_other: as `log_q_other`, without `poutine.scale`, or None.
        global_p: of the global sites, (M,).
        global_q: of the guide's global sites, (M,).
        leaves: local samples.
        global_leaves: global samples.
        plates: the local plates and their scale.
        dims: batch dimensions of (M, K, *plates).
        other_sites: local sites without reparameterisation.
        guide_trace: of the guide.

    References:
        none; bookkeeping.
    """

    log_p: Tensor
    log_q_reparam: Tensor
    log_q_other: Tensor | None
    score_other: Tensor | None
    global_p: Tensor
    global_q: Tensor
    leaves: tuple[Leaf, ...]
    global_leaves: tuple[Leaf, ...]
    plates: IndependentPlates
    dims: tuple[int, ...]
    other_sites: tuple[str, ...]
    guide_trace: Any


def run_two_levels(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    names: tuple[str, ...],
    outer: int,
    inner: int,
    max_plate_nesting: int,
    cut: bool,
) -> TwoLevels:
    """Draw M samples of the sites outside the local plates and M·K of those inside, in one run.

    Args:
        model: a Pyro program.
        guide: a Pyro program.
        args: of both programs.
        kwargs: of both programs.
        names: of the local plates.
        outer: M.
        inner: K.
        max_plate_nesting: number of plate dimensions of the pair.
        cut: cut the guide's samples off its parameters.

    Returns:
        `TwoLevels`.

    Raises:
        ValueError: no site lies in the local plates, a site lies in some of them only, or a site outside
            depends on a sample inside.
        NotImplementedError: a global guide site without reparameterisation.

    References:
        Rainforth et al., 2018. Tighter variational bounds are not necessarily better.
    """
    wide, narrow = -max_plate_nesting - 2, -max_plate_nesting - 1

    def twice(program: Callable[..., Any]) -> Callable[..., Any]:
        return pyro.plate(PARTICLE_PLATE, outer, dim=wide)(InnerPlate(names, inner, narrow)(program))

    scissors = Cut()
    around = scissors if cut and torch.is_grad_enabled() else None
    model_trace, guide_trace = run_pair(twice(model), twice(guide), args, kwargs, source=guide, around=around)
    hidden = (PARTICLE_PLATE, _INNER)
    check_match(model_trace, guide_trace, hidden)
    check_supported(guide_trace)
    if is_validation_enabled():
        check_shapes(model_trace, guide_trace)
        check_data(model_trace)
    local_p, global_p = _split(sample_sites(model_trace), names)
    local_q, global_q = _split(sample_sites(guide_trace), names)
    if not local_p:
        raise ValueError(f"local_plates: no site lies in {names}. Fix: name plates of the model")
    plates = independent_plates(local_p + local_q, hidden)
    dims = (wide, narrow, *plates.dims)
    depth = max_plate_nesting + 2

    def local(sites: Sequence[dict[str, Any]], is_guide: bool) -> list[SiteTerm]:
        return [site_term(site, dims, plates.scale, depth, guide=is_guide) for site in sites]

    def upper(sites: Sequence[dict[str, Any]], is_guide: bool) -> Tensor:
        total = torch.zeros(outer)
        for site in sites:
            term = site_term(site, (wide, narrow), 1.0, depth, guide=is_guide).log_prob
            if term.shape[1] != 1:
                raise ValueError(
                    f"local_plates: site '{site['name']}' lies outside {names} but depends on a sample "
                    "inside, so the plate's elements are not independent. Fix: local_plates='auto'"
                )
            total = total + term[:, 0]
        return total

    for site in global_q:
        if not getattr(site["fn"], "has_rsample", False):
            raise NotImplementedError(
                f"site '{site['name']}': a global site without reparameterisation is not supported with "
                "local_plates. Fix: local_plates='auto'"
            )
    reparam = local([s for s in local_q if getattr(s["fn"], "has_rsample", False)], True)
    other = local([s for s in local_q if not getattr(s["fn"], "has_rsample", False)], True)
    log_p = _sum([t.log_prob for t in local(local_p, False)])
    q_reparam, q_other = _sum([t.log_prob for t in reparam]), _sum([t.log_prob for t in other])
    shape = torch.broadcast_shapes(
        log_p.shape, q_reparam.shape, q_other.shape, (outer, inner, *(1,) * len(plates.dims))
    )
    scales = {term.name: term.scale for term in reparam}
    leaves = [leaf._replace(scale=scales.get(leaf.name, 1.0)) for leaf in scissors.leaves]
    inside = {site["name"] for site in local_q}
    return TwoLevels(
        log_p=log_p.expand(shape),
        log_q_reparam=q_reparam.expand(shape),
        log_q_other=q_other.expand(shape) if other else None,
        score_other=_sum([t.score for t in other]).expand(shape) if other else None,
        global_p=upper(global_p, False),
        global_q=upper(global_q, True),
        leaves=tuple(leaf for leaf in leaves if leaf.name in inside),
        global_leaves=tuple(leaf for leaf in leaves if leaf.name not in inside),
        plates=plates,
        dims=dims,
        other_sites=tuple(term.name for term in other),
        guide_trace=guide_trace,
    )


def _split(
    sites: Sequence[dict[str, Any]], names: tuple[str, ...]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    inside: list[dict[str, Any]] = []
    outside: list[dict[str, Any]] = []
    for site in sites:
        held = [name for name in names if any(f.name == name for f in site["cond_indep_stack"])]
        if held and len(held) < len(names):
            raise ValueError(
                f"local_plates: site '{site['name']}' lies in {held} but not in all of {list(names)}. "
                f"Fix: local_plates={held[0]!r}"
            )
        (inside if held else outside).append(site)
    return inside, outside


def _sum(values: Sequence[Tensor]) -> Tensor:
    total = torch.zeros(())
    for value in values:
        total = total + value
    return total
