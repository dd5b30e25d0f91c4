"""Predictive scores of structures, shown beside the evidence and never mixed into it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from evidentia.models.linear.conjugate_regression import ConjugateRegression


class Scores(NamedTuple):
    """Predictive scores per structure, nats per data set: conditional log evidence, LOO elpd and its SE,
    each (S,).

    References:
        Lotfi, Izmailov, Benton, Goldblum and Wilson, 2022. Bayesian model selection, the marginal
        likelihood, and generalization.
        Vehtari, Gelman and Gabry, 2017. Practical Bayesian model evaluation using leave-one-out
        cross-validation.
    """

    conditional_log_evidence: Tensor
    elpd_loo: Tensor
    elpd_loo_se: Tensor


def linear_scores(
    problem: ConjugateRegression, gates: Tensor, rows: int | None = None
) -> Callable[[Tensor], Scores] | None:
    """Exact conditional log evidence and leave-one-out elpd of chosen rows of `gates`; None with fewer
    than 4 data.

    References:
        Lotfi, Izmailov, Benton, Goldblum and Wilson, 2022. Bayesian model selection, the marginal
        likelihood, and generalization.

    Example:
        >>> from evidentia.models.linear.priors import NormalPrior
        >>> x = torch.tensor([[1.0], [2.0], [3.0], [4.0]], dtype=torch.float64)
        >>> scores = linear_scores(ConjugateRegression(NormalPrior(), x, x[:, 0]), torch.ones(1, 1))
        >>> scores(torch.tensor([0])).elpd_loo.shape
        torch.Size([1])
    """
    count = problem.y.shape[0]
    if count < 4:
        return None
    split = count // 2 if rows is None else rows

    def scores(index: Tensor) -> Scores:
        chosen = gates[index].double()
        elpd, error = [], []
        for part in chosen.split(1024):
            pointwise = problem.log_predictive_loo(part)
            elpd.append(pointwise.sum(-1))
            error.append((count * pointwise.var(-1)).sqrt())
        return Scores(problem.log_evidence_conditional(chosen, split), torch.cat(elpd), torch.cat(error))

    return scores
