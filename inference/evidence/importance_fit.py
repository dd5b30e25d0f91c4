"""Evidence by importance sampling from a Student-t law fitted to posterior draws."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from evidentia.inference.evidence.importance import estimate
from evidentia.inference.evidence.log_evidence import Kind, LogEvidence
from evidentia.inference.evidence.pareto import tail_shape
from evidentia.inference.evidence.warp import Values, evaluate, fit_frame, values_of

__all__ = ["importance_fit", "importance_result"]

KIND: Kind = "consistent estimate"
MAX_PARETO_K = 0.7
FEWEST_EFFECTIVE, LARGEST_SHARE = 10.0, 0.3  # with less there is no standard error


def importance_fit(
    density: Any,
    draws: Tensor,
    *,
    num_proposals: int | None = None,
    degrees: float = 5.0,
    generator: torch.Generator | None = None,
) -> LogEvidence:
    r"""log Z by importance sampling; the proposal is a multivariate t around the mean of the draws.

    x = m + √(ν/χ²_ν) L e with e standard normal and L L' the covariance of the draws: the proposal is wider
    than they are, by ν/(ν - 2) in its covariance. \(\hat Z = \frac1K \sum_k p(x_k) / q(x_k)\).

    Args:
        density: a `LogDensity`, a tempered density (used at beta = 1) or a target.
        draws: (C, N, D) or (N, D), unconstrained. They only shape the proposal: their
            autocorrelation does not matter, and a mode that they missed shows in no diagnostic.
        num_proposals: K; None means the number of draws, at least 1000.
        degrees: ν > 0.
        generator: of the proposals.

    Returns:
        A consistent estimate in nats, with the standard error of the mean weight; a lower bound (in
        expectation) without error, where fewer than 10 proposals carry the weight. Diagnostics: `method`,
        `warnings`, `pareto_k`, `ess`, `num_proposals`. Warns where k-hat > 0.7, or above 0.5 that the
        variance of the weights may be infinite.

    Raises:
        ValueError: too few draws, ν <= 0, or fewer than 25 proposals.

    References:
        Yao, Vehtari, Simpson and Gelman, 2018. Yes, but did it work? Evaluating variational inference.

    Example:
        >>> from evidentia.inference.density.evaluation import target_of
        >>> random = torch.Generator().manual_seed(0)
        >>> draws = torch.randn(2000, 2, generator=random, dtype=torch.float64)
        >>> found = importance_fit(target_of(lambda x: -x.square().sum(-1) / 2), draws, generator=random)
        >>> abs(found.value - math.log(2 * math.pi)) < 4 * found.standard_error
        True
    """
    if not degrees > 0:
        raise ValueError(f"importance_fit: degrees must be positive, got {degrees}; e.g. degrees=5.0")
    dim = draws.shape[-1]
    frame = fit_frame(draws.reshape(1, -1, dim))
    size = max(draws.numel() // dim, 1000) if num_proposals is None else num_proposals
    noise = torch.randn(1, size, dim, generator=generator, dtype=torch.float64, device=draws.device)
    half = torch.full((1, size, 1), degrees / 2, dtype=torch.float64, device=draws.device)
    chi2 = 2 * torch._standard_gamma(half, generator=generator)
    u = noise * (degrees / chi2).sqrt()
    log_q = (
        math.lgamma((degrees + dim) / 2)
        - math.lgamma(degrees / 2)
        - 0.5 * dim * math.log(degrees * math.pi)
        - frame.log_volume
        - 0.5 * (degrees + dim) * torch.log1p(u.square().sum(-1) / degrees)
    )
    return importance_result(
        values_of(density), frame.outwards(u)[0], log_q[0], draws.dtype, f"importance (t{degrees:g})"
    )


def importance_result(
    values: Values, position: Tensor, log_proposal: Tensor, dtype: torch.dtype, method: str
) -> LogEvidence:
    """The estimate from K proposals (K, D) with log densities (K,): value, error, k-hat and warnings.

    References:
        Vehtari, Simpson, Gelman, Yao and Gabry, 2024. Pareto smoothed importance sampling.

    Example:
        >>> from torch.distributions import Normal
        >>> x = torch.randn(1000, 1, dtype=torch.float64)
        >>> log_q = Normal(0.0, 1.0).log_prob(x)[:, 0]
        >>> found = importance_result(lambda x: -x[:, 0] ** 2 / 2, x, log_q, torch.float64, "importance")
        >>> round(found.value, 6)  # the proposal is the target: every weight is √(2π)
        0.918939
    """
    if len(position) < 25:
        raise ValueError(
            f"num_proposals: k-hat needs at least 25 proposals, got {len(position)}; e.g. num_proposals=1000"
        )
    weight = evaluate(values, position, dtype) - log_proposal
    failed = int(weight.isnan().sum())
    weight = torch.where(weight.isnan(), -math.inf, weight)
    if not bool((weight > -math.inf).any()):
        raise ValueError(
            f"{method}: the density is zero or NaN at all {len(weight)} proposals. "
            "Fix: draws of this very model, on the unconstrained space"
        )
    found = estimate(weight)
    # Zero weights leave the tail as it is; the fit only needs them finite.
    floor = weight[weight > -math.inf].amin()
    k = float(tail_shape(weight.clamp_min(floor)[:, None]))
    warnings: list[str] = []
    error, kind = float(found.standard_error), KIND
    largest = float(weight.softmax(0).max())
    if not (float(found.ess) >= FEWEST_EFFECTIVE and largest <= LARGEST_SHARE):
        error, kind = math.inf, "lower bound"
        warnings.append(
            f"weights collapsed (effective size {float(found.ess):.1f}, largest share {largest:.2f}): no "
            "standard error, the value is a stochastic lower bound"
        )
    if not k <= MAX_PARETO_K:
        warnings.append(
            f"Pareto k-hat {k:.2f} > {MAX_PARETO_K}: the estimate and its error cannot be trusted"
        )
    elif k > 0.5:
        warnings.append(f"Pareto k-hat {k:.2f} > 0.5: the weights may have no variance, the error is a guess")
    if failed:
        warnings.append(f"the log density is NaN at {failed} proposed positions, taken as zero density")
    diagnostics = {
        "method": method,
        "warnings": tuple(warnings),
        "pareto_k": k,
        "ess": float(found.ess),
        "num_proposals": len(weight),
    }
    return LogEvidence.checked(float(found.value), error, kind, diagnostics)
