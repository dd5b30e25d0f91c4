"""Step size and metric together: the part of a warm-up that all adaptive kernels share."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from evidentia.inference.mcmc.adaptation.mass import (
    Moments,
    final_metric,
    init_moments,
    prefers_dense,
    update_moments,
)
from evidentia.inference.mcmc.adaptation.step_size import (
    StepSize,
    final_step_size,
    init_step_size,
    restart_average,
    search_step_size,
    update_step_size,
)
from evidentia.inference.mcmc.metric import Metric, identity_metric

__all__ = ["METRICS", "Tuning", "init_tuning", "step_size_at", "update_tuning"]

METRICS = ("auto", "dense", "diagonal", "identity")
# Iterations between two refreshes of the metric, which cost a Cholesky factor each.
REFRESH = 10
# Part of the warm-up after which step sizes are averaged anew.
RESTART = 0.6


class Tuning(NamedTuple):
    """What a warm-up tunes.

    Attributes:
        step_size: dual averaging.
        moments: of the ensemble.
        metric: the metric in use.

    References:
        none; bookkeeping.
    """

    step_size: StepSize
    moments: Moments
    metric: Metric


def init_tuning(
    position: Tensor,
    trial: Callable[[Metric, float], float] | None,
    *,
    step_size: float | None,
    first: float,
    target: float,
    metric: str = "auto",
    forgetting: float = 0.97,
) -> Tuning:
    """The tuning at the start of a warm-up.

    A large ensemble gives a first metric at once; few chains begin with unit variances.

    Args:
        position: (C, D), where the chains start.
        trial: (metric, step size) → mean acceptance of one trial transition; None: no search.
        step_size: the first step size; searched from `first` when None.
        first: first trial of the search.
        target: acceptance to aim at.
        metric: "auto" (dense for large ensembles), "dense", "diagonal" or "identity".
        forgetting: of the moments.

    Raises:
        ValueError: another `metric`.

    References:
        Hoffman, Radul, Sountsov, 2021, An adaptive-MCMC scheme for setting trajectory lengths in Hamiltonian
        Monte Carlo.

    Example:
        >>> import torch
        >>> start = torch.randn(64, 2, dtype=torch.float64)
        >>> init_tuning(start, None, step_size=0.5, first=1.0, target=0.8).metric.is_dense
        True
    """
    if metric not in METRICS:
        raise ValueError(f"metric: expected one of {', '.join(METRICS)}, got {metric!r}. Fix: metric='auto'")
    dense = metric == "dense" or (metric == "auto" and prefers_dense(*position.shape))
    empty = init_moments(position, dense=dense)
    moments = update_moments(empty, position, forgetting=forgetting)
    found = final_metric(moments, position, forgetting=forgetting) if metric != "identity" else None
    current = identity_metric(position) if found is None else found
    if step_size is None:
        step_size = first if trial is None else search_step_size(lambda e: trial(current, e), first, target)
    return Tuning(init_step_size(step_size), moments, current)


def update_tuning(
    tuning: Tuning,
    position: Tensor,
    acceptance: float,
    step: int,
    warmup_steps: int,
    *,
    target: float | None,
    metric: str = "auto",
    forgetting: float = 0.97,
) -> Tuning:
    """The tuning after transition number `step` (from 0) of a warm-up.

    The metric stays as it is in the last tenth of the warm-up, so that the step size settles.

    Args:
        tuning: before.
        position: (C, D) after the transition.
        acceptance: mean over chains.
        step: transitions before this one.
        warmup_steps: transitions of the warm-up.
        target: acceptance to aim at; None: the step size is fixed.
        metric: as in `init_tuning`.
        forgetting: as in `init_tuning`.

    References:
        Hoffman, Radul, Sountsov, 2021, An adaptive-MCMC scheme for setting trajectory lengths in Hamiltonian
        Monte Carlo.

    Example:
        >>> import torch
        >>> start = torch.randn(64, 2, dtype=torch.float64)
        >>> tuning = init_tuning(start, None, step_size=0.5, first=1.0, target=0.8)
        >>> after = update_tuning(tuning, start, 1.0, 0, 100, target=0.8)
        >>> after.step_size.log_step > tuning.step_size.log_step
        True
    """
    step_size, moments, current = tuning
    if target is not None:
        step_size = update_step_size(step_size, acceptance, target)
        if step + 1 == int(RESTART * warmup_steps):
            # The average must not remember steps that suited the metrics of the beginning.
            step_size = restart_average(step_size)
    if metric != "identity":
        moments = update_moments(moments, position, forgetting=forgetting)
        if (step + 1) % REFRESH == 0 and step + 1 <= 0.9 * warmup_steps:
            found = final_metric(moments, position, forgetting=forgetting)
            current = current if found is None else found
    return Tuning(step_size, moments, current)


def step_size_at(tuning: Tuning, step: int, warmup_steps: int) -> float:
    """The step size to use at transition `step`: the iterate in the warm-up, the average afterwards.

    References:
        Hoffman, Gelman, 2014, The No-U-Turn sampler.

    Example:
        >>> import torch
        >>> tuning = init_tuning(torch.randn(8, 2), None, step_size=0.5, first=1.0, target=0.8)
        >>> step_size_at(tuning, step=10, warmup_steps=10)
        0.5
    """
    if step < warmup_steps:
        return math.exp(tuning.step_size.log_step)
    return final_step_size(tuning.step_size)
