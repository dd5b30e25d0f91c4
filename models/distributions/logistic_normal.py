"""The softmax-normal law on the simplex, in log space."""

import math
from typing import Any, final

import torch
from pyro.distributions import MultivariateNormal, TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from evidentia.models.distributions.log_simplex import log_simplex


@final
class LogisticNormal(TorchDistribution):
    """Law of ``y = log γ`` with ``γ = softmax(x/τ)`` and ``x ~ N(μ, Σ)`` in **K** dimensions.

    With ``D = [I, -1]`` the law depends on (μ, Σ) only through ``Dμ`` and ``DΣDᵀ``. The density of γ on its
    first K-1 coordinates is ``N(log(γ_{1:K-1}/γ_K); Dμ/τ, DΣDᵀ/τ²) / ∏_l γ_l``, so ``log_prob(y)`` is that
    normal log-density of the log-ratios (see `LogSimplex`). ``torch.distributions.LogisticNormal`` is a
    different, stick-breaking law.

    Args:
        loc: μ, shape ``(*batch, K)``.
        covariance_matrix: Σ, shape ``(*batch, K, K)``; only ``DΣDᵀ`` must be positive definite.
        scale: standard deviations of independent coordinates, shape ``(*batch, K)``; instead of the matrix.
        temperature: τ > 0, shape ``(*batch)``. For τ → 0 the law tends to one-hot vectors, for τ → ∞ to the
            centre.

    Raises:
        ValueError: neither or both of ``covariance_matrix`` and ``scale`` are given, or a constraint fails.

    Example:
        >>> import torch
        >>> law = LogisticNormal(torch.zeros(3), scale=torch.ones(3))
        >>> round(law.log_prob(torch.full((3,), 1 / 3).log()).item(), 4)
        -2.3872

    References:
        Aitchison & Shen, 1980. Logistic-normal distributions: some properties and uses.
        Potapczynski, Loaiza-Ganem & Cunningham, 2020. Invertible Gaussian reparameterization.
    """

    arg_constraints = {  # noqa: RUF012
        "loc": constraints.real_vector,
        "covariance_matrix": constraints.independent(constraints.real, 2),
        "temperature": constraints.positive,
    }
    support = log_simplex
    has_rsample = True

    def __init__(
        self,
        loc: Tensor,
        covariance_matrix: Tensor | None = None,
        *,
        scale: Tensor | None = None,
        temperature: Tensor | float = 1.0,
        validate_args: bool | None = None,
    ) -> None:
        if (covariance_matrix is None) == (scale is None):
            raise ValueError("LogisticNormal: give exactly one of 'covariance_matrix' and 'scale'.")
        if covariance_matrix is None:
            deviation = torch.as_tensor(scale, dtype=loc.dtype, device=loc.device)
            covariance_matrix = torch.diag_embed(deviation.expand(*deviation.shape[:-1], loc.shape[-1]) ** 2)
        temperature = torch.as_tensor(temperature, dtype=loc.dtype, device=loc.device)
        batch_shape = torch.broadcast_shapes(loc.shape[:-1], covariance_matrix.shape[:-2], temperature.shape)
        size = loc.shape[-1]
        self.loc = loc.expand((*batch_shape, size))
        self.covariance_matrix = covariance_matrix.expand((*batch_shape, size, size))
        self.temperature = temperature.expand(batch_shape)
        super().__init__(batch_shape, loc.shape[-1:], validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "LogisticNormal":
        """The same law with a larger batch shape."""
        new = self._get_checked_instance(LogisticNormal, _instance)
        batch_shape = torch.Size(batch_shape)
        new.loc = self.loc.expand(batch_shape + self.event_shape)
        new.covariance_matrix = self.covariance_matrix.expand(
            batch_shape + self.event_shape + self.event_shape
        )
        new.temperature = self.temperature.expand(batch_shape)
        super(LogisticNormal, new).__init__(batch_shape, self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    @property
    def log_ratio(self) -> MultivariateNormal:
        """The normal law of the K-1 log-ratios ``log(γ_l/γ_K)``: mean ``Dμ/τ``, covariance ``DΣDᵀ/τ²``."""
        tau = self.temperature[..., None]
        loc = (self.loc[..., :-1] - self.loc[..., -1:]) / tau
        cov = self.covariance_matrix
        cov = cov[..., :-1, :-1] - cov[..., :-1, -1:] - cov[..., -1:, :-1] + cov[..., -1:, -1:]
        return MultivariateNormal(loc, cov / tau[..., None] ** 2, validate_args=self._validate_args or None)

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Reparameterised draws of ``log γ``, shape ``(*sample, *batch, K)``."""
        ratios = self.log_ratio.rsample(torch.Size(sample_shape))
        return torch.nn.functional.pad(ratios, (0, 1)).log_softmax(-1)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density at ``value = log γ``, shape ``(*sample, *batch)``."""
        if self._validate_args:
            self._validate_sample(value)
        if (
            self.event_shape[0] == 1
        ):  # a single point, which torch's normal law of dimension zero cannot score
            return value[..., 0].expand(torch.broadcast_shapes(value.shape[:-1], self.batch_shape)) * 0
        return self.log_ratio.log_prob(value[..., :-1] - value[..., -1:])


def logistic_normal_kl(q: LogisticNormal, p: LogisticNormal) -> Tensor:
    """``KL(q ‖ p)`` in nats: the Gaussian divergence of the log-ratio laws, shape ``(*batch)``.

    Example:
        >>> import torch
        >>> q = LogisticNormal(torch.tensor([1.0, 0.0]), scale=torch.ones(2))
        >>> p = LogisticNormal(torch.tensor([0.0, 0.0]), scale=torch.ones(2))
        >>> round(logistic_normal_kl(q, p).item(), 6)
        0.25

    References:
        Potapczynski, Loaiza-Ganem & Cunningham, 2020. Invertible Gaussian reparameterization.
    """
    return torch.distributions.kl_divergence(q.log_ratio, p.log_ratio)


def _normal_cdf(value: Tensor) -> Tensor:
    return 0.5 * torch.erfc(-value / math.sqrt(2))


def argmax_probability(loc: Tensor, scale: Tensor, num_nodes: int = 2001) -> Tensor:
    """``P(argmax x = l)`` for independent ``x_l ~ N(loc_l, scale_l²)``, shape ``(K,)``, in double precision.

    ``∫ φ(t) ∏_{m≠l} Φ((μ_l + σ_l t - μ_m)/σ_m) dt`` by the trapezium rule on ``[-9, 9]``, which converges
    geometrically for this integrand.

    Example:
        >>> import torch
        >>> argmax_probability(torch.zeros(4), torch.ones(4))
        tensor([0.2500, 0.2500, 0.2500, 0.2500], dtype=torch.float64)

    References:
        Aitchison & Shen, 1980. Logistic-normal distributions: some properties and uses.
    """
    loc, scale = loc.detach().double(), scale.detach().double()
    nodes = torch.linspace(-9.0, 9.0, num_nodes, dtype=torch.float64)
    weight = torch.exp(-0.5 * nodes**2) / math.sqrt(2 * math.pi) * (nodes[1] - nodes[0])
    x = loc[:, None] + scale[:, None] * nodes  # (K, nodes)
    below = _normal_cdf((x[:, None, :] - loc[None, :, None]) / scale[None, :, None])  # (l, m, nodes)
    below = below.masked_fill(torch.eye(len(loc), dtype=torch.bool)[..., None], 1.0)
    mass = (below.prod(1) * weight).sum(-1)
    return mass / mass.sum()
