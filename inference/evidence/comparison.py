"""Posterior model probabilities from log evidences, with error bars by the delta method."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from evidentia.inference.evidence.log_evidence import LogEvidence, common_kind

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


def compare_evidence(
    evidences: Mapping[str, LogEvidence], log_prior: Mapping[str, float] | None = None, *, mix: bool = False
) -> pd.DataFrame:
    """A table of models, best first: log evidence, its error, the difference to the best and the probability.

    SE(difference) = √(s_best² + s_k²).

    Args:
        evidences: name -> LogEvidence of the same data.
        log_prior: name -> log prior mass up to a constant; None means uniform.
        mix: allow exact values beside consistent estimates.

    Raises:
        ValueError: kinds are mixed, no evidence, or a prior is missing.

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
    return pd.DataFrame(
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
