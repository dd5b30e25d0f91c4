"""Probabilistic principal components: one noise variance for all columns, fitted in closed form."""

from __future__ import annotations

from typing import NamedTuple, cast, final

import torch
from pyro.nn import PyroParam
from torch import Tensor
from torch.distributions import constraints

from evidentia.models.tractable.linear_gaussian import LinearGaussian

__all__ = ["PPCAParameters", "ProbabilisticPCA", "ppca_maximum_likelihood"]


class PPCAParameters(NamedTuple):
    """loc μ (D,), factor W (D, q), scale σ (): the arguments of `ProbabilisticPCA`.

    References:
        none; bookkeeping.
    """

    loc: Tensor
    factor: Tensor
    scale: Tensor


@final
class ProbabilisticPCA(LinearGaussian):
    r"""\(z \sim N(0, I_q),\; x \sim N(\mu + Wz, \sigma^2 I)\), so \(x \sim N(\mu, WW^\top + \sigma^2 I)\).

    =======  ========  =========================================
    site     shape     support
    =======  ========  =========================================
    ``z``    (q,)      real, one for each row, plate ``data``
    ``obs``  (D,)      real, one for each row, plate ``data``
    =======  ========  =========================================

    μ, W and σ are trainable; W is identified up to a rotation of the latents.

    Args:
        loc: μ (D,).
        factor: W (D, q).
        scale: σ, the noise standard deviation.

    Raises:
        ValueError: shapes that do not fit, or a scale that is not positive and finite.

    References:
        Tipping, Bishop, 1999, Probabilistic principal component analysis.

    Example:
        >>> model = ProbabilisticPCA(torch.zeros(3), torch.ones(3, 1), 0.5)
        >>> model(size=4).shape, model.log_evidence(torch.zeros(4, 3)).shape
        (torch.Size([4, 3]), torch.Size([4]))
    """

    scale: Tensor

    def __init__(self, loc: Tensor, factor: Tensor, scale: Tensor | float) -> None:
        super().__init__(loc, factor)
        value = torch.as_tensor(scale, dtype=loc.dtype, device=loc.device).detach().clone()
        if value.dim() or not bool((value > 0) & torch.isfinite(value)):
            raise ValueError(
                f"ProbabilisticPCA: expected one positive finite scale, got {scale}. Fix: give the standard "
                "deviation of the noise; for one per column use FactorAnalysis"
            )
        self.scale = cast(Tensor, PyroParam(value, constraints.positive))

    @property
    def variance(self) -> Tensor:
        """σ² for each column, (D,)."""
        return self.scale.square().expand(self.data_width)


def ppca_maximum_likelihood(x: Tensor, latent: int, *, scale: float | None = None) -> PPCAParameters:
    r"""The maximum of the likelihood: \(W = U_q (\Lambda_q - \sigma^2 I)_+^{1/2}\), in the principal basis.

    \(\mu\) is the mean, \(\lambda_1 \ge \dots \ge \lambda_D\) and U are the eigenvalues and eigenvectors of
    the sample covariance (divisor n), and \(\sigma^2 = \tfrac{1}{D-q}\sum_{j>q}\lambda_j\) unless given. With
    a given σ a column is zero unless its eigenvalue exceeds σ²: the number of latents that the data support.

    Args:
        x: (n, D), n >= 2.
        latent: q, between 1 and D - 1, or D when `scale` is given.
        scale: σ when it is known.

    Returns:
        μ, W, σ.

    Raises:
        ValueError: q or σ out of range, too few rows, or a likelihood without a maximum because the
            discarded eigenvalues are zero.

    References:
        Tipping, Bishop, 1999, Probabilistic principal component analysis.

    Example:
        >>> x = torch.tensor([[2.0, 0.0], [-2.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
        >>> ppca_maximum_likelihood(x, 1).scale
        tensor(0.7071)
    """
    if x.dim() != 2 or len(x) < 2:
        raise ValueError(f"ppca: expected x (n, D) with at least 2 rows, got {tuple(x.shape)}")
    rows, width = x.shape
    most = width - 1 if scale is None else width
    if not 1 <= latent <= most:
        raise ValueError(
            f"ppca: expected between 1 and {most} latents for {width} columns"
            f"{' (one eigenvalue is left for the noise)' if scale is None else ''}, got {latent}"
        )
    loc = x.mean(0)
    _, singular, axes = torch.linalg.svd(x - loc, full_matrices=False)
    eigenvalues = x.new_zeros(width)
    eigenvalues[: len(singular)] = singular.square() / rows
    if scale is None:
        noise = eigenvalues[latent:].mean()
        if not bool(noise > width * torch.finfo(x.dtype).eps * eigenvalues[0]):
            raise ValueError(
                f"ppca: the {width - latent} discarded eigenvalues are zero, so the likelihood has no "
                "maximum. Fix: fewer latents, drop constant or repeated columns, or give scale="
            )
    elif scale > 0:
        noise = x.new_tensor(scale**2)
    else:
        raise ValueError(f"ppca: expected a positive scale, got {scale}")
    kept = min(latent, len(singular))
    factor = x.new_zeros(width, latent)
    factor[:, :kept] = axes[:kept].mT * (eigenvalues[:kept] - noise).clamp(min=0).sqrt()
    return PPCAParameters(loc, factor, noise.sqrt())
