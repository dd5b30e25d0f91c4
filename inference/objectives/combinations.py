"""Which objective goes with which gradient, and what each combination promises."""

from __future__ import annotations

import difflib
import math
from typing import Literal, NamedTuple

Bound = Literal["lower", "upper", "none"]

COMBINATIONS: dict[str, tuple[str, ...]] = {
    "elbo": ("total", "stl"),
    "iwae": ("total", "stl", "dreg", "vimco", "loo"),
    "rws": ("total", "dreg"),
    "renyi": ("total", "dreg"),
    "tail_adaptive": ("total", "stl"),
    "miwae": ("total", "stl", "dreg", "vimco", "loo"),
    "piwae": ("total", "stl", "dreg", "vimco", "loo"),
    "ciwae": ("total", "stl", "dreg", "vimco", "loo"),
    "jackknife": ("total", "dreg"),
    "cubo": ("total", "dreg"),
}
GRADIENTS: tuple[str, ...] = ("total", "stl", "dreg", "vimco", "loo")
_OUTER = ("miwae", "piwae")
_WHY: dict[tuple[str, str], str] = {
    ("elbo", "dreg"): "the ELBO's weights are constant, and its doubly reparameterised form is 'stl'",
    ("elbo", "vimco"): "with several particles the score sites already have a leave-one-out baseline",
    ("elbo", "loo"): "with several particles the score sites already have a leave-one-out baseline",
    ("rws", "stl"): "its 'dreg' form has no explicit part",
    ("renyi", "stl"): "its 'dreg' form has no explicit part and is unbiased",
    ("jackknife", "vimco"): "the jackknife is an estimator for evaluation",
    ("jackknife", "loo"): "the jackknife is an estimator for evaluation",
}


class Promise(NamedTuple):
    """What a combination of objective and gradient guarantees.

    Attributes:
        bound: the expectation of the value is a "lower" or "upper" bound of the log evidence, or "none".
        unbiased: the expectation of the gradient is the gradient of the expectation of the value.
        text: the same in words.

    References:
        none; bookkeeping.
    """

    bound: Bound
    unbiased: bool
    text: str


def check_combination(
    objective: str,
    gradient: str,
    num_particles: int = 1,
    outer: int = 1,
    alpha: float | None = None,
    beta: float | None = None,
) -> None:
    """Raise unless objective, gradient and their options go together; the message lists what is possible.

    Args:
        objective: a key of `COMBINATIONS`.
        gradient: one of the gradients of that objective.
        num_particles: particles in all, K; for "miwae" and "piwae" M·K.
        outer: groups M of "miwae" and "piwae"; 1 for the others.
        alpha: order of "renyi" (required); for "cubo" 1 - n, so α ≤ 0, and None means n = 2.
        beta: weight of the ELBO in "ciwae" (required, in [0, 1]); power of "tail_adaptive" (None means -1).

    Raises:
        ValueError: an unknown name, a combination without an estimator, or an option that does not belong
            to the objective or lies out of its range.

    References:
        none; a guard.

    Example:
        >>> check_combination("iwae", "dreg", num_particles=8)
        >>> check_combination("iwae", "drag", num_particles=8)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ValueError: gradient: unknown name 'drag', did you mean 'dreg'? Fix: one of total, stl, ...
    """
    if objective not in COMBINATIONS:
        raise ValueError(
            f"objective: unknown name {objective!r}{_nearest(objective, COMBINATIONS)} "
            f"Fix: one of {', '.join(COMBINATIONS)}"
        )
    possible = COMBINATIONS[objective]
    choice = f"Fix: one of {', '.join(possible)} for objective {objective!r}"
    if gradient not in GRADIENTS:
        raise ValueError(f"gradient: unknown name {gradient!r}{_nearest(gradient, GRADIENTS)} {choice}")
    if gradient not in possible:
        why = _WHY.get((objective, gradient), "there is no such estimator")
        raise ValueError(f"gradient: {gradient!r} does not go with objective {objective!r}: {why}. {choice}")
    _check_counts(objective, gradient, num_particles, outer)
    _check_options(objective, alpha, beta)


def promise(
    objective: str, gradient: str, *, num_particles: int | None = None, alpha: float | None = None
) -> Promise:
    """What the estimator promises about its value and its gradient.

    Args:
        objective: a key of `COMBINATIONS`.
        gradient: one of the gradients of that objective.
        num_particles: particles in all; one particle turns some biased combinations into exact ones. None
            stands for several.
        alpha: order of "renyi"; None stands for one that is not negative.

    Raises:
        ValueError: as `check_combination`.

    References:
        Rainforth, Kosiorek, Le, Maddison, Igl, Wood and Teh, 2018. Tighter variational bounds are not
        necessarily better.

    Example:
        >>> promise("iwae", "stl").unbiased, promise("iwae", "stl", num_particles=1).unbiased
        (False, True)
        >>> promise("cubo", "dreg").bound
        'none'
    """
    if objective not in COMBINATIONS or gradient not in COMBINATIONS[objective]:
        check_combination(objective, gradient, num_particles or 2, 1, alpha, None)
    bound: Bound = "lower"
    value = "the value is a stochastic lower bound of the log evidence"
    if objective == "cubo" or (objective == "renyi" and alpha is not None and alpha < 0):
        bound = "none"
        value = "the value is a consistent estimate of a quantity above the log evidence, and no bound itself"
    elif objective == "jackknife":
        bound, value = "none", "the value is a consistent estimate of the log evidence, for evaluation"
    unbiased, text = True, "the gradient is unbiased for it"
    several = num_particles != 1
    if objective == "rws":
        unbiased = False
        text = (
            "the model's gradient is unbiased for it; the guide's descends KL(p‖q), with a bias of order 1/K"
        )
    elif objective == "tail_adaptive" and several:
        unbiased, text = False, "the value is the ELBO; the gradient belongs to a divergence that adapts"
    elif gradient == "stl" and objective in ("iwae", "miwae", "piwae", "ciwae") and several:
        unbiased, text = False, "the guide's gradient is biased with more than one particle"
    elif objective == "piwae" and several:
        unbiased = False
        text = "the model's gradient is unbiased for it, the guide's for the mean of the groups' bounds"
    return Promise(bound, unbiased, f"{value}; {text}")


def _check_counts(objective: str, gradient: str, num_particles: int, outer: int) -> None:
    if num_particles < 1:
        raise ValueError(f"num_particles: expected a number >= 1, got {num_particles}. Fix: num_particles=1")
    if objective in _OUTER:
        if outer < 1 or num_particles % outer:
            raise ValueError(
                f"outer: expected a divisor of num_particles={num_particles}, got {outer}. Fix: "
                "num_particles is the total, outer groups times the inner particles of each"
            )
    elif outer != 1:
        raise ValueError(
            f"outer: objective {objective!r} has no groups, got outer={outer}. "
            "Fix: outer=1, or objective='miwae'"
        )
    inner = num_particles // outer
    needs = {
        "rws": "with one particle its weight is 1 and the guide's gradient is noise of mean zero",
        "jackknife": "it leaves one particle out",
    }.get(objective)
    if gradient in ("vimco", "loo"):
        needs = f"the baseline of {gradient!r} comes from the other particles"
    if needs is not None and inner < 2:
        each = f" in each of {outer} groups" if outer > 1 else ""
        raise ValueError(
            f"num_particles: objective {objective!r} with gradient {gradient!r} needs at least 2{each}, got "
            f"{inner}: {needs}. Fix: num_particles={2 * outer} or more"
        )


def _check_options(objective: str, alpha: float | None, beta: float | None) -> None:
    if objective not in ("renyi", "cubo") and alpha is not None:
        raise ValueError(
            f"alpha: objective {objective!r} has no order, got alpha={alpha}. Fix: objective='renyi'"
        )
    if objective == "renyi" and (alpha is None or not math.isfinite(alpha)):
        raise ValueError(f"alpha: objective 'renyi' needs a finite order, got {alpha}. Fix: alpha=0.5")
    if objective == "cubo" and alpha is not None and not -math.inf < alpha <= 0:
        raise ValueError(
            f"alpha: objective 'cubo' of order n takes alpha = 1 - n <= 0, got {alpha}. Fix: alpha=-1 (n = 2)"
        )
    if objective not in ("ciwae", "tail_adaptive") and beta is not None:
        raise ValueError(
            f"beta: objective {objective!r} has no such option, got beta={beta}. Fix: objective='ciwae'"
        )
    if objective == "ciwae" and (beta is None or not 0 <= beta <= 1):
        raise ValueError(f"beta: objective 'ciwae' needs a number in [0, 1], got {beta}. Fix: beta=0.5")
    if objective == "tail_adaptive" and beta is not None and not math.isfinite(beta):
        raise ValueError(f"beta: expected a finite power, got {beta}. Fix: beta=-1.0")


def _nearest(name: str, names: object) -> str:
    close = difflib.get_close_matches(str(name), list(names), n=1, cutoff=0.5)  # type: ignore[call-overload]
    return f", did you mean {close[0]!r}?" if close else "."
