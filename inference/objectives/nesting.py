"""How many plate dimensions a pair uses: the particles' plate goes to the left of them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from pyro import poutine
from pyro.infer.util import is_validation_enabled
from pyro.poutine.messenger import Messenger
from pyro.util import check_site_shape

from evidentia.inference.objectives.plates import sample_sites

__all__ = ["guess_max_plate_nesting", "run_pair"]


def run_pair(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    source: Any = None,
    around: AbstractContextManager[Any] | None = None,
) -> tuple[Any, Any]:
    """Run the guide, then the model on its values: `(model_trace, guide_trace)`.

    Args:
        model: a Pyro program.
        guide: a Pyro program, or a `GuideMessenger` such as `AutoNormalMessenger`, which runs the model
            itself.
        args: of both programs.
        kwargs: of both programs.
        source: the guide without wrappers, when `guide` is wrapped in a plate.
        around: entered outside the guide's trace, and left before the model runs.

    References:
        Bingham, Chen, Jankowiak et al., 2019. Pyro: Deep universal probabilistic programming.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> def program():
        ...     return pyro.sample("z", dist.Normal(0.0, 1.0))
        >>> model_trace, guide_trace = run_pair(program, program, (), {})
        >>> bool(model_trace.nodes["z"]["value"] == guide_trace.nodes["z"]["value"])
        True
    """
    messenger = poutine.unwrap(guide if source is None else source)
    around = nullcontext() if around is None else around
    if isinstance(messenger, Messenger):
        with around:
            guide(*args, **kwargs)
        # The messenger traces both programs in one run; its model trace has the priors in place.
        return messenger.get_traces()  # type: ignore[attr-defined]
    with around:
        guide_trace = poutine.trace(guide).get_trace(*args, **kwargs)
    model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(*args, **kwargs)
    return model_trace, guide_trace


def guess_max_plate_nesting(
    model: Callable[..., Any], guide: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> int:
    """The largest number of plate dimensions, found by running the pair once without particles.

    Args:
        model: a Pyro program of static structure.
        guide: a Pyro program of static structure.
        args: of both programs.
        kwargs: of both programs.

    Raises:
        ValueError: a site's shape does not fit its plates (with Pyro's validation on).

    References:
        none; bookkeeping.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> def program():
        ...     with pyro.plate("rows", 3, dim=-2):
        ...         pyro.sample("z", dist.Normal(0.0, 1.0))
        >>> guess_max_plate_nesting(program, program, (), {})
        2
    """
    with poutine.block():
        model_trace, guide_trace = run_pair(model, guide, args, kwargs)
    sites = sample_sites(guide_trace) + sample_sites(model_trace)
    if is_validation_enabled():
        # Once particles are there, extra dimensions on the left can no longer be told from theirs.
        for site in sites:
            site["log_prob"] = site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"])
            check_site_shape(site, float("inf"))  # type: ignore[arg-type]
    dims = [frame.dim for site in sites for frame in site["cond_indep_stack"] if frame.dim is not None]
    return -min(dims) if dims else 0
