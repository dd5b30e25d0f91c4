"""Upper-level parameters: positive numbers that are learned, not sampled."""

from collections.abc import Sequence
from typing import final

import pyro
import torch
from torch import Tensor
from torch.distributions import constraints


@final
class Hyper:
    """A positive hyperparameter, optimised at the upper level; a ``pyro.param`` of the model that holds it.

    With the weights and the structure written ``θ`` and the hyperparameters ``h``, training solves
    ``h* = argmax_h Q(h | θ*(h))``. A number wrapped in ``Hyper`` belongs to ``h``; a bare number is fixed.

    Args:
        value: initial value, a positive number or a sequence of positive numbers.

    Raises:
        ValueError: an entry is not positive and finite.

    Example:
        >>> Hyper(0.5)
        Hyper(0.5)

    References:
        Bakhteev & Strijov, 2018. Deep learning model selection of suboptimal complexity.
    """

    __slots__ = ("value",)

    def __init__(self, value: float | Sequence[float] | Tensor) -> None:
        initial = torch.as_tensor(value, dtype=torch.float64).detach().clone()
        if not bool((torch.isfinite(initial) & (initial > 0)).all()):
            raise ValueError(
                f"Hyper: the initial value must be positive and finite, got {value!r}. Give the value "
                "itself, not its logarithm: Hyper(0.5)."
            )
        self.value = initial

    def param(self, name: str, like: Tensor) -> Tensor:
        """The current value as ``pyro.param(name)``, created with the dtype and device of ``like``."""
        initial = self.value.to(dtype=like.dtype, device=like.device)
        return pyro.param(name, initial, constraint=constraints.positive)

    def __repr__(self) -> str:
        return f"Hyper({self.value.tolist()})"
