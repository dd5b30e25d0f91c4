"""Runs side by side: log evidence with its error, posterior model probability, and LOO beside it.

    P_k = exp(l_k + a_k) / Σ_j exp(l_j + a_j)          SE(P_k) = P_k √(Σ_j ([j=k] − P_j)² s_j²)
    Δ_k = l_best − l_k                                 SE(Δ_k) = √(s_best² + s_k²)

Only models of the same data stand in one table (`compare_groups` makes one per data set): another data hash,
other likelihood dimensions or another number of observations is refused, naming both runs. A bound is
never ranked as if it were the evidence.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, final

from evidentia.studies.harness.errors import StudyError
from evidentia.studies.harness.reporting.compare_entries import Entry as Entry
from evidentia.studies.harness.reporting.predictive import elpd_difference, elpd_total, stacking_weights
from evidentia.studies.harness.terminal.present import show_table, text_table

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Comparison", "Entry", "compare_entries", "refuse_unequal"]

RANKED = ("exact", "consistent estimate")
K_LIMIT = 0.7


@final
class Comparison(NamedTuple):
    """The sorted table, in full precision, and what the reader must know about it."""

    table: pd.DataFrame
    warnings: tuple[str, ...]

    def text(self, csv: bool = False) -> str:
        """The table for a terminal with its warnings, or as CSV in full precision without them."""
        if csv:
            return self.table.to_csv(index=False)
        shown = self.table.dropna(axis="columns", how="all")
        return "\n".join([text_table(show_table(shown), ""), *(f"! {line}" for line in self.warnings)])


def compare_entries(entries: Sequence[Entry]) -> Comparison:
    """Compare models of the same data; best first, bounds after what can be ranked.

    Raises:
        StudyError: fewer than two models, or they do not belong to the same data (exit 2).

    Example:
        >>> table, _ = compare_entries([Entry("a", "d1", -101.0, 0.1, "consistent estimate"),
        ...                             Entry("b", "d1", -100.0, 0.05, "consistent estimate")])
        >>> table["model"].tolist(), table["delta"].tolist()
        (['b', 'a'], [0.0, 1.0])
    """
    import pandas as pd

    if len(entries) < 2:
        raise StudyError(f"compare: {len(entries)} finished model(s); there must be at least two to compare")
    refuse_unequal(entries)
    warnings: list[str] = []
    ranked = rankable(entries, warnings)
    order = sorted(entries, key=lambda entry: (entry.name not in ranked, _descending(entry)))
    table = pd.DataFrame(
        {
            "model": [entry.name for entry in order],
            "log_evidence": [entry.log_evidence for entry in order],
            "log_evidence_se": [entry.standard_error for entry in order],
            "kind": [entry.kind for entry in order],
        }
    )
    add_evidence(table, [entry for entry in order if entry.name in ranked], warnings)
    add_predictive(table, order, warnings)
    table["seconds"] = [entry.seconds for entry in order]
    return Comparison(table, tuple(warnings))


def _descending(entry: Entry) -> float:
    score = entry.elpd_loo if math.isnan(entry.log_evidence) else entry.log_evidence
    return math.inf if math.isnan(score) else -score


def refuse_unequal(entries: Sequence[Entry]) -> None:
    """Refuse models of different data, naming the first one that differs and what it is compared with."""
    names = [entry.name for entry in entries]
    double = next((name for name in names if names.count(name) > 1), None)
    if double is not None:
        raise StudyError(f"compare: {double} is given twice; name each model once")
    first = entries[0]
    for entry in entries:
        if not entry.data:
            raise StudyError(
                f"compare: {entry.name} has no data hash, so it cannot be shown to be of the same data"
            )
        if entry.data != first.data:
            raise StudyError(
                f"compare: different data. {first.name} has sha256 {first.data[:12]}…{_count(first)}, "
                f"{entry.name} has {entry.data[:12]}…{_count(entry)}. "
                "Evidence compares models of the same data only; name runs that share data, or points "
                "RUN/points/<id> of one data set"
            )
    counted = [entry for entry in entries if entry.observations is not None]
    for entry in counted:
        if entry.observations != counted[0].observations:
            raise StudyError(
                f"compare: different numbers of observations. {counted[0].name} has "
                f"{counted[0].observations}, {entry.name} has {entry.observations}. Fit both to the same rows"
            )
    shaped = [entry for entry in entries if entry.dims is not None]
    for entry in shaped:
        if entry.dims != shaped[0].dims:
            raise StudyError(
                f"compare: different likelihood dimensions. {shaped[0].name} has {_dims(shaped[0])}, "
                f"{entry.name} has {_dims(entry)}. Give both likelihoods the same dimensions"
            )


def _count(entry: Entry) -> str:
    return "" if entry.observations is None else f" and {entry.observations} observations"


def _dims(entry: Entry) -> str:
    return "(" + ", ".join(entry.dims or ()) + ")"


def rankable(entries: Sequence[Entry], warnings: list[str]) -> set[str]:
    """Names of the models whose values may be ranked against each other; says what was left out, and why.

    Exact values and consistent estimates rank together, with a warning. Bounds rank only among bounds of one
    kind, when there is nothing else.
    """
    known = [entry for entry in entries if not math.isnan(entry.log_evidence)]
    lost = [entry.name for entry in entries if math.isnan(entry.log_evidence)]
    if lost and known:
        warnings.append(f"no evidence for {', '.join(lost)}: not part of the probabilities")
    kinds = sorted({entry.kind for entry in known})
    best = [entry for entry in known if entry.kind in RANKED]
    loose = [entry.name for entry in known if entry.pointwise is not None and entry.pointwise.improper]
    if loose and len(loose) < len(known):
        warnings.append(
            f"the prior of {', '.join(loose)} is improper: its evidence has an arbitrary constant, "
            "and says nothing beside models whose prior is another"
        )
    if best:
        if len({entry.kind for entry in best}) > 1:
            warnings.append("exact values and consistent estimates are ranked together; mind the errors")
        for entry in known:
            if entry.kind not in RANKED:
                warnings.append(
                    f"{entry.name} has only a {entry.kind or 'value of unknown kind'}: not ranked"
                )
        return {entry.name for entry in best}
    if len(kinds) > 1:
        warnings.append(f"mixed kinds ({', '.join(kinds)}): nothing can be ranked by evidence")
        return set()
    if known:
        warnings.append(
            f"every value is a {kinds[0] or 'value of unknown kind'}: delta and P(model|data) compare "
            "bounds, and are as good as the bounds are tight"
        )
    return {entry.name for entry in known}


def add_evidence(table: pd.DataFrame, ranked: Sequence[Entry], warnings: list[str]) -> None:
    """Columns delta and probability with their errors; empty for models that are not ranked."""
    import torch

    from evidentia.inference.evidence.comparison import posterior_probabilities

    for column in ("delta", "delta_se", "probability", "probability_se"):
        table[column] = math.nan
    if not ranked:
        return
    value = torch.tensor([entry.log_evidence for entry in ranked], dtype=torch.float64)
    error = torch.tensor([entry.standard_error for entry in ranked], dtype=torch.float64)
    prior = torch.tensor([entry.log_prior for entry in ranked], dtype=torch.float64)
    given = ~prior.isnan()
    if not bool(given.all()):
        if bool(given.any()):
            warnings.append("only some models have a log prior: all are taken as equally probable before")
        prior = torch.zeros_like(value)
    posterior = posterior_probabilities(value, error, prior)
    spread = (error[0] ** 2 + error**2).sqrt()
    spread[0] = 0.0
    rows = list(range(len(ranked)))
    table.loc[rows, "delta"] = (value[0] - value).numpy()
    table.loc[rows, "delta_se"] = spread.numpy()
    table.loc[rows, "probability"] = posterior.probability.numpy()
    table.loc[rows, "probability_se"] = posterior.standard_error.numpy()


def add_predictive(table: pd.DataFrame, order: Sequence[Entry], warnings: list[str]) -> None:
    """Columns of LOO: score, difference to the best with its pointwise error, weight, k-hats too large."""
    import numpy as np

    scores = [
        elpd_total(entry.pointwise.elpd) if entry.pointwise else (entry.elpd_loo, entry.elpd_loo_se)
        for entry in order
    ]
    table["elpd_loo"], table["elpd_loo_se"] = [s[0] for s in scores], [s[1] for s in scores]
    with_points = {i: entry.pointwise for i, entry in enumerate(order) if entry.pointwise is not None}
    for column in ("elpd_diff", "elpd_diff_se", "weight", "pareto_k_bad"):
        table[column] = math.nan
    if not with_points:
        return
    rows = list(with_points)
    best = max(rows, key=lambda i: scores[i][0])
    differences = [elpd_difference(with_points[best].elpd, with_points[i].elpd) for i in rows]
    table.loc[rows, "elpd_diff"] = [difference[0] for difference in differences]
    table.loc[rows, "elpd_diff_se"] = [difference[1] for difference in differences]
    table.loc[rows, "weight"] = stacking_weights(np.stack([with_points[i].elpd for i in rows]))
    for i in rows:
        bad = int((~(with_points[i].pareto_k <= K_LIMIT)).sum())
        table.loc[i, "pareto_k_bad"] = bad
        if bad:
            warnings.append(
                f"{order[i].name}: k-hat > {K_LIMIT} for {bad} observations; its elpd_loo is unsure"
            )
