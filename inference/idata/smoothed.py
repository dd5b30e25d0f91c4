"""Pareto-smoothed importance weights of many data at once, in torch's layout."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

__all__ = ["Smoothed", "smoothed_weights"]


class Smoothed(NamedTuple):
    """What `evidentia.inference.diagnostics.psis` returns.

    Attributes:
        log_weight: (K, *plates), smoothed and normalised: each column sums to 1 in linear space.
        pareto_k: (*plates), k-hat of each column; -inf where the weights do not vary.

    References:
        Vehtari, Simpson, Gelman, Yao and Gabry, 2024, Pareto smoothed importance sampling.
    """

    log_weight: Tensor
    pareto_k: Tensor


def smoothed_weights(log_weight: Tensor, psislw: Callable[..., Any]) -> Smoothed:
    """Smooth the weights of each column by ArviZ's `psislw`, which wants draws in the last dimension.

    Raises:
        ValueError: no draws, or NaN or +inf among the weights.

    References:
        Vehtari, Simpson, Gelman, Yao and Gabry, 2024, Pareto smoothed importance sampling.
    """
    if log_weight.dim() < 1 or not len(log_weight):
        raise ValueError(f"log_weight: expected (draws, ...), got shape {tuple(log_weight.shape)}")
    if bool((torch.isnan(log_weight) | (log_weight == torch.inf)).any()):
        raise ValueError("log_weight: expected finite numbers or -inf, got NaN or +inf. Fix: check the model")
    plates = log_weight.shape[1:]
    columns = log_weight.detach().double().cpu().reshape(len(log_weight), -1)
    result = columns - columns.logsumexp(0)
    k = torch.full((columns.shape[1],), -torch.inf, dtype=torch.float64)
    # ArviZ fits no tail to equal weights and calls that k = inf; they are the best there are.
    vary = columns.amax(0) - columns.amin(0) > 1e-12
    if bool(vary.any()):
        smooth, found = psislw(columns.T[vary].contiguous().numpy())
        result[:, vary] = torch.as_tensor(smooth).T
        k[vary] = torch.as_tensor(found)
    return Smoothed(result.reshape(log_weight.shape).to(log_weight.device), k.reshape(plates))
