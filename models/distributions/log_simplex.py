"""The log-simplex: the constraint on logarithms of convex weights, and its bijection to the real space."""

from typing import final

import torch
from torch import Tensor
from torch.distributions import biject_to, constraints, transform_to
from torch.distributions.transforms import Transform


@final
class LogSimplex(constraints.Constraint):
    """Vectors ``y`` with ``Σ_l exp(y_l) = 1``: logarithms of a point in the open simplex.

    The base measure of densities here is the Lebesgue measure of the K-1 log-ratios ``y_l - y_K``. In terms
    of the density p of ``γ = exp(y)`` on its first K-1 coordinates, ``log p(y) = log p(γ) + Σ_{l=1}^{K} log
    γ_l``.

    Example:
        >>> log_simplex.check(torch.tensor([0.2, 0.8]).log()), log_simplex.check(torch.tensor([0.2, 0.8]))
        (tensor(True), tensor(False))

    References:
        Aitchison, 1982. The statistical analysis of compositional data.
    """

    is_discrete = False
    event_dim = 1

    def check(self, value: Tensor) -> Tensor:
        """True where the last dimension is finite and sums to 1 after exponentiation."""
        tolerance = torch.finfo(value.dtype).eps ** 0.5
        return torch.isfinite(value).all(-1) & (value.logsumexp(-1).abs() < tolerance)


log_simplex = LogSimplex()


@final
class LogRatioTransform(Transform):
    """``z ∈ ℝ^{K-1} ↦ y = log softmax(z_1, …, z_{K-1}, 0)``, onto the log-simplex.

    Its Jacobian is one with respect to the base measure of `LogSimplex`, so a density of ``y`` is the density
    of
    ``z`` unchanged. That makes a relaxed structure an ordinary unconstrained variable for NUTS and for
    automatic
    guides: ``biject_to`` of the log-simplex is this transform. (The entry in torch's table is for this
        library's own
    constraint and changes nothing that existed before.)

    Example:
        >>> biject_to(log_simplex)(torch.zeros(2)).exp()
        tensor([0.3333, 0.3333, 0.3333])

    References:
        Aitchison, 1982. The statistical analysis of compositional data.
    """

    domain = constraints.real_vector
    codomain = log_simplex
    bijective = True

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LogRatioTransform)

    def __hash__(self) -> int:
        return hash(LogRatioTransform)

    def _call(self, x: Tensor) -> Tensor:
        return torch.nn.functional.pad(x, (0, 1)).log_softmax(-1)

    def _inverse(self, y: Tensor) -> Tensor:
        return y[..., :-1] - y[..., -1:]

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """Zero: the base measure of the log-simplex is that of ``x``."""
        return x.new_zeros(x.shape[:-1])

    def forward_shape(self, shape: torch.Size) -> torch.Size:
        """Shape of ``y`` for ``x`` of this shape."""
        return torch.Size((*shape[:-1], shape[-1] + 1))

    def inverse_shape(self, shape: torch.Size) -> torch.Size:
        """Shape of ``x`` for ``y`` of this shape."""
        return torch.Size((*shape[:-1], shape[-1] - 1))


@biject_to.register(LogSimplex)
@transform_to.register(LogSimplex)
def _log_ratio(constraint: LogSimplex) -> LogRatioTransform:
    return LogRatioTransform()
