"""Linear-Gaussian latents, z ~ N(0, I) and x ~ N(μ + Wz, Ψ): marginal, posterior and mean-field gap."""

from __future__ import annotations

from typing import Any, cast

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule, PyroParam, pyro_method
from torch import Tensor

from evidentia.models.rows import row_plate

__all__ = ["LinearGaussian", "mean_field_gap", "posterior_precision"]


def posterior_precision(factor: Tensor, variance: Tensor) -> Tensor:
    r"""\(P = I + W^\top \Psi^{-1} W\), the precision (q, q) of z given x; the same for every x.

    With Ψ = σ²I and M = W'W + σ²I it is P = M/σ², so the covariance is σ² M⁻¹.

    Args:
        factor: W (D, q).
        variance: the diagonal of Ψ, (D,).

    References:
        Tipping, Bishop, 1999, Probabilistic principal component analysis.

    Example:
        >>> posterior_precision(torch.ones(2, 1), torch.tensor([0.5, 0.5]))
        tensor([[5.]])
    """
    identity = torch.eye(factor.shape[-1], dtype=factor.dtype, device=factor.device)
    return identity + factor.mT @ (factor / variance[..., None])


def mean_field_gap(factor: Tensor, variance: Tensor) -> Tensor:
    r"""What the best diagonal q loses against the evidence, in nats for one datum, the same for every x.

    \(\mathrm{KL}(q^* \| p) = \tfrac12 [\sum_i \log P_{ii} - \log\det P]\): q* has the exact mean and the
    diagonal of the precision P. It is zero if and only if the columns of Ψ^{-1/2} W are orthogonal.

    Args:
        factor: W (D, q).
        variance: the diagonal of Ψ, (D,).

    References:
        Dai, Wang, Aston, Hua, Wipf, 2018, Connections with robust PCA and the role of emergent sparsity in
        variational autoencoder models.

    Example:
        >>> float(mean_field_gap(torch.eye(3), torch.ones(3)))
        0.0
    """
    precision = posterior_precision(factor, variance)
    return (precision.diagonal().log().sum() - torch.logdet(precision)) / 2


class LinearGaussian(PyroModule):
    """A linear-Gaussian latent-variable model with diagonal noise; abstract: a subclass gives `variance`.

    Shapes: μ (D,), W (D, q), data (n, D).

    References:
        Roweis, Ghahramani, 1999, A unifying review of linear Gaussian models.
    """

    loc: Tensor
    factor: Tensor

    def __init__(self, loc: Tensor, factor: Tensor) -> None:
        super().__init__()
        name = type(self).__name__
        if factor.dim() != 2 or loc.shape != factor.shape[:1] or factor.shape[1] < 1:
            raise ValueError(
                f"{name}: expected loc (D,) and factor (D, q) with q >= 1, got {tuple(loc.shape)} and "
                f"{tuple(factor.shape)}"
            )
        self.latent, self.data_width = factor.shape[1], factor.shape[0]
        self.loc = cast(Tensor, PyroParam(loc.detach().clone()))
        self.factor = cast(Tensor, PyroParam(factor.detach().clone()))

    @property
    def variance(self) -> Tensor:
        """The diagonal of Ψ, (D,)."""
        raise NotImplementedError(f"{type(self).__name__}: a subclass of LinearGaussian defines variance")

    def forward(self, x: Tensor | None = None, *, size: int | None = None) -> Tensor:
        """Run the generative program.

        Args:
            x: (n, D); drawn from the prior predictive when None.
            size: rows to draw when x is None; rows of the whole data set when x is a minibatch.

        Returns:
            The observation (*draws, n, D).
        """
        loc, factor, scale = self.loc, self.factor, self.variance.sqrt()
        with row_plate(x, size, self.data_width, type(self).__name__):
            z = pyro.sample("z", dist.Normal(loc.new_zeros(self.latent), 1.0).to_event(1))
            obs: Tensor = pyro.sample("obs", dist.Normal(loc + z @ factor.mT, scale).to_event(1), obs=x)
        return obs

    def log_evidence(self, x: Tensor) -> Tensor:
        r"""\(\log N(x_i; \mu, WW^\top + \Psi)\) of each row of x (n, D): (n,), in nats; differentiable."""
        return dist.LowRankMultivariateNormal(self.loc, self.factor, self.variance).log_prob(x)

    def posterior(self, x: Tensor) -> Any:
        """p(z | x) = N(P⁻¹W'Ψ⁻¹(x − μ), P⁻¹) for the rows of x: batch (n,), event (q,)."""
        loc, factor, variance = self.loc, self.factor, self.variance
        root = torch.linalg.cholesky(posterior_precision(factor, variance))
        mean = torch.cholesky_solve((((x - loc) / variance) @ factor).mT, root).mT
        return dist.MultivariateNormal(mean, covariance_matrix=torch.cholesky_inverse(root))

    def mean_field(self, x: Tensor) -> Any:
        """The best diagonal q: the exact mean and the diagonal of the precision; batch (n,), event (q,)."""
        precision = posterior_precision(self.factor, self.variance)
        return dist.Normal(self.posterior(x).mean, precision.diagonal().rsqrt()).to_event(1)

    @pyro_method
    def sample_posterior(self, x: Tensor, *, size: int | None = None, mean_field: bool = False) -> Tensor:
        """Draw the site "z" from the posterior, or from the best diagonal q, in the plate "data"."""
        with row_plate(x, size, self.data_width, type(self).__name__):
            z: Tensor = pyro.sample("z", self.mean_field(x) if mean_field else self.posterior(x))
        return z

    def extra_repr(self) -> str:
        """Widths."""
        return f"latent={self.latent}, data_width={self.data_width}"
