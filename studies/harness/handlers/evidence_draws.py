"""What the handler `evidence` needs beside the estimators: a compiled density, draws of it, and the truth."""

from __future__ import annotations

from time import process_time
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from evidentia.studies.harness.engine.outcome import Problem
from evidentia.studies.harness.errors import StudyError
from evidentia.studies.harness.reporting.verdict import Check, check

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Drawn", "Sampling", "compiled", "reference", "sampled"]


class Sampling(Protocol):
    """The parameters of `evidence` that are about draws."""

    @property
    def num_chains(self) -> int:
        """Chains."""

    @property
    def num_draws(self) -> int:
        """Draws of each chain."""

    @property
    def warmup_steps(self) -> int:
        """Transitions before them."""

    @property
    def kernel(self) -> str:
        """The word of the kernel."""

    @property
    def reference_draws(self) -> int:
        """Draws of each chain of the run that stands in for an exact value."""


class Drawn(NamedTuple):
    """Draws (C, N, D) of one repeat, what they cost (CPU seconds, compilation included), their checks."""

    repeat: int
    position: Tensor
    seconds: float
    gradients: int
    checks: list[Check]


def compiled(problem: Problem, args: tuple[Any, ...], options: Sampling, seed: int) -> Any:
    """The model's log density on unconstrained space.

    Raises:
        StudyError: the model cannot be compiled.
    """
    import torch

    from evidentia.inference.density.log_density import compile_density

    try:
        return compile_density(
            problem.model, *args, num_chains=options.num_chains, dtype=torch.float64, seed=seed
        )
    except ValueError as error:
        raise StudyError(f"model: {error}") from error


def sampled(
    problem: Problem,
    args: tuple[Any, ...],
    options: Sampling,
    repeat: int,
    seed: int,
    num_draws: int = 0,
) -> Drawn:
    """Draws of the posterior, judged by R-hat and its like.

    Raises:
        StudyError: the model cannot be sampled.
    """
    import torch

    from evidentia.inference import diagnostics
    from evidentia.inference.mcmc.sample import sample

    started, gradients = process_time(), 0

    def count(step: Any) -> None:
        nonlocal gradients
        gradients += step.n_steps * options.num_chains

    try:
        draws = sample(
            problem.model,
            *args,
            kernel=options.kernel,
            num_chains=options.num_chains,
            num_draws=num_draws or options.num_draws,
            warmup_steps=options.warmup_steps,
            seed=seed,
            dtype=torch.float64,
            callbacks=[count],
            check=False,
        )
    except ValueError as error:
        raise StudyError(f"inference: {error}") from error
    if draws.log_evidence is not None:
        calls = draws.log_evidence.diagnostics.get("num_gradients", 0)
        gradients += int(calls) * options.num_chains  # of the tempered particles, one for each chain
    seconds = process_time() - started
    found = [check(each.name, each.value, each.site) for each in diagnostics.verdict(draws).checks]
    if draws.unconstrained is None:
        raise StudyError(f"inference.kernel: {options.kernel!r} keeps no unconstrained draws; take 'hmc'")
    return Drawn(repeat, draws.unconstrained, seconds, gradients, found)


def reference(
    problem: Problem, args: tuple[Any, ...], density: Any, options: Sampling, seed: int
) -> list[float] | None:
    """The value that estimates are held against, and its error: exact, or of a long bridge run."""
    exact = getattr(problem.model, "exact_log_evidence", None)
    if exact is not None:
        return [float(exact(*args)), 0.0]
    if not options.reference_draws:
        return None
    import torch

    from evidentia.inference.evidence.bridge import bridge

    drawn = sampled(problem, args, options, -1, (seed + 7) % 2**32, options.reference_draws)
    result = bridge(density, drawn.position, generator=torch.Generator().manual_seed(seed))
    return [result.value, result.standard_error]
