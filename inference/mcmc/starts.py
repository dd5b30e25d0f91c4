"""First positions of chains on unconstrained space."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from evidentia.inference.density.evaluation import as_tempered

__all__ = ["uniform_start"]


def uniform_start(
    density: Any,
    num_chains: int,
    dim: int,
    dtype: torch.dtype,
    generator: torch.Generator | None = None,
    *,
    radius: float = 2.0,
    tries: int = 100,
) -> Tensor:
    r"""Positions uniform on \((-r, r)^D\), drawn again where density or gradient is not finite.

    Args:
        density: a `LogDensity` or a plain target.
        num_chains: \(C\).
        dim: \(D\).
        dtype: of the positions.
        generator: torch's global one when None.
        radius: \(r\), as in Pyro's and Stan's initialisation.
        tries: rounds of drawing before giving up.

    Returns:
        (C, D).

    Raises:
        ValueError: some chain found no valid position.

    References:
        Carpenter et al., 2017, Stan: a probabilistic programming language.

    Example:
        >>> from evidentia.inference.density.evaluation import target_of
        >>> normal = target_of(lambda x: -0.5 * (x**2).sum(-1))
        >>> uniform_start(normal, 3, 2, torch.float64).shape
        torch.Size([3, 2])
    """
    evaluate = as_tempered(density)
    device = None if generator is None else generator.device

    def draw() -> Tensor:
        uniform = torch.rand(num_chains, dim, generator=generator, dtype=dtype, device=device)
        return radius * (2 * uniform - 1)

    position = draw()
    for _ in range(tries):
        value = evaluate(position, 1.0)
        valid = value.log_density.isfinite() & value.gradient.isfinite().all(-1)
        if bool(valid.all()):
            return position
        # Every round draws all rows, so that what one chain gets does not depend on the others.
        position = torch.where(valid[:, None], position, draw())
    raise ValueError(
        f"start: {int((~valid).sum())} of {num_chains} chains found no position of finite log density and "
        f"gradient within {tries} draws from (-{radius}, {radius}). Fix: give initial_params, or check the "
        "model's data and supports"
    )
