"""One run of the model on rows of discrete values, with the guide's log-probability of each row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer.util import is_validation_enabled
from torch import Tensor

from evidentia.inference.objectives.discrete_sites import Block, linear_extension
from evidentia.inference.objectives.plates import (
    PARTICLE_PLATE,
    IndependentPlates,
    independent_plates,
    sample_sites,
)
from evidentia.inference.objectives.site_checks import check_data, check_match
from evidentia.inference.objectives.site_log_prob import site_term

__all__ = ["evaluate_rows"]


def evaluate_rows(
    model: Any,
    guide_trace: Any,
    blocks: Sequence[Block],
    rows: Sequence[Tensor],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    nesting: int,
    soft: bool,
) -> tuple[Tensor, Tensor, IndependentPlates]:
    r"""\(\log p(x,z)\) and \(\log q(z)\) of all rows in one run of the model.

    Args:
        model: a Pyro program.
        guide_trace: of one run without particles; its subsamples are used again.
        blocks: its latent sites.
        rows: for each block (S, *plates, W[, C]).
        args: of the program.
        kwargs: of the program.
        nesting: number of plate dimensions of the pair.
        soft: rows are not at vertices, or carry a derivative: use the linear extension in the model too.

    Returns:
        log p (S, *plates), log q (S, *plates) with the logits cut off, and the independent plates; the
        plates' scale is divided out. Nats.

    Raises:
        ValueError: model and guide do not match.
        NotImplementedError: soft values for a law of the model that has no linear extension.

    References:
        none; bookkeeping.
    """
    size = rows[0].shape[0]
    trace = guide_trace.copy()
    for block, values in zip(blocks, rows, strict=True):
        trace.nodes[block.name] = {**guide_trace.nodes[block.name], "value": block.site_value(values)}
    vectorised = pyro.plate(PARTICLE_PLATE, size, dim=-nesting - 1)(model)
    model_trace = poutine.trace(poutine.replay(vectorised, trace=trace)).get_trace(*args, **kwargs)
    check_match(model_trace, trace, (PARTICLE_PLATE,))
    if is_validation_enabled():
        check_data(model_trace)
    model_sites, guide_sites = sample_sites(model_trace), sample_sites(trace)
    plates = independent_plates(model_sites + guide_sites, multi_sample=False)
    dims = (-nesting - 1, *plates.dims)
    names = {block.name for block in blocks}
    particles = [f for f in model_sites[0]["cond_indep_stack"] if f.name == PARTICLE_PLATE]
    log_p: Tensor | float = 0.0
    for site in model_sites:
        if soft and site["name"] in names:
            site = {**site, "fn": linear_extension(site["fn"], site["name"])}
        log_p = log_p + site_term(site, dims, plates.scale, nesting + 1).log_prob
    log_q: Tensor | float = 0.0
    for site in guide_sites:
        if site["name"] in names:
            law = linear_extension(site["fn"], site["name"], detach=True)
            stack = (*site["cond_indep_stack"], *particles)  # the guide ran without them
            site = {**site, "fn": law, "cond_indep_stack": stack}
            log_q = log_q + site_term(site, dims, plates.scale, nesting + 1, guide=True).log_prob
    shape = (size, *(frame.size for frame in plates.frames))
    return torch.as_tensor(log_p).expand(shape), torch.as_tensor(log_q).expand(shape), plates
