"""The state of a torch optimizer as a flat dict of tensors and scalars, and back, bit for bit."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["flatten_optimiser", "load_optimiser", "optimiser_names"]

_GROUPS = "opt/param_groups"


def flatten_optimiser(
    optimiser: torch.optim.Optimizer, names: Sequence[str]
) -> dict[str, Tensor | int | float | bool | str]:
    """Write an optimizer's state as `opt/<parameter>/<id>/<key>` and its options as one JSON text.

    Args:
        optimiser: any torch optimizer whose state holds tensors and plain numbers.
        names: the parameters' names in the optimizer's order; `<id>` is the position in it.

    Returns:
        Cloned tensors and scalars. The options (`lr`, `betas`, ...) are the JSON text `opt/param_groups`,
        in which tuples have become lists; `load_optimiser` makes them tuples again.

    References:
        none; bookkeeping.

    Example:
        >>> weight = torch.zeros(2, requires_grad=True)
        >>> adam = torch.optim.Adam([weight]); weight.sum().backward(); adam.step()
        >>> sorted(flatten_optimiser(adam, ["w"]))
        ['opt/param_groups', 'opt/w/0/exp_avg', 'opt/w/0/exp_avg_sq', 'opt/w/0/step']
    """
    state = optimiser.state_dict()
    flat: dict[str, Tensor | int | float | bool | str] = {}
    for index, entries in state["state"].items():
        for key, value in entries.items():
            if value is None:
                continue
            if isinstance(value, Tensor):
                flat[f"opt/{names[index]}/{index}/{key}"] = value.detach().clone()
            elif isinstance(value, bool | int | float | str):
                flat[f"opt/{names[index]}/{index}/{key}"] = value
            elif isinstance(value, list) and all(v is None or isinstance(v, Tensor) for v in value):
                # The history of LBFGS; an empty place is left out.
                flat[f"opt/{names[index]}/{index}/{key}#length"] = len(value)
                flat |= {
                    f"opt/{names[index]}/{index}/{key}#{place}": entry.detach().clone()
                    for place, entry in enumerate(value)
                    if entry is not None
                }
            else:
                raise ValueError(
                    f"optimizer {type(optimiser).__name__}: state '{key}' of '{names[index]}' is a "
                    f"{type(value).__name__}; expected tensors, numbers or lists of tensors, so it cannot be "
                    "resumed. "
                    "Fix: use Adam, SGD or another first-order optimizer"
                )
    groups = [
        dict(group) | {"params": [names[i] for i in group["params"]]} for group in state["param_groups"]
    ]
    flat[_GROUPS] = json.dumps(groups, default=_number)
    return flat


def _number(value: Any) -> float:
    if isinstance(value, Tensor) and value.numel() == 1:
        return float(value)
    raise ValueError(f"optimizer option of type {type(value).__name__} cannot be written as JSON")


def optimiser_names(flat: Mapping[str, Any]) -> list[list[str]]:
    """Parameter names of each group, in the order the optimizer had them; empty when there was none yet.

    References:
        none; bookkeeping.

    Example:
        >>> optimiser_names({"opt/param_groups": '[{"lr": 0.1, "params": ["b", "a"]}]'})
        [['b', 'a']]
    """
    text = flat.get(_GROUPS)
    return [] if text is None else [list(group["params"]) for group in json.loads(text)]


def load_optimiser(optimiser: torch.optim.Optimizer, flat: Mapping[str, Any]) -> None:
    """Put a state written by `flatten_optimiser` into a fresh optimizer with the same groups.

    Args:
        optimiser: built over the same parameters, in the order `optimiser_names` gives.
        flat: the flat state; entries that do not start with `opt/` are ignored.

    Raises:
        ValueError: the groups do not match.

    References:
        none; bookkeeping.
    """
    saved = json.loads(flat[_GROUPS])
    fresh = optimiser.state_dict()["param_groups"]
    if [len(group["params"]) for group in saved] != [len(group["params"]) for group in fresh]:
        raise ValueError(
            "state: the optimizer's parameter groups differ from the saved ones "
            f"({[len(g['params']) for g in fresh]} against {[len(g['params']) for g in saved]} parameters)"
        )
    groups = []
    for old, new in zip(saved, fresh, strict=True):
        restored = {}
        for key, value in old.items():
            like = new.get(key)
            restored[key] = tuple(value) if isinstance(like, tuple) else value
        groups.append(restored | {"params": new["params"]})
    state: dict[int, dict[str, Any]] = {}
    for key, value in flat.items():
        if key.startswith("opt/") and key != _GROUPS:
            # Parameter names may contain slashes ("w/x->f/one/weight"), so the id and key are read from the
            # right.
            _, index, entry = key.rsplit("/", 2)
            state.setdefault(int(index), {})[entry] = value.clone() if isinstance(value, Tensor) else value
    for entries in state.values():
        for entry in [key for key in entries if key.endswith("#length")]:
            key = entry.removesuffix("#length")
            entries[key] = [entries.pop(f"{key}#{place}", None) for place in range(entries.pop(entry))]
    optimiser.load_state_dict({"state": state, "param_groups": groups})
