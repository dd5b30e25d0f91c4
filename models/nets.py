"""Plain networks that models and guides share."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from itertools import pairwise

from torch import nn

__all__ = ["ACTIVATIONS", "mlp"]

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
    "tanh": nn.Tanh,
}


def mlp(
    inputs: int,
    hidden: Sequence[int],
    outputs: int,
    *,
    activation: str = "elu",
    dropout: float = 0.0,
) -> nn.Sequential:
    r"""A chain of linear maps with an activation between them.

    \(h_0 = x,\; h_l = \phi(W_l h_{l-1} + b_l),\; f(x) = W_L h_{L-1} + b_L\). Without hidden layers it is one
    affine map. Shapes: (*batch, inputs) to (*batch, outputs).

    Args:
        inputs: width of the input.
        hidden: widths of the hidden layers, first to last; may be empty.
        outputs: width of the output.
        activation: a name in `ACTIVATIONS`.
        dropout: probability of a hidden unit to be dropped while training; 0 adds no layer.

    Raises:
        ValueError: a width below 1, an unknown activation, or a dropout outside [0, 1).

    References:
        Rumelhart, Hinton, Williams, 1986, Learning representations by back-propagating errors.

    Example:
        >>> import torch
        >>> mlp(3, [8], 2)(torch.zeros(5, 4, 3)).shape
        torch.Size([5, 4, 2])
    """
    widths = [inputs, *hidden, outputs]
    if any(width < 1 for width in widths):
        raise ValueError(f"mlp: expected widths of at least 1, got {widths} (inputs, hidden, outputs)")
    if not 0 <= dropout < 1:
        raise ValueError(f"mlp: expected dropout in [0, 1), got {dropout}. Fix: dropout=0.2")
    if activation not in ACTIVATIONS:
        near = difflib.get_close_matches(activation, ACTIVATIONS, 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(
            f"mlp: unknown activation {activation!r}; {hint}Fix: use one of {sorted(ACTIVATIONS)}"
        )
    layers: list[nn.Module] = []
    for width, following in pairwise(widths[:-1]):
        layers += [nn.Linear(width, following), ACTIVATIONS[activation]()]
        if dropout > 0:
            layers.append(nn.Dropout(dropout))
    layers.append(nn.Linear(widths[-2], widths[-1]))
    return nn.Sequential(*layers)
