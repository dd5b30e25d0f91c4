"""A family of models, declared edge by edge."""

from collections.abc import Mapping, Sequence
from typing import final

import torch
from torch import Size, Tensor

from evidentia.models.likelihood import Likelihood
from evidentia.models.structure import evaluate as _evaluate
from evidentia.models.structure.arguments import check_gates, check_inputs, check_weights
from evidentia.models.structure.base_op import Op
from evidentia.models.structure.declare import declare_edge
from evidentia.models.structure.errors import FamilyError
from evidentia.models.structure.evaluate import Design
from evidentia.models.structure.graph import (
    AGGREGATES,
    INPUT,
    Aggregate,
    Edge,
    Plan,
    make_plan,
    topological_order,
)
from evidentia.models.structure.lookup import Which, select
from evidentia.models.structure.model import FamilyModel
from evidentia.models.structure.priors import StructurePrior
from evidentia.models.structure.structure import Structure
from evidentia.models.structure.weights import ARD


@final
class Family:
    """A family of models: a graph whose edges carry alternative operations.

    With gates ``γ`` on the operations, ``f_x = x``, ``f_k = agg_k({Σ_r γ_r g_r(f_j; w_r) : j → k})``, and the
    value of the family is that of the one node that feeds nothing. A *structure* is a vertex of the gates:
    which operations are on. Edges are declared one by one; the input node is ``"x"``.

    Structures are numbered in a fixed mixed-radix order: edges in topological order, the last edge fastest,
    the vertices of one edge as in `Domain`.

    Args:
        inputs: number of input columns, or their names.

    Raises:
        FamilyError: no inputs, or names that repeat.

    Example:
        >>> import torch
        >>> from evidentia.models.structure.ops import GLM, Constant
        >>> family = Family(inputs=12).edge("x", "f", ops={
        ...     "const": Constant(),
        ...     "one": GLM(columns=[0, 11], activation="tanh"),
        ...     "full": GLM(activation="tanh"),
        ... })
        >>> family.num_structures, family.structure("one").gates
        (3, tensor([0., 1., 0.]))
        >>> family.num_parameters(family.vertices())
        tensor([ 1,  2, 12])

    References:
        Bakhteev, 2020. Bayesian selection of a suboptimal structure of a deep learning model.
        Liu, Simonyan & Yang, 2019. DARTS: differentiable architecture search.
    """

    def __init__(self, inputs: int | Sequence[str]) -> None:
        if isinstance(inputs, str):
            raise FamilyError(
                f"Family: inputs={inputs!r} is one text; give a list of names or a number of columns."
            )
        if isinstance(inputs, int):
            names = tuple(f"{INPUT}{i}" for i in range(inputs))
        else:
            names = tuple(str(name) for name in inputs)
        if not names:
            raise FamilyError(
                "Family: argument 'inputs' is empty. Give the number of input columns or their names."
            )
        if len(set(names)) < len(names):
            twice = next(n for n in names if names.count(n) > 1)
            raise FamilyError(f"Family: the input name {twice!r} is given twice. Input names must differ.")
        self.inputs: tuple[str, ...] = names
        self._edges: list[Edge] = []
        self._aggregates: dict[str, Aggregate] = {}
        self._plan: Plan | None = None

    def edge(
        self,
        source: str,
        target: str,
        *,
        ops: Mapping[str, Op | torch.nn.Module],
        domain: str = "simplex",
        prior: StructurePrior | None = None,
    ) -> "Family":
        """Declare an edge and return the family.

        Args:
            source: node that is read; ``"x"`` is the input.
            target: node that is fed.
            ops: operations by name: `Op` instances, torch modules, or `op` of a plain function.
            domain: ``"simplex"``, ``"simplex_vertex"``, ``"cube"`` or ``"cube_vertex"``.
            prior: prior on the gates; uniform over the vertices when None.

        Raises:
            FamilyError: anything wrong with the edge; the family is then unchanged. Shapes are checked at
                once where the source is the input, and for the whole graph by `check`.
        """
        edge = declare_edge(source, target, ops, domain, prior, [e.name for e in self._edges])
        topological_order([*self._edges, edge])
        if source == INPUT:
            edge.width(len(self.inputs))
        self._edges.append(edge)
        self._plan = None
        return self

    def node(self, name: str, aggregate: Aggregate = "sum") -> "Family":
        """Declare how a node combines its incoming edges, and return the family; the default is the sum.

        Args:
            name: the node.
            aggregate: ``"sum"``, ``"mean"``, ``"product"``, ``"concat"``, or a function of the list of
                incoming values, each ``(*batch, n, width)``, in the order of declaration.

        Raises:
            FamilyError: the input node, or an unknown aggregation.
        """
        if name == INPUT:
            raise FamilyError(f"node {name!r}: the input node has no aggregation.")
        if not callable(aggregate) and aggregate not in AGGREGATES:
            raise FamilyError(
                f"node {name!r}: unknown aggregation {aggregate!r}. Use one of "
                f"{', '.join(map(repr, AGGREGATES))}, or a function of the list of incoming values."
            )
        self._aggregates[name] = aggregate
        self._plan = None
        return self

    def check(self) -> Plan:
        """Check the graph and all shapes for every structure, without data; returns the plan of evaluation.

        Raises:
            FamilyError: names the edge and the operation, and the fix.
        """
        if self._plan is None:
            self._plan = make_plan(len(self.inputs), self._edges, self._aggregates)
        return self._plan

    @property
    def edges(self) -> tuple[Edge, ...]:
        """The edges in topological order."""
        return self.check().edges

    @property
    def output(self) -> str:
        """The node whose value is the value of the family."""
        return self.check().output

    @property
    def width(self) -> int:
        """Number of columns of the output node."""
        return self.check().widths[self.output]

    @property
    def gate_names(self) -> tuple[str, ...]:
        """Name of each gate, ``"x->f/one"``, in the order of the vector of gates."""
        return tuple(f"{e.name}/{name}" for e in self.edges for name in e.ops)

    @property
    def num_gates(self) -> int:
        """Length of the vector of gates: the number of operations on all edges."""
        return sum(len(e.ops) for e in self.edges)

    @property
    def weight_shapes(self) -> dict[str, Size]:
        """Shape of each weight by name ``"x->f/one/weight"``."""
        return dict(self.check().weight_shapes)

    @property
    def num_structures(self) -> int:
        """Number of structures: the product over edges of the numbers of vertices."""
        total = 1
        for e in self.edges:
            total *= e.num_vertices
        return total

    def vertices(self, start: int = 0, stop: int | None = None) -> Tensor:
        """Gates ``(S, num_gates)`` of 0. and 1. of the structures ``start, …, stop - 1``.

        Raises:
            FamilyError: a range outside ``0 … num_structures``, or more than 2^24 structures at once.
        """
        total = self.num_structures
        stop = total if stop is None else stop
        if not 0 <= start <= stop <= total:
            raise FamilyError(f"family.vertices: the range {start}:{stop} is not inside 0:{total}.")
        if stop - start > 2**24:
            raise FamilyError(
                f"family.vertices: {stop - start} structures at once; ask for at most {2**24}, e.g. in "
                "chunks vertices(start, start + 65536)."
            )
        if total < 2**62:
            index = torch.arange(start, stop)
            parts = []
            for e in reversed(self.edges):
                parts.append(e.domain.vertices(index % e.num_vertices, len(e.ops)))
                index = index // e.num_vertices
            return torch.cat(parts[::-1], -1).to(torch.get_default_dtype())
        rows = [self.structure(i).gates for i in range(start, stop)]
        return torch.stack(rows) if rows else torch.zeros(0, self.num_gates)

    def structure(self, which: Which) -> Structure:
        """A structure from its number, its label, the choice per edge, a vector of gates, or a structure.

        Args:
            which: ``1``, ``"one"``, ``"{sex, bmi}"``, ``{"x->f": "one"}``, ``{"x->f": ("sex", "bmi")}``, a
                tensor of gates
                ``(num_gates,)`` that is a vertex, or a `Structure` of a family with the same edges.

        Raises:
            FamilyError: no such structure, with the names that exist.
        """
        return select(self.edges, which)

    def label(self, gates: Tensor) -> str:
        """The label of a vertex ``(num_gates,)``: ``"one"``, ``"{sex, bmi}"``, ``"x->h: tanh; h->f: id"``.

        Raises:
            FamilyError: the gates are not a vertex.
        """
        return self.structure(gates).label

    def log_prior(self, gates: Tensor) -> Tensor:
        """Log-probability in nats of the structures ``gates (*b, num_gates)``, shape ``(*b)``.

        Minus infinity off the vertices; sums to one over the structures of the family.
        """
        plan = self.check()
        total = gates.new_zeros(gates.shape[:-1])
        for e in plan.edges:
            total = total + e.prior.log_mass(gates[..., plan.slices[e.name]])
        return total

    def num_parameters(self, gates: Tensor) -> Tensor:
        """Number of weights of the live operations of ``gates (*b, num_gates)``, integers ``(*b)``.

        An operation is live when its gate is not zero and its value can reach the output.
        """
        return _evaluate.num_parameters(self.check(), gates)

    def apply(self, x: Tensor, gates: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
        """The value of the output node, a pure function.

        Args:
            x: input ``(n, num_inputs)``.
            gates: ``(*b, num_gates)``.
            weights: weight ``(*b, *shape)`` by name; these are the weights w of the operations (after any
                coupling with the gates by the weight prior). Batch dimensions broadcast.

        Returns:
            ``(*b, n, width)``.

        Raises:
            FamilyError: wrong number of columns or gates, or a weight that is missing or of the wrong shape.
        """
        plan = self.check()
        check_inputs("family", x, len(self.inputs))
        check_gates("family", gates, self.num_gates)
        check_weights("family", weights, plan.weight_shapes)
        by_name = {name: gates[..., i] for i, name in enumerate(self.gate_names)}
        return _evaluate.evaluate(plan, self._aggregates, x, by_name, weights)

    def design(self, x: Tensor) -> Design:
        """The family as a linear model: ``apply = matrix @ (γ[gate] w)``, for conjugate inference.

        Raises:
            FamilyError: the family has several edges, or an operation (named) that is not linear in its
                weights.
        """
        return _evaluate.design(self.check(), x)

    def model(
        self, *, likelihood: Likelihood, weight_prior: ARD | None = None, structure: Which | None = None
    ) -> FamilyModel:
        """The Pyro model of the family: see `FamilyModel`.

        Args:
            likelihood: law of the response given the output node.
            weight_prior: prior on the weights; ``ARD()``, standard normal, when None.
            structure: fixes the structure; its dead operations then have no sites.

        Raises:
            FamilyError: a graph or shape that does not fit, or no such structure.
        """
        self.check()
        fixed = None if structure is None else self.structure(structure)
        return FamilyModel(self, likelihood, ARD() if weight_prior is None else weight_prior, fixed)

    def __repr__(self) -> str:
        lines = [f"Family(inputs={len(self.inputs)})"]
        for e in self._edges:
            lines.append(f"  {e.name} [{e.domain.name}] {e.prior!r}")
            lines += [f"    {name}: {op!r}" for name, op in e.ops.items()]
        lines += [f"  node {n}: {a}" for n, a in self._aggregates.items()]
        return "\n".join(lines)
