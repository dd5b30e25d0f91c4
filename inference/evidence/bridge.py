"""Bridge sampling: the evidence from posterior draws, with a fitted normal proposal or its warp-III form."""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from evidentia.inference.evidence.bridge_equation import MAX_ITERATIONS, BridgeSolution, solve_bridge
from evidentia.inference.evidence.log_evidence import LogEvidence
from evidentia.inference.evidence.warp import Values, fit_frame, log_ratios, values_of

__all__ = ["Bridges", "bridge", "bridge_groups"]

MIN_OVERLAP = 0.01
NEGLIGIBLE = 0.01  # nats


class Bridges(NamedTuple):
    """The two bridges of G groups of draws; `failed` counts positions where the density is NaN.

    References:
        Meng and Schilling, 2002. Warp bridge sampling.
    """

    normal: BridgeSolution
    warp: BridgeSolution
    failed: int


def bridge_groups(
    values: Values,
    draws: Tensor,
    *,
    num_proposals: int | None = None,
    generator: torch.Generator | None = None,
) -> Bridges:
    """The normal and the warp-III bridge of each group of chains, in one batch.

    The first half of every chain fits mean and covariance, the second half estimates.

    Args:
        values: log density (n, D) -> (n,).
        draws: (G, C, N, D), unconstrained; each group has a proposal of its own.
        num_proposals: for each group; None means as many as draws in the second halves.
        generator: of the proposals.

    Raises:
        ValueError: too few draws, or a draw where the density is not finite.

    References:
        Meng and Schilling, 2002. Warp bridge sampling.

    Example:
        >>> draws = torch.randn(3, 4, 100, 2, dtype=torch.float64)
        >>> bridge_groups(lambda x: -x.square().sum(-1) / 2, draws).warp.value.shape
        torch.Size([3])
    """
    groups, chains, length, dim = draws.shape
    half = length // 2
    if length - half < 8:
        raise ValueError(
            f"draws: {length} per chain; expected at least 16, half of them for the proposal. "
            "Fix: longer chains"
        )
    frame = fit_frame(draws[:, :, :half].reshape(groups, -1, dim))
    second = draws[:, :, half:].reshape(groups, -1, dim)
    size = second.shape[1] if num_proposals is None else num_proposals
    noise = torch.randn(groups, size, dim, generator=generator, dtype=torch.float64, device=draws.device)
    ratios = log_ratios(values, second, frame, noise)
    series = [
        part.T.reshape(chains, length - half, groups) for part in (ratios.normal_draws, ratios.warp_draws)
    ]
    return Bridges(
        solve_bridge(series[0], ratios.normal_proposals.T),
        solve_bridge(series[1], ratios.warp_proposals.T),
        ratios.failed,
    )


def bridge(
    density: Any,
    draws: Tensor,
    *,
    proposal: Literal["warp", "normal"] = "warp",
    num_proposals: int | None = None,
    num_groups: int | None = None,
    generator: torch.Generator | None = None,
) -> LogEvidence:
    """log Z of an unnormalised density from draws of it, by bridge sampling.

    The standard error is Frühwirth-Schnatter's, with the effective size of the draws. The estimate is also
    repeated in groups of chains; where these differ more than twice as much as their errors allow, it is
    enlarged by the factor √(χ²/(G-1)).

    Args:
        density: a `LogDensity`, a tempered density (used at beta = 1) or a target.
        draws: (C, N, D) or (N, D), on the unconstrained space of `density`. Without warm-up.
        proposal: "warp", symmetrised, or "normal".
        num_proposals: None means half the number of draws.
        num_groups: groups of chains; None means 8 or 4 where there are enough chains and draws, else none.
        generator: of the proposals.

    Returns:
        A consistent estimate in nats. Diagnostics: `method`, `warnings`, `iterations`, `overlap`, `ess` (of
        the log ratios), `ess_f1`, `num_draws` (second halves), `num_proposals`, `other` (value and error of
        the other proposal), `group_values`, `group_standard_error`.

        Warnings: the iteration did not converge, or swung; overlap below 0.01; the two proposals differ by
        more than 3 standard errors; the groups differ too much; the density is NaN at some proposals.

    Raises:
        ValueError: an unknown proposal, too few draws, or draws where the density is not finite.

    References:
        Meng and Wong, 1996. Simulating ratios of normalizing constants via a simple identity.
        Meng and Schilling, 2002. Warp bridge sampling.
        Gronau et al., 2017. A tutorial on bridge sampling.

    Example:
        >>> from evidentia.inference.density.evaluation import target_of
        >>> random = torch.Generator().manual_seed(0)
        >>> draws = torch.randn(4, 500, 2, generator=random, dtype=torch.float64)
        >>> found = bridge(target_of(lambda x: -x.square().sum(-1) / 2), draws, generator=random)
        >>> abs(found.value - math.log(2 * math.pi)) < 4 * found.standard_error
        True
    """
    if proposal not in ("warp", "normal"):
        raise ValueError(f"bridge: expected proposal 'warp' or 'normal', got {proposal!r}")
    chains = draws[None] if draws.dim() == 2 else draws
    if chains.dim() != 3:
        raise ValueError(f"draws: expected (chains, draws, D) or (draws, D), got {tuple(draws.shape)}")
    values = values_of(density)
    both = bridge_groups(values, chains[None], num_proposals=num_proposals, generator=generator)
    main, other = (both.warp, both.normal) if proposal == "warp" else (both.normal, both.warp)
    value, error = float(main.value), float(main.standard_error)
    warnings = _own_warnings(main, both.failed)
    difference = float(main.value - other.value)
    allowed = 3 * math.hypot(error, float(other.standard_error))
    if not abs(difference) <= allowed:
        warnings.append(
            f"normal and warp-III proposals differ by {abs(difference):.3f} nats, 3 standard errors are "
            f"{allowed:.3f}: the posterior is skewed or the draws are not enough"
        )
    groups = _group_count(chains) if num_groups is None else num_groups
    diagnostics: dict[str, Any] = {
        "method": f"bridge ({'warp-III' if proposal == 'warp' else 'normal'})",
        "iterations": main.iterations,
        "overlap": float(main.overlap),
        "ess": float(main.ess),
        "ess_f1": float(main.ess_f1),
        "num_draws": chains.shape[0] * (chains.shape[1] - chains.shape[1] // 2),
        "num_proposals": num_proposals or chains.shape[0] * (chains.shape[1] - chains.shape[1] // 2),
        "other": (float(other.value), float(other.standard_error)),
    }
    if groups > 1:
        found = _repeats(values, chains, groups, proposal, generator)
        spread = float(found.value.std() / math.sqrt(groups))
        diagnostics |= {"group_values": tuple(found.value.tolist()), "group_standard_error": spread}
        excess = _excess(found, value)
        if excess > 1:
            error *= excess
            warnings.append(
                f"{groups} groups of chains differ {excess:.1f} times as much as their standard errors say: "
                "the chains have not mixed, or the overlap is small; the standard error grows by this factor"
            )
    diagnostics["warnings"] = tuple(warnings)
    return LogEvidence.checked(value, error, "consistent estimate", diagnostics)


def _own_warnings(found: BridgeSolution, failed: int) -> list[str]:
    warnings = []
    if not bool(found.converged):
        warnings.append(
            f"no convergence in {MAX_ITERATIONS} iterations: proposal and posterior hardly overlap"
        )
    if bool(found.oscillating):
        warnings.append("the iteration swings without coming closer")
    if not float(found.overlap) >= MIN_OVERLAP:
        warnings.append(
            f"overlap {float(found.overlap):.4f} < {MIN_OVERLAP}: few draws or proposals carry the estimate"
        )
    if failed:
        warnings.append(f"the log density is NaN at {failed} proposed positions, taken as zero density")
    return warnings


def _group_count(chains: Tensor) -> int:
    """8 or 4 groups of at least two chains, with ten draws for each coordinate of the proposal; else none."""
    count, length, dim = chains.shape
    for groups in (8, 4):
        if count >= 2 * groups and count // groups * (length // 2) >= 10 * (dim + 1):
            return groups
    return 0


def _repeats(
    values: Values, chains: Tensor, groups: int, proposal: str, generator: torch.Generator | None
) -> BridgeSolution:
    """The estimates of groups of chains, each with a proposal of its own."""
    size = chains.shape[0] // groups
    if size < 1:
        raise ValueError(f"num_groups: {groups} groups of {chains.shape[0]} chains. Fix: num_groups=0")
    split = chains[: size * groups].reshape(groups, size, *chains.shape[1:])
    both = bridge_groups(values, split, generator=generator)
    return both.warp if proposal == "warp" else both.normal


def _excess(found: BridgeSolution, value: float) -> float:
    """√(χ²/(G-1)) of the groups about the value of all chains, or 1 where it is below 2.

    About that value, not about their mean: groups that each see one mode agree, and are all wrong. The errors
    of groups are themselves rough, within a factor of two, and say nothing below 0.01 nats.
    """
    variance = found.standard_error.square() + NEGLIGIBLE**2
    ratio = float(((found.value - value).square() / variance).sum()) / (found.value.numel() - 1)
    return math.sqrt(ratio) if ratio > 4 else 1.0
