"""The handler `sampler_race`: one sampler on one posterior, what its draws are worth and what they cost."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from time import process_time
from typing import TYPE_CHECKING, Any

from pydantic import Field

from evidentia.studies.harness.declare.config import Frozen, FrozenDict, Params, revalidate
from evidentia.studies.harness.engine.outcome import Context, Outcome, Problem, Stopped
from evidentia.studies.harness.errors import StudyError
from evidentia.studies.harness.handlers.arguments import arguments, double_precision
from evidentia.studies.harness.reporting.verdict import check
from evidentia.studies.harness.terminal.progress import ProgressEvent

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

    from evidentia.inference.idata.draws import Draws
    from evidentia.studies.harness.handlers.sampling_models import Moments

NUMPYRO = "numpyro_nuts"
MANY = 16
"""With so many chains the error of a mean is read off the means of the chains."""
SHOWN = 16
"""Chains in the table `path`."""


class SamplerRaceParams(Frozen):
    """Parameters of `sampler_race`."""

    kernel: str = Field(
        default="hmc", description="a kernel, nuts (Pyro's), or numpyro_nuts if it is installed"
    )
    settings: Params = Field(default=FrozenDict(), description="keywords of the kernel's class")
    num_chains: int = Field(default=64, ge=1)
    num_draws: int = Field(default=200, ge=4)
    warmup_steps: int = Field(default=150, ge=0)
    thinning: int = Field(default=1, ge=1)
    start: str = Field(default="auto", description="auto, smc, prior or uniform")
    part: str = Field(default="race", description="part of the study; a label")
    path: str = Field(default="", description="a scalar site whose draws are kept as the table `path`")


def sampler_race(problem: Problem, params: Mapping[str, Any], context: Context) -> Outcome:
    """Run one sampler, judge its draws, and hold their moments against those that are known.

    The row has `sampler`; `dim`; `chains`, `draws`; CPU seconds `compile_seconds`, `start_seconds` (of the
    tempered particles, say), `warmup_seconds`, `draw_seconds`, and the sums `cold_seconds` of all four and
    `warm_seconds` without the first; `gradients` (of the log density, at one position, for the draws; of a
    sampler that takes no gradient, values); `ess`, the least bulk effective sample size of a scalar;
    `ess_per_second` (cold) and its logarithm `log10_rate`, `ess_per_warm_second`, `ess_per_1000_gradients`;
    `r_hat`, of short chains the nested one; `divergences`; `e_bfmi`; `unadjusted`, `passed` and `available`
    (0 or 1); `flags`, the checks that failed; `largest_z`, the largest distance of a mean or standard
    deviation from the truth in standard errors, and `worst` where that is; `log_evidence` and
    `standard_error` of the tempered start, in nats.

    A point is a matter of seconds: one that was interrupted begins anew.

    Raises:
        StudyError: a parameter is wrong, or the model cannot be sampled (exit 2).
        Stopped: the context asked to stop.
    """
    import torch

    from evidentia.studies.harness.handlers.sampling_models import reference_moments

    options = revalidate(SamplerRaceParams, params, "inference")
    args = arguments(problem.data)
    base = {"sampler": options.kernel, "available": 1, "notice": ""}
    if options.kernel == NUMPYRO:
        from evidentia.studies.harness.handlers import numpyro_race

        missing = numpyro_race.why_not(problem.model)
        if missing:
            return Outcome(rows=[base | {"available": 0, "notice": missing}])
        draws, seconds = numpyro_race.run(problem.model, args, options, context.seed)
        gradients = int(draws.stats["n_steps"].sum())
    else:
        with double_precision(), torch.random.fork_rng(devices=[]):
            draws, seconds, gradients = _sampled(problem, args, options, context)
    row, checks = judged(draws, gradients, seconds)
    row |= farthest(draws, reference_moments(problem.model, args))
    tables = {"path": path_table(draws, options.path)} if options.path else {}
    return Outcome(rows=[base | row], checks=checks, tables=tables)


def _sampled(
    problem: Problem, args: tuple[Any, ...], options: SamplerRaceParams, context: Context
) -> tuple[Draws, dict[str, float], int]:
    """Draws of `sample`, CPU seconds by phase, and gradients of the draws."""
    from evidentia.inference.density.log_density import compile_density
    from evidentia.inference.mcmc.choose_kernel import kernel_of
    from evidentia.inference.mcmc.sample import sample

    plain = options.kernel == "nuts"
    chosen: dict[str, Any] = {"num_draws": options.num_draws, "warmup_steps": options.warmup_steps,
                              "seed": context.seed, "check": False}  # fmt: skip
    try:
        _load()
        watch = _Watch(context)
        if plain:
            draws = sample(
                problem.model,
                *args,
                kernel="nuts",
                num_chains=options.num_chains,
                callbacks=[watch],
                **chosen,
            )
        else:
            kernel = kernel_of(options.kernel, **options.settings)
            density = compile_density(problem.model, *args, num_chains=options.num_chains, seed=context.seed)
            watch.compiled = process_time()
            draws = sample(
                density, kernel=kernel, thinning=options.thinning, start=options.start, callbacks=[watch],
                **chosen,
            )  # fmt: skip
    except ValueError as error:
        raise StudyError(f"inference: {error}") from error
    except TypeError as error:
        if "keyword" not in str(error):
            raise
        raise StudyError(f"inference.settings: {error}") from error
    if draws.stopped == "signal":
        if context.checkpoint is not None:
            context.checkpoint.save({"step": 0})
        raise Stopped(0)
    gradients = int(draws.stats["n_steps"].sum()) if plain else watch.steps * draws.num_chains
    return draws, watch.seconds(), gradients


@cache
def _load() -> None:
    """What the first compilation of a process loads, so that no sampler pays for it."""
    import pyro
    import torch
    from pyro.distributions import Normal

    from evidentia.inference.density.log_density import compile_density

    def model() -> None:
        pyro.sample("z", Normal(torch.tensor(0.0), 1.0))

    compile_density(model, num_chains=2).evaluate(torch.zeros(2, 1))


class _Watch:
    """Callback that stops the time of each phase, and asks whether to stop."""

    def __init__(self, context: Context) -> None:
        self.context, self.steps = context, 0
        self.began = self.compiled = process_time()
        self.first = self.warmed = self.last = math.nan

    def on_step(self, step: Any) -> str | None:
        """Report one transition."""
        self.last = process_time()
        if step.step == 1:
            self.first = self.warmed = self.last
        if step.warmup:
            self.warmed = self.last
        else:
            self.steps += getattr(step, "n_steps", 0)
        phase = "warmup" if step.warmup else "draws"
        self.context.report(ProgressEvent(step.step, step.num_steps, phase, divergences=step.divergences))
        return "signal" if self.context.should_stop() else None

    def seconds(self) -> dict[str, float]:
        """CPU seconds by phase; the first transition belongs to the start."""
        return {
            "compile": self.compiled - self.began,
            "start": self.first - self.compiled,
            "warmup": self.warmed - self.first,
            "draw": self.last - self.warmed,
        }


def judged(draws: Draws, gradients: int, seconds: Mapping[str, float]) -> tuple[dict[str, Any], list[Any]]:
    """What the draws are worth, what they cost, and the checks of `verdict`."""
    from evidentia.inference import diagnostics

    found = diagnostics.verdict(draws)
    values = {each.name: each.value for each in found.checks}
    cold = sum(seconds.values())
    warm = cold - seconds["compile"]
    ess = values["ess_bulk"]
    rough = draws.log_evidence
    row: dict[str, Any] = {
        "dim": sum(value[0, 0].numel() for value in draws.samples.values()),
        "chains": draws.num_chains,
        "draws": draws.num_draws,
        **{f"{name}_seconds": value for name, value in seconds.items()},
        "cold_seconds": cold,
        "warm_seconds": warm,
        "gradients": gradients,
        "ess": ess,
        "ess_per_second": ess / cold,
        "log10_rate": math.log10(ess / cold) if ess > 0 else None,
        "ess_per_warm_second": ess / warm,
        "ess_per_1000_gradients": 1000 * ess / gradients if gradients else None,
        "r_hat": values.get("r_hat", values.get("nested_r_hat")),
        "nested": int("nested_r_hat" in values),
        "divergences": values.get("divergences"),
        "e_bfmi": values.get("e_bfmi"),
        "unadjusted": int(not draws.adjusted),
        "passed": int(found.passed),
        "flags": ", ".join(each.name for each in found.checks if not each.passed),
        "log_evidence": None if rough is None else rough.value,
        "standard_error": None if rough is None else rough.standard_error,
    }
    finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
    return finite, [check(each.name, each.value, each.site) for each in found.checks]


def farthest(draws: Draws, reference: Mapping[str, Moments]) -> dict[str, Any]:
    """The mean or standard deviation that is most standard errors from the truth; empty if none is known.

    Example:
        >>> import torch
        >>> from evidentia.inference.idata.draws import Draws
        >>> from evidentia.studies.harness.handlers.sampling_models import Moments
        >>> noise = torch.randn(64, 50, generator=torch.Generator().manual_seed(0)).double()
        >>> one = torch.ones((), dtype=torch.float64)
        >>> draws = Draws({"b": noise + 0.5}, {"lp": noise}, {}, "", "")
        >>> found = farthest(draws, {"b": Moments(0 * one, one)})
        >>> found["worst"], found["largest_z"] > 20
        ('mean of b', True)
    """
    import torch

    found: list[tuple[float, str]] = []
    for site, truth in reference.items():
        value = draws.samples[site].double()
        centre = value.mean((0, 1))
        squares = (value - centre).square()
        sd = squares.mean((0, 1)).sqrt()
        mean_error, sd_error = _error(value), _error(squares) / (2 * sd)
        for what, one, error, known, other in (
            ("mean", centre, mean_error, truth.mean, truth.mean_error),
            ("sd", sd, sd_error, truth.sd, truth.sd_error),
        ):
            z = (one - known).abs() / torch.hypot(error, torch.as_tensor(other, dtype=error.dtype))
            place = int(z.argmax())
            found.append((float(z.flatten()[place]), f"{what} of {site}{f'[{place}]' if z.dim() else ''}"))
    if not found:
        return {}
    largest, worst = max(found)
    return {"largest_z": largest if math.isfinite(largest) else None, "worst": worst}


def _error(value: Tensor) -> Tensor:
    """The standard error of the mean of (chain, draw, …); NaN for runs too short to have one."""
    import torch

    from evidentia.inference.evidence.effective_size import effective_size

    chains, draws = value.shape[:2]
    if chains >= MANY:
        return value.mean(1).std(0) / chains**0.5
    if draws < 8:
        return torch.full(value.shape[2:], torch.nan, dtype=value.dtype)
    return value.flatten(0, 1).std(0) / effective_size(value).to(value.dtype).sqrt()


def path_table(draws: Draws, site: str) -> pd.DataFrame:
    """Columns `chain`, `draw`, `value`, `rank` (among all draws kept, 0 to 1) of a scalar site."""
    import numpy
    import pandas

    if site not in draws.samples or draws.samples[site].dim() != 2:
        raise StudyError(f"inference.path: {site!r} is not a scalar site of the model")
    every = max(1, draws.num_chains // SHOWN)
    value = draws.samples[site][::every].detach().numpy()
    chain, draw = numpy.indices(value.shape)
    rank = value.ravel().argsort().argsort() / value.size
    return pandas.DataFrame(
        {"chain": chain.ravel(), "draw": draw.ravel(), "value": value.ravel(), "rank": rank}
    )


sampler_race.parameters = SamplerRaceParams  # type: ignore[attr-defined]
