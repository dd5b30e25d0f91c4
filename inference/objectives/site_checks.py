"""What a particle objective refuses: sites that do not match, are enumerated or rejected, or hold NaN."""

from __future__ import annotations

from typing import Any

import torch
from pyro.distributions import Delta, Distribution, MaskedDistribution, Unit
from pyro.distributions.torch_distribution import ExpandedDistribution
from torch import Tensor

from evidentia.inference.objectives.plates import sample_sites

__all__ = ["base_distribution", "check_data", "check_match", "check_shapes", "check_supported", "is_delta"]

_PLAIN_SCORE = (
    Distribution.score_parts,
    MaskedDistribution.score_parts,
    ExpandedDistribution.score_parts,
)


def base_distribution(fn: Any) -> Any:
    """The distribution under `Independent`, `expand` and `mask`.

    Args:
        fn: a distribution.

    References:
        none; bookkeeping.

    Example:
        >>> import pyro.distributions as dist
        >>> type(base_distribution(dist.Delta(torch.zeros(3)).to_event(1))).__name__
        'Delta'
    """
    while isinstance(fn, MaskedDistribution | ExpandedDistribution | torch.distributions.Independent):
        fn = fn.base_dist
    return fn


def is_delta(fn: Any) -> bool:
    """Whether a distribution is a point mass.

    Args:
        fn: a distribution.

    References:
        none; bookkeeping.
    """
    return isinstance(base_distribution(fn), Delta)


def check_match(model_trace: Any, guide_trace: Any, particle_plates: tuple[str, ...]) -> None:
    """Raise unless model and guide have the same latent sites, in the same plates.

    Args:
        model_trace: trace of the replayed model.
        guide_trace: trace of the guide.
        particle_plates: names of plates to leave out.

    Raises:
        ValueError: a site is on one side only, or lies in different plates.

    References:
        none; a guard.
    """
    model = {s["name"]: s for s in sample_sites(model_trace) if not s["is_observed"]}
    guide = {s["name"]: s for s in sample_sites(guide_trace) if not s["is_observed"]}
    for name, site in model.items():
        if name not in guide:
            enumerated = site["infer"].get("enumerate")
            cause = (
                f"it is marked for enumeration ({enumerated!r}), which needs pyro.infer.TraceEnum_ELBO"
                if enumerated
                else f"give the guide a site '{name}', or observe it with obs="
            )
            raise ValueError(
                f"site '{name}': expected every latent site of the model in the guide, got none there. "
                f"Fix: {cause}"
            )
    for name, site in guide.items():
        if name not in model:
            if site["infer"].get("is_auxiliary"):
                continue
            known = ", ".join(f"'{key}'" for key in model) or "none"
            raise ValueError(
                f"site '{name}': expected a latent site of the model (they are: {known}), got one that only "
                "the guide has. Fix: rename it, or mark it with infer={'is_auxiliary': True}"
            )
        ours = {f.name for f in site["cond_indep_stack"] if f.dim is not None} - set(particle_plates)
        theirs = {f.name for f in model[name]["cond_indep_stack"] if f.dim is not None}
        theirs -= set(particle_plates)
        if ours != theirs:
            raise ValueError(
                f"site '{name}': expected the same plates in model and guide, got {sorted(theirs)} in the "
                f"model and {sorted(ours)} in the guide. Fix: put the guide's site into the model's plates"
            )


def check_supported(guide_trace: Any) -> None:
    """Raise for guide sites whose density or gradient a particle objective cannot form.

    Args:
        guide_trace: trace of the guide.

    Raises:
        ValueError: a factor that does not say whether it is reparameterised.
        NotImplementedError: an enumerated site, or one with a rejection sampler.

    References:
        Naesseth, Ruiz, Linderman and Blei, 2017. Reparameterization gradients through acceptance-rejection
        sampling algorithms (what is refused).
    """
    for site in sample_sites(guide_trace):
        if isinstance(site["fn"], Unit) and "has_rsample" not in site["fn"].__dict__:
            raise ValueError(
                f"site '{site['name']}': expected pyro.factor in a guide to say where it comes from. Fix: "
                "has_rsample=True for the Jacobian of a reparameterised sample, else has_rsample=False"
            )
        if site["is_observed"]:
            continue
        if site["infer"].get("enumerate"):
            raise NotImplementedError(
                f"site '{site['name']}': enumeration ({site['infer']['enumerate']!r}) is not supported by "
                "particle objectives. Fix: pyro.infer.TraceEnum_ELBO, or leave out config_enumerate"
            )
        base = base_distribution(site["fn"])
        if type(base).score_parts not in _PLAIN_SCORE:
            raise NotImplementedError(
                f"site '{site['name']}': the rejection sampler {type(base).__name__} has a gradient of its "
                "own and is not supported. Fix: the distribution with an implicit gradient (Gamma, Beta …), "
                "or pyro.infer.Trace_ELBO"
            )


def check_shapes(model_trace: Any, guide_trace: Any) -> None:
    """Raise unless the two distributions of each latent site agree in shape.

    Args:
        model_trace: trace of the replayed model.
        guide_trace: trace of the guide.

    Raises:
        ValueError: batch or event shapes differ.

    References:
        none; a guard.
    """
    for site in sample_sites(guide_trace):
        other = model_trace.nodes.get(site["name"])
        if site["is_observed"] or other is None:
            continue
        model, guide = other["fn"], site["fn"]
        if model.event_shape != guide.event_shape or not _broadcastable(model.batch_shape, guide.batch_shape):
            raise ValueError(
                f"site '{site['name']}': expected the same shapes in model and guide, got batch "
                f"{tuple(model.batch_shape)}, event {tuple(model.event_shape)} in the model and batch "
                f"{tuple(guide.batch_shape)}, event {tuple(guide.event_shape)} in the guide. "
                "Fix: check sizes and .to_event(...)"
            )


def _broadcastable(first: torch.Size, second: torch.Size) -> bool:
    size = min(len(first), len(second))
    return size == 0 or first[-size:] == second[-size:]


def check_data(model_trace: Any) -> None:
    """Raise when an observed value is NaN where no mask hides it. It reads values: not for captured graphs.

    Args:
        model_trace: trace of the replayed model.

    Raises:
        ValueError: NaN in the data of a site.

    References:
        none; a guard.
    """
    for site in sample_sites(model_trace):
        value, fn = site["value"], site["fn"]
        if not site["is_observed"] or not isinstance(value, Tensor) or not value.is_floating_point():
            continue
        bad = torch.isnan(value)
        if not bool(bad.any()):
            continue
        event = len(fn.event_shape)
        if event:
            bad = bad.flatten(-event).any(-1) if value.dim() >= event else bad.any()
        mask = site["mask"]
        if mask is False:
            continue
        if isinstance(mask, Tensor):
            bad = bad & mask
        count = int(bad.sum())
        if count:
            raise ValueError(
                f"site '{site['name']}': {count} observed value{'s are' if count > 1 else ' is'} NaN. Fix: "
                "drop the rows, or hide them with poutine.mask and fill in any number of the support"
            )
