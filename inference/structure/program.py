"""One structure compiled to straight-line code: what is left of a family without its dead operations."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

from torch import Size, Tensor

from evidentia.models.structure.arguments import check_inputs
from evidentia.models.structure.base_op import Op
from evidentia.models.structure.evaluate import combine, live_ops
from evidentia.models.structure.family import Family
from evidentia.models.structure.graph import INPUT, Aggregate
from evidentia.models.structure.ops import Identity, Zero
from evidentia.models.structure.structure import Structure


@final
@dataclass(frozen=True, eq=False)
class Call:
    """One operation: ``op(values[source]; weights named prefix + "/…")``."""

    op: Op
    source: str
    prefix: str
    weights: tuple[str, ...]


@final
@dataclass(frozen=True, eq=False)
class Line:
    """One node: the aggregation of the sums of the calls of each edge; an edge without calls is zero."""

    node: str
    aggregate: Aggregate
    parts: tuple[tuple[Call, ...], ...]
    widths: tuple[int, ...]

    @property
    def is_zero(self) -> bool:
        """Whether the value is known to be zero."""
        return self.aggregate in ("sum", "mean", "concat", "product") and not any(self.parts)


@final
@dataclass(frozen=True, eq=False)
class Program:
    """The live lines in order of evaluation, and the shapes of the weights they use.

    Example:
        >>> from evidentia.models.structure.ops import GLM, Constant
        >>> family = Family(2).edge("x", "f", ops={"constant": Constant(), "line": GLM()})
        >>> compile_structure(family, family.structure("line"))
        f = line(x)
    """

    lines: tuple[Line, ...]
    output: str
    weight_shapes: Mapping[str, Size]
    num_inputs: int
    width: int

    def __call__(self, x: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
        """The value of the output node.

        Args:
            x: input ``(n, d)``.
            weights: ``(*b, *shape)`` by name ``"x->f/one/weight"``.

        Returns:
            ``(*b, n, width)``.

        Raises:
            FamilyError: x has another number of columns.
        """
        check_inputs("exported structure", x, self.num_inputs)
        values = {INPUT: x}
        for line in self.lines:
            parts = []
            for calls, width in zip(line.parts, line.widths, strict=True):
                part: Tensor | None = None
                for call in calls:
                    own = {name: weights[f"{call.prefix}/{name}"] for name in call.weights}
                    # An operation that does not read its source may outlive it; x then gives the rows.
                    value = call.op(values.get(call.source, x), **own)
                    part = value if part is None else part + value
                parts.append(x.new_zeros(x.shape[-2], width) if part is None else part)
            values[line.node] = combine(parts, line.aggregate)
        return values[self.output]

    @property
    def calls(self) -> tuple[Call, ...]:
        """All operations that are left."""
        return tuple(call for line in self.lines for part in line.parts for call in part)

    def __repr__(self) -> str:
        return "\n".join(f"{line.node} = {_text(line)}" for line in self.lines)


def compile_structure(family: Family, structure: Structure) -> Program:
    """Dead-code elimination: closed operations, operations that cannot reach the output, nodes nobody reads.

    Operations without weights whose value is known to be zero are folded away. A live operation with weights
    always stays, so the weights are exactly those of the family's model with this structure.

    Args:
        family: the family.
        structure: one of its structures.

    Returns:
        The program; its value equals ``family.apply`` at the structure's gates for the same weights.

    Example:
        >>> from evidentia.models.structure.ops import Dense, Identity
        >>> family = Family(2).edge("x", "h", ops={"tanh": Dense(3, "tanh"), "relu": Dense(3, "relu")})
        >>> family = family.edge("h", "f", ops={"out": Dense(1)})
        >>> compile_structure(family, family.structure("x->h: relu; h->f: out"))
        h = relu(x)
        f = out(h)

    References:
        Aho, Lam, Sethi & Ullman, 2006. Compilers: principles, techniques, and tools (chapter 9).
    """
    plan = family.check()
    live = dict(zip(family.gate_names, live_ops(plan, structure.gates).tolist(), strict=True))
    shapes: dict[str, Size] = {}
    zero: set[str] = set()
    lines = []
    for node in plan.nodes[1:]:
        parts, widths = [], []
        for edge in (edge for edge in plan.edges if edge.target == node):
            calls = []
            for name, op in edge.ops.items():
                prefix = f"{edge.name}/{name}"
                if (
                    not live[prefix]
                    or isinstance(op, Zero)
                    or (isinstance(op, Identity) and edge.source in zero)
                ):
                    continue
                own = op.shapes(plan.widths[edge.source])
                calls.append(Call(op, edge.source, prefix, tuple(own)))
                shapes |= {f"{prefix}/{weight}": shape for weight, shape in own.items()}
            parts.append(tuple(calls))
            widths.append(plan.edge_widths[edge.name])
        line = Line(node, family._aggregates.get(node, "sum"), tuple(parts), tuple(widths))
        if line.is_zero:
            zero.add(node)
        lines.append(line)
    width = plan.widths[plan.output]
    return Program(_read(lines, plan.output), plan.output, shapes, len(family.inputs), width)


def _read(lines: list[Line], output: str) -> tuple[Line, ...]:
    """The lines whose value is read, directly or through others."""
    needed, kept = {output}, []
    for line in reversed(lines):
        if line.node in needed:
            kept.append(line)
            needed |= {call.source for part in line.parts for call in part if call.op.reads_input}
    return tuple(reversed(kept))


def _text(line: Line) -> str:
    parts = []
    for calls in line.parts:
        terms = [f"{c.prefix.rpartition('/')[2]}({c.source if c.op.reads_input else ''})" for c in calls]
        parts.append(" + ".join(terms) or "0")
    if len(parts) == 1:
        return parts[0]
    name = (
        line.aggregate
        if isinstance(line.aggregate, str)
        else getattr(line.aggregate, "__name__", "aggregate")
    )
    return f"{name}({', '.join(parts)})"
