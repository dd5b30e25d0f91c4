"""Trajectory length: ChEES and SNAPER criteria, climbed by Adam on the logarithm of the length."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from evidentia.inference.mcmc.metric import Metric, whiten

__all__ = [
    "Criterion",
    "Trajectory",
    "chees",
    "final_trajectory",
    "init_trajectory",
    "principal_direction",
    "snaper",
    "update_trajectory",
]


class Criterion(NamedTuple):
    r"""A criterion \(C\) and its derivative along the trajectory, \(dC/dt\); 0-dim tensors.

    References:
        Hoffman, Radul, Sountsov, 2021, An adaptive-MCMC scheme for setting trajectory lengths in Hamiltonian
        Monte Carlo.
    """

    value: Tensor
    derivative: Tensor


class Trajectory(NamedTuple):
    """State of the adaptation; plain floats, as the length is one for all chains.

    Attributes:
        log_length: log of the mean trajectory length T to use in the warm-up.
        log_average: its average, to use afterwards.
        second_moment: of the gradient.
        updates: how many there were.

    References:
        Kingma, Ba, 2015, Adam: a method for stochastic optimization.
    """

    log_length: float
    log_average: float
    second_moment: float
    updates: int


def _centred(
    before: Tensor, after: Tensor, momentum: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Deviations from the means of before, after and momenta, and weights that sum to one, all float64.

    The mean at the ends moves with the trajectory's length, hence the centred momenta: without them the
    derivative would be exact for symmetric ensembles only.
    """
    weight = weight.double() / weight.sum(dtype=torch.float64).clamp(min=1e-30)
    before, after, momentum = before.double(), after.double(), momentum.double()
    mean_after, mean_momentum = weight @ after, weight @ momentum
    if not math.isfinite(float(mean_after.sum() + mean_momentum.sum())):
        # A proposal that is not finite has weight zero, but zero times NaN is still NaN.
        valid = (weight > 0)[:, None]
        after, momentum = torch.where(valid, after, before), torch.where(valid, momentum, 0.0)
        mean_after, mean_momentum = weight @ after, weight @ momentum
    return before - before.mean(0), after - mean_after, momentum - mean_momentum, weight


def _double(metric: Metric) -> Metric:
    return metric if metric.factor.dtype == torch.float64 else Metric(*(part.double() for part in metric))


def _criterion(weight: Tensor, change: Tensor, speed: Tensor) -> Criterion:
    weighted = weight * change
    return Criterion(0.25 * (weighted @ change), weighted @ speed)


def chees(before: Tensor, after: Tensor, momentum: Tensor, weight: Tensor, metric: Metric) -> Criterion:
    r"""Change in the estimator of the expected square, in whitened space:

    \[ C = \tfrac14 E(\|q' - E q'\|^2 - \|q - E q\|^2)^2, \qquad
       \frac{dC}{dt} = E(\|q' - E q'\|^2 - \|q - E q\|^2)\, (q' - E q')^\top (\dot q' - E \dot q') \]

    Whitened displacement and velocity have the product \((L^{-1} d)^\top (L^\top p) = d^\top p\). The
    derivative is that of the finite ensemble's criterion at fixed weights.

    Args:
        before: (C, D) positions at the start of the trajectories.
        after: (C, D) at their ends, before the accept step.
        momentum: (C, D) at their ends.
        weight: (C,) acceptance rates; not normalised.
        metric: of the trajectories.

    References:
        Hoffman, Radul, Sountsov, 2021, An adaptive-MCMC scheme for setting trajectory lengths in Hamiltonian
        Monte Carlo.

    Example:
        >>> from evidentia.inference.mcmc.metric import metric_of
        >>> before, after = torch.tensor([[1.0], [-1.0]]), torch.tensor([[2.0], [-2.0]])
        >>> float(chees(before, after, after, torch.ones(2), metric_of(torch.ones(1))).value)
        2.25
    """
    old, new, momentum, weight = _centred(before, after, momentum, weight)
    metric = _double(metric)
    there, here = whiten(metric, new), whiten(metric, old)
    change = torch.linalg.vecdot(there, there) - torch.linalg.vecdot(here, here)
    return _criterion(weight, change, torch.linalg.vecdot(new, momentum))


def snaper(
    before: Tensor, after: Tensor, momentum: Tensor, weight: Tensor, metric: Metric, direction: Tensor
) -> Criterion:
    r"""The ChEES criterion of one direction \(w\) of whitened space, \(a = w^\top L^{-1}(q - E q)\):

    \[ C = \tfrac14 E(a'^2 - a^2)^2, \qquad \frac{dC}{dt} = E(a'^2 - a^2)\, a'\, w^\top L^\top p' \]

    Args:
        before: as in `chees`.
        after: as in `chees`.
        momentum: as in `chees`.
        weight: as in `chees`.
        metric: as in `chees`.
        direction: (D,) \(w\), the principal direction.

    References:
        Sountsov, Hoffman, 2021, Focusing on difficult directions for learning HMC trajectory lengths.

    Example:
        >>> from evidentia.inference.mcmc.metric import metric_of
        >>> before, after = torch.tensor([[1.0], [-1.0]]), torch.tensor([[2.0], [-2.0]])
        >>> unit = torch.ones(1)
        >>> float(snaper(before, after, after, torch.ones(2), metric_of(unit), unit).value)
        2.25
    """
    old, new, momentum, weight = _centred(before, after, momentum, weight)
    metric, direction = _double(metric), direction.double()
    here = whiten(metric, new) @ direction
    change = here.square() - (whiten(metric, old) @ direction).square()
    speed = momentum @ metric.factor if metric.is_dense else momentum * metric.factor
    return _criterion(weight, change, here * (speed @ direction))


def principal_direction(direction: Tensor, position: Tensor, metric: Metric, count: int) -> Tensor:
    r"""One step of Oja's rule on the whitened ensemble, with weight \(8 / (t + 8)\).

    Args:
        direction: (D,) the direction before.
        position: (C, D).
        metric: that whitens.
        count: updates so far, \(t\).

    Returns:
        (D,) of norm one, float64.

    References:
        Oja, 1982, A simplified neuron model as a principal component analyzer. Sountsov, Hoffman, 2021,
        Focusing on difficult directions for learning HMC trajectory lengths.

    Example:
        >>> from evidentia.inference.mcmc.metric import metric_of
        >>> position = torch.tensor([[3.0, 0.1], [-3.0, -0.1]])
        >>> principal_direction(torch.ones(2), position, metric_of(torch.ones(2)), 0).round(decimals=2)
        tensor([1.0000, 0.0300], dtype=torch.float64)
    """
    direction = direction.double()
    centred = whiten(metric, position - position.mean(0)).double()
    image = centred.mT @ (centred @ direction)
    image = image / image.norm().clamp(min=1e-30)
    weight = 8.0 / (count + 8)
    mixed = (1.0 - weight) * direction + weight * image
    return mixed / mixed.norm().clamp(min=1e-30)


def init_trajectory(length: float = 1.0) -> Trajectory:
    """Begin at a mean length `length`, in units of whitened space.

    Raises:
        ValueError: it is not positive and finite.

    References:
        Hoffman, Radul, Sountsov, 2021, An adaptive-MCMC scheme for setting trajectory lengths.

    Example:
        >>> init_trajectory(1.0).log_length
        0.0
    """
    if not (length > 0 and math.isfinite(length)):
        raise ValueError(
            f"trajectory_length: expected a positive finite number, got {length}. Fix: trajectory_length=1.0"
        )
    return Trajectory(math.log(length), math.log(length), 0.0, 0)


def update_trajectory(
    state: Trajectory,
    value: float,
    derivative: float,
    travelled: float,
    *,
    rate: float = 0.3,
    learning_rate: float = 0.05,
    decay: float = 0.95,
    shortest: float = 0.0,
    longest: float = math.inf,
) -> Trajectory:
    r"""One step of Adam (no momentum) up \(C(T) / T^r\), with respect to \(\log T\):

    \[ \frac{d}{d \log T} \frac{C}{T^r} = T^{-r} (t\, C'(t) - r\, C), \qquad t = 2 h T \]

    Args:
        state: the state before.
        value: \(C\), as a float; nothing changes where it is not finite.
        derivative: \(C'\) at the length travelled.
        travelled: \(t\), the jittered length that gave both.
        rate: \(r\), what a longer trajectory must be worth.
        learning_rate: of Adam.
        decay: of the gradient's second moment.
        shortest: least length.
        longest: greatest length.

    References:
        Hoffman, Radul, Sountsov, 2021, An adaptive-MCMC scheme for setting trajectory lengths in Hamiltonian
        Monte Carlo. Kingma, Ba, 2015, Adam: a method for stochastic optimization.

    Example:
        >>> state = update_trajectory(init_trajectory(1.0), value=1.0, derivative=2.0, travelled=1.0)
        >>> round(state.log_length, 6)
        0.05
    """
    gradient = math.exp(-rate * state.log_length) * (travelled * derivative - rate * value)
    if not math.isfinite(gradient):
        return state
    count = state.updates + 1
    second = decay * state.second_moment + (1.0 - decay) * gradient**2
    scale = math.sqrt(second / (1.0 - decay**count)) + 1e-30
    log_length = state.log_length + learning_rate * gradient / scale
    log_length = min(max(log_length, math.log(max(shortest, 1e-300))), math.log(longest))
    weight = max(count**-0.5, 1.0 - decay)
    log_average = (1.0 - weight) * state.log_average + weight * log_length
    return Trajectory(log_length, log_average, second, count)


def final_trajectory(state: Trajectory) -> float:
    """The averaged length.

    References:
        Hoffman, Radul, Sountsov, 2021, An adaptive-MCMC scheme for setting trajectory lengths.

    Example:
        >>> final_trajectory(init_trajectory(1.5))
        1.5
    """
    return math.exp(state.log_average)
