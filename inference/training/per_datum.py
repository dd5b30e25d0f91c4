"""The rows that a pair sees, and parameters that belong to single rows: those cannot be shared by ranks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from evidentia.inference.objectives.plates import sample_sites

__all__ = ["Rows", "data_rows", "per_datum_parameters"]


class Rows(NamedTuple):
    """The plate over the data, as one evaluation of a pair sees it.

    Attributes:
        plate: its name.
        here: rows at hand, n.
        total: rows of the whole data set, N.

    References:
        none; bookkeeping.
    """

    plate: str
    here: int
    total: int


def data_rows(*traces: Any) -> Rows:
    """Find the plate over the data: the only one that scales a part of its rows, else the one named "data".

    Args:
        traces: of the model and the guide.

    Raises:
        ValueError: no such plate, or several that scale.

    References:
        none; bookkeeping.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> def model(x):
        ...     with pyro.plate("data", 10, subsample=torch.arange(len(x))):
        ...         pyro.sample("obs", dist.Normal(0.0, 1.0), obs=x)
        >>> data_rows(pyro.poutine.trace(model).get_trace(torch.zeros(4)))
        Rows(plate='data', here=4, total=10)
    """
    plates = {
        frame.name: Rows(frame.name, int(frame.size), int(frame.full_size))
        for trace in traces
        for site in sample_sites(trace)
        for frame in site["cond_indep_stack"]
        if frame.full_size is not None
    }
    parts = [rows for rows in plates.values() if rows.here < rows.total]
    if len(parts) > 1:
        raise ValueError(
            f"data_parallel: plates {[rows.plate for rows in parts]} all hold a part of their rows; "
            "expected one plate over the data. Fix: pass the other plates' rows whole"
        )
    if parts:
        return parts[0]
    if "data" not in plates:
        raise ValueError(
            f"data_parallel: expected a plate 'data' over the rows, got plates {sorted(plates)}. Fix: with N "
            "rows in all and n on this rank, put them into pyro.plate('data', N, subsample=torch.arange(n))"
        )
    return plates["data"]


def per_datum_parameters(leaves: Mapping[str, Tensor], rows: Rows, *traces: Any) -> list[str]:
    r"""Names of parameters of which every row of the data uses a part of its own.

    With \(S_i\) the entries in which the values and log densities of row i have a gradient, a parameter
    belongs to single rows when the \(S_i\) of a few rows are disjoint, and are shifts of each other or lie in
    an axis of N entries. Weights of networks are shared by the rows; rows of an embedding are not shifts in
    the order of the data.

    Args:
        leaves: unconstrained parameters by name.
        rows: the plate over the data; with one row at hand nothing can be found.
        traces: of the guide and the model, evaluated with gradients.

    References:
        none; derived here.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> loc, shared = torch.zeros(4, requires_grad=True), torch.zeros((), requires_grad=True)
        >>> def guide():
        ...     with pyro.plate("data", 4):
        ...         pyro.sample("z", dist.Normal(loc, shared.exp()))
        >>> trace = pyro.poutine.trace(guide).get_trace()
        >>> per_datum_parameters({"loc": loc, "shared": shared}, data_rows(trace), trace)
        ['loc']
    """
    chosen = sorted({0, 1, rows.here // 2, rows.here - 1})
    if rows.here < 2 or not leaves:
        return []
    names, tensors = list(leaves), list(leaves.values())
    used: dict[str, list[Tensor]] = {name: [] for name in names}
    for row in chosen:
        terms = [term for trace in traces for term in _terms(trace, rows.plate, row)]
        if not terms:
            return []
        total = torch.stack([term.sum().to(torch.float64) for term in terms]).sum()
        gradients = torch.autograd.grad(total, tensors, retain_graph=True, allow_unused=True)
        for name, gradient in zip(names, gradients, strict=True):
            flat = torch.zeros(0) if gradient is None else gradient.reshape(-1)
            used[name].append(flat.nonzero().flatten())
    return [name for name, entries in used.items() if _single(entries, chosen, leaves[name], rows)]


def _terms(trace: Any, plate: str, row: int) -> list[Tensor]:
    """What one row adds: its values and its log densities at fixed values, where they have gradients."""
    found = []
    for site in sample_sites(trace):
        frame = next((f for f in site["cond_indep_stack"] if f.name == plate and f.dim is not None), None)
        if frame is None:
            continue
        value, law = site["value"], site["fn"]
        log_prob = law.log_prob(value.detach())
        for tensor, dim in ((log_prob, frame.dim), (value, frame.dim - len(law.event_shape))):
            wide = tensor.dim() >= -dim and tensor.shape[dim] == frame.size
            if tensor.requires_grad and wide:
                found.append(tensor.select(dim, row))
    return found


def _single(entries: list[Tensor], chosen: list[int], leaf: Tensor, rows: Rows) -> bool:
    """Whether rows with these entries of one parameter have it for themselves."""
    first = entries[0]
    if not all(len(entry) == len(first) and len(entry) for entry in entries):
        return False
    together = torch.cat(entries)
    if len(together.unique()) < len(together):
        return False
    step = int(entries[1][0] - first[0]) // (chosen[1] - chosen[0])
    shifted = all(
        torch.equal(entry, first + step * (row - chosen[0]))
        for entry, row in zip(entries, chosen, strict=True)
    )
    strides = torch.empty(leaf.shape, device="meta").stride()
    axis = any(
        size == rows.total and all(len((entry // strides[dim] % size).unique()) == 1 for entry in entries)
        for dim, size in enumerate(leaf.shape)
    )
    return shifted or axis
