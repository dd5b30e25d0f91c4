"""What goes into a density: data taken apart and checked, and example positions and discrete values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from evidentia.inference.compile.inputs import Arguments, flatten_arguments
from evidentia.inference.density.joint import Joint
from evidentia.inference.density.sites import preserved_random_state

__all__ = ["batch_dims", "cast_arguments", "check_shapes", "example_discrete", "example_positions"]

Dims = tuple[int | None, ...]


def cast_arguments(
    args: tuple[Any, ...], kwargs: Mapping[str, Any], dtype: torch.dtype | None
) -> tuple[Arguments, torch.dtype]:
    """Arguments taken apart, floating-point tensors detached and cast.

    Args:
        args: arguments of a model.
        kwargs: its keywords.
        dtype: the type; that of the first floating-point tensor when None, else torch's default.

    References:
        none; bookkeeping.

    Example:
        >>> cast_arguments((torch.ones(2, dtype=torch.float64), 3), {}, None)[1]
        torch.float64
    """
    flat = flatten_arguments(args, dict(kwargs))
    if dtype is None:
        floats = [each.dtype for each in flat.tensors if each.is_floating_point()]
        dtype = floats[0] if floats else torch.get_default_dtype()
    tensors = [each.detach().to(dtype) if each.is_floating_point() else each for each in flat.tensors]
    return flat._replace(tensors=tensors), dtype


def check_shapes(shapes: Sequence[tuple[int, ...]], flat: Arguments) -> None:
    """Refuse data of other shapes.

    Raises:
        ValueError: the shapes differ.

    References:
        none; bookkeeping.
    """
    got = [tuple(each.shape) for each in flat.tensors]
    if got != list(shapes):
        raise ValueError(
            f"data: expected tensors of shapes {list(shapes)}, got {got}. "
            "Fix: compile_density(model, new data)"
        )


def batch_dims(single: Sequence[tuple[int, ...]], flat: Arguments, num_chains: int) -> Dims:
    """Which tensors hold one data set per chain (0), and which are shared (None).

    Args:
        single: shapes of one data set.
        flat: the new data.
        num_chains: C.

    Raises:
        ValueError: a tensor has neither shape.

    References:
        none; bookkeeping.
    """
    if len(flat.tensors) != len(single):
        raise ValueError(
            f"data: expected {len(single)} tensors, got {len(flat.tensors)}. Fix: the same arguments"
        )
    dims: list[int | None] = []
    for place, (tensor, shape) in enumerate(zip(flat.tensors, single, strict=True)):
        if tuple(tensor.shape) == shape:
            dims.append(None)
        elif tuple(tensor.shape) == (num_chains, *shape):
            dims.append(0)
        else:
            raise ValueError(
                f"data tensor {place}: expected {shape} or {(num_chains, *shape)}, got "
                f"{tuple(tensor.shape)}. Fix: one data set for each of the {num_chains} chains"
            )
    return tuple(dims)


def example_positions(
    joint: Joint, rows: int, radius: float, seed: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    r"""Positions uniform on \((-r, r)^D\), and betas that are not one.

    References:
        none; bookkeeping.
    """
    generator = torch.Generator().manual_seed(seed)
    size = (rows, joint.structure.dim)
    position = radius * (2 * torch.rand(size, generator=generator, dtype=joint.dtype) - 1)
    beta = 0.5 + torch.rand(rows, generator=generator, dtype=joint.dtype)
    return position.to(device), beta.to(device)


def example_discrete(
    joint: Joint, args: tuple[Any, ...], kwargs: dict[str, Any], seed: int
) -> dict[str, Tensor]:
    """One draw of the discrete sites that are inputs.

    References:
        none; bookkeeping.
    """
    if not joint.given:
        return {}
    with preserved_random_state(seed), torch.no_grad(), poutine.block():
        trace: Any = poutine.trace(joint.plain).get_trace(*args, **kwargs)
    return {name: trace.nodes[name]["value"] for name in joint.given}
