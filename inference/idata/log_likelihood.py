"""One log likelihood per draw and datum: vectorised, checked, with a loop behind it; never silently empty."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import pyro
import torch
from pyro import poutine
from torch import Tensor

from evidentia.inference.density.map_rows import map_rows
from evidentia.inference.idata.draw_layout import Layout, ModelSites, inspect_model, lay_out, plate_of_draws

__all__ = ["PointwiseLogLikelihood", "log_likelihood", "pointwise_log_likelihood", "pointwise_log_prob"]

_LOG = logging.getLogger("evidentia")
_ELEMENTS = 2**24  # log likelihood values computed at once


class PointwiseLogLikelihood(NamedTuple):
    """Log likelihoods by observed site, and the layout of draws in which the model gave them.

    References:
        none; bookkeeping.
    """

    values: dict[str, Tensor]
    layout: Layout


def log_likelihood(
    model: Callable[..., Any],
    draws: Mapping[str, Tensor],
    *args: Any,
    obs: str | Sequence[str] | None = None,
    notice: Callable[[str], object] | None = None,
    **kwargs: Any,
) -> dict[str, Tensor]:
    r"""\(\log p(y_i \mid \theta_s)\) for every draw s and datum i.

    Tried over all draws at once, in two layouts and then by vmap (`X @ b`); the shape is checked against one
    run of the model and the first and the last draw against runs of their own. A model that branches on its
    draws is run draw by draw, which one notice reports. Latents that the draws lack are an error where they
    are continuous.

    Args:
        model: a Pyro model that observes data.
        draws: site -> (draw, *shape of one run), constrained values.
        args: the model's arguments, data included, as are further keywords.
        obs: names of observed sites; all of them when None.
        notice: called with the notice; a warning of the logger "evidentia" when None.
        kwargs: keywords of the model.

    Returns:
        Site -> (draw, *batch shape of the observation), float64, nats per datum.

    Raises:
        ValueError: no observed site, an unknown one, a latent without draws, or a model that fails for
        single draws.

    References:
        Vehtari, Gelman, Gabry, 2017, Practical Bayesian model evaluation using leave-one-out
        cross-validation.

    Example:
        >>> from pyro.distributions import Normal
        >>> def model(y):
        ...     mean = pyro.sample("mean", Normal(0.0, 1.0))
        ...     with pyro.plate("data", len(y)):
        ...         pyro.sample("obs", Normal(mean, 1.0), obs=y)
        >>> log_likelihood(model, {"mean": torch.zeros(4)}, torch.zeros(3))["obs"].shape
        torch.Size([4, 3])
    """
    try:
        sites = inspect_model(model, args, kwargs, {name: value[0] for name, value in draws.items()})
    except Exception as error:
        shapes = {name: tuple(value.shape[1:]) for name, value in draws.items()}
        raise ValueError(
            f"log_likelihood of '{obs or 'all observed sites'}': the model fails for draw 0 alone "
            f"({type(error).__name__}: {error}). Shapes of the draw: {shapes}"
        ) from error
    return pointwise_log_likelihood(model, draws, sites, args, kwargs, obs=obs, notice=notice).values


def pointwise_log_likelihood(
    model: Callable[..., Any],
    draws: Mapping[str, Tensor],
    sites: ModelSites,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    *,
    obs: str | Sequence[str] | None = None,
    notice: Callable[[str], object] | None = None,
) -> PointwiseLogLikelihood:
    """`log_likelihood` for a model whose sites are known already; also returns the layout that worked.

    References:
        none; see `log_likelihood`.
    """
    return pointwise_log_prob(model, draws, sites, args, kwargs, observed_names(sites, obs), notice)


def pointwise_log_prob(
    model: Callable[..., Any],
    draws: Mapping[str, Tensor],
    sites: ModelSites,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    names: Sequence[str],
    notice: Callable[[str], object] | None = None,
) -> PointwiseLogLikelihood:
    """Log densities of any sites given the draws: of observed ones the likelihood, of latents the prior.

    References:
        none; see `log_likelihood`.
    """
    missing = [name for name in sites.of("latent") if name not in draws]
    if missing:
        raise ValueError(
            f"log_likelihood of '{names[0]}': no draws of the latent sites {missing}. Fix: pass draws of "
            "every latent site, local ones included"
        )
    used = {name: value for name, value in draws.items() if name in sites.of("latent")}
    if not used:
        raise ValueError(f"log_likelihood of '{names[0]}': no draws of a latent site of the model were given")
    count = len(next(iter(used.values())))
    probe = sorted({0, count - 1})
    alone = _loop({name: value[probe] for name, value in used.items()}, model, names, args, kwargs)
    why = ""
    layouts: tuple[Layout, ...] = ("plates", "compact")
    for layout in layouts:
        try:
            # Two draws first: a wrong broadcast of all of them may not fit the memory.
            _vectorised(
                {k: v[probe] for k, v in used.items()}, model, names, sites, layout, args, kwargs, alone
            )
            values = _vectorised(used, model, names, sites, layout, args, kwargs, alone)
        except Exception as error:
            # Whatever a model does with draws it was not written for, the loop below decides whether it is
            # at fault.
            why = why or f"{type(error).__name__}: {error}".splitlines()[0]
            continue
        return PointwiseLogLikelihood(values, layout)
    try:
        return PointwiseLogLikelihood(_mapped(used, model, names, args, kwargs, alone), "mapped")
    except Exception as error:
        why = f"{why}; {type(error).__name__}: {error}".splitlines()[0]
    message = (
        f"log_likelihood of '{', '.join(names)}': the model does not vectorise over draws ({why}), "
        f"so it is run {count} times. To make it faster avoid branches on the values of latents."
    )
    (notice or _LOG.warning)(message)
    return PointwiseLogLikelihood(_loop(used, model, names, args, kwargs), "loop")


def observed_names(sites: ModelSites, obs: str | Sequence[str] | None) -> list[str]:
    """The observed sites asked for.

    Raises:
        ValueError: there is none, or one of the names is not observed.

    References:
        none; bookkeeping.
    """
    there = list(sites.of("observed"))
    names = there if obs is None else [obs] if isinstance(obs, str) else list(obs)
    wrong = [name for name in names if name not in there]
    if wrong or not names:
        raise ValueError(
            f"obs: {wrong or 'nothing'} is not observed by the model; its observed sites are {there}. "
            "Fix: pass the data to the model, and name one of these"
        )
    return names


def _pointwise(model: Callable[..., Any], names: Sequence[str], args: Any, kwargs: Any) -> dict[str, Tensor]:
    """Log densities of the observed sites in one run, masks applied, scales not."""
    with torch.no_grad(), pyro.validation_enabled(False):
        trace = poutine.trace(model).get_trace(*args, **kwargs)
        values = {}
        for name in names:
            node: Any = trace.nodes[name]
            log_prob = node["fn"].log_prob(node["value"], *node["args"], **node["kwargs"])
            if isinstance(node["mask"], Tensor):
                log_prob = torch.where(node["mask"], log_prob, 0.0)
            values[name] = log_prob.double()
        return values


def _loop(
    draws: Mapping[str, Tensor], model: Callable[..., Any], names: Sequence[str], args: Any, kwargs: Any
) -> dict[str, Tensor]:
    """One run of the model per draw."""
    rows: dict[str, list[Tensor]] = {name: [] for name in names}
    count = len(next(iter(draws.values())))
    for draw in range(count):
        single = {name: value[draw] for name, value in draws.items()}
        try:
            values = _pointwise(poutine.condition(model, data=single), names, args, kwargs)
        except Exception as error:
            shapes = {name: tuple(value.shape) for name, value in single.items()}
            raise ValueError(
                f"log_likelihood of '{', '.join(names)}': the model fails for draw {draw} alone "
                f"({type(error).__name__}: {error}). Shapes of the draw: {shapes}"
            ) from error
        for name in names:
            rows[name].append(values[name])
    return {name: torch.stack(values) for name, values in rows.items()}


def _vectorised(
    draws: Mapping[str, Tensor],
    model: Callable[..., Any],
    names: Sequence[str],
    sites: ModelSites,
    layout: Layout,
    args: Any,
    kwargs: Any,
    alone: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    """All draws at once, in chunks that fit the memory; raises when a shape or a value is wrong."""
    count, chunk = len(next(iter(draws.values()))), _chunk(alone)
    rows: dict[str, list[Tensor]] = {name: [] for name in names}
    for start in range(0, count, chunk):
        part = {name: value[start : start + chunk] for name, value in draws.items()}
        here = len(next(iter(part.values())))
        conditioned = poutine.condition(model, data=lay_out(part, sites, layout))
        with plate_of_draws(sites, here, layout):
            values = _pointwise(conditioned, names, args, kwargs)
        for name in names:
            rows[name].append(shaped(values[name], (here, *alone[name].shape[1:]), name))
    return _same_as(alone, {name: torch.cat(parts) for name, parts in rows.items()})


def _mapped(
    draws: Mapping[str, Tensor],
    model: Callable[..., Any],
    names: Sequence[str],
    args: Any,
    kwargs: Any,
    alone: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    """All draws at once for a program written for one; raises when it cannot be mapped."""
    count = len(next(iter(draws.values())))

    def run(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return _pointwise(poutine.condition(model, data=dict(values)), names, args, kwargs)

    return _same_as(alone, map_rows(run, draws, count, _chunk(alone)))


def _chunk(alone: Mapping[str, Tensor]) -> int:
    """Draws at a time."""
    return max(1, _ELEMENTS // max(1, sum(value[0].numel() for value in alone.values())))


def _same_as(alone: Mapping[str, Tensor], values: dict[str, Tensor]) -> dict[str, Tensor]:
    """`values`, if their first and last draw are those of single runs."""
    for name, single in alone.items():
        ends = values[name][sorted({0, len(values[name]) - 1})]
        if not torch.allclose(ends, single, rtol=1e-3, atol=1e-3, equal_nan=True):
            raise ValueError(f"values of '{name}' differ from those of single draws")
    return values


def shaped(value: Tensor, shape: tuple[int, ...], name: str) -> Tensor:
    """Drop the singleton dimensions of plates, and refuse any other difference of shape.

    References:
        none; bookkeeping.

    Example:
        >>> shaped(torch.zeros(4, 1, 3), (4, 3), "obs").shape
        torch.Size([4, 3])
    """
    got = [size for size in value.shape if size != 1]
    if got != [size for size in shape if size != 1]:
        raise ValueError(f"'{name}' has shape {tuple(value.shape)}, expected {shape}")
    return value.reshape(shape)
