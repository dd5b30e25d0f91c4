"""Which operations of a recorded graph only compute: no write, no draw."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch.fx import Node

__all__ = ["is_pure", "written_nodes"]


def is_pure(node: Node) -> bool:
    """Whether a node only computes, so that it may go when nobody reads it.

    References:
        none; bookkeeping.
    """
    if node.op != "call_function":
        return False
    if not isinstance(node.target, torch._ops.OpOverload):
        return True  # a part of a tuple of results
    return not node.target._schema.is_mutable and (torch.Tag.nondeterministic_seeded not in node.target.tags)


def written_nodes(nodes: Iterable[Node]) -> set[Node]:
    """Nodes that share memory with something an operation writes to; their ancestors count too.

    References:
        none; bookkeeping.
    """
    stack = []
    for node in nodes:
        if isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable:
            arguments = node.target._schema.arguments
            named = zip(arguments, node.args, strict=False)
            picked = [given for argument, given in named if _writes(argument)]
            picked += [node.kwargs[a.name] for a in arguments if _writes(a) and a.name in node.kwargs]
            stack += [given for given in picked if isinstance(given, Node)] + [node]
    found: set[Node] = set()
    while stack:
        node = stack.pop()
        if node not in found:
            found.add(node)
            stack += node.all_input_nodes
    return found


def _writes(argument: Any) -> bool:
    return argument.alias_info is not None and argument.alias_info.is_write
