"""Checks of the tensors that reach a family: inputs, gates and weights."""

from collections.abc import Mapping

from torch import Size, Tensor

from evidentia.models.structure.errors import FamilyError


def check_inputs(owner: str, x: Tensor, num_inputs: int) -> None:
    """Raise FamilyError unless x is ``(n, num_inputs)``."""
    if x.ndim != 2 or x.shape[-1] != num_inputs:
        raise FamilyError(
            f"{owner}: argument 'x' has shape {tuple(x.shape)}, expected (n, {num_inputs}). Give one row per "
            "observation and one column per input."
        )


def check_gates(owner: str, gates: Tensor, num_gates: int) -> None:
    """Raise FamilyError unless the gates are ``(*batch, num_gates)``."""
    if gates.ndim < 1 or gates.shape[-1] != num_gates:
        raise FamilyError(
            f"{owner}: argument 'gates' has shape {tuple(gates.shape)}, expected (*batch, {num_gates})."
        )


def check_weights(owner: str, weights: Mapping[str, Tensor], shapes: Mapping[str, Size]) -> None:
    """Raise FamilyError unless every weight is there with its shape, after any batch dimensions."""
    for name, shape in shapes.items():
        if name not in weights:
            raise FamilyError(f"{owner}: the weight {name!r} of shape {tuple(shape)} is missing.")
        got = weights[name].shape
        if len(got) < len(shape) or got[len(got) - len(shape) :] != shape:
            raise FamilyError(
                f"{owner}: the weight {name!r} has shape {tuple(got)}, expected (*batch, *{tuple(shape)})."
            )
