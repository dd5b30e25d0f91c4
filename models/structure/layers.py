"""Layers: operations with several output columns."""

from collections.abc import Sequence
from typing import final

import torch
from torch import Size, Tensor

from evidentia.models.structure.base_op import (
    Activation,
    Op,
    activation_function,
    activation_name,
    column_numbers,
    count_columns,
    positive_integer,
    take_columns,
)
from evidentia.models.structure.errors import FamilyError


@final
class Dense(Op):
    """``g(x; W, b) = a(x[:, columns] W + b)``: a layer of ``units`` output columns.

    Args:
        units: number of output columns.
        activation: a name, a function, or None for the identity.
        bias: whether there is an intercept per unit.
        active: number of live units; the columns after them are zero and carry no weights. Layers with the
            same
            ``units`` and different ``active`` on one edge are the choice of a width.
        columns: input columns that enter; all when None.

    Raises:
        FamilyError: ``units`` or ``active`` out of range, unknown activation, column out of range.

    Shapes: ``weight (num_columns, active)``, ``bias (active,)``.

    Example:
        >>> g = Dense(8, "tanh", active=2)
        >>> g.shapes(3)
        {'weight': torch.Size([3, 2]), 'bias': torch.Size([2])}
        >>> g(torch.ones(4, 3), weight=torch.ones(3, 2), bias=torch.zeros(2)).shape
        torch.Size([4, 8])

    References:
        Liu, Simonyan & Yang, 2019. DARTS: differentiable architecture search.
    """

    def __init__(
        self,
        units: int,
        activation: Activation = None,
        bias: bool = True,
        active: int | None = None,
        columns: Sequence[int] | None = None,
    ) -> None:
        self.units = positive_integer("Dense", "units", units)
        self.active = self.units if active is None else positive_integer("Dense", "active", active)
        if self.active > self.units:
            raise FamilyError(
                f"Dense: active={active} is more than units={units}. Give active <= units; the other columns "
                "are zero."
            )
        self.columns = column_numbers("Dense", columns)
        self.activation = activation
        self.bias = bias
        self._function = activation_function("Dense", activation)

    def shapes(self, width: int) -> dict[str, Size]:
        """``weight (num_columns, active)`` and, when there is one, ``bias (active,)``."""
        weight = {"weight": Size([count_columns(self, self.columns, width), self.active])}
        return weight | ({"bias": Size([self.active])} if self.bias else {})

    def width(self, inputs: int) -> int:
        """``units``."""
        return self.units

    def __call__(self, x: Tensor, **weights: Tensor) -> Tensor:
        """``a(x[:, columns] W + b)``, padded with zero columns up to ``units``."""
        value = take_columns(x, self.columns) @ weights["weight"]
        if self.bias:
            value = value + weights["bias"][..., None, :]
        if self._function is not None:
            value = self._function(value)
        if self.active < self.units:
            value = torch.nn.functional.pad(value, (0, self.units - self.active))
        return value

    def design(self, x: Tensor) -> Tensor | None:
        """The columns (and a column of ones) when there is one unit and no activation."""
        if self._function is not None or self.units != 1:
            return None
        matrix = take_columns(x, self.columns)
        return torch.cat([matrix, x.new_ones(len(x), 1)], -1) if self.bias else matrix

    def __repr__(self) -> str:
        active = "" if self.active == self.units else f", active={self.active}"
        return f"Dense({self.units}, activation={activation_name(self.activation)}, bias={self.bias}{active})"


@final
class Linear(Op):
    """``g(x; W, b) = x[:, columns] W + b``: a `Dense` layer without activation.

    Args:
        units: number of output columns.
        bias: whether there is an intercept per unit.
        active: number of live units; the columns after them are zero.
        columns: input columns that enter; all when None.

    Raises:
        FamilyError: ``units`` or ``active`` out of range, column out of range.

    Shapes: ``weight (num_columns, active)``, ``bias (active,)``.

    Example:
        >>> Linear(3).shapes(2)
        {'weight': torch.Size([2, 3]), 'bias': torch.Size([3])}

    References:
        McCullagh & Nelder, 1989. Generalized linear models.
    """

    def __init__(
        self,
        units: int = 1,
        bias: bool = True,
        active: int | None = None,
        columns: Sequence[int] | None = None,
    ) -> None:
        self._dense = Dense(units, None, bias, active, columns)

    def shapes(self, width: int) -> dict[str, Size]:
        """``weight (num_columns, active)`` and, when there is one, ``bias (active,)``."""
        return self._dense.shapes(width)

    def width(self, inputs: int) -> int:
        """``units``."""
        return self._dense.units

    def __call__(self, x: Tensor, **weights: Tensor) -> Tensor:
        """``x[:, columns] W + b``."""
        return self._dense(x, **weights)

    def design(self, x: Tensor) -> Tensor | None:
        """The columns (and a column of ones) when there is one unit."""
        return self._dense.design(x)

    def __repr__(self) -> str:
        return repr(self._dense).replace("Dense", "Linear").replace(", activation=None", "")
