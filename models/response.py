"""The one rule for the shape of a response, and its one message."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def check_response_shape(
    owner: str, x: Tensor, y: Tensor, expected: Sequence[int], error: type[ValueError] = ValueError
) -> None:
    """Refuse a response that is not one number (or one row of numbers) per row of the inputs.

    A column (n, 1) is refused where (n,) is meant: against a mean (n,) it would broadcast to (n, n).

    Args:
        owner: who asks, for the message.
        x: inputs (n, d).
        y: response.
        expected: its shape.
        error: raised.

    Raises:
        ValueError: y has another shape.

    References:
        none; a guard.

    Example:
        >>> import torch
        >>> check_response_shape("model", torch.ones(4, 2), torch.ones(4, 1), (4,))
        Traceback (most recent call last):
        ValueError: model: argument 'y' has shape (4, 1), expected (4,) for x of shape (4, 2). ...
    """
    if tuple(y.shape) != tuple(expected):
        raise error(
            f"{owner}: argument 'y' has shape {tuple(y.shape)}, expected {tuple(expected)} for x of shape "
            f"{tuple(x.shape)}. One response per row. Fix: flatten a column with y[:, 0]."
        )


def check_tensors(owner: str, **values: object) -> None:
    """Refuse arguments that are no tensors, by name.

    Raises:
        ValueError: the first that is no tensor.

    References:
        none; a guard.

    Example:
        >>> check_tensors("retrain", x=[1.0])
        Traceback (most recent call last):
        ValueError: retrain: argument 'x' must be a tensor, got list. Fix: torch.as_tensor(x).
    """
    for name, value in values.items():
        if not isinstance(value, Tensor):
            raise ValueError(
                f"{owner}: argument {name!r} must be a tensor, got {type(value).__name__}. "
                f"Fix: torch.as_tensor({name})."
            )
