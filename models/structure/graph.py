"""The graph of a family: edges, topological order, and the widths of all nodes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Size, Tensor

from evidentia.models.structure.base_op import Op
from evidentia.models.structure.domains import Domain
from evidentia.models.structure.errors import FamilyError
from evidentia.models.structure.prior import StructurePrior

INPUT = "x"

Aggregate = str | Callable[[Sequence[Tensor]], Tensor]

AGGREGATES = ("sum", "mean", "product", "concat")


@final
@dataclass(frozen=True, eq=False)
class Edge:
    """An edge of a family: alternative operations from one node to another.

    Args:
        source: node that is read.
        target: node that is fed.
        ops: operations by name, in order.
        domain: where the gates live.
        prior: prior on the gates.

    References:
        Bakhteev, 2020. Bayesian selection of a suboptimal structure of a deep learning model.
    """

    source: str
    target: str
    ops: Mapping[str, Op]
    domain: Domain
    prior: StructurePrior

    @property
    def name(self) -> str:
        """``"x->f"``."""
        return f"{self.source}->{self.target}"

    @property
    def num_vertices(self) -> int:
        """Number of vertices of the domain of the edge."""
        return self.domain.num_vertices(len(self.ops))

    def width(self, inputs: int) -> int:
        """The common output width of the operations for an input of ``inputs`` columns.

        Raises:
            FamilyError: an operation cannot take the input, or two operations differ in output width.
        """
        widths: dict[str, int] = {}
        for name, op in self.ops.items():
            try:
                op.shapes(inputs)
                widths[name] = op.width(inputs)
            except FamilyError as error:
                raise FamilyError(f"edge {self.name!r}, operation {name!r}: {error}") from None
        first, size = next(iter(widths.items()))
        for name, other in widths.items():
            if other != size:
                raise FamilyError(
                    f"edge {self.name!r}: operation {name!r} returns {other} columns but {first!r} returns "
                    f"{size}. All operations of one edge need the same output width; change its units "
                    "(Dense(units=…), Constant(units=…), Zero(units=…)), or pad a narrower layer with "
                    "active=."
                )
        return size


@final
@dataclass(frozen=True)
class Plan:
    """A checked graph: what is evaluated, in which order, and with which shapes.

    Args:
        nodes: all nodes in topological order, the input first.
        edges: all edges, ordered by target node, then as declared.
        output: the sink.
        widths: columns of each node.
        edge_widths: columns that each edge brings to its target.
        weight_shapes: shape of each weight, by ``"x->f/one/weight"``.
        op_weights: names of the weights of each operation, by ``"x->f/one"``.
        slices: place of each edge in the vector of gates.

    References:
        Bakhteev, 2020. Bayesian selection of a suboptimal structure of a deep learning model.
    """

    nodes: tuple[str, ...]
    edges: tuple[Edge, ...]
    output: str
    widths: dict[str, int]
    edge_widths: dict[str, int]
    weight_shapes: dict[str, Size]
    op_weights: dict[str, tuple[str, ...]]
    slices: dict[str, slice]


def topological_order(edges: Sequence[Edge]) -> tuple[str, ...]:
    """Nodes in topological order, the input node first, ties in the order of appearance.

    Raises:
        FamilyError: the graph has a cycle, naming its nodes.

    References:
        Kahn, 1962. Topological sorting of large networks.
    """
    names = list(dict.fromkeys([INPUT, *(n for e in edges for n in (e.source, e.target))]))
    order: list[str] = []
    while len(order) < len(names):
        ready = [
            n for n in names if n not in order and all(e.source in order for e in edges if e.target == n)
        ]
        if not ready:
            rest = [n for n in names if n not in order]
            while ends := [n for n in rest if not any(e.source == n and e.target in rest for e in edges)]:
                rest = [n for n in rest if n not in ends]  # a node behind the cycle is not part of it
            raise FamilyError(
                f"family: the graph has a cycle through the nodes {rest}. A node may depend only on earlier "
                "ones; remove one of the edges "
                f"{[e.name for e in edges if e.source in rest and e.target in rest]}."
            )
        order.append(ready[0])
    return tuple(order)


def make_plan(inputs: int, edges: Sequence[Edge], aggregates: Mapping[str, Aggregate]) -> Plan:
    """Check the whole graph, for every structure, and find its shapes.

    Raises:
        FamilyError: no edges, a cycle, a node without input, several sinks, an aggregation of an unknown
            node, or widths that do not fit; the message names the edge and the operation.

    References:
        Bakhteev, 2020. Bayesian selection of a suboptimal structure of a deep learning model.
    """
    if not edges:
        raise FamilyError(
            'family: no edges are declared. Add one: family.edge("x", "f", ops={"linear": GLM()}).'
        )
    nodes = topological_order(edges)
    ordered = tuple(e for n in nodes for e in edges if e.target == n)
    _check_graph(nodes, ordered, aggregates)
    widths = {INPUT: inputs}
    edge_widths: dict[str, int] = {}
    for node in nodes[1:]:
        incoming = [e for e in ordered if e.target == node]
        parts = [e.width(widths[e.source]) for e in incoming]
        edge_widths.update(zip((e.name for e in incoming), parts, strict=True))
        widths[node] = _aggregate_width(node, incoming, parts, aggregates.get(node, "sum"))
    weight_shapes = {
        f"{e.name}/{name}/{weight}": Size(shape)
        for e in ordered
        for name, op in e.ops.items()
        for weight, shape in op.shapes(widths[e.source]).items()
    }
    op_weights = {
        f"{e.name}/{name}": tuple(op.shapes(widths[e.source])) for e in ordered for name, op in e.ops.items()
    }
    slices: dict[str, slice] = {}
    for e in ordered:
        start = next(reversed(slices.values())).stop if slices else 0
        slices[e.name] = slice(start, start + len(e.ops))
    return Plan(nodes, ordered, nodes[-1], widths, edge_widths, weight_shapes, op_weights, slices)


def _check_graph(nodes: Sequence[str], edges: Sequence[Edge], aggregates: Mapping[str, Aggregate]) -> None:
    for node in nodes[1:]:
        if not any(e.target == node for e in edges):
            raise FamilyError(
                f"family: node {node!r} is read by {next(e.name for e in edges if e.source == node)!r} but "
                "no edge "
                f'feeds it. Add an edge to it, e.g. family.edge("x", "{node}", ops=…).'
            )
    sinks = [n for n in nodes if not any(e.source == n for e in edges)]
    if len(sinks) != 1:
        raise FamilyError(
            f"family: the nodes {sinks} are all outputs; there must be exactly one node that feeds nothing. "
            f"Connect {sinks[0]!r} to {sinks[-1]!r}, or remove its edges."
        )
    for node in aggregates:
        if node not in nodes[1:]:
            raise FamilyError(
                f"family: node {node!r} has an aggregation but no incoming edge. Nodes with edges: "
                f"{list(nodes[1:])}."
            )


def _aggregate_width(node: str, incoming: Sequence[Edge], widths: Sequence[int], aggregate: Aggregate) -> int:
    if callable(aggregate):
        with torch.no_grad():
            try:
                out = aggregate([torch.zeros(2, w) for w in widths])
            except Exception as error:
                raise FamilyError(
                    f"node {node!r}: the aggregation cannot take inputs of widths {list(widths)}: {error}. "
                    "It receives the list of incoming values, each (*batch, n, width)."
                ) from error
        if not isinstance(out, Tensor) or out.ndim != 2 or out.shape[0] != 2:
            raise FamilyError(
                f"node {node!r}: the aggregation must return a tensor (*batch, n, width), got "
                f"{tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__} for n = 2."
            )
        return out.shape[-1]
    if aggregate == "concat":
        return sum(widths)
    for edge, width in zip(incoming, widths, strict=True):
        if width != widths[0]:
            raise FamilyError(
                f"node {node!r}: edge {edge.name!r} brings {width} columns but {incoming[0].name!r} brings "
                f"{widths[0]}, "
                f"and the aggregation {aggregate!r} needs equal widths. Change the units of one edge, or "
                "declare "
                f'family.node("{node}", aggregate="concat").'
            )
    return widths[0]
