"""Predictive scores of networks beside their evidence: leave-one-out, and the conditional evidence."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from evidentia.inference.structure.networks import network_evidence
from evidentia.inference.structure.scores import Scores
from evidentia.inference.structure.stacked.evidence import derive_seed
from evidentia.inference.structure.stacked.family_target import family_target, pointwise_log_likelihood
from evidentia.inference.structure.stacked.guide import GUIDES, deal
from evidentia.inference.structure.stacked.result import NetworkEvidence
from evidentia.inference.structure.stacked.target import log_weight
from evidentia.models.structure.model import FamilyModel


def network_scores(
    model: FamilyModel,
    x: Tensor,
    y: Tensor,
    result: NetworkEvidence,
    *,
    split: int | None = None,
    num_draws: int = 2000,
    seed: int = 0,
    **options: Any,
) -> Callable[[Tensor], Scores]:
    """Scores on demand for chosen structures of a result.

    Leave-one-out: ``elpd = Σ_i log p(y_i | y_{−i})`` by truncated importance sampling from the trained guide.
    Conditional evidence: ``log p(y_{s+1:n} | y_{1:s})`` as a difference of two IWAE bounds, the second from
    guides trained on the first s rows; it is an estimate, not a bound.

    Args:
        model: the family's model.
        x: inputs ``(n, d)``, those of the result.
        y: response.
        result: evidences at likelihood power 1.
        split: s; half of the rows when None.
        num_draws: importance draws.
        seed: of the draws.
        options: of :func:`~evidentia.inference.structure.networks.network_evidence`, for the first s rows.

    Returns:
        From row numbers of ``result`` to :class:`~evidentia.inference.structure.scores.Scores`, nats per
        data set.

    Raises:
        ValueError: a tempered result, or a split that leaves no rows on one side.

    References:
        Vehtari, Gelman & Gabry, 2017. Practical Bayesian model evaluation using leave-one-out
        cross-validation.
        Ionides, 2008. Truncated importance sampling.
        Lotfi et al., 2022. Bayesian model selection, the marginal likelihood, and generalization.
    """
    first = len(x) // 2 if split is None else split
    if not 0 < first < len(x):
        raise ValueError(f"split: expected between 1 and {len(x) - 1} rows, got {first}.")
    if result.power != 1:
        raise ValueError(
            f"result: it holds evidences at likelihood power {result.power}; scores need power 1. "
            "Call network_evidence with likelihood_power and prior_weight left at 1."
        )

    def scores(rows: Tensor) -> Scores:
        gates = result.gates[rows]
        half = network_evidence(model, x[:first], y[:first], gates, seed=seed, **options)
        pointwise = leave_one_out(model, x, y, result, rows, num_draws, seed)
        error = (pointwise.shape[-1] * pointwise.var(-1)).sqrt()
        return Scores(result.iwae[rows] - half.iwae, pointwise.sum(-1), error)

    return scores


def leave_one_out(
    model: FamilyModel,
    x: Tensor,
    y: Tensor,
    result: NetworkEvidence,
    rows: Tensor,
    num_draws: int = 2000,
    seed: int = 0,
) -> Tensor:
    """``log p(y_i | y_{−i})`` per datum and structure, in nats, by truncated importance sampling.

    With importance weights w of the posterior, those of ``p(u | y_{−i})`` are ``w / p(y_i | u)``, here
    truncated at ``sqrt(num_draws)`` times their mean. A datum that the posterior strongly depends on (an
    outlier) is predicted too well by this.

    Args:
        model: the family's model.
        x: inputs ``(n, d)``.
        y: response.
        result: trained guides.
        rows: row numbers of ``result``, ``(R,)``.
        num_draws: draws.
        seed: of the draws, shared by the structures.

    Returns:
        ``(R, n)``.

    References:
        Ionides, 2008. Truncated importance sampling.
    """
    gates, theta = result.gates[rows], result.state["theta"][rows]
    learned = "noise" in result.hyper
    target = family_target(model, x, y, gates, learn_noise=learned).careful()
    pointwise = pointwise_log_likelihood(model, x, y, gates)
    guide = GUIDES["full_covariance" if "scale_tril" in result.guide else "mean_field"]
    variance = result.hyper["variance"][rows]
    generator = torch.Generator().manual_seed(derive_seed(seed, "leave one out"))
    weights, terms = [], []
    for _ in range(0, num_draws, 250):
        raw = torch.randn(250, target.active.shape[-1], generator=generator, dtype=theta.dtype)
        noise = deal(raw.to(theta.device), target.active)
        with torch.no_grad():
            index = torch.arange(len(rows), device=theta.device)
            weights.append(log_weight(target, guide, theta, noise, variance, index))
            latents = guide.draw(theta[..., :-1] if learned else theta, noise, target.active)
            log_noise = theta[..., -1].unsqueeze(0) if learned else None
            if target.log_noise_prior is not None:
                log_noise = latents[..., -1]
            terms.append(pointwise(latents, log_noise, index))
    log_likelihood = torch.cat(terms)
    ratio = torch.cat(weights).unsqueeze(-1) - log_likelihood
    ceiling = torch.logsumexp(ratio, 0) - 0.5 * math.log(len(ratio))
    ratio = torch.minimum(ratio, ceiling)
    return torch.logsumexp(ratio + log_likelihood, 0) - torch.logsumexp(ratio, 0)
