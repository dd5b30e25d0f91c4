"""Cut a recorded density in two, and grow the leapfrog step and the bare value out of it."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch.fx import Graph, GraphModule, Node

from evidentia.inference.compile.purity import is_pure, written_nodes
from evidentia.inference.density.rewrites import drop_dead

__all__ = ["Pieces", "cut", "leapfrog_graph", "value_graph", "varying_nodes"]


class Pieces(NamedTuple):
    """A graph in two parts.

    Attributes:
        prelude: data -> everything that no chain changes; run once for each data set.
        main: chain inputs, then what the prelude gave -> outputs.

    References:
        none; loop-invariant code motion.
    """

    prelude: GraphModule
    main: GraphModule


def varying_nodes(graph: GraphModule, num_varying: int) -> set[Node]:
    """Nodes that depend on the first `num_varying` inputs, and those that take part in a write.

    References:
        none; bookkeeping.
    """
    found = set(written_nodes(graph.graph.nodes))
    found = {node for node in found if node.op == "call_function"}
    place = 0
    for node in graph.graph.nodes:
        if node.op == "placeholder":
            if place < num_varying:
                found.add(node)
            place += 1
        elif node.op == "call_function" and (
            not is_pure(node) or any(given in found for given in node.all_input_nodes)
        ):
            found.add(node)
    return found


def cut(graph: GraphModule, num_varying: int) -> Pieces:
    """Everything that depends on data or on nothing goes into the prelude.

    Args:
        graph: inputs of chains first, then data.
        num_varying: number of inputs of chains.

    References:
        none; loop-invariant code motion.
    """
    varying = varying_nodes(graph, num_varying)
    nodes = list(graph.graph.nodes)
    output = nodes[-1]
    first, second = Graph(), Graph()
    one: dict[Node, Node] = {}
    two: dict[Node, Node] = {}
    border: list[Node] = []
    for node in nodes[:-1]:
        if node not in varying:
            one[node] = first.node_copy(node, lambda given: one[given])
            if any(user in varying or user is output for user in node.users):
                border.append(node)
        elif node.op == "placeholder":
            two[node] = second.node_copy(node)
    for place, node in enumerate(border):
        two[node] = second.placeholder(f"fixed_{place}")
        two[node].meta.update(node.meta)
    for node in nodes[:-1]:
        if node in varying and node.op != "placeholder":
            two[node] = second.node_copy(node, lambda given: two[given])
    first.output(tuple(one[node] for node in border))
    second.output(torch.fx.map_arg(output.args[0], lambda given: two[given]))
    return Pieces(GraphModule(graph, first), GraphModule(graph, second))


def value_graph(main: GraphModule) -> GraphModule:
    """The graph without its gradient: log density and log likelihood only.

    References:
        none; bookkeeping.
    """
    graph = Graph()
    copies: dict[Node, Node] = {}
    graph.graph_copy(main.graph, copies)
    value, _, likelihood = next(iter(reversed(main.graph.nodes))).args[0]
    graph.output((copies[value], copies[likelihood]))
    module = GraphModule(main, graph)
    drop_dead(module)
    module.recompile()
    return module


def leapfrog_graph(main: GraphModule, num_varying: int, dense: bool) -> GraphModule:
    r"""One whole leapfrog step as a graph, around the recorded density.

    \[ p_{1/2} = p + \tfrac e2 g, \quad q' = q + e\, S p_{1/2}, \quad p' = p_{1/2} + \tfrac e2 g(q') \]

    Inputs: position, momentum, gradient, step size, covariance, then all inputs of `main` but its first.
    Outputs: position, momentum, gradient, log density, log likelihood.

    Args:
        main: (position, beta, ..., constants) -> (log density, gradient, log likelihood).
        num_varying: unused inputs of chains besides the position are passed on.
        dense: whether the covariance is a matrix.

    References:
        Neal, 2011, MCMC using Hamiltonian dynamics.
    """
    graph = Graph()
    names = ("position", "momentum", "gradient", "step_size", "covariance")
    position, momentum, gradient, step, covariance = (graph.placeholder(name) for name in names)
    placeholders = [node for node in main.graph.nodes if node.op == "placeholder"]
    copies: dict[Node, Node] = {}
    for node in placeholders[1:]:
        copies[node] = graph.node_copy(node)
    call: Any = graph.call_function
    half = call(torch.mul, (step, 0.5))
    middle = call(torch.add, (momentum, call(torch.mul, (half, gradient))))
    moved = call(torch.matmul if dense else torch.mul, (middle, covariance))
    new = call(torch.add, (position, call(torch.mul, (step, moved))))
    copies[placeholders[0]] = new
    for node in main.graph.nodes:
        if node.op not in ("placeholder", "output"):
            copies[node] = graph.node_copy(node, lambda given: copies[given])
    outputs = next(iter(reversed(main.graph.nodes))).args[0]
    value, slope, likelihood = (copies[each] for each in outputs)
    end = call(torch.add, (middle, call(torch.mul, (half, slope))))
    graph.output((new, end, slope, value, likelihood))
    return GraphModule(main, graph)
