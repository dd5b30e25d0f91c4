"""Find a structure from a number, a label, a choice per edge, or a vector of gates."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from evidentia.models.structure.errors import FamilyError
from evidentia.models.structure.graph import Edge
from evidentia.models.structure.structure import EdgeChoice, Structure

Which = int | str | Mapping[str, str | Sequence[str]] | Tensor | Structure


def select(edges: Sequence[Edge], which: Which) -> Structure:
    """The structure of these edges that ``which`` names.

    Raises:
        FamilyError: there is no such structure; the message lists the names that exist.

    References:
        Bakhteev, 2020. Bayesian selection of a suboptimal structure of a deep learning model.
    """
    if isinstance(which, Structure):
        return _same_family(edges, which)
    if isinstance(which, bool):
        raise FamilyError(f"structure: expected a number, a label, a mapping or gates, got {which!r}.")
    if isinstance(which, int):
        return _by_number(edges, which)
    if isinstance(which, str):
        return _by_label(edges, which)
    if isinstance(which, Tensor):
        return _by_gates(edges, which)
    if isinstance(which, Mapping):
        return _by_mapping(edges, which)
    raise FamilyError(
        "structure: expected a number, a label, a mapping from edge to operation, or a tensor of gates, got "
        f"{type(which).__name__}."
    )


def _choice(edge: Edge, chosen: Sequence[str]) -> EdgeChoice:
    return EdgeChoice(edge.name, edge.domain.name, tuple(edge.ops), tuple(chosen))


def _same_family(edges: Sequence[Edge], which: Structure) -> Structure:
    own = [(e.name, tuple(e.ops)) for e in edges]
    if [(c.edge, c.ops) for c in which.edges] != own:
        raise FamilyError(
            f"structure: {which.label!r} belongs to a family with the edges "
            f"{[(c.edge, c.ops) for c in which.edges]}; this family has {own}."
        )
    return Structure(tuple(_choice(e, c.chosen) for e, c in zip(edges, which.edges, strict=True)))


def _by_number(edges: Sequence[Edge], number: int) -> Structure:
    total = 1
    for edge in edges:
        total *= edge.num_vertices
    if not 0 <= number < total:
        raise FamilyError(f"structure: number {number} is not one of 0 … {total - 1}.")
    choices = []
    for edge in reversed(edges):
        number, index = divmod(number, edge.num_vertices)
        gates = edge.domain.vertex(index, len(edge.ops))
        choices.append(_choice(edge, [name for name, on in zip(edge.ops, gates, strict=True) if on]))
    return Structure(tuple(reversed(choices)))


def _by_label(edges: Sequence[Edge], label: str) -> Structure:
    if len(edges) == 1:
        return Structure((_choice(edges[0], _names(edges[0], label)),))
    parts: dict[str, str] = {}
    for part in label.split(";"):
        name, colon, rest = part.partition(":")
        if not colon or not any(e.name == name.strip() for e in edges):
            raise FamilyError(
                f"structure: cannot read {part.strip()!r} in the label {label!r}. Write one choice per edge, "
                f"e.g. {'; '.join(f'{e.name}: {next(iter(e.ops))}' for e in edges)!r}."
            )
        parts[name.strip()] = rest
    return _by_mapping(edges, {e.name: _names(e, parts[e.name]) for e in edges if e.name in parts})


def _names(edge: Edge, text: str) -> list[str]:
    text = text.strip()
    if text.startswith("{") and text.endswith("}"):
        text = text[1:-1]
    return [name.strip() for name in text.split(",") if name.strip()]


def _by_mapping(edges: Sequence[Edge], which: Mapping[str, str | Sequence[str]]) -> Structure:
    known = [e.name for e in edges]
    for name in which:
        if name not in known:
            raise FamilyError(f"structure: there is no edge {name!r}. The edges are {known}.")
    for name in known:
        if name not in which:
            raise FamilyError(
                f"structure: the choice for edge {name!r} is missing. Give one for each of {known}."
            )
    return Structure(
        tuple(_choice(e, [c] if isinstance(c := which[e.name], str) else list(c)) for e in edges)
    )


def _by_gates(edges: Sequence[Edge], gates: Tensor) -> Structure:
    num_gates = sum(len(e.ops) for e in edges)
    if gates.shape != (num_gates,):
        raise FamilyError(f"structure: gates have shape {tuple(gates.shape)}, expected ({num_gates},).")
    values = gates.detach().to("cpu", torch.float64).tolist()
    choices = []
    for edge in edges:
        own, values = values[: len(edge.ops)], values[len(edge.ops) :]
        if any(v not in (0.0, 1.0) for v in own) or (not edge.domain.is_cube and sum(own) != 1):
            raise FamilyError(
                f"structure: the gates {own} of edge {edge.name!r} are not a vertex of the domain "
                f"{edge.domain.name!r}. Interior gates are not a structure; round them first."
            )
        choices.append(_choice(edge, [name for name, on in zip(edge.ops, own, strict=True) if on]))
    return Structure(tuple(choices))
