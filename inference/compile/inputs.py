"""What a recorded graph takes in: the tensors among the arguments, the buffers, and the key of the rest."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Iterator
from typing import Any, NamedTuple, final

import torch
from torch import Tensor, nn
from torch.utils import _pytree

__all__ = ["Arguments", "Identity", "Modules", "flatten_arguments"]


@final
class Identity:
    """Any object, equal to itself only; it holds on to the object.

    References:
        none; bookkeeping.

    Example:
        >>> Identity([]) == Identity([])
        False
    """

    def __init__(self, value: Any) -> None:
        self.value = value

    def __hash__(self) -> int:
        return id(self.value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Identity) and self.value is other.value


class Arguments(NamedTuple):
    """Arguments of a pair, taken apart.

    Attributes:
        tensors: the tensors in order of appearance; they are inputs of the graph.
        key: everything else: structure, shapes, types and the values that are no tensors.
        rebuild: puts tensors back in their places: tensors -> (args, kwargs).

    References:
        none; bookkeeping.
    """

    tensors: list[Tensor]
    key: Hashable
    rebuild: Callable[[list[Tensor]], Any]


def flatten_arguments(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments:
    """Separate the tensors of nested tuples, lists and dicts from the rest.

    Numbers, flags and other objects are part of the key: a changed number is another graph. An object that
    holds tensors is known by its identity, and what is inside it is not looked at again.

    References:
        none; bookkeeping.

    Example:
        >>> found = flatten_arguments((torch.zeros(3), 2), {})
        >>> len(found.tensors), found.rebuild([torch.ones(3)])[0]
        (1, (tensor([1., 1., 1.]), 2))
    """
    leaves, spec = _pytree.tree_flatten((args, kwargs))
    places = [place for place, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
    tensors = [leaves[place] for place in places]

    def rebuild(given: list[Tensor]) -> Any:
        filled = list(leaves)
        for place, tensor in zip(places, given, strict=True):
            filled[place] = tensor
        return _pytree.tree_unflatten(filled, spec)

    return Arguments(tensors, (spec, tuple(map(_leaf_key, leaves))), rebuild)


def _leaf_key(leaf: Any) -> Hashable:
    if isinstance(leaf, Tensor):
        return (leaf.shape, leaf.dtype, leaf.device, leaf.requires_grad)
    if isinstance(leaf, bool | int | float | str | bytes | torch.dtype | torch.device | None):
        return (type(leaf), leaf)
    return Identity(leaf)


@final
class Modules:
    """The torch modules that a pair consists of: their buffers and whether they are in training mode.

    A module counts when it is the program, when the program is a method of it, or when the program is a
    function or a partial that refers to it.

    References:
        none; bookkeeping.

    Example:
        >>> norm = nn.BatchNorm1d(2)
        >>> sorted(Modules(norm, lambda: norm).buffers())
        ['model/num_batches_tracked', 'model/running_mean', 'model/running_var']
    """

    def __init__(self, model: Callable[..., Any], guide: Callable[..., Any]) -> None:
        self._all: list[nn.Module] = []
        self._holders: list[tuple[str, nn.Module]] = []
        seen: set[int] = set()
        for role, program in (("model", model), ("guide", guide)):
            for position, root in enumerate(_roots(program)):
                place = f"{role}.{position}" if position else role
                for name, module in root.named_modules():
                    if id(module) in seen:
                        continue
                    seen.add(id(module))
                    self._all.append(module)
                    if module._buffers:
                        self._holders.append((f"{place}/{name}." if name else f"{place}/", module))

    def buffers(self) -> dict[str, Tensor]:
        """The present buffers by name, each tensor once."""
        found: dict[str, Tensor] = {}
        seen: set[int] = set()
        for prefix, module in self._holders:
            for name, value in module._buffers.items():
                if value is not None and id(value) not in seen:
                    seen.add(id(value))
                    found[prefix + name] = value
        return found

    def put(self, live: dict[str, Tensor], values: dict[str, Tensor]) -> list[str]:
        """Make `live` the buffers again, with these values; the names whose tensor had been replaced."""
        replaced = []
        with torch.no_grad():
            for prefix, module in self._holders:
                for name in module._buffers:
                    full = prefix + name
                    if full in live:
                        if module._buffers[name] is not live[full]:
                            replaced.append(full)
                            module._buffers[name] = live[full]
                        live[full].copy_(values[full])
        return replaced

    def all(self) -> list[nn.Module]:
        """Every module once."""
        return list(self._all)

    def modes(self) -> tuple[bool, ...]:
        """Whether each module is in training mode."""
        return tuple(module.training for module in self._all)


def _roots(program: Any, depth: int = 0) -> Iterator[nn.Module]:
    """The modules a program refers to directly."""
    if isinstance(program, nn.Module):
        yield program
    elif depth < 3:
        owner = getattr(program, "__self__", None)
        if isinstance(owner, nn.Module):
            yield owner
        if isinstance(program, functools.partial):
            yield from _roots(program.func, depth + 1)
        inner = [getattr(program, "program", None)]
        for cell in getattr(program, "__closure__", None) or ():
            try:
                inner.append(cell.cell_contents)
            except ValueError:  # a cell that is not filled yet
                continue
        for other in inner:
            if isinstance(other, nn.Module) or callable(other):
                yield from _roots(other, depth + 1)
