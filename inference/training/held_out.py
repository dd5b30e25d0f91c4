"""The loss on data that are not trained on."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pyro
import torch
from torch import nn

__all__ = ["held_out_loss"]

_SEED = 20_231  # every evaluation uses the same noise, so that its trend is not noise


def held_out_loss(
    pair: tuple[Callable[..., Any], Callable[..., Any]],
    objective: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> float:
    """The loss of a pair in evaluation mode, with fixed noise, without touching the random stream.

    Args:
        pair: model and guide; their modules are in evaluation mode meanwhile.
        objective: an object with `loss`.
        args: the held-out arguments.
        kwargs: keywords of both programs.

    Returns:
        Nats.

    References:
        none; bookkeeping.

    Example:
        >>> def model(y):
        ...     pyro.sample("obs", pyro.distributions.Normal(0.0, 1.0), obs=y)
        >>> elbo = pyro.infer.Trace_ELBO()
        >>> round(held_out_loss((model, lambda y: None), elbo, (torch.tensor(0.0),), {}), 4)
        0.9189
    """
    modules = [m for program in pair if isinstance(program, nn.Module) for m in program.modules()]
    training = [module.training for module in modules]
    try:
        for module in modules:
            module.training = False
        with (
            torch.random.fork_rng(),
            torch.no_grad(),
            pyro.poutine.block(),
            pyro.validation_enabled(False),
        ):
            torch.manual_seed(_SEED)
            # A copy, because an objective may adapt itself to the shapes of the first data it sees.
            return float(copy.copy(objective).loss(*pair, *args, **kwargs))
    finally:
        for module, mode in zip(modules, training, strict=True):
            module.training = mode
