"""Which plates are independent, what a minibatch scales, and sums that keep particles and plates."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from pyro.poutine.indep_messenger import CondIndepStackFrame
from torch import Tensor

__all__ = ["PARTICLE_PLATE", "IndependentPlates", "independent_plates", "reduce_to", "sample_sites"]

PARTICLE_PLATE = "num_particles_vectorized"


class IndependentPlates(NamedTuple):
    r"""The plates that every site lies in: log-weights have one value per element of them.

    With full sizes \(N_j\) and sizes \(n_j\) in the batch the scale is \(c=\prod_j N_j/n_j\). It multiplies
    the finished objective; inside a log-weight it would make the bound wrong.

    Attributes:
        frames: Pyro's plate frames, leftmost dimension first.
        dims: their negative batch dimensions, ascending.
        scale: c, without unit.

    References:
        none; bookkeeping.
    """

    frames: tuple[CondIndepStackFrame, ...]
    dims: tuple[int, ...]
    scale: float

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the plates, leftmost dimension first."""
        return tuple(frame.name for frame in self.frames)


def sample_sites(trace: Any) -> list[dict[str, Any]]:
    """The sites of a trace that carry a density: no subsampling sites, no deterministic ones.

    Args:
        trace: a Pyro trace.

    References:
        none; bookkeeping.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> def model():
        ...     z = pyro.sample("z", dist.Normal(0.0, 1.0))
        ...     pyro.deterministic("square", z * z)
        >>> [site["name"] for site in sample_sites(pyro.poutine.trace(model).get_trace())]
        ['z']
    """
    return [
        site
        for site in trace.nodes.values()
        if site["type"] == "sample"
        and type(site["fn"]).__name__ != "_Subsample"
        and not site["infer"].get("_deterministic")
    ]


def independent_plates(
    sites: Iterable[dict[str, Any]],
    particle_plates: tuple[str, ...] = (PARTICLE_PLATE,),
    *,
    multi_sample: bool = True,
    linear: tuple[str, ...] = (),
) -> IndependentPlates:
    r"""The vectorised plates common to all sites, and the scale of their minibatches.

    A plate in which some site does not lie couples its elements through that site: its log-probabilities
    are summed into one joint log-weight. If such a plate is also subsampled, the log-weight itself is noisy
    and \(\mathbb E\log\frac1K\sum w\) is no bound; only the ELBO, linear in log w, bears that.

    Args:
        sites: sample sites of the model and of the guide. A guide may tie elements that are apart in the
            model (one joint normal over all local latents), so its sites count too.
        particle_plates: names of the plates of the particles, left out.
        multi_sample: refuse a subsampled plate that is not common.
        linear: names of plates that are not refused.

    Returns:
        `IndependentPlates`.

    Raises:
        ValueError: a plate has different sizes or dimensions at different sites.
        NotImplementedError: a plate that is not common is subsampled.

    References:
        Burda, Grosse and Salakhutdinov, 2016. Importance weighted autoencoders.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> def model():
        ...     with pyro.plate("data", 20, subsample_size=5):
        ...         pyro.sample("z", dist.Normal(0.0, 1.0))
        >>> plates = independent_plates(sample_sites(pyro.poutine.trace(model).get_trace()))
        >>> plates.names, plates.dims, plates.scale
        (('data',), (-1,), 4.0)
    """
    seen: dict[str, CondIndepStackFrame] = {}
    common: set[str] | None = None
    outside: dict[str, str] = {}
    members: list[tuple[str, set[str]]] = []
    for site in sites:
        names = set()
        for frame in site["cond_indep_stack"]:
            if frame.dim is None or frame.name in particle_plates:
                continue
            names.add(frame.name)
            first = seen.setdefault(frame.name, frame)
            if (first.dim, first.size, first.full_size) != (frame.dim, frame.size, frame.full_size):
                raise ValueError(
                    f"plate '{frame.name}': expected one size and dimension everywhere, got {_shown(first)} "
                    f"and, at site '{site['name']}', {_shown(frame)}. Fix: declare the plate alike in the "
                    "model and the guide"
                )
        members.append((site["name"], names))
        common = names if common is None else common & names
    for site_name, names in members:
        for plate in seen:
            if plate not in names:
                outside.setdefault(plate, site_name)
    frames = sorted((seen[name] for name in common or ()), key=lambda frame: frame.dim or 0)
    if multi_sample:
        for name, frame in seen.items():
            if name not in (common or ()) and name not in linear and _ratio(frame) != 1.0:
                raise NotImplementedError(
                    f"plate '{name}': it is subsampled ({frame.size} of {frame.full_size}), but site "
                    f"'{outside[name]}' lies outside it, so the log-weight of a minibatch is noisy and the "
                    f"objective would not be a bound. Fix: objective='elbo', the full data, or "
                    f"objective='miwae' with local_plates='{name}'"
                )
    scale = 1.0
    for frame in frames:
        scale = scale * _ratio(frame)
    return IndependentPlates(tuple(frames), tuple(int(frame.dim or 0) for frame in frames), scale)


def _shown(frame: CondIndepStackFrame) -> str:
    return f"size {frame.full_size} (batch {frame.size}) at dim {frame.dim}"


def _ratio(frame: CondIndepStackFrame) -> float:
    """Full size over size, as Pyro multiplies it into a site's scale."""
    if frame.full_size is None or frame.full_size == frame.size:
        return 1.0
    return frame.full_size / frame.size


def reduce_to(log_prob: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Sum over every batch dimension except `dims`.

    Args:
        log_prob: batch-shaped, nats; dimensions it lacks on the left count as size 1.
        dims: negative dimensions to keep, ascending.

    Returns:
        One dimension for each of `dims`, nats.

    References:
        none; bookkeeping.

    Example:
        >>> reduce_to(torch.ones(4, 3, 2), (-3, -1)).shape
        torch.Size([4, 2])
    """
    missing = -dims[0] - log_prob.dim() if dims else 0
    if missing > 0:
        log_prob = log_prob.reshape((1,) * missing + tuple(log_prob.shape))
    extra = [dim for dim in range(-log_prob.dim(), 0) if dim not in dims]
    return torch.sum(log_prob, dim=extra) if extra else log_prob
