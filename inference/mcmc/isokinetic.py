"""Dynamics at unit speed: the integrator of the microcanonical samplers."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from evidentia.inference.density.evaluation import as_tempered
from evidentia.inference.mcmc.metric import Metric
from evidentia.inference.mcmc.points import Point, column

__all__ = ["IsokineticPath", "draw_direction", "isokinetic_path", "refresh_direction", "turn"]

LOG2 = math.log(2.0)


class IsokineticPath(NamedTuple):
    """The end of a path.

    Attributes:
        point: position, log density and gradient there.
        direction: (C, D) unit vectors, in the whitened space.
        energy_error: (C,) float64 nats.

    References:
        Robnik, De Luca, Silverstein, Seljak, 2023, Microcanonical Hamiltonian Monte Carlo.
    """

    point: Point
    direction: Tensor
    energy_error: Tensor


def draw_direction(like: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Unit vectors uniform on the sphere, shaped as `like` (C, D).

    References:
        Muller, 1959, A note on a method for generating points uniformly on n-dimensional spheres.

    Example:
        >>> torch.linalg.vector_norm(draw_direction(torch.zeros(2, 3)), dim=-1).round(decimals=3)
        tensor([1., 1.])
    """
    noise = torch.randn(like.shape, generator=generator, dtype=like.dtype, device=like.device)
    return _unit(noise)


def refresh_direction(
    direction: Tensor,
    step_size: Tensor | float,
    length: Tensor | float,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Forget the direction in part: \(u' \propto u + \nu z\), \(\nu^2 = (e^{2 e / L} - 1) / D\).

    Args:
        direction: (C, D) unit vectors.
        step_size: \(e\), () or (C,).
        length: \(L\), the length over which directions decorrelate.
        generator: torch's global one when None.

    References:
        Robnik, Seljak, 2024, Fluctuation without dissipation: microcanonical Langevin Monte Carlo.

    Example:
        >>> refresh_direction(torch.ones(1, 1), 0.0, 1.0)
        tensor([[1.]])
    """
    noise = torch.randn(direction.shape, generator=generator, dtype=direction.dtype, device=direction.device)
    ratio = torch.as_tensor(2.0 * step_size / length, dtype=direction.dtype, device=direction.device)
    return _unit(direction + column((torch.expm1(ratio) / direction.shape[-1]).sqrt()) * noise)


def turn(direction: Tensor, gradient: Tensor, step_size: Tensor | float) -> tuple[Tensor, Tensor]:
    r"""The direction after a force has turned it, and the change in kinetic energy.

    With \(\hat g = g / \|g\|\) and \(\delta = e \|g\| / (D - 1)\),

    \[ u' = \frac{u + \hat g\,(\sinh\delta + (\hat g \cdot u)(\cosh\delta - 1))}
                 {\cosh\delta + (\hat g \cdot u) \sinh\delta}, \qquad
       \Delta K = (D - 1) \log(\cosh\delta + (\hat g \cdot u) \sinh\delta) \]

    \(\Delta K\) is minus the log Jacobian of the map on the sphere. It is undone by the same map at \(-u'\).

    Args:
        direction: \(u\), (C, D) unit vectors.
        gradient: \(g\), (C, D), of the log density.
        step_size: \(e\), () or (C,).

    Returns:
        \(u'\) (C, D) and \(\Delta K\) (C,), float64 nats.

    References:
        Ver Steeg, Galstyan, 2021, Hamiltonian dynamics with non-Newtonian momentum for rapid sampling.
        Robnik, De Luca, Silverstein, Seljak, 2023, Microcanonical Hamiltonian Monte Carlo.

    Example:
        >>> turned, _ = turn(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 50.0]]), 1.0)
        >>> turned.round(decimals=3) + 0.0
        tensor([[0., 1.]])
    """
    norm = torch.linalg.vector_norm(gradient, dim=-1)
    unit = gradient / norm.clamp(min=torch.finfo(norm.dtype).tiny)[:, None]
    along = torch.linalg.vecdot(unit, direction)
    delta = step_size * norm / (gradient.shape[-1] - 1)
    # e^{-delta} in place of sinh and cosh, which overflow in the tails.
    decay = torch.exp(-delta)
    push = (1.0 - decay) * (1.0 + decay + along * (1.0 - decay))
    turned = _unit(unit * push[:, None] + 2.0 * decay[:, None] * direction)
    delta, along = delta.double(), along.double()
    growth = delta - LOG2 + torch.log1p(along + (1.0 - along) * torch.exp(-2.0 * delta))
    return turned, (gradient.shape[-1] - 1) * growth


def isokinetic_path(
    point: Point,
    direction: Tensor,
    density: Any,
    step_size: Tensor | float,
    num_steps: int,
    metric: Metric,
    beta: Tensor | float = 1.0,
) -> IsokineticPath:
    r"""`num_steps` of: turn for \(e/2\), move \(e L u\), turn for \(e/2\).

    In the space whitened by \(L^{-1}\) the speed is one, whatever the gradient. The energy error is the sum
    of the kinetic changes minus the change of the log density: minus the log ratio of a Metropolis step whose
    proposal is the end of the path with its direction reversed.

    Args:
        point: where to begin; its gradient is used.
        direction: (C, D) unit vectors.
        density: a `LogDensity`, a tempered density or a plain target.
        step_size: \(e\), () or (C,).
        num_steps: the same for all chains.
        metric: \(S = L L^\top\), which whitens.
        beta: inverse temperature, () or (C,).

    References:
        Robnik, De Luca, Silverstein, Seljak, 2023, Microcanonical Hamiltonian Monte Carlo.

    Example:
        >>> from evidentia.inference.density.evaluation import target_of
        >>> from evidentia.inference.mcmc.metric import identity_metric
        >>> from evidentia.inference.mcmc.points import evaluate_point
        >>> normal, start = target_of(lambda x: -0.5 * (x**2).sum(-1)), torch.ones(1, 2)
        >>> u = torch.tensor([[1.0, 0.0]])
        >>> path = isokinetic_path(evaluate_point(start, normal), u, normal, 0.1, 5, identity_metric(start))
        >>> bool(path.energy_error.abs() < 1e-2)
        True
    """
    evaluate = as_tempered(density)
    kinetic = torch.zeros(len(direction), dtype=torch.float64, device=direction.device)
    begin = point.log_density.double()
    for _ in range(num_steps):
        direction, change = turn(direction, _whitened(point.gradient, metric), step_size / 2)
        kinetic = kinetic + change
        moved = direction @ metric.factor.mT if metric.is_dense else direction * metric.factor
        position = point.position + column(step_size) * moved
        value = evaluate(position, beta)
        point = Point(position, value.log_density, value.gradient, value.log_likelihood)
        direction, change = turn(direction, _whitened(point.gradient, metric), step_size / 2)
        kinetic = kinetic + change
    return IsokineticPath(point, direction, kinetic - (point.log_density.double() - begin))


def _whitened(gradient: Tensor, metric: Metric) -> Tensor:
    """The gradient with respect to the whitened position."""
    return gradient @ metric.factor if metric.is_dense else gradient * metric.factor


def _unit(vector: Tensor) -> Tensor:
    tiny = torch.finfo(vector.dtype).tiny
    return vector / torch.linalg.vector_norm(vector, dim=-1, keepdim=True).clamp(min=tiny)
