"""What double precision can say about a conjugate evidence: responses without a density, lost digits."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from evidentia.models.linear.blocks import Statistics
from evidentia.models.linear.prior import ConjugatePrior

_CONSTANT = 1e-12  # norm of what is left of a response relative to the response
_DOUBTFUL = 0.01  # nats
_WRONG = 1.0  # nats


class LostDigits(UserWarning):
    """The log evidence may be off by more than a hundredth of a nat, through rounding.

    References:
        Higham, 2002. Accuracy and stability of numerical algorithms, chapter 10.
    """


def fault_of(prior: ConjugatePrior, data: Statistics, y: Tensor) -> str | None:
    """Why responses with these statistics have no density under the noise prior; None when they have.

    Under p(σ²) = 1/σ² a response without variation has infinite density, and one without degrees of freedom
    none. Proper noise priors accept everything.

    References:
        Liang, Paulo, Molina, Clyde and Berger, 2008. Mixtures of g priors for Bayesian variable selection.

    Example:
        >>> from evidentia.models.linear.blocks import statistics
        >>> from evidentia.models.linear.priors import GPrior
        >>> x, y = torch.tensor([[1.0], [2.0], [4.0]]), torch.full((3,), 0.1)
        >>> fault_of(GPrior(), statistics(x, y, intercept=True), y)
        'is constant in all 3 rows'
    """
    if prior.noise.proper:
        return None
    if data.degrees <= 0:
        return f"has {data.degrees:g} degrees of freedom in {len(y)} rows"
    if float(data.energy) > _CONSTANT**2 * float(y.square().sum()):
        return None
    return f"is {'constant' if data.intercept else 'zero'} in all {len(y)} rows"


def check_response(prior: ConjugatePrior, data: Statistics, y: Tensor) -> None:
    """Refuse a response without variation under p(σ²) = 1/σ².

    Raises:
        ValueError: y is constant (zero without an intercept).

    References:
        Liang, Paulo, Molina, Clyde and Berger, 2008. Mixtures of g priors for Bayesian variable selection.
    """
    fault = fault_of(prior, data, y)
    if fault is not None and data.degrees > 0:
        raise ValueError(
            f"y {fault}; expected a response that varies, for under p(σ²) = 1/σ² every evidence would "
            "be infinite. Fix: check y, or give a proper noise prior, e.g. GPrior(noise_shape=0.5, "
            "noise_rate=0.5)"
        )


def rounding_bound(prior: ConjugatePrior, data: Statistics, matrix: Tensor) -> float:
    """How far rounding may move a log evidence, in nats, from the model with every column.

    The residual SS = y'y − v'Av, v = A⁻¹b, is off by at most about 2ε [y'y + (Σ_j |v_j| √A_jj)²]; the log
    evidence by that times 1/(2σ²), or (shape + m/2)/(2 rate + SS) with unknown noise. 0 where A is singular.

    Args:
        prior: resolved for the rows.
        data: statistics of all rows.
        matrix: `prior.matrix(data)`.

    References:
        Higham, 2002. Accuracy and stability of numerical algorithms, chapter 10.

    Example:
        >>> from evidentia.models.linear.blocks import statistics
        >>> from evidentia.models.linear.priors import NormalPrior
        >>> x, y = torch.tensor([[1.0], [2.0]]).double(), torch.tensor([1e8, 1e8]).double()
        >>> data = statistics(x, y, intercept=False)
        >>> round(rounding_bound(NormalPrior(), data, NormalPrior().matrix(data)), 1)
        7.8
    """
    inner, moment = matrix[:-1, :-1], matrix[:-1, -1]
    factor, info = torch.linalg.cholesky_ex(inner)
    if int(info) or data.degrees <= 0:
        return 0.0
    weight = torch.cholesky_solve(moment[:, None], factor)[:, 0]
    terms = (weight.abs() * inner.diagonal().sqrt()).sum().square()
    error = 2 * torch.finfo(torch.float64).eps * float(data.energy + terms)
    residual = float((data.energy - moment @ weight).clamp_min(0))
    return prior.shrinkage * error * prior.sensitivity(data, residual)


def check_digits(prior: ConjugatePrior, data: Statistics, matrix: Tensor) -> None:
    """Warn when rounding may move a log evidence by 0.01 nats, refuse when by 1 nat.

    Raises:
        ValueError: the evidence would be wrong.

    References:
        Higham, 2002. Accuracy and stability of numerical algorithms, chapter 10.
    """
    bound = rounding_bound(prior, data, matrix)
    if bound < _DOUBTFUL:
        return
    fix = "standardise the columns, give a larger noise scale, or a g below 1e12"
    if not data.intercept:
        fix = "centre y and the columns, or use intercept=True, which does it exactly; " + fix
    message = (
        f"y: rounding may move the log evidence by up to {bound:.2g} nats, expected below 0.01. Fix: {fix}"
    )
    if bound >= _WRONG:
        raise ValueError(message)
    warnings.warn(message, LostDigits, stacklevel=2)
