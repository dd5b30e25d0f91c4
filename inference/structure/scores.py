"""Predictive scores of structures, shown beside the evidence and never mixed into it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from evidentia.models.linear.blocks import bic_log_bayes_factor
from evidentia.models.linear.conjugate_regression import ConjugateRegression
from evidentia.models.linear.priors import GPrior


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


def bic_scores(problem: ConjugateRegression | None, gates: Tensor) -> Tensor | None:
    """Schwarz's log Bayes factor against the empty model per row of `gates`; None without a g-prior.

    Shown beside the exact evidence of a g-prior, which invites the comparison; a ridge has no such limit.

    References:
        Schwarz, 1978. Estimating the dimension of a model.

    Example:
        >>> x = torch.tensor([[1.0], [-1.0], [2.0], [-2.0]], dtype=torch.float64)
        >>> bic_scores(ConjugateRegression(GPrior(), x, x[:, 0] + x[:, 0].square()), torch.ones(1, 1))
        tensor([0.8013], dtype=torch.float64)
    """
    if problem is None or not isinstance(problem.prior, GPrior):
        return None
    return bic_log_bayes_factor(problem.data, problem.columns(gates))


def linear_scores(
    problem: ConjugateRegression, gates: Tensor, rows: int | None = None
) -> Callable[[Tensor], Scores] | None:
    """Exact conditional log evidence and leave-one-out elpd of chosen rows of `gates`; None with fewer
    than 4 data.

    The conditional log evidence is NaN where half of the rows, taken because `rows` is None, have no density
    under an improper noise prior (a response sorted so that they are equal).

    Raises:
        ValueError: the same with `rows` given.

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
    fault = problem.conditional_fault(split)
    if fault is not None and rows is not None:
        raise ValueError(f"conditional_rows: {fault}")

    def scores(index: Tensor) -> Scores:
        chosen = gates[index].double()
        elpd, error = [], []
        for part in chosen.split(1024):
            pointwise = problem.log_predictive_loo(part)
            elpd.append(pointwise.sum(-1))
            error.append((count * pointwise.var(-1)).sqrt())
        total = torch.cat(elpd)
        later = torch.full_like(total, torch.nan)
        if fault is None:
            later = problem.log_evidence_conditional(chosen, split)
        return Scores(later, total, torch.cat(error))

    return scores
