"""The table of evidence methods: word -> how to compute it from a compiled density and its draws."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, final

import torch
from torch import Tensor

from evidentia.inference.evidence.annealed import annealed_importance
from evidentia.inference.evidence.bridge import bridge
from evidentia.inference.evidence.importance_fit import importance_fit
from evidentia.inference.evidence.laplace import laplace
from evidentia.inference.evidence.log_evidence import LogEvidence
from evidentia.inference.evidence.power_posteriors import power_posteriors
from evidentia.inference.evidence.smc import tempered_smc
from evidentia.inference.evidence.thermodynamic import stepping_stone, thermodynamic_integration
from evidentia.inference.idata.draws import Draws

__all__ = ["METHODS", "Problem", "check_method", "run_method"]

LEAST_DISAGREEMENT = 1.0  # nats; what a rough value may be off by


@final
@dataclass
class Problem:
    """One model and its data, ready for any method.

    Attributes:
        density: a `LogDensity` or anything with its methods.
        make_draws: samples the posterior; called at most once, and only by methods that need draws.
        generator: random numbers of the estimators.
        options: keywords for the estimator.

    References:
        none; bookkeeping.
    """

    density: Any
    make_draws: Callable[[], tuple[Tensor, Draws | None]]
    generator: torch.Generator
    options: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def drawn(self) -> tuple[Tensor, Draws | None]:
        """Unconstrained draws (C, N, D), and what they came from."""
        return self.make_draws()

    @property
    def settings(self) -> dict[str, Any]:
        """The estimator's keywords, the generator among them."""
        return {"generator": self.generator, **self.options}


def _default(problem: Problem) -> LogEvidence:
    """Warp-III bridge, beside the rough value of the tempered start."""
    result = bridge(problem.density, problem.drawn[0], **problem.settings)
    source = problem.drawn[1]
    rough = source.log_evidence if source is not None else None
    if rough is None and problem.density.has_likelihood and problem.density.proper_prior:
        rough = tempered_smc(problem.density, generator=problem.generator).log_evidence
    if rough is None:
        return result
    warnings = list(result.diagnostics["warnings"])
    copies = rough.diagnostics.get("copies", ())
    spread = float(torch.as_tensor(copies).double().std()) if len(copies) > 1 else 0.0
    errors = 3 * math.hypot(result.standard_error, rough.standard_error)
    limit = max(errors, LEAST_DISAGREEMENT * max(1.0, spread))
    if not abs(result.value - rough.value) <= limit:
        warnings.append(
            f"bridge {result.value:.3f} and tempered SMC {rough.value:.3f} differ by more than {limit:.2f} "
            "nats: one of them missed a mode, or the particles moved too little"
        )
    diagnostics = {**result.diagnostics, "warnings": tuple(warnings), "smc": rough}
    return result._replace(diagnostics=diagnostics)


def _bridge(proposal: str) -> Callable[[Problem], LogEvidence]:
    def run(problem: Problem) -> LogEvidence:
        return bridge(problem.density, problem.drawn[0], **{"proposal": proposal, **problem.settings})

    return run


def _importance(problem: Problem) -> LogEvidence:
    return importance_fit(problem.density, problem.drawn[0], **problem.settings)


def _laplace(problem: Problem) -> LogEvidence:
    return laplace(problem.density, **problem.settings)


def _smc(problem: Problem) -> LogEvidence:
    return tempered_smc(problem.density, **problem.settings).log_evidence


def _annealed(problem: Problem) -> LogEvidence:
    return annealed_importance(problem.density, **problem.settings)


def _thermodynamic(problem: Problem) -> LogEvidence:
    return thermodynamic_integration(power_posteriors(problem.density, **problem.settings))


def _stepping(problem: Problem) -> LogEvidence:
    return stepping_stone(power_posteriors(problem.density, **{"betas": "adaptive", **problem.settings}))


METHODS: dict[str, Callable[[Problem], LogEvidence]] = {
    "default": _default,
    "bridge": _bridge("normal"),
    "warp": _bridge("warp"),
    "importance": _importance,
    "laplace": _laplace,
    "smc": _smc,
    "ais": _annealed,
    "thermodynamic": _thermodynamic,
    "stepping": _stepping,
}


def check_method(method: str) -> None:
    """Refuse a method that is not in the table, and the harmonic mean with the reason.

    Raises:
        ValueError: "harmonic", or an unknown word.

    References:
        Neal, 2008. The harmonic mean of the likelihood: worst Monte Carlo method ever.

    Example:
        >>> check_method("about right")
        Traceback (most recent call last):
        ...
        ValueError: model_evidence: expected method in ['default', 'bridge', ...], got 'about right'...
    """
    if method == "harmonic":
        raise ValueError(
            "model_evidence: method 'harmonic' is not offered: the harmonic mean of the likelihood has "
            "infinite variance for almost every model, and looks steady while it is many nats wrong (21 too "
            "high on a regression with 12 coordinates). Fix: method='default' (bridge sampling from the same "
            "draws), 'importance' or 'smc'"
        )
    if method not in METHODS:
        raise ValueError(
            f"model_evidence: expected method in {list(METHODS)}, got {method!r}. Fix: method='default'"
        )


def run_method(method: str, problem: Problem) -> LogEvidence:
    """The evidence by a method of the table.

    Raises:
        ValueError: as `check_method`, or as the estimator.

    References:
        none; a table of names.

    Example:
        >>> from evidentia.inference.density.evaluation import target_of
        >>> draws = torch.randn(4, 500, 1, dtype=torch.float64)
        >>> density = target_of(lambda x: -x.square().sum(-1) / 2)
        >>> problem = Problem(density, lambda: (draws, None), torch.Generator())
        >>> abs(run_method("warp", problem).value - 0.5 * math.log(2 * math.pi)) < 0.01
        True
    """
    check_method(method)
    return METHODS[method](problem)
