"""The operations that are shipped: constants, generalised linear units, layers, skip connections.

`Dense` and `Linear` live in `layers`, and `op`, for a function of your own, in `custom_ops`; all are imported
from here.
"""

from collections.abc import Sequence
from typing import final

import torch
from torch import Size, Tensor

from evidentia.models.structure.base_op import (
    Activation,
    activation_function,
    activation_name,
    column_numbers,
    count_columns,
    positive_integer,
    take_columns,
)
from evidentia.models.structure.base_op import Op as Op
from evidentia.models.structure.custom_ops import op as op
from evidentia.models.structure.layers import Dense as Dense
from evidentia.models.structure.layers import Linear as Linear


@final
class Constant(Op):
    """``g(x; w) = w``: a constant for each of ``units`` output columns.

    Example:
        >>> Constant()(torch.zeros(3, 2), weight=torch.tensor([5.0])).squeeze(-1)
        tensor([5., 5., 5.])

    References:
        McCullagh & Nelder, 1989. Generalized linear models.
    """

    reads_input = False

    def __init__(self, units: int = 1) -> None:
        self.units = positive_integer("Constant", "units", units)

    def shapes(self, width: int) -> dict[str, Size]:
        """``weight: (units,)``."""
        return {"weight": Size([self.units])}

    def width(self, inputs: int) -> int:
        """``units``."""
        return self.units

    def __call__(self, x: Tensor, **weights: Tensor) -> Tensor:
        """The weight repeated for each row."""
        weight = weights["weight"][..., None, :]
        batch = torch.broadcast_shapes(x.shape[:-2], weight.shape[:-2])
        return weight.expand((*batch, x.shape[-2], self.units))

    def design(self, x: Tensor) -> Tensor | None:
        """A column of ones when there is one unit."""
        return x.new_ones(len(x), 1) if self.units == 1 else None

    def __repr__(self) -> str:
        return f"Constant(units={self.units})"


@final
class GLM(Op):
    """``g(x; w) = a(x[:, columns] w + b)``: a generalised linear unit with one output column.

    Args:
        columns: input columns that enter, in this order; all when None. Negative numbers count from the end.
        activation: a name, a function, or None for the identity.
        bias: whether to add the intercept b, a second weight.

    Raises:
        FamilyError: unknown activation, no or repeated columns; a column out of range when the input is
            known.

    Shapes: ``weight (num_columns,)``, ``bias ()``.

    Example:
        >>> g = GLM(columns=[0, 2], activation="tanh")
        >>> g.shapes(3)
        {'weight': torch.Size([2])}
        >>> g(torch.ones(4, 3), weight=torch.zeros(2)).shape
        torch.Size([4, 1])

    References:
        McCullagh & Nelder, 1989. Generalized linear models.
    """

    def __init__(
        self, columns: Sequence[int] | None = None, activation: Activation = None, bias: bool = False
    ) -> None:
        self.columns = column_numbers("GLM", columns)
        self.activation = activation
        self.bias = bias
        self._function = activation_function("GLM", activation)

    def shapes(self, width: int) -> dict[str, Size]:
        """``weight (num_columns,)`` and, when there is one, ``bias ()``."""
        num_columns = count_columns(self, self.columns, width)
        return {"weight": Size([num_columns])} | ({"bias": Size([])} if self.bias else {})

    def width(self, inputs: int) -> int:
        """One output column."""
        return 1

    def __call__(self, x: Tensor, **weights: Tensor) -> Tensor:
        """``a(x[:, columns] w + b)``."""
        value = take_columns(x, self.columns) @ weights["weight"][..., None]
        if self.bias:
            value = value + weights["bias"][..., None, None]
        return value if self._function is None else self._function(value)

    def design(self, x: Tensor) -> Tensor | None:
        """The columns (and a column of ones for the bias) when there is no activation."""
        if self._function is not None:
            return None
        matrix = take_columns(x, self.columns)
        return torch.cat([matrix, x.new_ones(len(x), 1)], -1) if self.bias else matrix

    def __repr__(self) -> str:
        columns = "all" if self.columns is None else list(self.columns)
        return f"GLM(columns={columns}, activation={activation_name(self.activation)}, bias={self.bias})"


@final
class Identity(Op):
    """``g(x) = x``: a skip connection, without weights.

    Example:
        >>> Identity().width(5)
        5

    References:
        Liu, Simonyan & Yang, 2019. DARTS: differentiable architecture search.
    """

    def shapes(self, width: int) -> dict[str, Size]:
        """No weights."""
        return {}

    def width(self, inputs: int) -> int:
        """The width of the input."""
        return inputs

    def __call__(self, x: Tensor, **weights: Tensor) -> Tensor:
        """The input itself."""
        return x

    def __repr__(self) -> str:
        return "Identity()"


@final
class Zero(Op):
    """``g(x) = 0``: no connection, without weights.

    Args:
        units: number of output columns; the width of the input when None.

    Example:
        >>> Zero(units=3)(torch.ones(2, 5)).shape
        torch.Size([2, 3])

    References:
        Liu, Simonyan & Yang, 2019. DARTS: differentiable architecture search.
    """

    reads_input = False

    def __init__(self, units: int | None = None) -> None:
        self.units = None if units is None else positive_integer("Zero", "units", units)

    def shapes(self, width: int) -> dict[str, Size]:
        """No weights."""
        return {}

    def width(self, inputs: int) -> int:
        """``units``, or the width of the input."""
        return inputs if self.units is None else self.units

    def __call__(self, x: Tensor, **weights: Tensor) -> Tensor:
        """Zeros."""
        return x.new_zeros((*x.shape[:-1], self.width(x.shape[-1])))

    def design(self, x: Tensor) -> Tensor | None:
        """No columns."""
        return x.new_zeros(len(x), 0) if self.width(x.shape[-1]) == 1 else None

    def __repr__(self) -> str:
        return "Zero()" if self.units is None else f"Zero(units={self.units})"
