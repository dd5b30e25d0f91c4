"""Particles run one by one, for programs that cannot take a dimension more."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, final

import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from evidentia.inference.objectives.leaf_cut import Particles, run_particles

__all__ = ["SameRows", "run_one_by_one"]


@final
class SameRows(Messenger):
    """Let subsampled plates draw the rows that they drew in an earlier trace.

    The particles of one log-weight must see the same minibatch.

    Args:
        traces: earlier traces.

    References:
        none; bookkeeping.
    """

    def __init__(self, *traces: Any) -> None:
        super().__init__()
        self.rows = {
            name: site["value"]
            for trace in traces
            for name, site in trace.nodes.items()
            if site["type"] == "sample" and site_is_subsample(site)
        }

    def _pyro_sample(self, msg: Any) -> None:
        if site_is_subsample(msg) and msg["name"] in self.rows and msg["value"] is None:
            msg["value"] = self.rows[msg["name"]]


def run_one_by_one(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    args: tuple[Any, ...] = (),
    kwargs: dict[str, Any] | None = None,
    *,
    num_particles: int,
    max_plate_nesting: float = math.inf,
    cut: bool = True,
    path: bool = True,
    multi_sample: bool = True,
) -> Particles:
    """Draw K particles in K runs and stack their log-probabilities.

    Args:
        model: a Pyro program.
        guide: a Pyro program.
        args: of both programs.
        kwargs: of both programs.
        num_particles: K ≥ 1.
        max_plate_nesting: only checked.
        cut: see `run_particles`.
        path: see `run_particles`.
        multi_sample: see `run_particles`.

    Returns:
        `Particles`; a leaf of its own for each particle and site.

    Raises:
        ValueError: as `run_particles`, or the particles have different plates.

    References:
        none; bookkeeping.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> def program():
        ...     with pyro.plate("data", 3):
        ...         pyro.sample("z", dist.Normal(0.0, 1.0))
        >>> run_one_by_one(program, program, num_particles=4).log_weight.shape
        torch.Size([4, 3])
    """
    if num_particles < 1:
        raise ValueError(f"num_particles: expected a number >= 1, got {num_particles}. Fix: num_particles=1")
    runs: list[Particles] = []
    for _ in range(num_particles):
        traces = (runs[0].guide_trace, runs[0].model_trace) if runs else ()
        with SameRows(*traces):
            run = run_particles(
                model,
                guide,
                args,
                kwargs,
                num_particles=1,
                max_plate_nesting=max_plate_nesting,
                cut=cut,
                path=path,
                multi_sample=multi_sample,
            )
        if runs and run.log_p.shape != runs[0].log_p.shape:
            raise ValueError(
                f"particles: expected the same plates in every run, got log-weights of shape "
                f"{tuple(runs[0].log_p.shape[1:])} and {tuple(run.log_p.shape[1:])}. Fix: keep the plates' "
                "sizes fixed"
            )
        runs.append(run)

    def stacked(field: str) -> Any:
        values: list[Tensor | None] = [getattr(run, field) for run in runs]
        present = [value for value in values if value is not None]
        return torch.cat(present) if len(present) == len(runs) else None

    first = runs[0]
    reparam, other = stacked("log_q_reparam"), stacked("log_q_other")
    return first._replace(
        log_p=stacked("log_p"),
        log_q=stacked("log_q"),
        log_q_reparam=reparam,
        log_q_other=other,
        score_reparam=stacked("score_reparam") if first.tempered else reparam,
        score_other=stacked("score_other") if first.tempered else other,
        leaves=tuple(leaf._replace(particle=k) for k, run in enumerate(runs) for leaf in run.leaves),
    )
