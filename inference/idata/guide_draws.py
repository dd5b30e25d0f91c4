"""Draws of a guide with both log densities, so that the guide can be judged from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import pyro
import torch
from pyro import poutine
from torch import Tensor

from evidentia.inference.idata.draw_layout import ModelSites
from evidentia.inference.idata.log_likelihood import shaped

__all__ = ["GuideDraws", "guide_draws"]


class GuideDraws(NamedTuple):
    r"""Draws \(\theta_s \sim q\).

    Attributes:
        samples: site -> (draw, *shape of one run), constrained values of the model's latents.
        log_joint: (draw,) float64, \(\log p(\theta_s, y)\) in nats for the whole data set, constrained space.
        log_guide: (draw,) float64, \(\log q(\theta_s)\) in nats, same space. Their difference is the log
            weight.

    References:
        Yao, Vehtari, Simpson, Gelman, 2018, Yes, but did it work? Evaluating variational inference.
    """

    samples: dict[str, Tensor]
    log_joint: Tensor
    log_guide: Tensor


def guide_draws(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    sites: ModelSites,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    num_draws: int = 1000,
) -> GuideDraws:
    """Draw from a guide, all at once where guide and model allow it, else one by one.

    Args:
        model: a Pyro model.
        guide: its guide, with trained parameters in the store or in its modules.
        sites: what `inspect_model` found with the same arguments.
        args: arguments of both.
        kwargs: keywords of both.
        num_draws: number of draws.

    Returns:
        The draws in the shapes of one run: singleton dimensions of plates are gone.

    Raises:
        ValueError: the guide lacks a latent site of the model.

    References:
        Bingham, Chen, Jankowiak et al., 2019, Pyro: Deep universal probabilistic programming.
    """
    options = dict(kwargs or {})
    first = _traces(model, guide, args, options)
    wanted = list(sites.of("latent"))
    lacking = [name for name in wanted if name not in first[0].nodes]
    if lacking:
        raise ValueError(
            f"guide: it has no site {lacking}, which the model draws. Fix: give the guide these sites"
        )
    state = torch.get_rng_state()
    try:
        # Two draws first: a wrong broadcast of all of them may not fit the memory.
        _check(_vectorised(model, guide, sites, wanted, args, options, 2), model, args, options)
        torch.set_rng_state(state)
        result = _vectorised(model, guide, sites, wanted, args, options, num_draws)
        _check(result, model, args, options)
        return result
    except Exception:
        # A program that was not written for many draws at once; one at a time it must work.
        torch.set_rng_state(state)
    rows: list[tuple[dict[str, Tensor], Tensor, Tensor]] = []
    for _ in range(num_draws):
        guide_trace, model_trace = _traces(model, guide, args, options)
        values = {name: guide_trace.nodes[name]["value"] for name in wanted}
        rows.append((values, _sum(model_trace).double(), _sum(guide_trace).double()))
    return GuideDraws(
        {name: torch.stack([row[0][name] for row in rows]) for name in wanted},
        torch.stack([row[1] for row in rows]),
        torch.stack([row[2] for row in rows]),
    )


def _traces(model: Callable[..., Any], guide: Callable[..., Any], args: Any, kwargs: Any) -> tuple[Any, Any]:
    with torch.no_grad(), pyro.validation_enabled(False):
        guide_trace = poutine.trace(guide).get_trace(*args, **kwargs)
        model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(*args, **kwargs)
    return guide_trace, model_trace


def _sum(trace: Any) -> Tensor:
    with torch.no_grad(), pyro.validation_enabled(False):
        return torch.as_tensor(trace.log_prob_sum())


def _vectorised(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    sites: ModelSites,
    wanted: list[str],
    args: Any,
    kwargs: Any,
    count: int,
) -> GuideDraws:
    """All draws in one run, inside a plate to the left of all others; raises when a shape is wrong."""
    nesting = sites.nesting

    def inside(program: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            with pyro.plate("_draws", count, dim=-1 - nesting):
                return program(*args, **kwargs)

        return run

    guide_trace, model_trace = _traces(inside(model), inside(guide), args, kwargs)
    samples = {
        name: shaped(guide_trace.nodes[name]["value"], (count, *sites.sites[name].shape), name)
        for name in wanted
    }
    return GuideDraws(samples, _per_draw(model_trace, count, nesting), _per_draw(guide_trace, count, nesting))


def _per_draw(trace: Any, count: int, nesting: int) -> Tensor:
    """Sum the log densities of a trace over everything but the draws."""
    with torch.no_grad(), pyro.validation_enabled(False):
        trace.compute_log_prob()
    total = torch.zeros(count, dtype=torch.float64)
    for name, node in trace.nodes.items():
        if node["type"] != "sample" or type(node["fn"]).__name__ == "_Subsample":
            continue
        value = torch.as_tensor(node["log_prob"]).double()
        if value.dim() < nesting + 1 or value.shape[-1 - nesting] != count or value.dim() > nesting + 1:
            raise ValueError(f"log density of '{name}' has shape {tuple(value.shape)}")
        total = total + value.reshape(count, -1).sum(-1)
    return total


def _check(result: GuideDraws, model: Callable[..., Any], args: Any, kwargs: Any) -> None:
    """Compare the first and the last draw's log joint with runs of their own."""
    for draw in (0, len(result.log_joint) - 1):
        single = {name: value[draw] for name, value in result.samples.items()}
        with torch.no_grad(), pyro.validation_enabled(False):
            alone = poutine.trace(poutine.condition(model, data=single)).get_trace(*args, **kwargs)
        expected = _sum(alone).double()
        if not torch.allclose(result.log_joint[draw], expected, rtol=1e-3, atol=1e-3, equal_nan=True):
            raise ValueError("log joint differs from that of a single draw")
