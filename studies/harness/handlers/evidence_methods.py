"""The words of the handler `evidence`: what each method runs, what it costs, and what it says of itself.

Beside the methods of `evidentia.inference` there are three that give more than one estimate from one run:

- "sandwich": annealed importance sampling forward ("ais") and from draws of the posterior back ("sandwich",
  whose value is the lower end);
- "thermodynamic": with the first step by importance, and by the textbook's trapezoid
  ("thermodynamic_trapezoid");
- "guide": a Gaussian with the moments of the draws as a guide: its ELBO ("elbo") and its importance-weighted
  bounds ("iwae_10", "iwae_100").

A word may carry a tag after a colon ("ais:20"), so that one method can run twice with different options.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, final

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from evidentia.inference.evidence.log_evidence import LogEvidence

__all__ = ["METHODS", "NEED_DRAWS", "Counted", "Estimate", "Task", "base_word"]

WIDE_GAP = 1.0
"""Nats between the ends of a sandwich from which it counts as open."""


@final
class Counted:
    """A compiled density that counts how often it is evaluated.

    Attributes:
        gradients: evaluations with the gradient, one for each position.
        values: evaluations without it.
    """

    def __init__(self, density: Any) -> None:
        self._density = density
        self.gradients = self.values = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._density, name)

    def __call__(self, position: Tensor, *args: Any, **kwargs: Any) -> Any:
        """The log density, counted."""
        self.values += len(position)
        return self._density(position, *args, **kwargs)

    def evaluate(self, position: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Density and gradient, counted."""
        self.gradients += len(position)
        return self._density.evaluate(position, *args, **kwargs)

    def leapfrog(self, position: Tensor, *args: Any, **kwargs: Any) -> Any:
        """One leapfrog step, counted: it computes one gradient."""
        self.gradients += len(position)
        return self._density.leapfrog(position, *args, **kwargs)


class Task(NamedTuple):
    """One run of one method: the density, draws (C, N, D) of its posterior if needed, options."""

    density: Any
    draws: Tensor | None
    generator: torch.Generator
    options: Mapping[str, Any]


class Estimate(NamedTuple):
    """One estimate of one run; `result` is an error where the estimator refused, and says why."""

    word: str
    result: LogEvidence | ValueError
    extra: Mapping[str, Any] = {}
    kind: str = ""
    """Where it is none of the four kinds."""
    uses_draws: bool = True


Runner: TypeAlias = Callable[[Task], Iterator[Estimate]]


def base_word(word: str) -> str:
    """The method of a word, without its tag.

    Example:
        >>> base_word("ais:20")
        'ais'
    """
    return word.partition(":")[0]


def plain(name: str) -> Runner:
    """A method of `evidentia.inference`."""

    def run(task: Task) -> Iterator[Estimate]:
        from evidentia.inference.evidence.methods import Problem, run_method

        problem = Problem(task.density, lambda: (_drawn(task), None), task.generator, task.options)
        result = run_method(name, problem)
        yield Estimate(name, result, _numbers(result))

    return run


def laplace(task: Task) -> Iterator[Estimate]:
    """Laplace corrected by importance sampling, and the bare approximation, which has no error bar."""
    (estimate,) = plain("laplace")(task)
    yield estimate
    result = estimate.result
    if not isinstance(result, ValueError):
        bare = result._replace(value=result.diagnostics["laplace"], standard_error=math.inf)
        yield Estimate("laplace_bare", bare, estimate.extra, "approximation")


def sandwich(task: Task) -> Iterator[Estimate]:
    """Annealed importance sampling, forward alone and with the way back."""
    from evidentia.inference.evidence.annealed import (
        annealed_importance,
        frozen_path,
        reverse_annealed_importance,
    )

    options = dict(task.options)
    betas, chains = options.pop("betas", 200), options.pop("num_chains", 256)
    common = {"generator": task.generator, **options}
    path = frozen_path(task.density, betas, None, None, task.generator)
    lower = annealed_importance(task.density, chains, path=path, **common)
    yield Estimate("ais", lower, _numbers(lower), uses_draws=False)
    draws = _drawn(task).flatten(0, 1)
    upper = reverse_annealed_importance(
        task.density, draws, exact=False, num_chains=chains, path=path, **common
    )
    gap = upper.value - lower.value
    # That the way back starts from draws of a chain is known and no news; collapsed weights are.
    warnings = [*lower.diagnostics["warnings"]]
    warnings += [text for text in upper.diagnostics["warnings"] if not text.startswith("not an exact")]
    if not abs(gap) <= WIDE_GAP:
        warnings.append(f"forward and reverse runs are {gap:.2f} nats apart: more temperatures")
    both = lower._replace(kind="lower bound", diagnostics={**lower.diagnostics, "warnings": tuple(warnings)})
    yield Estimate("sandwich", both, {"upper": upper.value, "gap": gap})


def thermodynamic(task: Task) -> Iterator[Estimate]:
    """Thermodynamic integration with both ways to leave the prior, from the same draws."""
    from evidentia.inference.evidence.power_posteriors import power_posteriors
    from evidentia.inference.evidence.thermodynamic import thermodynamic_integration

    power = power_posteriors(task.density, **{"generator": task.generator, **task.options})
    result = thermodynamic_integration(power)
    yield Estimate("thermodynamic", result, _numbers(result))
    try:
        textbook: Any = thermodynamic_integration(power, first_step="trapezoid")
    except ValueError as error:
        textbook = error
    yield Estimate("thermodynamic_trapezoid", textbook)


def guide(task: Task) -> Iterator[Estimate]:
    """Bounds of a Gaussian guide with mean and covariance of the draws."""
    import torch

    from evidentia.inference.evidence.log_evidence import LogEvidence
    from evidentia.inference.evidence.pareto import tail_shape
    from evidentia.inference.evidence.warp import evaluate, fit_frame, values_of

    number = int(task.options.get("num_particles", 4000))
    draws = _drawn(task)
    frame = fit_frame(draws.reshape(1, -1, draws.shape[-1]))
    noise = torch.randn(1, number, draws.shape[-1], generator=task.generator, dtype=torch.float64)
    log_q = -0.5 * (noise.square() + math.log(2 * math.pi)).sum(-1) - frame.log_volume[:, None]
    value = evaluate(values_of(task.density), frame.outwards(noise)[0], draws.dtype)
    log_weight = torch.nan_to_num(value, nan=-math.inf) - log_q[0]
    if not bool(log_weight.isfinite().all()):
        lost = int((~log_weight.isfinite()).sum())
        raise ValueError(f"elbo: the guide proposes {lost} positions of zero density; its ELBO is -inf")
    k = float(tail_shape(log_weight[:, None]))
    warnings = (f"Pareto k-hat {k:.2f} > 0.7: the guide does not cover the posterior",) if k > 0.7 else ()
    for particles, word in ((1, "elbo"), (10, "iwae_10"), (100, "iwae_100")):
        groups = number // particles
        if groups < 2:
            continue
        bounds = log_weight[: groups * particles].view(groups, particles).logsumexp(1) - math.log(particles)
        result = LogEvidence.checked(
            float(bounds.mean()),
            float(bounds.std()) / math.sqrt(groups),
            "lower bound",
            {"method": word, "warnings": warnings, "pareto_k": k},
        )
        yield Estimate(word, result, _numbers(result))


def _drawn(task: Task) -> Tensor:
    if task.draws is None:
        raise ValueError("this method needs draws")
    return task.draws


def _numbers(result: LogEvidence) -> dict[str, Any]:
    found = {"k_hat": result.diagnostics.get("pareto_k"), "ess": result.diagnostics.get("ess")}
    return {name: value for name, value in found.items() if value is not None and math.isfinite(value)}


METHODS: Mapping[str, Runner] = {
    **{name: plain(name) for name in ("default", "warp", "bridge", "importance", "smc", "ais", "stepping")},
    "laplace": laplace,
    "sandwich": sandwich,
    "thermodynamic": thermodynamic,
    "guide": guide,
}
NEED_DRAWS = ("default", "warp", "bridge", "importance", "sandwich", "guide")
