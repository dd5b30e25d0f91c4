"""What an operation must offer, and the checks that all operations share."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Size, Tensor

from evidentia.models.structure.errors import FamilyError

Activation = str | Callable[[Tensor], Tensor] | None

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "softplus": torch.nn.functional.softplus,
    "gelu": torch.nn.functional.gelu,
    "silu": torch.nn.functional.silu,
    "sin": torch.sin,
    "exp": torch.exp,
}


def activation_function(owner: str, activation: Activation) -> Callable[[Tensor], Tensor] | None:
    """The function of an activation given by name, by itself, or None for the identity.

    Raises:
        FamilyError: unknown name.
    """
    if activation is None or activation == "identity":
        return None
    if callable(activation):
        return activation
    if activation not in ACTIVATIONS:
        raise FamilyError(
            f"{owner}: unknown activation {activation!r}. Use None, a function, or one of "
            f"{', '.join(ACTIVATIONS)}."
        )
    return ACTIVATIONS[activation]


class Op(ABC):
    """One base function ``g(x; w)`` of an edge; abstract.

    A subclass declares the shapes of its weights as a function of the number of input columns, its output
    width, and the function itself, which must broadcast over leading batch dimensions of the input and of the
    weights.

    Example:
        >>> class Scale(Op):
        ...     def shapes(self, width):
        ...         return {"weight": torch.Size([width])}
        ...     def width(self, inputs):
        ...         return inputs
        ...     def __call__(self, x, **weights):
        ...         return x * weights["weight"][..., None, :]
        >>> Scale()(torch.ones(4, 2), weight=torch.zeros(7, 2)).shape
        torch.Size([7, 4, 2])

    References:
        Liu, Simonyan & Yang, 2019. DARTS: differentiable architecture search.
    """

    reads_input: bool = True
    """False when the output does not depend on the input node, which may then be dead."""

    @abstractmethod
    def shapes(self, width: int) -> dict[str, Size]:
        """Weight shapes by name, for an input of ``width`` columns; FamilyError when it cannot take them."""

    @abstractmethod
    def width(self, inputs: int) -> int:
        """Number of output columns for an input of ``inputs`` columns."""

    @abstractmethod
    def __call__(self, x: Tensor, **weights: Tensor) -> Tensor:
        """``g(x; w)``: x ``(*b, n, inputs)``, each weight ``(*b, *shape)``, result ``(*b, n, width)``."""

    def design(self, x: Tensor) -> Tensor | None:
        """For an operation linear in its weights with one output: columns ``(n, num_weights)``; else None.

        The columns follow the order of ``shapes``, each weight flattened, and ``g(x; w)[:, 0] = design(x) @
        w``.
        """
        return None


def positive_integer(owner: str, argument: str, value: int) -> int:
    """The value, checked to be a positive integer; FamilyError otherwise."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise FamilyError(f"{owner}: argument {argument!r} must be a positive integer, got {value!r}.")
    return value


def column_numbers(owner: str, columns: Sequence[int] | None) -> tuple[int, ...] | None:
    """The columns as a tuple, None for all; FamilyError when empty or repeated."""
    if columns is None:
        return None
    chosen = tuple(int(c) for c in columns)
    if not chosen:
        raise FamilyError(
            f"{owner}: argument 'columns' is empty. Name at least one column, or use Constant()."
        )
    if len(set(chosen)) < len(chosen):
        raise FamilyError(f"{owner}: columns {list(chosen)} name a column twice. Name each column once.")
    return chosen


def count_columns(op: Op, columns: tuple[int, ...] | None, width: int) -> int:
    """How many columns enter for an input of ``width``; FamilyError when one is out of range."""
    if columns is None:
        return width
    outside = [c for c in columns if not -width <= c < width]
    if outside:
        raise FamilyError(
            f"{op!r}: column {outside[0]} is out of range for an input of {width} columns. Use numbers 0 to "
            f"{width - 1}."
        )
    resolved = [c % width for c in columns]
    if len(set(resolved)) < len(resolved):
        raise FamilyError(
            f"{op!r}: two of the columns are the same column of an input of {width}. Name each once."
        )
    return len(columns)


def take_columns(x: Tensor, columns: tuple[int, ...] | None) -> Tensor:
    """The chosen columns of the last dimension of ``x``."""
    return x if columns is None else x[..., list(columns)]


def activation_name(activation: Activation) -> str:
    """How an activation is printed."""
    return getattr(activation, "__name__", repr(activation)) if callable(activation) else repr(activation)
