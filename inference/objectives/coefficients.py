"""One function from detached log-weights to the coefficients of any particle objective's gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from evidentia.inference.objectives.bounds import ciwae_bound, grouped, iwae_bound
from evidentia.inference.objectives.combinations import COMBINATIONS as COMBINATIONS
from evidentia.inference.objectives.combinations import Promise as Promise
from evidentia.inference.objectives.combinations import check_combination as check_combination
from evidentia.inference.objectives.combinations import promise as promise
from evidentia.inference.objectives.dead_rows import DeadRowWarning as DeadRowWarning
from evidentia.inference.objectives.dead_rows import warn_dead_rows
from evidentia.inference.objectives.triples import Coefficients as Coefficients
from evidentia.inference.objectives.triples import (
    elbo_triple,
    iwae_triple,
    jackknife_triple,
    normalised,
    renyi_triple,
    rws_triple,
    tail_adaptive_triple,
)


def coefficients(
    log_weight: Tensor,
    objective: str,
    gradient: str,
    *,
    outer: int = 1,
    alpha: float | None = None,
    beta: float | None = None,
    baseline: Tensor | float | None = None,
) -> Coefficients:
    r"""The value of an objective and the coefficients a, b, s of its gradient (see `Coefficients`).

    With \(\tilde w=\mathrm{softmax}(\log w)\) and \(L=\log\frac1K\sum w\), the total derivative has
    a = b = -s: 1/K for "elbo" and \(\tilde w\) for "iwae". "stl" drops s; "dreg" also changes the path, for
    "iwae" to \(b=\tilde w^2\). Sites that are not reparameterised get L - a_k ("total"), with a baseline from
    the other particles subtracted ("vimco": their geometric mean in place of w_k; "loo": their own bound).

    Where all the weights of a plate element are zero its coefficients are zero, its value is -inf, and a
    `DeadRowWarning` names the index.

    Args:
        log_weight: \(\log p(x,z_k)-\log q(z_k)\), detached, (K, *plates), nats; a scalar is one particle.
        objective: "elbo", "iwae", "rws", "renyi", "tail_adaptive", "miwae", "piwae", "ciwae", "jackknife" or
            "cubo". All are to be *maximised*; "cubo" is "renyi" with α = 1 - n.
        gradient: "total", "stl", "dreg", "vimco" or "loo"; see `COMBINATIONS`.
        outer: groups of "miwae" and "piwae"; K is the total, and groups are runs of neighbours.
        alpha: order of "renyi"; 1 - n for "cubo" (default -1).
        beta: weight of the ELBO in "ciwae"; power of the rank in "tail_adaptive" (default -1).
        baseline: for the score sites of "elbo" with K = 1, broadcasting with (*plates), nats; it must not
            depend on the particles.

    Returns:
        `Coefficients`, each (K, *plates), free of autograd history.

    Raises:
        ValueError: see `check_combination`; or a baseline that would not be used.

    References:
        Tucker, Lawson, Gu and Maddison, 2019. Doubly reparameterized gradient estimators for Monte Carlo
        objectives.
        Mnih and Rezende, 2016. Variational inference for Monte Carlo objectives.
        Rainforth, Kosiorek, Le, Maddison, Igl, Wood and Teh, 2018. Tighter variational bounds are not
        necessarily better.
        Wang, Liu and Liu, 2018. Variational inference with tail-adaptive f-divergence.

    Example:
        >>> c = coefficients(torch.tensor([3.0, 1.0, 2.0]), "tail_adaptive", "stl")
        >>> [round(11 * a, 4) for a in c.theta.tolist()]
        [6.0, 2.0, 3.0]
    """
    log_weight = log_weight.detach()
    if log_weight.dim() == 0:
        log_weight = log_weight[None]
    size = log_weight.shape[0]
    check_combination(objective, gradient, size, outer, alpha, beta)
    if baseline is not None and (objective != "elbo" or size > 1):
        raise ValueError(
            f"baseline: only objective 'elbo' with one particle takes one, got objective {objective!r} with "
            f"{size}. Fix: leave it out; several particles are each other's baseline"
        )
    warn_dead_rows(log_weight)
    with torch.no_grad():
        match objective:
            case "elbo":
                return elbo_triple(log_weight, gradient, baseline)
            case "iwae":
                return iwae_triple(log_weight, gradient)
            case "rws":
                return rws_triple(log_weight, gradient)
            case "renyi":
                return renyi_triple(log_weight, gradient, 0.0 if alpha is None else alpha)
            case "cubo":
                return renyi_triple(log_weight, gradient, -1.0 if alpha is None else alpha)
            case "tail_adaptive":
                return tail_adaptive_triple(log_weight, gradient, -1.0 if beta is None else beta)
            case "jackknife":
                return jackknife_triple(log_weight, gradient)
            case "miwae":
                return _miwae(log_weight, gradient, outer)
            case "piwae":
                return _piwae(log_weight, gradient, outer)
        return _ciwae(log_weight, gradient, 0.5 if beta is None else beta)


def _miwae(log_weight: Tensor, gradient: str, outer: int) -> Coefficients:
    """The coefficients of IWAE within each group, divided by the number of groups."""
    groups = grouped(log_weight, outer).transpose(0, 1)  # (K, M, *plates): groups are one more plate
    inner = iwae_triple(groups, gradient)

    def flat(values: Tensor) -> Tensor:
        return values.transpose(0, 1).reshape(log_weight.shape)

    return Coefficients(
        inner.value.mean(0),
        flat(inner.theta) / outer,
        flat(inner.path) / outer,
        None if inner.ratio is None else flat(inner.ratio),
        flat(inner.score_reparam) / outer,
        None if inner.score_other is None else flat(inner.score_other) / outer,
    )


def _piwae(log_weight: Tensor, gradient: str, outer: int) -> Coefficients:
    """θ from IWAE over all the particles, φ from the groups. a may underflow where b does not: no ratio."""
    inner = _miwae(log_weight, gradient, outer)
    return inner._replace(value=iwae_bound(log_weight), theta=normalised(log_weight), ratio=None)


def _ciwae(log_weight: Tensor, gradient: str, beta: float) -> Coefficients:
    """A convex mixture of the coefficients. The ratio is formed after mixing; b ≤ a, so it is safe."""
    elbo = elbo_triple(log_weight, "stl" if gradient in ("stl", "dreg") else "total", None)
    iwae = iwae_triple(log_weight, gradient)

    def mixed(first: Tensor, second: Tensor) -> Tensor:
        return beta * first + (1.0 - beta) * second

    a, b = mixed(elbo.theta, iwae.theta), mixed(elbo.path, iwae.path)
    other = None
    if elbo.score_other is not None and iwae.score_other is not None:
        other = mixed(elbo.score_other, iwae.score_other)
    return Coefficients(
        ciwae_bound(log_weight, beta),
        a,
        b,
        iwae.ratio if beta == 0 else b / a,
        mixed(elbo.score_reparam, iwae.score_reparam),
        other,
    )
