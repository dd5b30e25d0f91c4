"""The four domains of the structure of an edge, and the enumeration of their vertices."""

from typing import Literal, final

import torch
from torch import Tensor

from evidentia.models.structure.errors import FamilyError

DomainName = Literal["cube_vertex", "cube", "simplex_vertex", "simplex"]

DOMAINS: tuple[DomainName, ...] = ("cube_vertex", "cube", "simplex_vertex", "simplex")


@final
class Domain:
    """Where the gates ``γ ∈ [0,1]^K`` of one edge live.

    ==================  ================  =====================================
    name                set               vertices
    ==================  ================  =====================================
    ``cube_vertex``     {0,1}^K           2^K: any subset of the operations
    ``cube``            [0,1]^K           2^K, those of its relaxation
    ``simplex_vertex``  one-hot vectors   K: exactly one operation
    ``simplex``         Δ^{K-1}           K, those of its relaxation
    ==================  ================  =====================================

    Vertex number i of a simplex is operation i alone; vertex number i of a cube has operation r on when bit r
    of i is one, so number 0 is the empty subset.

    Args:
        name: one of the four names.
        owner: what the message of an error names, e.g. ``edge 'x->f'``.

    Raises:
        FamilyError: unknown name.

    Example:
        >>> Domain("cube_vertex").num_vertices(3)
        8
        >>> Domain("simplex").vertex(1, 3)
        (0, 1, 0)

    References:
        Bakhteev, 2020. Bayesian selection of a suboptimal structure of a deep learning model.
    """

    __slots__ = ("name",)

    def __init__(self, name: str, owner: str = "domain") -> None:
        if name not in DOMAINS:
            raise FamilyError(
                f"{owner}: unknown domain {name!r}. Use one of {', '.join(map(repr, DOMAINS))}; 'simplex' "
                "mixes the operations, 'simplex_vertex' chooses one, 'cube_vertex' chooses a subset."
            )
        self.name: DomainName = name

    @property
    def is_cube(self) -> bool:
        """Whether each gate is free (a subset), rather than one choice among K."""
        return self.name.startswith("cube")

    @property
    def is_discrete(self) -> bool:
        """Whether the gates take the values 0 and 1 only."""
        return self.name.endswith("_vertex")

    def num_vertices(self, num_ops: int) -> int:
        """Number of vertices: K, or 2^K on a cube."""
        return 2**num_ops if self.is_cube else num_ops

    def vertex(self, index: int, num_ops: int) -> tuple[int, ...]:
        """Gates of vertex ``index`` as a tuple of 0 and 1."""
        if self.is_cube:
            return tuple((index >> r) & 1 for r in range(num_ops))
        return tuple(int(r == index) for r in range(num_ops))

    def index(self, gates: tuple[int, ...]) -> int | None:
        """Number of the vertex with these 0/1 gates; None when it is not in the domain."""
        if self.is_cube:
            return sum(g << r for r, g in enumerate(gates))
        return gates.index(1) if sum(gates) == 1 else None

    def vertices(self, index: Tensor, num_ops: int) -> Tensor:
        """Gates ``(S, K)``, integer, of the vertices with numbers ``index (S,)``."""
        positions = torch.arange(num_ops, dtype=index.dtype, device=index.device)
        if self.is_cube:
            return (index[:, None] >> positions) & 1
        return (index[:, None] == positions).to(index.dtype)

    def is_vertex(self, gates: Tensor) -> Tensor:
        """Whether the last dimension of ``gates (*b, K)`` is a vertex, shape ``(*b)``."""
        binary = ((gates == 0) | (gates == 1)).all(-1)
        return binary if self.is_cube else binary & (gates.sum(-1) == 1)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Domain) and self.name == other.name

    def __hash__(self) -> int:
        return hash(self.name)

    def __repr__(self) -> str:
        return f"Domain({self.name!r})"
