"""Posterior model probabilities from log evidences, with error bars by the delta method."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from evidentia.inference.evidence.log_evidence import LogEvidence, check_comparable, common_kind

if TYPE_CHECKING:
    import pandas as pd


class Probabilities(NamedTuple):
    """Posterior probabilities and their standard errors, both (S,)."""

    probability: Tensor
    standard_error: Tensor


def posterior_probabilities(
    log_evidence: Tensor, standard_error: Tensor | None = None, log_prior: Tensor | None = None
) -> Probabilities:
    """P_k ∝ exp(l_k + a_k) and SE(P_k) = P_k √(Σ_j ([j=k] − P_j)² s_j²), for independent errors.

    The sum is evaluated as (1 − 2P_k) s_k² + Σ_j P_j² s_j², so the cost is linear in the number of
    structures.

    Args:
        log_evidence: l (S,), nats, whole data set.
        standard_error: s (S,); None means exact.
        log_prior: a (S,), up to a constant; None means uniform.

    Raises:
        ValueError: shapes differ, no structure, NaN, or every structure has probability zero.

    References:
        Kass and Raftery, 1995. Bayes factors.

    Example:
        >>> log_evidence, error = torch.tensor([-100.0, -101.0, -103.0]), torch.tensor([0.05, 0.1, 0.2])
        >>> [round(v, 4) for v in posterior_probabilities(log_evidence, error).standard_error.tolist()]
        [0.0216, 0.0214, 0.0069]
    """
    evidence = torch.as_tensor(log_evidence).double()
    prior = torch.zeros_like(evidence) if log_prior is None else torch.as_tensor(log_prior).double()
    error = torch.zeros_like(evidence) if standard_error is None else torch.as_tensor(standard_error).double()
    for name, value in (("standard_error", error), ("log_prior", prior)):
        if value.shape != evidence.shape:
            raise ValueError(
                f"posterior_probabilities: {name} has shape {tuple(value.shape)}, "
                f"log_evidence {tuple(evidence.shape)}; give one value per structure"
            )
    log_joint = evidence + prior
    if not log_joint.numel() or bool(torch.isnan(log_joint).any()):
        raise ValueError(
            f"posterior_probabilities: {int(torch.isnan(log_joint).sum())} of {log_joint.numel()} log "
            "evidences are NaN; drop the structures whose estimate failed, or repair the estimate"
        )
    if not bool((log_joint > -torch.inf).any()):
        raise ValueError(
            "posterior_probabilities: every structure has probability zero; check the model prior"
        )
    probability = torch.softmax(log_joint, 0)
    variance = (1 - 2 * probability) * error.square() + (probability.square() * error.square()).sum()
    return Probabilities(probability, probability * variance.clamp_min(0).sqrt())


def conditional_evidence(everything: LogEvidence, first: LogEvidence) -> LogEvidence:
    """log p(y_rest | y_first) = log Z(all data) - log Z(first rows): the prior matters less, the model more.

    Args:
        everything: evidence of all the data.
        first: evidence of the first rows alone, of the same model.

    Returns:
        A LogEvidence in nats of the remaining rows, with standard error √(s_all² + s_first²), and the data of
        `first` under `conditioned_on` in its diagnostics.

    Raises:
        ValueError: kinds cannot be subtracted, both are of the same data, or a site has more rows in `first`.

    References:
        Lotfi, Izmailov, Benton, Goldblum and Wilson, 2022. Bayesian model selection, the marginal
        likelihood, and generalization.

    Example:
        >>> from evidentia.inference.evidence.conjugate import normal_mean
        >>> y = torch.tensor([0.3, -0.2, 0.5, 0.1])
        >>> print(conditional_evidence(normal_mean(y), normal_mean(y[:2])))
        -2.1760 ± 0.0000 nats (exact)
    """
    kind = common_kind([everything.kind, first.kind], mix=True)
    if kind not in ("exact", "consistent estimate"):
        raise ValueError(
            f"conditional_evidence: the difference of two {kind}s is neither a bound nor an estimate. "
            "Fix: give exact values or consistent estimates"
        )
    whole, part = (entry.diagnostics.get("observed") or {} for entry in (everything, first))
    for site, record in part.items():
        known = whole.get(site)
        larger = known is not None and record.shape[:1] > known.shape[:1]
        if (whole and known is None) or larger or (whole == part):
            raise ValueError(
                f"conditional_evidence: site '{site}' has shape {record.shape} in `first` and "
                f"{None if known is None else known.shape} in `everything`; expected fewer rows of the same "
                "site. Fix: the first rows of the same data"
            )
    diagnostics = {
        "method": "conditional",
        "warnings": (*everything.diagnostics.get("warnings", ()), *first.diagnostics.get("warnings", ())),
        "observed": whole,
        "conditioned_on": part,
    }
    error = (everything.standard_error**2 + first.standard_error**2) ** 0.5
    return LogEvidence.checked(everything.value - first.value, error, kind, diagnostics)


def compare_evidence(
    evidences: Mapping[str, LogEvidence],
    log_prior: Mapping[str, float] | None = None,
    *,
    mix: bool = False,
    predictive: Mapping[str, tuple[float, float]] | None = None,
    conditional: Mapping[str, LogEvidence] | None = None,
) -> pd.DataFrame:
    """A table of models, best first: log evidence, its error, the difference to the best and the probability.

    SE(difference) = √(s_best² + s_k²). Predictive scores and conditional evidences answer other questions:
    they get columns of their own, and neither the order nor the probabilities look at them.

    Args:
        evidences: name -> LogEvidence of the same data.
        log_prior: name -> log prior mass up to a constant; None means uniform.
        mix: allow exact values beside consistent estimates.
        predictive: name -> (elpd_loo, its standard error), nats; columns `elpd_loo` and `elpd_loo_se`, NaN
            for models that have none.
        conditional: name -> `conditional_evidence`; columns `conditional` and `conditional_se`.

    Raises:
        ValueError: kinds are mixed, no evidence, a prior is missing, a column names an unknown model, the
            evidences are of different data, or a conditional evidence stands among the others.

    References:
        Kass and Raftery, 1995. Bayes factors.

    Example:
        >>> from evidentia.inference.evidence.log_evidence import LogEvidence
        >>> table = compare_evidence({"a": LogEvidence.checked(-3.0), "b": LogEvidence.checked(-1.0)})
        >>> table["model"].tolist(), table["difference"].tolist()
        (['b', 'a'], [0.0, 2.0])
    """
    import pandas as pd

    common_kind([evidence.kind for evidence in evidences.values()], mix=mix)
    check_comparable(evidences)
    for column, given in (("predictive", predictive), ("conditional", conditional)):
        unknown = [name for name in given or {} if name not in evidences]
        if unknown:
            raise ValueError(
                f"compare_evidence: {column} names {unknown}; expected names among {list(evidences)}"
            )
    missing = [name for name in evidences if log_prior is not None and name not in log_prior]
    if missing:
        raise ValueError(f"compare_evidence: log_prior lacks {missing}; give one entry per model")
    names = sorted(evidences, key=lambda name: -evidences[name].value)
    value = torch.tensor([evidences[name].value for name in names], dtype=torch.float64)
    error = torch.tensor([evidences[name].standard_error for name in names], dtype=torch.float64)
    prior = torch.tensor([log_prior[name] if log_prior else 0.0 for name in names], dtype=torch.float64)
    probability = posterior_probabilities(value, error, prior)
    difference_error = (error[0].square() + error.square()).sqrt()
    difference_error[0] = 0.0
    table = pd.DataFrame(
        {
            "model": names,
            "log_evidence": value.numpy(),
            "standard_error": error.numpy(),
            "kind": [evidences[name].kind for name in names],
            "difference": (value[0] - value).numpy(),
            "difference_se": difference_error.numpy(),
            "log_prior": prior.numpy(),
            "probability": probability.probability.numpy(),
            "probability_se": probability.standard_error.numpy(),
        }
    )
    if predictive is not None:
        scores = [predictive.get(name, (math.nan, math.nan)) for name in names]
        table["elpd_loo"], table["elpd_loo_se"] = zip(*scores, strict=True)
    if conditional is not None:
        _add_conditional(table, names, conditional, mix=mix)
    return table


def _add_conditional(
    table: pd.DataFrame, names: list[str], conditional: Mapping[str, LogEvidence], *, mix: bool
) -> None:
    """Columns of log p(y_rest | y_first), of one kind and one split of the data."""
    plain = [name for name, entry in conditional.items() if "conditioned_on" not in entry.diagnostics]
    if plain:
        raise ValueError(
            f"compare_evidence: conditional[{plain[0]!r}] is an evidence of all the data. "
            "Fix: conditional_evidence(everything, first)"
        )
    common_kind([entry.kind for entry in conditional.values()], mix=mix)
    check_comparable(conditional)
    for column, attribute in (("conditional", "value"), ("conditional_se", "standard_error")):
        table[column] = [getattr(conditional.get(name), attribute, math.nan) for name in names]
