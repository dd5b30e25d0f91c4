"""Conjugate priors of linear models: the g-prior, independent normal weights, normal-inverse-gamma."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, final

import torch
from torch import Tensor

from evidentia.models.linear.blocks import Blocks, Statistics, augment, blocks
from evidentia.models.linear.noise_law import NoiseLaw
from evidentia.models.linear.prior import ConjugatePrior


@final
@dataclass(frozen=True)
class GPrior(ConjugatePrior):
    """Zellner's g-prior: w_S | σ² ~ N(0, g σ² (X_S'X_S)⁻¹), noise variance σ² ~ InvGamma(noise_shape,
    noise_rate).

    `log p(y|S) = −(k/2) log(1+g) − (shape + m/2) log(rate + SS/2) + const`, `SS = y'y − g/(1+g) y'P_S y`,
    m = n − 1 with a flat intercept (X and y are then centred), else n. The constant is the same for every
    structure, the empty one included:
    `−(m/2) log 2π + lnΓ(shape + m/2) [+ shape log rate − lnΓ(shape)] [− ½ log n with an intercept]`.
    Liang et al. (2008): the default, shape = rate = 0. Hoff (2009): noise_shape=1/2, noise_rate=σ0²/2,
    intercept=False.

    Args:
        g: None means the number of rows (unit information).
        noise_shape, noise_rate: both 0 (p(σ²) = 1/σ²) or both positive.
        intercept: integrate a flat intercept out.

    Raises:
        ValueError: g not positive, or only one of shape and rate is zero.

    References:
        Liang, Paulo, Molina, Clyde and Berger, 2008. Mixtures of g priors for Bayesian variable selection.
        Hoff, 2009. A first course in Bayesian statistical methods, chapter 9.

    Example:
        >>> GPrior(g=4.0).shrinkage
        0.8
    """

    g: float | None = None
    noise_shape: float = 0.0
    noise_rate: float = 0.0
    intercept: bool = True

    def __post_init__(self) -> None:
        if self.g is not None:
            _positive("GPrior", "g", self.g)
        if (self.noise_shape, self.noise_rate) != (0, 0):
            _positive("GPrior", "noise_shape", self.noise_shape)
            _positive("GPrior", "noise_rate", self.noise_rate)

    @property
    def noise(self) -> NoiseLaw:
        """Inverse-gamma, or 1/σ²."""
        return NoiseLaw(None, self.noise_shape, self.noise_rate)

    def resolve(self, rows: int) -> GPrior:
        """g=None becomes the number of rows."""
        return replace(self, g=float(rows)) if self.g is None else self

    def column_scale(self, columns: int) -> Tensor:
        """Ones: the g-prior is invariant to the scale of the columns."""
        return torch.ones(columns, dtype=torch.float64)

    @property
    def ridge(self) -> float:
        """0: the prior precision is proportional to the Gram matrix."""
        return 0.0

    @property
    def shrinkage(self) -> float:
        """g/(1+g)."""
        return self._g / (1 + self._g)

    @property
    def unshrunk(self) -> float:
        """1/(1+g)."""
        return 1 / (1 + self._g)

    def penalty(self, block: Blocks) -> Tensor:
        """(k/2) log(1+g)."""
        return 0.5 * math.log1p(self._g) * block.size

    def log_evidence_part(self, part: Statistics, data: Statistics, gates: Tensor) -> Tensor:
        """As in the base class; the prior keeps the Gram matrix of *all* rows: A = X₁'X₁ + X'X/g."""
        prior = data.gram / self._g
        block = blocks(augment(part.gram + prior, part.moment, part.energy), gates)
        prior_log_det = blocks(augment(prior, 0 * part.moment, torch.ones_like(part.energy)), gates).log_det
        return self._total(0.5 * (block.log_det - prior_log_det), block.residual, part)

    @property
    def _g(self) -> float:
        if self.g is None:
            raise ValueError("GPrior(g=None) takes g from the number of rows: call .resolve(rows) first")
        return self.g


@final
@dataclass(frozen=True)
class NormalPrior(ConjugatePrior):
    """Independent weights w_j ~ N(0, scale²) and known noise: y ~ N(0, σ²I + scale² X_S X_S').

    Args:
        scale: prior standard deviation, one number or one per column.
        noise_scale: known standard deviation σ of the noise.
        intercept: integrate a flat intercept out.

    References:
        Bishop, 2006. Pattern recognition and machine learning, section 3.5.

    Example:
        >>> NormalPrior(scale=2.0, noise_scale=0.5).column_scale(1)
        tensor([4.], dtype=torch.float64)
    """

    scale: float | Sequence[float] | Tensor = 1.0
    noise_scale: float = 1.0
    intercept: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "scale", _scale("NormalPrior", self.scale))
        _positive("NormalPrior", "noise_scale", self.noise_scale)

    @property
    def noise(self) -> NoiseLaw:
        """Known."""
        return NoiseLaw(self.noise_scale)

    def resolve(self, rows: int) -> NormalPrior:
        """Nothing depends on the rows."""
        return self

    def column_scale(self, columns: int) -> Tensor:
        """scale/σ."""
        return _columns(self.scale, columns) / self.noise_scale

    @property
    def ridge(self) -> float:
        """1."""
        return 1.0

    @property
    def shrinkage(self) -> float:
        """1."""
        return 1.0

    def penalty(self, block: Blocks) -> Tensor:
        """½ log det(I + DGD)."""
        return 0.5 * block.log_det


@final
@dataclass(frozen=True)
class NormalInverseGamma(ConjugatePrior):
    """w_j | σ² ~ N(0, σ² scale²), σ² ~ InvGamma(shape, rate): the evidence is a multivariate Student-t
    density.

    Args:
        scale: prior standard deviation in units of the noise, one number or one per column.
        shape, rate: of the noise variance, both positive.
        intercept: integrate a flat intercept out.

    References:
        O'Hagan and Forster, 2004. Kendall's advanced theory of statistics 2B: Bayesian inference.

    Example:
        >>> NormalInverseGamma(scale=1.0, shape=2.0, rate=1.0).noise.proper
        True
    """

    scale: float | Sequence[float] | Tensor = 1.0
    shape: float = 1.0
    rate: float = 1.0
    intercept: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "scale", _scale("NormalInverseGamma", self.scale))
        for name in ("shape", "rate"):
            _positive("NormalInverseGamma", name, getattr(self, name))

    @property
    def noise(self) -> NoiseLaw:
        """Inverse-gamma."""
        return NoiseLaw(None, self.shape, self.rate)

    def resolve(self, rows: int) -> NormalInverseGamma:
        """Nothing depends on the rows."""
        return self

    def column_scale(self, columns: int) -> Tensor:
        """Scale."""
        return _columns(self.scale, columns)

    @property
    def ridge(self) -> float:
        """1."""
        return 1.0

    @property
    def shrinkage(self) -> float:
        """1."""
        return 1.0

    def penalty(self, block: Blocks) -> Tensor:
        """½ log det(I + DGD)."""
        return 0.5 * block.log_det


def _positive(owner: str, name: str, value: Any) -> None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not 0 < number < math.inf:
        raise ValueError(f"{owner}: {name} must be positive and finite, got {value!r}; e.g. {name}=1.0")


def _scale(owner: str, value: Any) -> float | tuple[float, ...]:
    """One number, or one per column from any sequence of numbers, as a tuple."""
    try:
        read = torch.as_tensor(value, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        read = torch.zeros(())
    if read.dim() > 1 or not bool((read.isfinite() & (read > 0)).all()):
        raise ValueError(
            f"{owner}: scale must be positive and finite, one number or one per column, got {value!r}; "
            "e.g. scale=1.0 or scale=[1.0, 2.0]"
        )
    return tuple(read.tolist()) if read.dim() else float(read)


def _columns(scale: float | Sequence[float] | Tensor, columns: int) -> Tensor:
    if isinstance(scale, tuple) and len(scale) != columns:
        raise ValueError(
            f"scale has {len(scale)} entries for {columns} columns; give one number or one per column"
        )
    return torch.as_tensor(scale, dtype=torch.float64).expand(columns).clone()
