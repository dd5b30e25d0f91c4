"""Leave-one-out scores of a point, from its InferenceData."""

from __future__ import annotations

from typing import Any

from evidentia.studies.harness.reporting.verdict import check


def predictive_scores(idata: Any) -> tuple[dict[str, float], Any]:
    """LOO as columns of a row, and the check of its k-hats with the observations named."""
    from evidentia.inference import diagnostics

    names = list(idata.log_likelihood.data_vars)
    score = diagnostics.loo(idata, obs=names[0])
    k = score.pareto_k.values.reshape(-1)
    bad = [str(i) for i in (k > 0.7).nonzero()[0]]
    shown = ", ".join(bad[:5]) + (f" and {len(bad) - 5} more" if len(bad) > 5 else "")
    row = {"elpd_loo": float(score.elpd_loo), "elpd_loo_se": float(score.se)}
    return row, check("k_hat_loo", float(k.max()), f"observations {shown}" if bad else "")
