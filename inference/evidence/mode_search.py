"""Modes of a log density from many starts at once: batched L-BFGS, and the Hessian where it ends."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from evidentia.inference.density.evaluation import Target

__all__ = ["Modes", "find_modes", "hessian"]

MEMORY = 10
HALVINGS = 20


class Modes(NamedTuple):
    """Where the searches ended.

    Attributes:
        position: (S, D).
        log_density: (S,), nats.
        gradient: (S, D).
        converged: (S,), whether the gradient vanished there.
        iterations: of the longest search.

    References:
        Liu and Nocedal, 1989. On the limited memory BFGS method for large scale optimization.
    """

    position: Tensor
    log_density: Tensor
    gradient: Tensor
    converged: Tensor
    iterations: int


def find_modes(
    target: Target, starts: Tensor, *, max_iterations: int = 500, tolerance: float = 1e-6
) -> Modes:
    """Maximise a log density from S starts in one batch; each row has its own curvature and step length.

    L-BFGS with 10 pairs; the step is halved until the log density rises by 1e-4 of what the gradient
    promises.

    Args:
        target: position (S, D) -> log density (S,), gradient (S, D).
        starts: (S, D).
        max_iterations: of the longest search.
        tolerance: a search has converged when no entry of the gradient is larger than `tolerance` times
            max(1, |log density|).

    References:
        Liu and Nocedal, 1989. On the limited memory BFGS method for large scale optimization.

    Example:
        >>> from evidentia.inference.density.evaluation import target_of
        >>> two = target_of(lambda x: -(x[:, 0] ** 2 - 1) ** 2)
        >>> found = find_modes(two, torch.tensor([[2.0], [-0.3]], dtype=torch.float64))
        >>> found.position[:, 0].round(decimals=4).tolist(), found.converged.tolist()
        ([1.0, -1.0], [True, True])
    """
    position = starts.detach().clone()
    value, gradient = target(position)
    pairs: list[tuple[Tensor, Tensor, Tensor]] = []
    iteration = 0
    failures = torch.zeros(len(position), dtype=torch.long, device=position.device)
    while iteration < max_iterations:
        active = ~_flat(value, gradient, tolerance) & (failures < 2) & value.isfinite()
        if not bool(active.any()):
            break
        iteration += 1
        direction = _direction(gradient, pairs)
        slope = (direction * gradient).sum(-1)
        uphill = (slope > 0) & direction.isfinite().all(-1)
        steepest = gradient / gradient.norm(dim=-1, keepdim=True).clamp_min(1.0)
        direction = torch.where(uphill[:, None], direction, steepest)
        slope = torch.where(uphill, slope, (steepest * gradient).sum(-1))
        moved, new_value, new_gradient, accepted = _line_search(
            target, position, value, gradient, direction, slope, active
        )
        step, change = moved - position, gradient - new_gradient  # of minus the log density
        product = (step * change).sum(-1)
        useful = accepted & (product > 1e-12 * step.norm(dim=-1) * change.norm(dim=-1))
        pairs.append((step, change, torch.where(useful, 1 / product, 0.0)))
        pairs = pairs[-MEMORY:]
        lost = active & ~accepted  # start again from the steepest direction, and give up the second time
        if bool(lost.any()):
            pairs = [(s, y, torch.where(lost, 0.0, rho)) for s, y, rho in pairs]
        failures = torch.where(lost, failures + 1, torch.where(accepted, 0, failures))
        position, value, gradient = moved, new_value, new_gradient
    return Modes(position, value, gradient, _flat(value, gradient, tolerance), iteration)


def hessian(target: Target, position: Tensor) -> Tensor:
    """Minus the second derivatives of the log density at M positions (M, D): (M, D, D).

    Central differences of the gradient, in two passes: the second takes a thousandth of the standard
    deviation that the first finds in each coordinate.

    References:
        none; numerical differentiation.

    Example:
        >>> from evidentia.inference.density.evaluation import target_of
        >>> bowl = target_of(lambda x: -2 * x[:, 0] ** 2 + x[:, 1] * x[:, 0] - x[:, 1] ** 2)
        >>> hessian(bowl, torch.zeros(1, 2, dtype=torch.float64)).round(decimals=6).tolist()
        [[[4.0, -1.0], [-1.0, 2.0]]]
    """
    rough = torch.finfo(position.dtype).eps ** (1 / 3) * position.abs().clamp_min(1.0)
    first = _differences(target, position, rough)
    scale = first.diagonal(dim1=-2, dim2=-1).abs().clamp_min(1e-6).rsqrt()
    fine = 1e-3 if position.dtype == torch.float64 else 1e-2
    return _differences(target, position, fine * scale)


def _differences(target: Target, position: Tensor, width: Tensor) -> Tensor:
    modes, dim = position.shape
    offset = torch.diag_embed(width)
    both = torch.cat([position[:, None] + offset, position[:, None] - offset], 1)
    _, gradient = target(both.reshape(-1, dim))
    plus, minus = gradient.reshape(modes, 2, dim, dim).unbind(1)
    slopes = -(plus - minus) / (2 * width[..., None])
    return 0.5 * (slopes + slopes.mT)


def _flat(value: Tensor, gradient: Tensor, tolerance: float) -> Tensor:
    limit = tolerance * value.abs().clamp_min(1.0)
    return value.isfinite() & (gradient.abs().amax(-1) <= limit)


def _direction(gradient: Tensor, pairs: list[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
    """Inverse curvature times the gradient, by the two loops of L-BFGS; pairs of weight 0 do nothing."""
    if not pairs:
        return gradient / gradient.norm(dim=-1, keepdim=True).clamp_min(1.0)
    direction = gradient.clone()
    weights = []
    for step, change, rho in reversed(pairs):
        weight = rho * (step * direction).sum(-1)
        direction = direction - weight[:, None] * change
        weights.append(weight)
    scale = 1 / gradient.norm(dim=-1).clamp_min(1.0)
    for step, change, rho in pairs:  # the latest useful pair gives the scale
        scale = torch.where(rho > 0, (step * change).sum(-1) / change.square().sum(-1), scale)
    direction = direction * scale[:, None]
    for (step, change, rho), weight in zip(pairs, reversed(weights), strict=True):
        back = rho * (change * direction).sum(-1)
        direction = direction + (weight - back)[:, None] * step
    return direction


def _line_search(
    target: Target,
    position: Tensor,
    value: Tensor,
    gradient: Tensor,
    direction: Tensor,
    slope: Tensor,
    active: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Halve the step of each row until its log density rises enough; rows that never do stay."""
    length = torch.ones_like(value)
    done = ~active
    accepted = torch.zeros_like(done)
    best, best_value, best_gradient = position, value, gradient
    for _ in range(HALVINGS):
        trial = torch.where(done[:, None], best, position + length[:, None] * direction)
        trial_value, trial_gradient = target(trial)
        rises = trial_value >= value + 1e-4 * length * slope
        good = ~done & rises & trial_value.isfinite() & trial_gradient.isfinite().all(-1)
        best = torch.where(good[:, None], trial, best)
        best_value = torch.where(good, trial_value, best_value)
        best_gradient = torch.where(good[:, None], trial_gradient, best_gradient)
        accepted, done = accepted | good, done | good
        if bool(done.all()):
            break
        length = torch.where(done, length, length / 2)
    return best, best_value, best_gradient, accepted
