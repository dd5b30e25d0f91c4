"""The law of a noise variance that is known or inverse-gamma, with the noise integrated out."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

_LOG_2PI = math.log(2 * math.pi)


class NoiseLaw(NamedTuple):
    """Noise variance: known (`scale`), or InvGamma(`shape`, `rate`); shape = rate = 0 means p(σ²) = 1/σ².

    References:
        O'Hagan and Forster, 2004. Kendall's advanced theory of statistics 2B: Bayesian inference.

    Example:
        >>> NoiseLaw(shape=2.0, rate=1.0).proper, NoiseLaw().proper
        (True, False)
    """

    scale: float | None = None
    shape: float = 0.0
    rate: float = 0.0

    @property
    def proper(self) -> bool:
        """Whether the law integrates to one."""
        return self.scale is not None or self.shape > 0

    def log_marginal(self, residual: Tensor, degrees: float) -> Tensor:
        """log ∫ (2πσ²)^(−m/2) exp(−residual/2σ²) p(σ²) dσ², in nats; m is `degrees`."""
        if self.scale is not None:
            return -0.5 * degrees * (_LOG_2PI + 2 * math.log(self.scale)) - residual / (2 * self.scale**2)
        shape = self.shape + degrees / 2
        if shape <= 0:
            raise ValueError(
                f"{degrees:g} degrees of freedom cannot identify an improper noise variance; "
                "give more rows or a proper prior, e.g. noise_shape=0.5, noise_rate=0.5"
            )
        constant = math.lgamma(shape) - 0.5 * degrees * _LOG_2PI
        if self.shape > 0:
            constant += self.shape * math.log(self.rate) - math.lgamma(self.shape)
        return constant - shape * (self.rate + residual / 2).log()

    def log_leave_one_out(self, error: Tensor, precision: Tensor, total: Tensor, degrees: float) -> Tensor:
        """log p(y_i | y_{−i}) of each datum, (S, n) nats: Gaussian, or Student-t with unknown noise.

        Args:
            error: left-out residuals r_i = (C⁻¹y)_i/d_i, (S, n); σ²C is the covariance of y.
            precision: d_i = (C⁻¹)_ii, (S, n).
            total: y'C⁻¹y, (S, 1).
            degrees: m, of all rows.

        Raises:
            ValueError: an improper noise prior and too few rows.
        """
        if self.scale is not None:
            scaled = precision * (error / self.scale).square()
            return -0.5 * (_LOG_2PI + 2 * math.log(self.scale) - precision.log() + scaled)
        shape = self.shape + (degrees - 1) / 2
        if shape <= 0:
            raise ValueError(
                f"leave-one-out under an improper noise prior needs more than {degrees:g} degrees of "
                "freedom; give more rows or a proper prior, e.g. noise_shape=0.5, noise_rate=0.5"
            )
        rate = self.rate + 0.5 * (total - precision * error.square())
        scale2 = rate / (shape * precision)
        constant = math.lgamma(shape + 0.5) - math.lgamma(shape) - 0.5 * math.log(2 * math.pi * shape)
        tail = (shape + 0.5) * torch.log1p(error.square() / (2 * shape * scale2))
        return constant - 0.5 * scale2.log() - tail
