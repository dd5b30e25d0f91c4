"""The handlers `latent_counts` and `svi_agreement`: models of exact evidence by their number of latents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from evidentia.studies.harness.declare.config import Frozen, revalidate
from evidentia.studies.harness.engine.outcome import Context, Outcome, Problem
from evidentia.studies.harness.handlers.tractable_fits import (
    FAMILIES,
    Family,
    agglomerate,
    free_parameters,
    maximum_likelihood,
    peer_log_density,
    standardised,
)
from evidentia.studies.harness.terminal.progress import ProgressEvent

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

__all__ = ["latent_counts", "svi_agreement"]


class LatentCountsParams(Frozen):
    """Parameters of `latent_counts`."""

    family: Family = "ppca"
    sizes: tuple[int, ...] = Field(default=(1, 2, 3), min_length=1, description="latents, or components")
    folds: int = Field(default=10, ge=2)
    starts: int = Field(default=4, ge=1, description="starts of EM for a mixture; the best likelihood counts")
    floor: float = Field(default=1e-3, ge=0, description="variance that EM keeps or adds, standardised units")


def latent_counts(problem: Problem, params: Mapping[str, Any], context: Context) -> Outcome:
    """Fit a family at each size by maximum likelihood; score every row by the fit of the other folds.

    One row for each size: `held_out` (mean log density of a row that the fit has not seen, nats, in the
    standardised units of its training rows) with `held_out_se` (spread over the folds), `behind_best` (how
    much less than the family's best size) with `behind_best_se` (of the paired difference, over rows),
    `best_size`; on all rows `train` (nats for one row), `free_parameters`, `bic` (log-likelihood less
    half the parameters times log n, nats) and `bic_size`; `sklearn_gap` and `sklearn_lead` (see
    `peer_log_density`); `rand`, the adjusted Rand index of the hard clusters of a mixture with the labels.
    `log_evidence` is the sum of the held-out log densities, exact given the fits.

    Raises:
        StudyError: a parameter is wrong (exit 2).

    References:
        Stone, 1974, Cross-validatory choice and assessment of statistical predictions.
        Schwarz, 1978, Estimating the dimension of a model.
        Hubert, Arabie, 1985, Comparing partitions.
    """
    import pandas as pd
    import torch

    options = revalidate(LatentCountsParams, params, "inference")
    x = problem.data.x
    parts = torch.randperm(len(x), generator=torch.Generator().manual_seed(0)).chunk(options.folds)
    everything, _ = standardised(x, x)
    labels = problem.data.info.get("labels")
    rows, scores, tables = [], [], {}
    for done, size in enumerate(options.sizes):
        held_out = x.new_zeros(len(x))
        for part in parts:
            rest = torch.ones(len(x), dtype=torch.bool).index_fill(0, part, False)
            train, test = standardised(x[rest], x[part])
            model = maximum_likelihood(options.family, train, size, options.starts, options.floor)
            held_out[part] = model.log_evidence(test).detach()
        scores.append(held_out)
        means = torch.stack([held_out[part].mean() for part in parts])
        model = maximum_likelihood(options.family, everything, size, options.starts, options.floor)
        mean = float(model.log_evidence(everything).mean().detach())
        count = free_parameters(options.family, size, x.shape[1])
        gap, lead = peer_log_density(options.family, everything, size, model, options.floor)
        row = {
            "size": size,
            "log_evidence": float(held_out.sum()),
            "standard_error": 0.0,
            "kind": "exact",
            "held_out": float(held_out.mean()),
            "held_out_se": float(means.std() / len(parts) ** 0.5),
            "train": mean,
            "free_parameters": count,
            "bic": len(x) * mean - count / 2 * float(torch.tensor(float(len(x))).log()),
            "sklearn_gap": gap,
            "sklearn_lead": lead,
        }
        if "mixture" in options.family and labels is not None:
            row["rand"], tables[f"clusters_{size}"] = agglomerate(model, everything, labels)
        rows.append(row)
        context.report(ProgressEvent(done + 1, len(options.sizes), "latent_counts"))
    _rank(rows, scores)
    tables["scores"] = pd.DataFrame(
        {str(size): each.numpy() for size, each in zip(options.sizes, scores, strict=True)}
    )
    return Outcome(rows, tables=tables)


def _rank(rows: list[dict[str, Any]], scores: list[Tensor]) -> None:
    """Add the best sizes, and each size's paired distance from the best."""
    best = max(range(len(rows)), key=lambda index: rows[index]["held_out"])
    by_bic = max(rows, key=lambda row: row["bic"])["size"]
    for row, score in zip(rows, scores, strict=True):
        difference = scores[best] - score
        row["behind_best"] = float(difference.mean())
        row["behind_best_se"] = float(difference.std() / len(difference) ** 0.5)
        row["best_size"], row["bic_size"] = rows[best]["size"], by_bic


class AgreementParams(Frozen):
    """Parameters of `svi_agreement`."""

    family: Family = "ppca"
    size: int = Field(default=2, ge=1)
    guide: Literal["exact", "encoder", "enumerated"] = "exact"
    num_particles: int = Field(default=1, ge=1, description="of the importance-weighted bound")
    num_steps: int = Field(default=1500, ge=1)
    learning_rate: float = Field(default=0.03, gt=0)
    starts: int = Field(default=4, ge=1)
    floor: float = Field(default=1e-3, ge=0)


def svi_agreement(problem: Problem, params: Mapping[str, Any], context: Context) -> Outcome:
    """Fit the same model by stochastic variational inference and compare it with maximum likelihood.

    The row has, in nats for one row of the data: `bound` (of the trained pair, 100 draws), `exact` (log
    evidence at the same parameters), `bound_error` (their difference), `optimum` (log-likelihood of the
    closed form or of EM) and `optimum_error` (`exact` less that). `log_evidence` is `exact` for all rows.

    Raises:
        StudyError: a parameter is wrong (exit 2).

    References:
        Dempster, Laird, Rubin, 1977, Maximum likelihood from incomplete data via the EM algorithm.
        Burda, Grosse, Salakhutdinov, 2016, Importance weighted autoencoders.
    """
    import math

    import torch

    from evidentia.inference.fit import fit
    from evidentia.inference.objectives.particle import ParticleELBO
    from evidentia.studies.harness.handlers.tractable_fits import trainable_pair

    options = revalidate(AgreementParams, params, "inference")
    x, _ = standardised(problem.data.x, problem.data.x)
    best = maximum_likelihood(options.family, x, options.size, options.starts, options.floor)
    pair = trainable_pair(options.family, x, options.size, options.guide, best)
    if options.guide == "enumerated":
        from pyro.infer import TraceEnum_ELBO

        objective: Any = TraceEnum_ELBO(max_plate_nesting=1)
    else:
        kind: Any = "elbo" if options.num_particles == 1 else "iwae"
        objective = ParticleELBO(kind, "total", num_particles=options.num_particles)
    steps = options.num_steps
    result = fit(
        pair,
        x,
        objective=objective,
        num_steps=steps,
        learning_rate=options.learning_rate,
        schedule=lambda step: 0.5 + 0.5 * math.cos(math.pi * step / steps),
        seed=context.seed,
    )
    model: Any = result.pair[0]
    with result.scope(), torch.no_grad():
        exact = float(model.log_evidence(x).mean())
        optimum = float(best.log_evidence(x).mean())
        if options.guide == "enumerated":
            bound = -float(objective.loss(*result.pair, x)) / len(x)
        else:
            scored = ParticleELBO("iwae", "total", num_particles=100)
            bound = -float(scored.loss(*result.pair, x)) / len(x)
    row = {
        "fit": f"{FAMILIES[options.family]}, {options.guide}",
        "size": options.size,
        "log_evidence": exact * len(x),
        "kind": "exact",
        "bound": bound,
        "exact": exact,
        "bound_error": bound - exact,
        "optimum": optimum,
        "optimum_error": exact - optimum,
    }
    losses = _losses(result.losses, len(x))
    return Outcome([row], tables={"losses": losses})


def _losses(losses: Tensor, rows: int) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame({"step": range(1, len(losses) + 1), "loss": losses.numpy() / rows})


latent_counts.parameters = LatentCountsParams  # type: ignore[attr-defined]
svi_agreement.parameters = AgreementParams  # type: ignore[attr-defined]
