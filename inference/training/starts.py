"""Where several restarts of one fit begin: fresh weights of networks, jitter on everything else."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from evidentia.inference.compile.inputs import Modules

__all__ = ["Restarts", "initial_values", "restarts_setting"]


class Restarts(NamedTuple):
    """How many restarts, and where they begin.

    The first one begins where the pair is. The others draw the weights of torch layers anew
    (`reset_parameters`) and add normal noise to the other unconstrained parameters.

    Attributes:
        number: how many, R.
        jitter: sd of that noise.
        initial: (restart, unconstrained values by name) -> values, in place of all this.

    References:
        none; bookkeeping.
    """

    number: int
    jitter: float = 0.1
    initial: Callable[[int, dict[str, Tensor]], Mapping[str, Tensor]] | None = None


def restarts_setting(restarts: Restarts | int) -> Restarts:
    """Turn the `restarts` argument of `fit` into a setting.

    Raises:
        ValueError: fewer than one restart, or a jitter that is negative or not finite.

    References:
        none; bookkeeping.

    Example:
        >>> restarts_setting(4).number
        4
    """
    setting = restarts if isinstance(restarts, Restarts) else Restarts(restarts)
    if setting.number < 1:
        raise ValueError(f"restarts: expected a number >= 1, got {setting.number}")
    if not (setting.jitter >= 0 and math.isfinite(setting.jitter)):
        raise ValueError(f"restarts.jitter: expected a finite number >= 0, got {setting.jitter}")
    return setting


def initial_values(setting: Restarts, leaves: Mapping[str, Tensor], modules: Modules) -> dict[str, Tensor]:
    """The unconstrained start of every restart; the leaves themselves keep their values.

    Args:
        setting: how they are drawn.
        leaves: unconstrained parameters by name.
        modules: the modules of the pair.

    Returns:
        By name, (R, *shape of the parameter).

    Raises:
        ValueError: `initial` gives other names or shapes.

    References:
        none; bookkeeping.

    Example:
        >>> layer = nn.Linear(2, 1)
        >>> starts = initial_values(Restarts(3), {"w": layer.weight}, Modules(layer, lambda: None))
        >>> starts["w"].shape, torch.equal(starts["w"][0], layer.weight)
        (torch.Size([3, 1, 2]), True)
    """
    kept = {name: leaf.detach().clone() for name, leaf in leaves.items()}
    buffers = modules.buffers()
    kept_buffers = {name: value.clone() for name, value in buffers.items()}
    rows = [kept]
    for restart in range(1, setting.number):
        if setting.initial is not None:
            rows.append(_checked(setting.initial(restart, _clones(kept)), kept))
            continue
        fresh = _reset(leaves, modules)
        rows.append(
            {
                name: leaf.detach().clone()
                if name in fresh
                else kept[name] + setting.jitter * torch.randn_like(kept[name])
                for name, leaf in leaves.items()
            }
        )
    with torch.no_grad():
        for name, leaf in leaves.items():
            leaf.copy_(kept[name])
    modules.put(buffers, kept_buffers)
    return {name: torch.stack([row[name] for row in rows]) for name in leaves}


def _clones(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in values.items()}


def _reset(leaves: Mapping[str, Tensor], modules: Modules) -> set[str]:
    """Draw the weights of every layer that knows how; the names of those leaves."""
    names = {id(leaf): name for name, leaf in leaves.items()}
    fresh: set[str] = set()
    for module in modules.all():
        own = [parameter for parameter in module._parameters.values() if parameter is not None]
        reset = getattr(module, "reset_parameters", None)
        if isinstance(module, nn.Module) and callable(reset) and own and all(id(p) in names for p in own):
            reset()
            fresh |= {names[id(parameter)] for parameter in own}
    return fresh


def _checked(given: Mapping[str, Tensor], kept: Mapping[str, Tensor]) -> dict[str, Tensor]:
    if set(given) != set(kept):
        raise ValueError(f"restarts.initial: expected values for {sorted(kept)}, got {sorted(given)}")
    for name, value in kept.items():
        if given[name].shape != value.shape:
            raise ValueError(
                f"restarts.initial: parameter '{name}' is {tuple(value.shape)}, "
                f"got {tuple(given[name].shape)}"
            )
    return {name: given[name].detach().to(value).clone() for name, value in kept.items()}
