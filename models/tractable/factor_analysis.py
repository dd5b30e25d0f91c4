"""Factor analysis: a noise variance for each column, and the EM steps that fit it."""

from __future__ import annotations

import math
from typing import NamedTuple, cast, final

import torch
from pyro.nn import PyroParam
from torch import Tensor
from torch.distributions import constraints

from evidentia.models.tractable.linear_gaussian import LinearGaussian, posterior_precision
from evidentia.models.tractable.ppca import ppca_maximum_likelihood

__all__ = ["FactorAnalysis", "FactorFit", "FactorStep", "factor_analysis_em", "factor_step"]


@final
class FactorAnalysis(LinearGaussian):
    r"""\(z \sim N(0, I_q),\; x \sim N(\mu + Wz, \Psi)\), so that \(x \sim N(\mu, WW^\top + \Psi)\).

    =======  ========  =========================================
    site     shape     support
    =======  ========  =========================================
    ``z``    (q,)      real, one for each row, plate ``data``
    ``obs``  (D,)      real, one for each row, plate ``data``
    =======  ========  =========================================

    μ, W and the noise scales are trainable; W is identified up to a rotation of the latents.

    Args:
        loc: μ (D,).
        factor: W (D, q).
        scale: the noise standard deviation of each column, (D,).

    Raises:
        ValueError: shapes that do not fit, or a scale that is not positive and finite.

    References:
        Rubin, Thayer, 1982, EM algorithms for ML factor analysis.

    Example:
        >>> model = FactorAnalysis(torch.zeros(3), torch.ones(3, 1), torch.tensor([0.5, 1.0, 2.0]))
        >>> model.posterior(torch.zeros(4, 3)).mean.shape
        torch.Size([4, 1])
    """

    scale: Tensor

    def __init__(self, loc: Tensor, factor: Tensor, scale: Tensor) -> None:
        super().__init__(loc, factor)
        if scale.shape != loc.shape or not bool(((scale > 0) & torch.isfinite(scale)).all()):
            raise ValueError(
                f"FactorAnalysis: expected {len(loc)} positive finite scales, got {scale.tolist()}. Fix: one "
                "standard deviation for each column; for a common one use ProbabilisticPCA"
            )
        self.scale = cast(Tensor, PyroParam(scale.detach().clone(), constraints.positive))

    @property
    def variance(self) -> Tensor:
        """ψ, (D,)."""
        return self.scale.square()


class FactorStep(NamedTuple):
    """New W (D, q) and ψ (D,), and the log-likelihood of the old ones in nats for one datum.

    References:
        none; bookkeeping.
    """

    factor: Tensor
    variance: Tensor
    log_likelihood: Tensor


def factor_step(covariance: Tensor, factor: Tensor, variance: Tensor, *, floor: float = 0.0) -> FactorStep:
    r"""One EM step on the sample covariance S.

    \(\beta = P^{-1}W^\top\Psi^{-1}\), \(E = P^{-1} + \beta S\beta^\top\), \(W' = S\beta^\top E^{-1}\),
    \(\psi' = \mathrm{diag}(S - W'\beta S)\).

    Args:
        covariance: S (D, D), divisor n.
        factor: W (D, q).
        variance: ψ (D,).
        floor: smallest ψ allowed; the step is then the EM step of the likelihood restricted to ψ >= floor.

    Returns:
        W', ψ' and the mean log-likelihood at (W, ψ).

    Raises:
        ValueError: a ψ' that is zero to rounding, as for a constant column, and no floor.

    References:
        Rubin, Thayer, 1982, EM algorithms for ML factor analysis.
        Heywood, 1931, On finite sequences of real numbers.

    Example:
        >>> step = factor_step(torch.eye(2), torch.full((2, 1), 0.1), torch.ones(2))
        >>> step.factor.shape, round(float(step.log_likelihood), 3)
        (torch.Size([2, 1]), -2.838)
    """
    precision = posterior_precision(factor, variance)
    inverse = torch.linalg.inv(precision)
    gain = inverse @ (factor / variance[:, None]).mT
    image = gain @ covariance
    new_factor = torch.linalg.solve(inverse + image @ gain.mT, image).mT
    new_variance = covariance.diagonal() - (new_factor * image.mT).sum(-1)
    log_det = variance.log().sum() + torch.logdet(precision)
    energy = ((covariance - factor @ image) / variance[:, None]).trace()
    log_likelihood = -(len(variance) * math.log(2 * math.pi) + log_det + energy) / 2
    least = 10 * torch.finfo(variance.dtype).eps * covariance.diagonal()
    if floor > 0:
        new_variance = new_variance.clamp(min=floor)
    elif bool((new_variance <= least).any()):
        column = int((new_variance - least).argmin())
        raise ValueError(
            f"factor_analysis: the noise variance of column {column} reaches zero, where the step ends. "
            "Fix: drop the column if it is constant, use floor=1e-6, or fewer latents"
        )
    return FactorStep(new_factor, new_variance, log_likelihood)


class FactorFit(NamedTuple):
    """loc μ, factor W and scale: the arguments of `FactorAnalysis`; then nats for each step's input.

    References:
        none; bookkeeping.
    """

    loc: Tensor
    factor: Tensor
    scale: Tensor
    log_likelihood: Tensor


@torch.no_grad()
def factor_analysis_em(
    x: Tensor, latent: int, *, num_steps: int = 1000, tolerance: float = 1e-9, floor: float = 0.0
) -> FactorFit:
    """Maximum likelihood by EM from the principal components.

    Args:
        x: (n, D).
        latent: q, between 1 and D - 1.
        num_steps: largest number of steps.
        tolerance: stop when a step raises the mean log-likelihood by less, in nats for one datum.
        floor: smallest noise variance, see `factor_step`. Where the maximum has a noise variance of zero (a
            Heywood case) EM creeps towards it without an end; a floor stops it there.

    Returns:
        μ, W, the scales, and the mean log-likelihood before each step, never decreasing.

    Raises:
        ValueError: q out of range, or a noise variance that reaches zero.

    References:
        Rubin, Thayer, 1982, EM algorithms for ML factor analysis.

    Example:
        >>> x = torch.randn(50, 1, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 2.0, 3.0])
        >>> x = x + torch.randn(50, 3, generator=torch.Generator().manual_seed(1))
        >>> result = factor_analysis_em(x, 1)
        >>> FactorAnalysis(*result[:3]).data_width
        3
    """
    loc, factor, scale = ppca_maximum_likelihood(x, latent)
    covariance = (x - loc).mT @ (x - loc) / len(x)
    variance = scale.square().expand(x.shape[1])
    history: list[Tensor] = []
    for _ in range(num_steps):
        step = factor_step(covariance, factor, variance, floor=floor)
        history.append(step.log_likelihood)
        factor, variance = step.factor, step.variance
        if len(history) > 1 and float(history[-1] - history[-2]) < tolerance:
            break
    return FactorFit(loc, factor, variance.sqrt(), torch.stack(history) if history else x.new_zeros(0))
