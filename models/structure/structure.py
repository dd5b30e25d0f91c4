"""One structure of a family: which operations are on, per edge."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from evidentia.models.structure.domains import Domain
from evidentia.models.structure.errors import FamilyError

FORMAT = "evidentia.structure/1"


@final
@dataclass(frozen=True)
class EdgeChoice:
    """The operations of one edge, and those that are on.

    Args:
        edge: name of the edge, ``"x->f"``.
        domain: name of its domain.
        ops: all its operations, in order.
        chosen: those that are on, in the same order.

    References:
        Bakhteev, 2020. Bayesian selection of a suboptimal structure of a deep learning model.
    """

    edge: str
    domain: str
    ops: tuple[str, ...]
    chosen: tuple[str, ...]

    def __post_init__(self) -> None:
        domain = Domain(self.domain, f"edge {self.edge!r}")
        for name in self.chosen:
            if name not in self.ops:
                raise FamilyError(
                    f"structure: edge {self.edge!r} has no operation {name!r}. Its operations are "
                    f"{list(self.ops)}."
                )
        if not domain.is_cube and len(self.chosen) != 1:
            raise FamilyError(
                f"structure: edge {self.edge!r} has the domain {self.domain!r}, which needs exactly one "
                f"operation, got {list(self.chosen)}. Choose one of {list(self.ops)}."
            )
        object.__setattr__(self, "chosen", tuple(name for name in self.ops if name in set(self.chosen)))

    @property
    def label(self) -> str:
        """The name of the operation, or the subset in braces on a cube."""
        chosen = ", ".join(self.chosen)
        return "{" + chosen + "}" if Domain(self.domain).is_cube else chosen


@final
@dataclass(frozen=True)
class Structure:
    """A vertex of a family's structure space; immutable, hashable, and readable without the family.

    Args:
        edges: one `EdgeChoice` per edge, in the topological order of the family.

    Example:
        >>> s = Structure((EdgeChoice("x->f", "cube_vertex", ("age", "sex", "bmi"), ("bmi", "sex")),))
        >>> s.label, s.gates.tolist()
        ('{sex, bmi}', [0.0, 1.0, 1.0])
        >>> Structure.from_genotype(s.genotype()) == s
        True

    References:
        Liu, Simonyan & Yang, 2019. DARTS: differentiable architecture search.
    """

    edges: tuple[EdgeChoice, ...]

    @property
    def choices(self) -> dict[str, tuple[str, ...]]:
        """The operations that are on, by edge."""
        return {e.edge: e.chosen for e in self.edges}

    @property
    def label(self) -> str:
        """Short text: ``"one"`` or ``"{sex, bmi}"`` for one edge, ``"x->h: tanh; h->f: id"`` for several."""
        if len(self.edges) == 1:
            return self.edges[0].label
        return "; ".join(f"{e.edge}: {e.label}" for e in self.edges)

    @property
    def gates(self) -> Tensor:
        """The gates, ``(num_gates,)`` of 0. and 1. in the default dtype."""
        return torch.tensor([float(name in e.chosen) for e in self.edges for name in e.ops])

    def genotype(self) -> dict[str, Any]:
        """A JSON-able dictionary that holds the whole structure."""
        return {
            "format": FORMAT,
            "edges": [
                {"edge": e.edge, "domain": e.domain, "ops": list(e.ops), "chosen": list(e.chosen)}
                for e in self.edges
            ],
        }

    @classmethod
    def from_genotype(cls, genotype: Mapping[str, Any]) -> "Structure":
        """The structure of a genotype.

        Raises:
            FamilyError: the dictionary is not a genotype of this format, or names an unknown operation.
        """
        if not isinstance(genotype, Mapping) or genotype.get("format") != FORMAT:
            raise FamilyError(
                f"genotype: expected a dictionary with 'format': {FORMAT!r}. Use the output of "
                "Structure.genotype()."
            )
        try:
            return cls(
                tuple(
                    EdgeChoice(str(e["edge"]), str(e["domain"]), tuple(e["ops"]), tuple(e["chosen"]))
                    for e in genotype["edges"]
                )
            )
        except (KeyError, TypeError) as error:
            raise FamilyError(
                f"genotype: a field is missing or of the wrong type ({error}). Each edge needs 'edge', "
                "'domain', 'ops' and 'chosen'."
            ) from error

    def __str__(self) -> str:
        return self.label
