"""Laplace's approximation, which is refused without a proper mode, and corrected by importance sampling."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from evidentia.inference.density.evaluation import Target, as_tempered
from evidentia.inference.evidence.importance_fit import importance_result
from evidentia.inference.evidence.log_evidence import LogEvidence
from evidentia.inference.evidence.mode_search import Modes, find_modes, hessian
from evidentia.inference.evidence.warp import values_of

__all__ = ["laplace"]

CONDITION = 1e-8  # a curvature below this part of the largest counts as none


def laplace(
    density: Any,
    starts: Tensor | None = None,
    *,
    num_starts: int = 16,
    num_proposals: int = 4000,
    max_iterations: int = 500,
    generator: torch.Generator | None = None,
) -> LogEvidence:
    r"""log Z from the modes: \(\log p(m) + \frac D2 \log 2\pi - \frac12 \log\det H\), then made consistent.

    Modes are searched from all starts at once. Laplace's value has no error bar, so it is not the result:
    the Gaussians at the modes (a mixture weighted by their Laplace masses) propose draws, and their
    importance weights give the result, its standard error and a k-hat. Laplace's own value is in the
    diagnostics.

    Args:
        density: a `LogDensity`, a tempered density (used at beta = 1) or a target.
        starts: (S, D), unconstrained; None draws them from the prior of a `LogDensity`.
        num_starts: how many to draw.
        num_proposals: of the importance correction.
        max_iterations: of the mode search.
        generator: of starts and proposals.

    Returns:
        A consistent estimate in nats. Diagnostics: `method`, `warnings`, `laplace` (the approximation
        itself), `num_modes`, `smallest_eigenvalue` of the Hessians, `mode` (the highest one), `pareto_k`,
        `ess`, `num_proposals`. Warns of several modes, of starts that failed, and of k-hat.

    Raises:
        ValueError: no search ended at a mode: the log density rises without end (no interior mode), or every
            stationary point is a saddle or a ridge; the message names the worst coordinates.

    References:
        Tierney and Kadane, 1986. Accurate approximations for posterior moments and marginal densities.

    Example:
        >>> from evidentia.inference.density.evaluation import target_of
        >>> density = target_of(lambda x: -0.5 * (x - 3.0).square().sum(-1))
        >>> found = laplace(density, torch.zeros(1, 2, dtype=torch.float64))
        >>> round(found.diagnostics["laplace"] - math.log(2 * math.pi), 6)
        0.0
    """
    tempered = as_tempered(density)

    def target(position: Tensor) -> tuple[Tensor, Tensor]:
        found = tempered(position, 1.0)
        return found.log_density, found.gradient

    if starts is None:
        starts = _prior_starts(density, num_starts, generator)
    if starts.dim() != 2:
        raise ValueError(f"laplace: expected starts (S, D), got {tuple(starts.shape)}; e.g. starts[None]")
    found = find_modes(target, starts, max_iterations=max_iterations)
    if not bool(found.converged.any()):
        raise ValueError(_no_mode(found, starts, density))
    position = _polished(target, found.position[found.converged])
    value, _ = target(position)
    curvature = hessian(target, position)
    eigenvalues, vectors = torch.linalg.eigh(curvature.double())
    proper = eigenvalues[:, 0] > CONDITION * eigenvalues[:, -1].clamp_min(1e-300)
    if not bool(proper.any()):
        raise ValueError(_saddle(eigenvalues, vectors, density))
    keep = _distinct(position[proper].double(), value[proper].double(), curvature[proper].double())
    modes, heights = position[proper].double()[keep], value[proper].double()[keep]
    factor = torch.linalg.cholesky(curvature[proper].double()[keep])  # H = C C'
    dim = modes.shape[1]
    half_log_det = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    masses = heights + 0.5 * dim * math.log(2 * math.pi) - half_log_det
    log_q, proposals = _mixture(modes, factor, masses, num_proposals, generator)
    result = importance_result(
        values_of(density), proposals, log_q, starts.dtype, "laplace (importance corrected)"
    )
    diagnostics = dict(result.diagnostics) | {
        "laplace": float(masses.logsumexp(0)),
        "num_modes": len(modes),
        "smallest_eigenvalue": float(eigenvalues[proper][keep, 0].min()),
        "mode": modes[heights.argmax()],
        "warnings": (*_search_warnings(found, proper, len(modes)), *result.diagnostics["warnings"]),
    }
    return result._replace(diagnostics=diagnostics)


def _prior_starts(density: Any, count: int, generator: torch.Generator | None) -> Tensor:
    draw = getattr(density, "prior_draws", None)
    if draw is None:
        raise ValueError("laplace: starts are needed for a plain density. Fix: starts=torch.zeros(1, D)")
    starts: Tensor = draw(count, generator=generator)
    return starts


def _polished(target: Target, position: Tensor) -> Tensor:
    """Two Newton steps where the Hessian is positive and the step is small."""
    for _ in range(2):
        _, gradient = target(position)
        factor, info = torch.linalg.cholesky_ex(hessian(target, position))
        step = torch.cholesky_solve(gradient[..., None], factor)[..., 0]
        small = (info == 0) & ((step * gradient).sum(-1) < 0.1) & step.isfinite().all(-1)
        position = torch.where(small[:, None], position + step, position)
    return position


def _distinct(position: Tensor, value: Tensor, curvature: Tensor) -> Tensor:
    """Indices of modes, highest first, that lie further than 0.1 standard deviations from each other."""
    kept: list[int] = []
    for index in value.argsort(descending=True).tolist():
        offset = position[kept] - position[index]
        distance = torch.einsum("md,mde,me->m", offset, curvature[kept], offset)
        if not bool((distance < 0.01).any()):
            kept.append(index)
    return torch.tensor(kept, device=position.device)


def _mixture(
    modes: Tensor, factor: Tensor, masses: Tensor, count: int, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """log q (count,) and draws (count, D) of the Gaussians at the modes, weighted by their masses."""
    dim = modes.shape[1]
    log_share = masses.log_softmax(0)
    which = torch.multinomial(log_share.exp(), count, replacement=True, generator=generator)
    noise = torch.randn(count, dim, generator=generator, dtype=modes.dtype, device=modes.device)
    step = torch.linalg.solve_triangular(factor.mT[which], noise[..., None], upper=True)[..., 0]
    draws = modes[which] + step
    white = torch.einsum("mde,nmd->nme", factor, draws[:, None] - modes)  # C'(x - m)
    log_det = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    log_q = log_det - 0.5 * dim * math.log(2 * math.pi) - 0.5 * white.square().sum(-1)
    return (log_share + log_q).logsumexp(1), draws


def _search_warnings(found: Modes, proper: Tensor, modes: int) -> list[str]:
    warnings = []
    if modes > 1:
        warnings.append(f"{modes} modes found and added up: a mode that no start reached would be missing")
    lost = int((~found.converged).sum())
    if lost:
        warnings.append(f"{lost} of {len(found.converged)} searches did not end at a stationary point")
    if not bool(proper.all()):
        warnings.append(f"{int((~proper).sum())} searches ended at a saddle or a ridge and were left out")
    return warnings


def _no_mode(found: Modes, starts: Tensor, density: Any) -> str:
    best = int(torch.where(found.log_density.isfinite(), found.log_density, -math.inf).argmax())
    names = _coordinates(density, found.position[best] - starts[best])
    return (
        f"laplace: no interior mode: after {found.iterations} iterations the log density, "
        f"{float(found.log_density[best]):.4g}, still rises; the search went furthest along {names}. "
        "Fix: another method, such as 'bridge', or another parametrisation (a scale that can shrink to "
        "zero has no mode)"
    )


def _saddle(eigenvalues: Tensor, vectors: Tensor, density: Any) -> str:
    best = int(eigenvalues[:, 0].argmax())
    smallest = float(eigenvalues[best, 0])
    names = _coordinates(density, vectors[best, :, 0])
    kind = "a saddle" if smallest < 0 else "on a ridge"
    return (
        f"laplace: every stationary point found is {kind} (smallest eigenvalue of the Hessian "
        f"{smallest:.4g}, along {names}): there is no mode there. Fix: other starts, or another method, "
        "such as 'bridge'"
    )


def _coordinates(density: Any, weight: Tensor) -> str:
    """The coordinates with the largest weights, two at most, by their sites where the density names them."""
    labels = [
        site.name if site.size == 1 else f"{site.name}[{k}]"
        for site in getattr(density, "sites", ())
        for k in range(site.size)
    ]
    size = torch.nan_to_num(weight.abs())
    top = [k for k in size.argsort(descending=True)[:2].tolist() if size[k] >= 0.1 * size.max()]
    return ", ".join(labels[k] if k < len(labels) else f"coordinate {k}" for k in top)
