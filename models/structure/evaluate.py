"""The value of a family at given gates and weights: pure functions, vectorised over structures."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from evidentia.models.structure.errors import FamilyError
from evidentia.models.structure.graph import INPUT, Aggregate, Plan
from evidentia.models.structure.guard import guarded_call, known


class Design(NamedTuple):
    """A family that is linear in its weights: ``f(x) = matrix @ (γ[gate] * w)``.

    Args:
        matrix: columns ``(n, num_weights)`` in the order of the weights, each flattened.
        gate: number of the gate of each column ``(num_weights,)``.

    References:
        Bishop, 2006. Pattern recognition and machine learning, chapter 3.
    """

    matrix: Tensor
    gate: Tensor


def evaluate(
    plan: Plan,
    aggregates: Mapping[str, Aggregate],
    x: Tensor,
    gates: Mapping[str, Tensor],
    weights: Mapping[str, Tensor],
    *,
    guard: bool = True,
) -> Tensor:
    """``f_k = agg_k({Σ_r γ_r g_r(f_j; w_r)})`` from the input to the output node.

    With the guard, values that are not finite count as 0 where an operation cannot influence the output (see
    `live_ops`), and so do derivatives: a structure does not suffer from an operation that it does not use.
    Where all values and derivatives are finite the guard changes nothing.

    Args:
        plan: the checked graph.
        aggregates: aggregation by node, sum when absent.
        x: input ``(n, d)``.
        gates: gate ``(*b)`` by ``"x->f/one"``; an operation without a gate is skipped, as if its gate were 0.
        weights: weight ``(*b, *shape)`` by ``"x->f/one/weight"``.
        guard: without it, 0·∞ = NaN; for loops that look at their results and come back with the guard.

    Returns:
        The value of the output node, ``(*b, n, width)``.

    Example:
        >>> from evidentia.models.structure.family import Family
        >>> from evidentia.models.structure.ops import GLM, Constant
        >>> family = Family(1).edge("x", "f", ops={"one": Constant(), "slope": GLM()})
        >>> gates = {"x->f/one": torch.tensor(0.25), "x->f/slope": torch.tensor(0.75)}
        >>> weights = {"x->f/one/weight": torch.tensor([4.0]), "x->f/slope/weight": torch.tensor([1.0])}
        >>> evaluate(family.check(), {}, torch.tensor([[8.0]]), gates, weights)
        tensor([[7.]])

    References:
        Bakhteev, 2020. Bayesian selection of a suboptimal structure of a deep learning model.
    """
    values = {INPUT: x}
    dead = _dead_ops(plan, gates) if guard else {}
    for node in plan.nodes[1:]:
        parts = []
        for edge in plan.edges:
            if edge.target != node:
                continue
            terms = []
            for name, op in edge.ops.items():
                key = f"{edge.name}/{name}"
                gate = gates.get(key)
                if gate is not None:
                    source = values[edge.source]
                    own = {w: weights[f"{key}/{w}"] for w in plan.op_weights[key]}
                    if key in dead:
                        shapes = {w: plan.weight_shapes[f"{key}/{w}"] for w in own}
                        value = guarded_call(op, source, own, shapes, dead[key])
                    else:
                        value = op(source, **own)
                    terms.append(gate[..., None, None] * value)
            parts.append(_sum(terms) if terms else x.new_zeros(x.shape[-2], plan.edge_widths[edge.name]))
        values[node] = combine(parts, aggregates.get(node, "sum"))
    return values[plan.output]


def _dead_ops(plan: Plan, gates: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """In which structures an operation is dead, ``(*b)``, for each that may be so in any of them.

    Where no gate is 0 there is no 0·∞. An operation without a gate counts as closed.
    """
    given = {key: gate.detach() for key, gate in gates.items()}
    if not given or all(known(gate.all()) for gate in given.values()):
        return {}
    keys = [f"{edge.name}/{name}" for edge in plan.edges for name in edge.ops]
    closed = torch.zeros_like(next(iter(given.values())))
    stacked = torch.stack(torch.broadcast_tensors(*(given.get(key, closed) for key in keys)), -1)
    dead = ~live_ops(plan, stacked)
    return {
        key: dead[..., i] for i, key in enumerate(keys) if key in given and known(dead[..., i].any(), True)
    }


def combine(parts: Sequence[Tensor], aggregate: Aggregate) -> Tensor:
    """The aggregation of a node applied to its incoming values, each ``(*b, n, width)``."""
    if callable(aggregate):
        return aggregate(list(parts))
    if aggregate == "concat":
        batch = torch.broadcast_shapes(*(p.shape[:-1] for p in parts))
        return torch.cat([p.expand((*batch, p.shape[-1])) for p in parts], -1)
    if aggregate == "product":
        value = parts[0]
        for part in parts[1:]:
            value = value * part
        return value
    return _sum(parts) / len(parts) if aggregate == "mean" else _sum(parts)


def _sum(parts: Sequence[Tensor]) -> Tensor:
    value = parts[0]
    for part in parts[1:]:
        value = value + part
    return value


def live_ops(plan: Plan, gates: Tensor) -> Tensor:
    """Which operations can influence the output: open gate, and a path of open operations to the output.

    An operation that does not read its input (a constant, a zero) stops the path.

    Args:
        plan: the checked graph.
        gates: ``(*b, num_gates)``.

    Returns:
        Booleans ``(*b, num_gates)``.

    References:
        Bakhteev, 2020. Bayesian selection of a suboptimal structure of a deep learning model.
    """
    node_live = {plan.output: gates.new_ones(gates.shape[:-1], dtype=torch.bool)}
    parts: dict[str, Tensor] = {}
    for edge in reversed(plan.edges):
        live = (gates[..., plan.slices[edge.name]] != 0) & node_live[edge.target][..., None]
        parts[edge.name] = live
        reads = torch.tensor([op.reads_input for op in edge.ops.values()], device=gates.device)
        reached = (live & reads).any(-1)
        node_live[edge.source] = node_live[edge.source] | reached if edge.source in node_live else reached
    return torch.cat([parts[e.name] for e in plan.edges], -1)


def num_parameters(plan: Plan, gates: Tensor) -> Tensor:
    """Number of weights of the live operations, integers ``(*b)``.

    References:
        Bakhteev, 2020. Bayesian selection of a suboptimal structure of a deep learning model.
    """
    counts = torch.tensor(
        [
            sum(plan.weight_shapes[f"{key}/{w}"].numel() for w in names)
            for key, names in plan.op_weights.items()
        ],
        device=gates.device,
    )
    return (live_ops(plan, gates) * counts).sum(-1)


def design(plan: Plan, x: Tensor) -> Design:
    """The columns of a family with one edge whose operations are all linear in their weights.

    Raises:
        FamilyError: several edges, an operation that is not linear (named), or more than one output column.

    References:
        Bishop, 2006. Pattern recognition and machine learning, chapter 3.
    """
    if len(plan.edges) != 1:
        raise FamilyError(
            f"family.design: the family has {len(plan.edges)} edges ({[e.name for e in plan.edges]}); only a "
            "family with one edge is linear in its weights. Use an estimator that does not need conjugacy, "
            "e.g. evidence='iwae'."
        )
    (edge,) = plan.edges
    blocks = []
    gate = []
    for r, (name, op) in enumerate(edge.ops.items()):
        block = op.design(x)
        if block is None:
            raise FamilyError(
                f"family.design: operation {name!r} of edge {edge.name!r}, {op!r}, is not linear in its "
                "weights with one output column, so the evidence has no closed form. Use GLM(columns, "
                "activation=None), Constant() or Zero(), or an estimator that does not need conjugacy, e.g. "
                "evidence='iwae'."
            )
        blocks.append(block)
        gate += [r] * block.shape[-1]
    return Design(torch.cat(blocks, -1), torch.tensor(gate, dtype=torch.long, device=x.device))
