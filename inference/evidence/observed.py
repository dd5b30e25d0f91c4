"""Which data an evidence is about: names, shapes and digests of the observed sites."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from pyro import poutine
from torch import Tensor

__all__ = ["Observed", "check_same_data", "observed_of", "observed_sites"]


class Observed(NamedTuple):
    """One observed site: its shape, and the digest of its values.

    References:
        none; bookkeeping.
    """

    shape: tuple[int, ...]
    digest: str


def observed_of(value: Tensor) -> Observed:
    """The record of one site's values. Values equal in single precision have one digest, whatever their type.

    References:
        none; bookkeeping.

    Example:
        >>> observed_of(torch.tensor([1, 2])) == observed_of(torch.tensor([1.0, 2.0], dtype=torch.float64))
        True
    """
    plain = torch.as_tensor(value).detach().cpu().to(torch.float32).contiguous()
    digest = hashlib.sha256(plain.numpy().tobytes()).hexdigest()[:16]
    return Observed(tuple(plain.shape), digest)


def observed_sites(
    model: Callable[..., Any],
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    given: Mapping[str, Tensor] | None = None,
) -> dict[str, Observed]:
    """Run the model once and record its observed sites, by name; `pyro.factor` and
    `pyro.deterministic` are no observations.

    Args:
        model: a Pyro model.
        args, kwargs: its arguments.
        given: values of latent sites, which are then not drawn: a flat prior has no draws.

    The random stream of the caller is put back.

    References:
        none; bookkeeping.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> def model(y):
        ...     z = pyro.sample("z", dist.Normal(0.0, 1.0))
        ...     pyro.sample("y", dist.Normal(z, 1.0).expand([2]).to_event(1), obs=y)
        >>> observed_sites(model, (torch.tensor([0.5, 1.0]),))["y"].shape
        (2,)
    """
    state = torch.random.get_rng_state()
    try:
        with torch.no_grad():
            fixed = poutine.condition(model, data=dict(given or {}))
            trace = poutine.trace(fixed).get_trace(*args, **dict(kwargs or {}))
    finally:
        torch.random.set_rng_state(state)
    return {
        name: observed_of(torch.as_tensor(site["value"]))
        for name, site in trace.nodes.items()
        if site["type"] == "sample"
        and site["is_observed"]
        and name not in (given or {})
        and type(site["fn"]).__name__ not in ("Unit", "_Subsample")
        and not any((site["infer"] or {}).get(tag) for tag in ("is_auxiliary", "_deterministic"))
    }


def check_same_data(diagnostics: Mapping[str, Mapping[str, Any]], key: str = "observed") -> None:
    """Refuse to compare evidences of different data.

    Args:
        diagnostics: name of the model -> diagnostics of its evidence. Those without a record are not checked.
        key: the entry that holds site -> `Observed`.

    Raises:
        ValueError: observed sites, their shapes or their digests differ; both models are named.

    References:
        none; a rule of this library.

    Example:
        >>> one, two = {"y": Observed((3,), "a")}, {"y": Observed((4,), "b")}
        >>> check_same_data({"a": {"observed": one}, "b": {"observed": two}})
        Traceback (most recent call last):
        ...
        ValueError: 'a' and 'b' are not about the same data: site 'y' has shape (3,) in 'a' and (4,) in 'b'...
    """
    records = {name: dict(entry[key]) for name, entry in diagnostics.items() if entry.get(key)}
    if len(records) < 2:
        return
    first, *others = records
    for other in others:
        fault = _fault(first, records[first], other, records[other])
        if fault:
            raise ValueError(
                f"'{first}' and '{other}' are not about the same data: {fault}. Evidences of different data "
                "cannot be compared. Fix: give both models the same observations, under the same site names"
            )


def _fault(name: str, record: Mapping[str, Any], other_name: str, other: Mapping[str, Any]) -> str | None:
    if set(record) != set(other):
        return f"observed sites {sorted(record)} in '{name}', {sorted(other)} in '{other_name}'"
    for site in sorted(record):
        one, two = Observed(*record[site]), Observed(*other[site])
        if tuple(one.shape) != tuple(two.shape):
            return (
                f"site '{site}' has shape {tuple(one.shape)} in '{name}' and {tuple(two.shape)} "
                f"in '{other_name}'"
            )
        if one.digest != two.digest:
            return (
                f"site '{site}' has other values (digest {one.digest} in '{name}', {two.digest} "
                f"in '{other_name}')"
            )
    return None
