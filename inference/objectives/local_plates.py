"""Global latents with local plates: an inner bound for every plate element, given each global sample."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from evidentia.inference.objectives.chain import add_gradients, attach, chain_back, gradients, rescale
from evidentia.inference.objectives.coefficients import Coefficients, coefficients
from evidentia.inference.objectives.cut_checks import check_coupling, check_points
from evidentia.inference.objectives.graph import upstream
from evidentia.inference.objectives.two_levels import TwoLevels, run_two_levels

__all__ = ["local_loss"]


def local_loss(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    names: tuple[str, ...],
    outer: int,
    inner: int,
    gradient: str,
    max_plate_nesting: int,
) -> Tensor:
    r"""Loss of inner bounds in local plates: minus
    \[ \frac1M\sum_m\Big[\log\frac{p(g_m)}{q(g_m)}+c\sum_i\log\frac1K\sum_k w_{ik}(g_m)\Big]. \]

    It is linear in what a minibatch of the local plates scales, so it stays unbiased under subsampling; a
    joint weight over global and local latents would not.

    Args:
        model: a Pyro program.
        guide: a Pyro program.
        args: of both programs.
        kwargs: of both programs.
        names: of the local plates.
        outer: M.
        inner: K.
        gradient: of the inner bound: "total", "stl", "dreg", "vimco" or "loo". The global sites get the total
            derivative, or no explicit part with "stl" and "dreg".
        max_plate_nesting: number of plate dimensions of the pair.

    Returns:
        Scalar, nats for the whole data set.

    Raises:
        ValueError: see `run_two_levels`; a local site without reparameterisation under "dreg".

    References:
        Rainforth et al., 2018. Tighter variational bounds are not necessarily better.
        Aitchison, 2019. Tensor Monte Carlo (another way to use such plates).
    """
    total = gradient in ("total", "vimco", "loo")
    levels = run_two_levels(
        model,
        guide,
        args,
        kwargs,
        names=names,
        outer=outer,
        inner=inner,
        max_plate_nesting=max_plate_nesting,
        cut=not total,
    )
    log_q = levels.log_q_reparam
    if levels.log_q_other is not None:
        log_q = log_q + levels.log_q_other
    # The global samples are one more plate of the inner bound.
    c = coefficients((levels.log_p - log_q).detach().transpose(0, 1), "iwae", gradient)
    if levels.other_sites and c.score_other is None:
        raise ValueError(
            f"site '{levels.other_sites[0]}': expected a reparameterised distribution, which gradient "
            f"{gradient!r} needs, got one without rsample. Fix: gradient='vimco' or gradient='loo'"
        )
    scale = levels.plates.scale
    upper = (levels.global_p - levels.global_q).detach()
    value = -(upper.sum() + scale * c.value.sum()) / outer
    if not torch.is_grad_enabled():
        return value
    if not total:
        return _cut_loss(levels, c, value, outer, gradient)
    a = c.theta.transpose(0, 1)
    inside = a * (levels.log_p - levels.log_q_reparam)
    if levels.score_other is not None and levels.log_q_other is not None and c.score_other is not None:
        inside = inside + c.score_other.transpose(0, 1) * levels.score_other
        inside = inside + a * (levels.score_other - levels.log_q_other)
    surrogate = -((levels.global_p - levels.global_q).sum() + scale * inside.sum()) / outer
    return attach(value, [surrogate], [value.new_ones(())]) if surrogate.requires_grad else value


def _cut_loss(levels: TwoLevels, c: Coefficients, value: Tensor, outer: int, gradient: str) -> Tensor:
    samples = [leaf.leaf for leaf in levels.leaves]
    upper = [leaf.leaf for leaf in levels.global_leaves]
    found, norms = upstream([levels.log_p, levels.global_p])
    theta = [p for p in found if not any(p is sample for sample in (*samples, *upper))]
    check_points(levels.guide_trace, (*samples, *upper), gradient)
    if gradient != "stl":
        check_coupling((*levels.global_leaves, *levels.leaves), norms, levels.log_q_reparam)
    a = c.theta.transpose(0, 1) * (levels.plates.scale / outer)
    even = torch.full_like(levels.global_p.detach(), 1.0 / outer)

    both = gradients(levels.log_p, [*theta, *upper, *samples], a)
    g_theta, g_upper = both[: len(theta)], both[len(theta) : len(theta) + len(upper)]
    g = add_gradients(both[len(theta) + len(upper) :], gradients(levels.log_q_reparam, samples, -a))
    g = chain_back(levels.leaves, g)
    if gradient != "stl" and c.ratio is not None:
        ratio = c.ratio.transpose(0, 1)
        g = [
            None if one is None else rescale(leaf, one, ratio, levels.dims)
            for leaf, one in zip(levels.leaves, g, strict=True)
        ]
    top = gradients(levels.global_p, [*theta, *upper], even)
    g_theta = add_gradients(g_theta, top[: len(theta)])
    g_upper = add_gradients(g_upper, top[len(theta) :])
    g_upper = add_gradients(g_upper, gradients(levels.global_q, upper, -even))
    # For the local guide a global sample is a parameter: what passes to it has the local ratio in it.
    for leaf, one in zip(levels.leaves, g, strict=True):
        if one is not None:
            g_upper = add_gradients(g_upper, gradients(leaf.value, upper, one))
    g_upper = chain_back(levels.global_leaves, g_upper)
    tensors = [*theta, *(leaf.value for leaf in (*levels.global_leaves, *levels.leaves))]
    pairs = [(t, -one) for t, one in zip(tensors, [*g_theta, *g_upper, *g], strict=True) if one is not None]
    return attach(value, [t for t, _ in pairs], [one for _, one in pairs])
