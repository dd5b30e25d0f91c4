"""Log ratios between a target and a normal law fitted to its draws, plain and symmetrised (warp-III)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from evidentia.inference.density.evaluation import as_tempered

__all__ = ["Frame", "Ratios", "Values", "evaluate", "fit_frame", "log_ratios", "values_of"]

Values = Callable[[Tensor], Tensor]  # (n, D) -> (n,) log density, nats

ROWS = 32_768  # positions evaluated at a time


class Frame(NamedTuple):
    """The affine map x = loc + scale_tril u of each group: (G, D) and (G, D, D).

    References:
        Meng and Schilling, 2002. Warp bridge sampling.
    """

    loc: Tensor
    scale_tril: Tensor

    def outwards(self, u: Tensor) -> Tensor:
        """u (G, n, D) to x."""
        return self.loc[:, None] + u @ self.scale_tril.mT

    def inwards(self, x: Tensor) -> Tensor:
        """x (G, n, D) to u."""
        centred = (x - self.loc[:, None]).mT
        return torch.linalg.solve_triangular(self.scale_tril, centred, upper=False).mT

    @property
    def log_volume(self) -> Tensor:
        """log|det L|, (G,)."""
        return self.scale_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)


class Ratios(NamedTuple):
    """log target - log proposal at draws (G, n1) and at proposals (G, n2), for both bridges.

    References:
        Meng and Schilling, 2002. Warp bridge sampling.
    """

    normal_draws: Tensor
    normal_proposals: Tensor
    warp_draws: Tensor
    warp_proposals: Tensor
    failed: int  # proposals or reflected draws where the density is NaN, taken as zero


def fit_frame(draws: Tensor) -> Frame:
    """Mean and Cholesky factor of the covariance of draws (G, n, D), in double precision.

    Raises:
        ValueError: too few draws, draws that are not finite, or draws that lie in a plane.

    References:
        none; bookkeeping.

    Example:
        >>> fit_frame(torch.tensor([[[0.0], [2.0], [4.0]]])).scale_tril
        tensor([[[2.]]], dtype=torch.float64)
    """
    groups, size, dim = draws.shape
    if size < dim + 2:
        raise ValueError(
            f"draws: {size} draws fit the proposal, its covariance in {dim} dimensions needs at least "
            f"{dim + 2}. Fix: more draws (the first half of each chain fits, the second estimates)"
        )
    x = draws.double()
    if not bool(x.isfinite().all()):
        raise ValueError("draws: some are NaN or infinite. Fix: leave out the chains that failed")
    loc = x.mean(1)
    centred = x - loc[:, None]
    covariance = centred.mT @ centred / (size - 1)
    factor, info = torch.linalg.cholesky_ex(covariance)
    if bool((info != 0).any()):
        raise ValueError(
            f"draws: their covariance is singular in {int((info != 0).sum())} of {groups} groups. "
            "Fix: more draws, or a model without coordinates that determine each other"
        )
    return Frame(loc, factor)


def values_of(density: Any) -> Values:
    """The log density alone of a `LogDensity`, a tempered density or a target, (n, D) -> (n,).

    References:
        none; bookkeeping.

    Example:
        >>> from evidentia.inference.density.evaluation import target_of
        >>> values_of(target_of(lambda x: -x.square().sum(-1)))(torch.ones(2, 3)).tolist()
        [-3.0, -3.0]
    """
    if hasattr(density, "evaluate"):  # a LogDensity: its call computes no gradient
        values: Values = density
        return values
    tempered = as_tempered(density)
    return lambda position: tempered(position, 1.0).log_density


def evaluate(values: Values, position: Tensor, dtype: torch.dtype) -> Tensor:
    """Log density of positions (*shape, D) in pieces, (*shape) double precision; NaN stays NaN.

    References:
        none; bookkeeping.

    Example:
        >>> evaluate(lambda x: -x.square().sum(-1), torch.ones(2, 3, 1), torch.float32).shape
        torch.Size([2, 3])
    """
    flat = position.reshape(-1, position.shape[-1]).to(dtype)
    with torch.no_grad():
        parts = [values(piece).detach().double() for piece in flat.split(ROWS)]
    return torch.cat(parts).reshape(position.shape[:-1])


def log_ratios(values: Values, draws: Tensor, frame: Frame, noise: Tensor) -> Ratios:
    r"""Both pairs of log ratios, from the same four evaluations.

    With u = L^-1 (x - m) and N the standard normal density, the plain bridge has the target
    p(m + L u) |L|, warp-III its symmetrised form ½ [p(m + L u) + p(m - L u)] |L|, both against N(u). The
    random sign of warp-III drops out: its target is the same at u and at -u.

    Args:
        values: log p, (n, D) -> (n,).
        draws: of the target, (G, n1, D), not those that fitted `frame`.
        frame: m and L.
        noise: standard normal draws (G, n2, D), float64.

    Raises:
        ValueError: a draw where the density is zero or NaN.

    References:
        Meng and Schilling, 2002. Warp bridge sampling.

    Example:
        >>> x = torch.randn(1, 100, 2, dtype=torch.float64)
        >>> same = Frame(x.new_zeros(1, 2), torch.eye(2, dtype=torch.float64)[None])
        >>> flat = log_ratios(lambda x: -x.square().sum(-1) / 2, x, same, x)
        >>> bool((flat.warp_draws - math.log(2 * math.pi)).abs().max() < 1e-12)
        True
    """
    u = frame.inwards(draws.double())
    at_draws = evaluate(values, draws, draws.dtype)
    broken = ~at_draws.isfinite()
    if bool(broken.any()):
        raise ValueError(
            f"draws: the log density is not finite at {int(broken.sum())} of {broken.numel()} draws. "
            "Fix: give draws of this very model, on the unconstrained space"
        )
    failed = 0
    others = []
    for position in (frame.outwards(-u), frame.outwards(noise), frame.outwards(-noise)):
        found = evaluate(values, position, draws.dtype)
        failed += int(found.isnan().sum())
        others.append(torch.where(found.isnan(), -math.inf, found))
    reflected, plus, minus = others
    volume = frame.log_volume[:, None]
    base1, base2 = _log_normal(u) - volume, _log_normal(noise) - volume
    return Ratios(
        at_draws - base1,
        plus - base2,
        torch.logaddexp(at_draws, reflected) - math.log(2) - base1,
        torch.logaddexp(plus, minus) - math.log(2) - base2,
        failed,
    )


def _log_normal(u: Tensor) -> Tensor:
    return -0.5 * (u.square().sum(-1) + u.shape[-1] * math.log(2 * math.pi))
