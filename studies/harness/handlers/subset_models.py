"""Subset regression as studies name it: a prior by its name, its data-dependent constants from the data."""

from typing import TYPE_CHECKING

from evidentia.studies.harness.errors import StudyError, did_you_mean

if TYPE_CHECKING:
    from evidentia.models.regression import SubsetRegression
    from evidentia.studies.harness.data.dataset import Dataset

PRIORS = {
    "g-prior, uniform": "unit-information g-prior, p(σ²) = 1/σ², flat intercept; all subsets equally likely",
    "g-prior, beta-binomial": "the same weights; all subset sizes equally likely",
    "normal, uniform": "N(0, 1) coefficients, noise variance of the full least-squares fit; equal subsets",
    "g-prior, informed noise": "g-prior, σ² ~ InvGamma(1/2, σ0²/2) with σ0² from the full fit, no intercept",
}


def subset_regression(data: "Dataset", prior: str = "g-prior, uniform") -> "SubsetRegression":
    """Linear regression on every subset of the columns, under one of the named `PRIORS`.

    Args:
        data: design and response; σ0² = RSS / (n − p [− 1]) is taken from its full least-squares fit, with
            the divisor n − p − 1 for the normal prior and n − p without an intercept.
        prior: a key of `PRIORS`.

    Raises:
        StudyError: there is no such prior.

    References:
        Liang, Paulo, Molina, Clyde and Berger, 2008. Mixtures of g priors for Bayesian variable selection.
        Hoff, 2009. A first course in Bayesian statistical methods, chapter 9.
    """
    from evidentia.models.regression import GPrior, NormalPrior, SubsetRegression
    from evidentia.models.structure.priors import Bernoulli, BetaBinomial

    if prior == "g-prior, uniform":
        return SubsetRegression(data.names, GPrior(), Bernoulli(0.5))
    if prior == "g-prior, beta-binomial":
        return SubsetRegression(data.names, GPrior(), BetaBinomial(1.0, 1.0))
    if prior == "normal, uniform":
        scale = residual_variance(data, intercept=True) ** 0.5
        return SubsetRegression(data.names, NormalPrior(scale=1.0, noise_scale=scale), Bernoulli(0.5))
    if prior == "g-prior, informed noise":
        rate = residual_variance(data, intercept=False) / 2
        weights = GPrior(g=float(len(data.x)), noise_shape=0.5, noise_rate=rate, intercept=False)
        return SubsetRegression(data.names, weights, Bernoulli(0.5))
    raise StudyError(f"model.prior: unknown prior {prior!r}. {did_you_mean(prior, PRIORS)}")


def residual_variance(data: "Dataset", intercept: bool) -> float:
    """RSS / (n − p − [intercept]) of the full least-squares fit; the columns and the response are centred.

    Raises:
        StudyError: there are not more rows than coefficients.
    """
    import torch

    if data.y is None:
        raise StudyError("data: there is no response; a regression needs one. Name its column as target.")
    rows, columns = data.x.shape
    degrees = rows - columns - intercept
    if degrees < 1:
        raise StudyError(
            f"data: {rows} rows cannot give a residual variance of {columns} columns; "
            f"at least {columns + intercept + 1} rows are needed, or the prior 'g-prior, uniform'."
        )
    residual = data.y - data.x @ torch.linalg.lstsq(data.x, data.y[:, None]).solution[:, 0]
    # The last digits of a solver depend on where its memory lies; a constant of the prior must not.
    return float(f"{float(residual.square().sum() / degrees):.10g}")
