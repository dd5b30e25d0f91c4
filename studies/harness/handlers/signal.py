"""Signal-to-noise of gradients in the number of particles: of a trained pair, and the handler `signal`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field

from evidentia.studies.harness.declare.config import Frozen, revalidate
from evidentia.studies.harness.engine.outcome import Context, Outcome, Problem
from evidentia.studies.harness.errors import StudyError
from evidentia.studies.harness.terminal.progress import ProgressEvent

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

    from evidentia.inference.fit import Fit

GRADIENTS = ("total", "dreg")


class SignalParams(Frozen):
    """Parameters of `signal`."""

    particles: tuple[int, ...] = Field(default=(4, 8, 16, 32, 64, 128, 256), min_length=2)


def signal(problem: Problem, params: Mapping[str, Any], context: Context) -> Outcome:
    """Measure how the signal-to-noise of the IWAE gradient scales with the number of particles K.

    The data set holds copies of one row, and every copy has parameters of its own: one backward pass gives as
    many independent draws of the gradient as there are rows. Both estimators are divided into the mean of
    the doubly reparameterised one; a noisy mean would hide a ratio that falls.

    The rows have `program`, `gradient`, and `slope` with `slope_se`: of log ratio on log K. The table
    `signal` has the ratios.

    Raises:
        StudyError: a parameter is wrong, or there is no pair (exit 2).
    """
    import pandas as pd

    options = revalidate(SignalParams, params, "inference")
    if problem.pair is None:
        raise StudyError("model: inference 'signal' needs a model and a guide")
    lines = []
    for done, particles in enumerate(options.particles):
        drawn = {name: _draws(problem, particles, name) for name in GRADIENTS}
        for name, gradients in drawn.items():
            for parameter, values in gradients.items():
                mean = drawn["dreg"][parameter].mean(0)
                lines.append(
                    {
                        "num_particles": particles,
                        "gradient": name,
                        "program": parameter.partition(".")[0],
                        "snr": float((mean.abs() / values.std(0)).mean()),
                    }
                )
        context.report(ProgressEvent(done + 1, len(options.particles), "signal"))
    table = pd.DataFrame(lines).groupby(["num_particles", "gradient", "program"], as_index=False).mean()
    rows = [
        {"program": program, "gradient": name} | _slope(part)
        for (program, name), part in table.groupby(["program", "gradient"])
    ]
    return Outcome(rows, tables={"signal": table})


def _draws(problem: Problem, particles: int, gradient: str) -> dict[str, Tensor]:
    """One gradient per row of the data, by parameter: (rows, *shape)."""
    import torch

    from evidentia.inference.objectives.particle import ParticleELBO

    objective = ParticleELBO("iwae", gradient, num_particles=particles, max_plate_nesting=1)  # type: ignore[arg-type]
    programs = {"model": problem.model, "guide": problem.guide}
    leaves = {
        f"{role}.{name}": leaf
        for role, program in programs.items()
        for name, leaf in program.named_parameters()
    }
    loss = objective.differentiable_loss(problem.model, problem.guide, problem.data.x)
    found = torch.autograd.grad(loss, list(leaves.values()))
    return {name: value.detach() for name, value in zip(leaves, found, strict=True)}


def _slope(part: pd.DataFrame) -> dict[str, float]:
    """Least squares of log ratio on log K, with the standard error of the slope."""
    import numpy

    x, y = numpy.log(part["num_particles"].to_numpy()), numpy.log(part["snr"].to_numpy())
    x = x - x.mean()
    slope = float((x * y).sum() / (x * x).sum())
    rest = y - y.mean() - slope * x
    error = float((rest @ rest / max(1, len(x) - 2) / (x * x).sum()) ** 0.5)
    return {"slope": slope, "slope_se": error}


def trained_signal(
    result: Fit, rows: Tensor, particles: Sequence[int], num_draws: int, seed: int
) -> pd.DataFrame:
    """Signal-to-noise of the IWAE gradient of a trained pair, averaged over the entries of each program.

    Columns ``num_particles``, ``gradient`` ("total", "dreg"), ``program`` ("model", "guide") and ``snr``.
    """
    import pandas as pd

    from evidentia.inference.gradient_stats import gradient_stats
    from evidentia.inference.objectives.particle import ParticleELBO

    lines = []
    for count in particles:
        stats = {
            name: gradient_stats(
                ParticleELBO("iwae", name, num_particles=count),  # type: ignore[arg-type]
                result,
                rows,
                num_draws=num_draws,
                seed=seed,
            )
            for name in GRADIENTS
        }
        for name, found in stats.items():
            table = found.table(stats["dreg"].mean)
            table["program"] = [_program(result, parameter) for parameter in table["parameter"]]
            for program, part in table.groupby("program"):
                mean = float((part["snr"] * part["entries"]).sum() / part["entries"].sum())
                lines.append({"num_particles": count, "gradient": name, "program": program, "snr": mean})
    return pd.DataFrame(lines)


def _program(result: Fit, name: str) -> str:
    """Whether a parameter belongs to the guide or to the model."""
    guide: Any = result.pair[1]
    owned = any(result.leaves[name] is parameter for parameter in guide.parameters())
    return "guide" if owned else "model"


signal.parameters = SignalParams  # type: ignore[attr-defined]
