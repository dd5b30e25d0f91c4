"""The log-probability of one site, with mask and scale, reduced to particles and independent plates."""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import torch
from pyro.distributions.util import scale_and_mask
from pyro.infer.util import is_validation_enabled
from pyro.util import check_site_shape
from torch import Tensor

from evidentia.inference.objectives.plates import reduce_to

__all__ = ["SiteTerm", "site_term"]

_NO_INVERSE = "its transform has no inverse in closed form"


class SiteTerm(NamedTuple):
    """One site's contribution to a log-weight.

    Attributes:
        name: of the site.
        log_prob: masked and scaled, the plates' scale divided out, (K, *plates), nats.
        score: masked but not scaled: the density that the value was drawn from. The same tensor as
            `log_prob` when there is no scale.
        scale: what `poutine.scale` (or a subsampled plate that is not common) multiplied in.

    References:
        none; bookkeeping.
    """

    name: str
    log_prob: Tensor
    score: Tensor
    scale: Tensor | float


def site_term(
    site: dict[str, Any],
    dims: tuple[int, ...],
    plate_scale: float,
    max_plate_nesting: float,
    *,
    guide: bool = False,
) -> SiteTerm:
    """Evaluate a site at its recorded value and reduce it.

    Args:
        site: of a trace.
        dims: batch dimensions to keep, ascending.
        plate_scale: the scale of the independent plates, taken out here.
        max_plate_nesting: number of batch dimensions, the particles' included.
        guide: the site is the guide's, so a missing inverse is explained.

    Returns:
        `SiteTerm`, one dimension for each of `dims`.

    Raises:
        ValueError: more batch dimensions than there are plates; a density that cannot be evaluated at a value
            cut off its transform; a value that the distribution refuses.

    References:
        none; bookkeeping.
    """
    raw = _log_prob(site, guide)
    if raw.dim() > max_plate_nesting:
        raise ValueError(
            f"site '{site['name']}': expected at most {max_plate_nesting} batch dimensions (plates and "
            f"particles), got a log-probability of shape {tuple(raw.shape)}, which pairs particles with each "
            "other. Fix: index from the right (value[..., i], sum(-1)) so that particles can be added on the "
            "left, or vectorize_particles=False"
        )
    if is_validation_enabled():
        site["log_prob"] = raw
        check_site_shape(site, max_plate_nesting)  # type: ignore[arg-type]
        _warn_nan(site, raw)
    mask, scale = site["mask"], site["scale"]
    # No tensor is compared: the scale may be a tensor that an annealing schedule changes.
    plain = isinstance(scale, float | int) and scale == plate_scale
    scale = 1.0 if plain else scale / plate_scale
    masked = raw if mask is None else scale_and_mask(raw, mask=mask)
    if not isinstance(masked, Tensor):  # scale_and_mask returns a number for mask=False
        masked = torch.zeros_like(raw)
    if isinstance(scale, float | int) and scale == 1.0:
        reduced = reduce_to(masked, dims)
        return SiteTerm(site["name"], reduced, reduced, 1.0)
    return SiteTerm(site["name"], reduce_to(masked * scale, dims), reduce_to(masked, dims), scale)


def _log_prob(site: dict[str, Any], guide: bool) -> Tensor:
    try:
        return site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"])
    except (KeyError, NotImplementedError) as error:
        if guide and getattr(site["fn"], "transforms", None) is not None:
            kinds = ", ".join(type(part).__name__ for part in site["fn"].transforms)
            raise ValueError(
                f"site '{site['name']}': the density cannot be evaluated at a value cut off the flow "
                f"({kinds}), because {_NO_INVERSE}. Fix: gradient='total', which needs no inverse, or an "
                "invertible flow (affine coupling, affine autoregressive, spline)"
            ) from error
        raise
    except ValueError as error:
        raise ValueError(f"site '{site['name']}': the log-probability cannot be computed: {error}") from error


def _warn_nan(site: dict[str, Any], log_prob: Tensor) -> None:
    if bool(torch.isnan(log_prob).any()):
        warnings.warn(f"Encountered NaN: log-probability of site '{site['name']}'", UserWarning, stacklevel=4)
