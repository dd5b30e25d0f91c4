"""The sites of a model: what is latent, how it is unconstrained, and whether the structure is static."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from pyro import distributions as dist
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import biject_to

from evidentia.inference.density.largest import Largest
from evidentia.inference.density.patches import unvalidated
from evidentia.inference.density.structure import Site as Site
from evidentia.inference.density.structure import Structure as Structure

__all__ = ["Site", "Structure", "find_structure", "preserved_random_state"]


class _DrawImproper(Messenger):
    """Gives sites that cannot be drawn from a value in their support."""

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] or msg["value"] is not None or not _is_improper(msg["fn"]):
            return
        transform = biject_to(msg["fn"].support)
        shape = transform.inverse_shape(torch.Size(msg["fn"].shape()))
        msg["value"] = transform(torch.rand(shape) * 2 - 1)
        msg["done"] = True


@contextmanager
def preserved_random_state(seed: int) -> Iterator[None]:
    """Draw from `seed` inside; the caller's random stream is put back.

    References:
        none; bookkeeping.

    Example:
        >>> before = torch.get_rng_state()
        >>> with preserved_random_state(0):
        ...     _ = torch.randn(3)
        >>> torch.equal(before, torch.get_rng_state())
        True
    """
    state = torch.get_rng_state()
    torch.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(state)


def find_structure(
    model: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    seed: int = 0,
    discrete: str = "sum",
    subsampled: str | None = None,
) -> Structure:
    """Run the model from two seeds and read its sites off; refuse what has no static structure.

    Latents are the unobserved sites. Observed sites and factors are likelihood, unless they carry
    `infer={"prior": True}` or are deterministic (a `Delta`).

    Args:
        model: a Pyro model.
        args: its arguments.
        kwargs: its keywords.
        seed: of the first run.
        discrete: "sum" or "given".
        subsampled: the one plate that may be subsampled, or None.

    Raises:
        ValueError: no latent sites; a discrete site that cannot be enumerated; a subsampled plate; a support
            without a bijection; sites, shapes or supports that differ between the two runs.

    References:
        none; bookkeeping.

    Example:
        >>> import pyro
        >>> def model():
        ...     pyro.sample("scale", dist.HalfNormal(1.0))
        >>> find_structure(model, (), {}).sites[0].shape
        ()
    """
    found = [_run(model, args, kwargs, each, discrete, subsampled) for each in (seed, seed + 1)]
    _check_static(*found)
    first = found[0]
    if not first.sites:
        raise ValueError(
            "model: expected a continuous latent site, found none. "
            "Fix: leave `obs` away at some sample statement"
        )
    return first


def _run(
    model: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    seed: int,
    discrete: str,
    subsampled: str | None,
) -> Structure:
    seen = Largest()
    with preserved_random_state(seed), torch.no_grad(), unvalidated(), poutine.block(), _DrawImproper(), seen:
        trace: Any = poutine.trace(model).get_trace(*args, **kwargs)
    sites: list[Site] = []
    shapes: dict[str, tuple[int, ...]] = {}
    dtypes: dict[str, torch.dtype] = {}
    prior: list[str] = []
    likelihood: list[str] = []
    improper: list[str] = []
    supports: dict[str, tuple[Tensor, ...]] = {}
    nesting = 0
    for name, node in trace.nodes.items():
        if node["type"] != "sample":
            continue
        law: Any = node["fn"]
        if type(law).__name__ == "_Subsample":
            _check_plate(name, law, subsampled)
            if name == subsampled:  # its rows are inputs, as given discrete sites are
                shapes[name], dtypes[name] = tuple(node["value"].shape), node["value"].dtype
            continue
        frames = [frame for frame in node["cond_indep_stack"] if frame.vectorized]
        nesting = max([nesting, *(-frame.dim for frame in frames)])
        if node["is_observed"]:
            _check_observed(name, law, node)
            own = bool((node["infer"] or {}).get("prior", False)) or isinstance(_base(law), dist.Delta)
            (prior if own else likelihood).append(name)
        elif _is_discrete(law):
            if discrete == "sum" and not law.has_enumerate_support:
                raise ValueError(
                    f"site {name!r}: {type(_base(law)).__name__} is discrete and cannot be enumerated. "
                    'Fix: compile_density(..., discrete="given"), and sample it by Gibbs steps'
                )
            shapes[name] = tuple(node["value"].shape)
            dtypes[name] = node["value"].dtype
        else:
            transform = _bijection(name, law)
            value = node["value"]
            # `inverse_shape` would do, but it loads sympy, which takes half a second.
            free = tuple(transform.inv(value).shape)
            plates = tuple(frame.name for frame in frames)
            sites.append(Site(name, tuple(value.shape), math.prod(free), transform, plates, free))
            supports[name] = _bounds(law.support)
            if _is_improper(law) or _is_masked(node["mask"]):
                improper.append(name)
    return Structure(
        tuple(sites),
        shapes,
        dtypes,
        discrete == "sum",
        tuple(prior),
        tuple(likelihood),
        tuple(improper),
        nesting,
        supports,
        seen.numbers,
    )


def _check_observed(name: str, law: Any, node: Any) -> None:
    """Refuse data outside a support that no latent moves; masked values are not looked at."""
    value, support = node["value"], law.support
    if not isinstance(value, Tensor) or value.numel() == 0 or _bounds(support):
        return
    inside = support.check(value)
    if isinstance(node["mask"], Tensor):
        inside = inside | ~node["mask"].expand(inside.shape)
    if node["mask"] is False or bool(inside.all()):
        return
    outside = value.expand(inside.shape + value.shape[inside.dim() :])[~inside]
    raise ValueError(
        f"site {name!r}: {len(outside)} of {inside.numel()} observed values are outside the support of "
        f"{type(_base(law)).__name__}, the first is {outside[0].tolist()}. Fix: correct the data, or observe "
        "them under another distribution"
    )


def _check_plate(name: str, law: Any, subsampled: str | None) -> None:
    if law.subsample_size is not None and law.subsample_size < law.size and name != subsampled:
        raise ValueError(
            f"plate {name!r}: {law.subsample_size} of {law.size} rows are drawn at random, so the density is "
            "noisy. Fix: leave subsample_size away, or use MinibatchDensity"
        )


def _bijection(name: str, law: Any) -> Any:
    try:
        return biject_to(law.support)
    except NotImplementedError as error:
        raise ValueError(
            f"site {name!r}: the support of {type(_base(law)).__name__} has no bijection to unconstrained "
            "space. Fix: write it through one that has (LKJCholesky and scales in place of Wishart)"
        ) from error


def _check_static(one: Structure, two: Structure) -> None:
    for what, left, right in (
        ("latent", {s.name: s.shape for s in one.sites}, {s.name: s.shape for s in two.sites}),
        ("discrete", one.discrete, two.discrete),
        ("observed", one.prior + one.likelihood, two.prior + two.likelihood),
    ):
        if left != right:
            differ = sorted(set(left) ^ set(right)) or sorted(
                name
                for name in left
                if isinstance(left, dict) and left[name] != right[name]  # type: ignore[call-overload]
            )
            raise ValueError(
                f"sites {differ}: {what} sites or their shapes differ between two runs, so the structure "
                "depends on draws. Fix: write the choice as a discrete site that is enumerated, or fit each "
                "structure by itself"
            )
    moved = differing_supports(one, two)
    if moved:
        raise ValueError(
            f"sites {moved}: the support depends on another latent. Fix: sample on a fixed support and scale "
            "(a * Uniform(0, 1) in place of Uniform(0, a))"
        )


def differing_supports(one: Structure, two: Structure) -> list[str]:
    """Names of latents whose supports have other bounds."""
    return [
        name
        for name, bounds in one.supports.items()
        if len(bounds) != len(two.supports[name])
        or any(not torch.equal(a, b) for a, b in zip(bounds, two.supports[name], strict=True))
    ]


def _bounds(support: Any) -> tuple[Tensor, ...]:
    """The tensors that bound a support, through the constraints it is made of."""
    found = []
    for value in vars(support).values():
        if isinstance(value, Tensor):
            found.append(value)
        elif hasattr(value, "check"):
            found += _bounds(value)
    return tuple(found)


def _base(law: Any) -> Any:
    while hasattr(law, "base_dist") and isinstance(law, dist.Independent | dist.MaskedDistribution):
        law = law.base_dist
    return getattr(law, "base_dist", law) if type(law).__name__ == "ExpandedDistribution" else law


def _is_improper(law: Any) -> bool:
    return isinstance(_base(law), dist.ImproperUniform)


def _is_discrete(law: Any) -> bool:
    return bool(getattr(law.support, "is_discrete", False))


def _is_masked(mask: Any) -> bool:
    return mask is not None and mask is not True and (mask is False or not bool(torch.as_tensor(mask).all()))
