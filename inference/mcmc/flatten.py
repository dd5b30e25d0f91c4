"""Nested states as flat dictionaries of tensors, for checkpoints, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = ["flatten_state", "restore_state"]


def flatten_state(state: Any) -> dict[str, Tensor]:
    """The tensors of a nested NamedTuple under dotted names.

    Numbers become 0-dim tensors (int64, float64: exact); None is left out.

    Args:
        state: NamedTuples within NamedTuples; leaves are tensors, numbers or None.

    Returns:
        name → tensor; the tensors are detached, not copied.

    Raises:
        ValueError: a leaf of another type, named.

    References:
        none; bookkeeping.

    Example:
        >>> from evidentia.inference.mcmc.metric import metric_of
        >>> sorted(flatten_state(metric_of(torch.ones(2))))
        ['covariance', 'factor', 'inverse']
    """
    flat: dict[str, Tensor] = {}
    _collect(state, "", flat)
    return flat


def restore_state(template: Any, flat: Mapping[str, Tensor]) -> Any:
    """The state whose flat form is `flat`, with the types of `template`.

    Args:
        template: a state of the same kernel, for instance from `start`; its values are not used.
        flat: from `flatten_state`.

    Returns:
        A state like `template`; tensors are moved to the template's device, not cast.

    Raises:
        ValueError: an entry is missing.

    References:
        none; bookkeeping.

    Example:
        >>> from evidentia.inference.mcmc.metric import metric_of
        >>> flat = flatten_state(metric_of(torch.tensor([4.0])))
        >>> restore_state(metric_of(torch.ones(1)), flat).factor
        tensor([2.])
    """
    return _build(template, "", flat)


def _is_tree(value: Any) -> bool:
    return isinstance(value, tuple) and hasattr(value, "_fields")


def _collect(value: Any, name: str, flat: dict[str, Tensor]) -> None:
    if _is_tree(value):
        for field, child in zip(value._fields, value, strict=True):
            _collect(child, f"{name}.{field}" if name else field, flat)
    elif isinstance(value, Tensor):
        flat[name] = value.detach()
    elif isinstance(value, bool | int):
        flat[name] = torch.tensor(int(value))
    elif isinstance(value, float):
        flat[name] = torch.tensor(value, dtype=torch.float64)
    elif value is not None:
        raise ValueError(
            f"state: expected tensors, numbers or None, got {type(value).__name__} at {name!r}. "
            "Fix: keep settings in the kernel and only run state in the state"
        )


def _build(value: Any, name: str, flat: Mapping[str, Tensor]) -> Any:
    if _is_tree(value):
        parts = {f: _build(getattr(value, f), f"{name}.{f}" if name else f, flat) for f in value._fields}
        return type(value)(**parts)
    if name not in flat:
        if value is None:
            return None
        raise ValueError(f"state: no entry {name!r}. Fix: continue with the kernel that made the state")
    entry = flat[name]
    if isinstance(value, Tensor):
        return entry.to(value.device)
    if isinstance(value, bool | int | float):
        return type(value)(entry.item())
    return entry
