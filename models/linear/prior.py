"""What a conjugate prior on weights and noise must say, and the evidence that follows from it.

With A the prior-plus-data precision of the active weights relative to the noise variance, every evidence
here is

    log p(y|S) = −½ [log det A_SS − log det Λ_SS] + ℓ(SS_S),      SS = y'y − b'A⁻¹b,

where Λ is the prior precision, b = X'y, and ℓ integrates the noise out. An improper factor (flat intercept,
p(σ²) = 1/σ²) is given the constant 1, the same for every structure and prior.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from evidentia.models.linear.blocks import (
    RANK_FLOOR,
    ROUNDING_FLOOR,
    Blocks,
    Statistics,
    augment,
    blocks,
)
from evidentia.models.linear.noise_law import NoiseLaw


class ConjugatePrior(ABC):
    """A conjugate prior: how it scales columns, what it adds to the precision, how it sees the noise."""

    intercept: bool

    @property
    @abstractmethod
    def noise(self) -> NoiseLaw:
        """The law of the noise variance."""

    @abstractmethod
    def resolve(self, rows: int) -> ConjugatePrior:
        """The prior with everything that depends on the number of rows filled in."""

    @abstractmethod
    def column_scale(self, columns: int) -> Tensor:
        """D (columns,): the weights are w = D v with v measured in noise units."""

    @property
    @abstractmethod
    def ridge(self) -> float:
        """Prior precision of v relative to the noise, as far as it is structure-independent (0 or 1)."""

    @property
    @abstractmethod
    def shrinkage(self) -> float:
        """c in E[v|y] = c A⁻¹Db: 1, or g/(1+g)."""

    @property
    def unshrunk(self) -> float:
        """1 − shrinkage, without cancellation."""
        return 0.0

    @property
    def floor(self) -> float:
        """Smallest pivot of `matrix` relative to its diagonal entry: a rank test only without a ridge."""
        return ROUNDING_FLOOR if self.ridge else RANK_FLOOR

    @abstractmethod
    def penalty(self, block: Blocks) -> Tensor:
        """½[log det A_SS − log det Λ_SS] from the blocks of `matrix`."""

    def matrix(self, data: Statistics) -> Tensor:
        """The augmented matrix (P+1, P+1) whose blocks give the evidence of all rows."""
        scale = self.column_scale(data.moment.shape[0])
        gram = scale[:, None] * data.gram * scale + self.ridge * torch.eye(len(scale), dtype=scale.dtype)
        return augment(gram, scale * data.moment, data.energy)

    def log_evidence(self, data: Statistics, block: Blocks) -> Tensor:
        """log p(y|S) in nats, for the blocks of `matrix(data)`."""
        return self._total(self.penalty(block), self.shrunk(data, block.residual), data)

    def shrunk(self, data: Statistics, residual: Tensor) -> Tensor:
        """SS = y'y − c (y'y − residual), c the shrinkage; never below (1 − c) y'y."""
        return self.shrinkage * residual + self.unshrunk * data.energy

    def sensitivity(self, data: Statistics, residual: float) -> float:
        """|∂ log p(y|S) / ∂SS| at the residual of the least squares, in nats per unit of SS."""
        noise = self.noise
        if noise.scale is not None:
            return 0.5 / noise.scale**2
        total = float(self.shrunk(data, data.energy.new_tensor(residual)))
        return (noise.shape + data.degrees / 2) / max(2 * noise.rate + total, 1e-300)

    def log_evidence_part(self, part: Statistics, data: Statistics, gates: Tensor) -> Tensor:
        """log evidence of `part` (some of the rows, or a tempered likelihood) under the prior of `data`."""
        block = blocks(self.matrix(part), gates, floor=self.floor)
        return self._total(self.penalty(block), block.residual, part)

    def _total(self, penalty: Tensor, residual: Tensor, data: Statistics) -> Tensor:
        flat = 0.5 * math.log(data.rows) if data.intercept else 0.0
        return self.noise.log_marginal(residual, data.degrees) - penalty - flat
