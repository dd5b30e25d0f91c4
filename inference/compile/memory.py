"""Which operations of a recorded graph read and write the same memory."""

from __future__ import annotations

from collections.abc import Iterable
from typing import final

import torch
from torch.fx import Node

__all__ = ["Memory"]

_aten = torch.ops.aten

# Share or write memory without saying so in their schema.
_UNDECLARED = {_aten._unsafe_view.default, _aten.native_batch_norm.default, _aten.cudnn_batch_norm.default}


@final
class Memory:
    """Which nodes share memory, and when that memory is written for the last time.

    Args:
        nodes: the nodes of a graph in their order.

    Attributes:
        place: position in the graph.
        root: the node whose memory a node uses.
        shared: the nodes that use the memory of a root.
        last_write: place of the last write to the memory of a root.
        returned: roots whose memory is handed out.

    References:
        none; bookkeeping.

    Example:
        >>> from evidentia.inference.compile.capture import capture
        >>> x = torch.ones(2)
        >>> nodes = list(capture(lambda: (x * 2).unsqueeze(0), [x]).graph.nodes)
        >>> memory = Memory(nodes)
        >>> memory.root[nodes[2]].name, len(memory.returned)
        ('mul', 1)
    """

    def __init__(self, nodes: Iterable[Node]) -> None:
        self.place: dict[Node, int] = {}
        self.root: dict[Node, Node] = {}
        self.shared: dict[Node, list[Node]] = {}
        self.last_write: dict[Node, int] = {}
        self.returned: set[Node] = set()
        for place, node in enumerate(nodes):
            self.place[node] = place
            target, root = node.target, node
            if isinstance(target, torch._ops.OpOverload):
                arguments = target._schema.arguments
                given = dict(zip([a.name for a in arguments], node.args, strict=False)) | node.kwargs
                for argument in arguments:
                    value = given.get(argument.name)
                    if argument.alias_info is not None and isinstance(value, Node):
                        root = self.root[value]
                        if argument.alias_info.is_write:
                            self.last_write[root] = place
            if target in _UNDECLARED or (
                not isinstance(target, torch._ops.OpOverload) and node.op != "output"
            ):
                # Views that are not declared, running statistics, parts of a tuple of results.
                for one in node.all_input_nodes[: None if "norm" in str(target) else 1]:
                    root = self.root[one]
                    if "norm" in str(target):
                        root, self.last_write[root] = node, place
            self.root[node] = root
            self.shared.setdefault(root, []).append(node)
            if node.op == "output":
                self.returned = {self.root[given] for given in node.all_input_nodes}

    def settled(self, node: Node, place: int) -> bool:
        """Whether nothing writes to the memory of a node from this place on."""
        return self.last_write.get(self.root[node], -1) < place

    def last_use(self, node: Node) -> int:
        """Place of the last reader of the memory of a node."""
        return max(
            (self.place[user] for one in self.shared[self.root[node]] for user in one.users), default=-1
        )

    def replaceable(self, node: Node) -> bool:
        """Whether another tensor may stand in: its own memory is neither written nor handed out."""
        place, root = self.place[node], self.root[node]
        fixed = all(self.settled(given, place) for given in node.all_input_nodes)
        return fixed and root not in self.returned and self.settled(node, place)
