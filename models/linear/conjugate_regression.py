"""A conjugate linear model over structures, bound to data: evidence, scores and weights in closed form."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, final

import torch
from torch import Tensor

from evidentia.models.linear.blocks import Statistics, all_blocks, blocks, cholesky, chunks, statistics
from evidentia.models.linear.digits import check_digits, check_response, fault_of
from evidentia.models.linear.prior import ConjugatePrior
from evidentia.models.response import check_response_shape


class Weights(NamedTuple):
    """Draws (or means) given structures: `weight` u (S, P), `intercept` (S,), `noise_scale` (S,)."""

    weight: Tensor
    intercept: Tensor
    noise_scale: Tensor


class Posterior(NamedTuple):
    """w | y, σ ~ N(loc, σ² scale_tril scale_tril'); σ is known, or σ² ~ InvGamma(shape, rate)."""

    loc: Tensor
    scale_tril: Tensor
    noise_scale: float | None
    shape: Tensor | None
    rate: Tensor | None


@final
@dataclass(frozen=True, eq=False)
class ConjugateRegression:
    """y ~ N(α + Σ_k γ_k X_k u_k, σ²) with a conjugate prior: everything about p(y|γ) in closed form.

    Column j of the design belongs to gate `owner[j]`; several columns may share a gate. Gates are 0 or 1
    (with NormalPrior and NormalInverseGamma real gates are allowed: w = γu).

    Args:
        prior: GPrior, NormalPrior or NormalInverseGamma.
        design: (n, P) float64.
        y: (n,) float64.
        owner: (P,) int64, non-decreasing; None means one gate per column.
        gates: number of gates, at least max(owner) + 1: a gate without columns is a function fixed at zero.

    References:
        Liang, Paulo, Molina, Clyde and Berger, 2008. Mixtures of g priors for Bayesian variable selection.

    Example:
        >>> from evidentia.models.linear.priors import NormalPrior
        >>> x = torch.tensor([[1.0], [-1.0]], dtype=torch.float64)
        >>> problem = ConjugateRegression(NormalPrior(), x, x[:, 0])
        >>> problem.log_evidence(torch.tensor([[0.0], [1.0]], dtype=torch.float64))
        tensor([-2.8379, -2.7205], dtype=torch.float64)
    """

    prior: ConjugatePrior
    design: Tensor
    y: Tensor
    owner: Tensor | None = None
    gates: int | None = None

    def __post_init__(self) -> None:
        if self.design.dim() != 2:
            raise ValueError(
                f"ConjugateRegression: expected design (n, P), got {tuple(self.design.shape)}. "
                "Fix: one row per observation, one column per predictor"
            )
        check_response_shape("ConjugateRegression", self.design, self.y, self.design.shape[:1])
        set_ = object.__setattr__
        set_(self, "design", self.design.double())
        set_(self, "y", self.y.double())
        set_(self, "prior", self.prior.resolve(self.y.shape[0]))
        owner = torch.arange(self.design.shape[1]) if self.owner is None else self.owner
        set_(self, "owner", owner)
        set_(self, "gates", int(owner.max()) + 1 if self.gates is None and len(owner) else self.gates or 0)
        set_(self, "_data", statistics(self.design, self.y, intercept=self.prior.intercept))
        check_response(self.prior, self.data, self.y)
        set_(self, "_matrix", self.prior.matrix(self.data))
        check_digits(self.prior, self.data, self.matrix)

    @property
    def data(self) -> Statistics:
        """Sufficient statistics of all rows."""
        return self._data  # type: ignore[attr-defined]

    @property
    def matrix(self) -> Tensor:
        """Augmented matrix (P+1, P+1) whose sub-blocks give every evidence."""
        return self._matrix  # type: ignore[attr-defined]

    @property
    def widths(self) -> list[int]:
        """Number of columns of each gate."""
        return torch.bincount(self._owner, minlength=self.gates or 0).tolist()

    @property
    def _owner(self) -> Tensor:
        if self.owner is None:
            raise ValueError("ConjugateRegression: owner is filled in by the constructor")
        return self.owner

    def columns(self, gates: Tensor) -> Tensor:
        """Gates per column: (S, K) -> (S, P) float64."""
        return gates.double()[..., self._owner]

    def log_evidence(self, gates: Tensor, chunk_size: int | None = None) -> Tensor:
        """Exact log p(y|γ) in nats for the whole data set, (S, K) -> (S,), batched over structures."""
        found = blocks(self.matrix, self.columns(gates), chunk_size, self.prior.floor)
        return self.prior.log_evidence(self.data, found)

    def log_evidence_all(self) -> Tensor:
        """Exact log p(y|γ) of all 2^K subsets; γ is at index Σ_k 2^k γ_k."""
        return self.prior.log_evidence(self.data, all_blocks(self.matrix, self.widths, self.prior.floor))

    def log_evidence_tempered(self, gates: Tensor, power: float) -> Tensor:
        """log Z(β) = log ∫ p(y|w,γ)^β p(w|γ) dw, β = `power` > 0; β = 1 is the evidence."""
        if power <= 0:
            raise ValueError(
                f"log_evidence_tempered: power must be positive, got {power}; power=1.0 is the evidence"
            )
        return self._part(self.data.power(power), gates)

    def log_evidence_conditional(self, gates: Tensor, rows: int) -> Tensor:
        """log p(y_{rows+1:n} | y_{1:rows}, γ) with the same prior (a g-prior keeps the Gram matrix of all
        rows).

        Raises:
            ValueError: `rows` is not between 1 and n − 1, or those rows have no density under p(σ²) = 1/σ².

        References:
            Lotfi, Izmailov, Benton, Goldblum and Wilson, 2022. Bayesian model selection, the marginal
            likelihood, and generalization.
        """
        fault = self.conditional_fault(rows)
        if fault is not None:
            raise ValueError(f"log_evidence_conditional: {fault}")
        first = statistics(self.design[:rows], self.y[:rows], intercept=self.prior.intercept)
        return self.log_evidence(gates) - self._part(first, gates)

    def conditional_fault(self, rows: int) -> str | None:
        """Why nothing can be conditioned on the first `rows` rows; None when it can."""
        total = self.y.shape[0]
        if isinstance(rows, bool) or not isinstance(rows, int) or not 1 <= rows < total:
            return f"rows must be in 1..{total - 1}, got {rows!r}; e.g. {total // 2}"
        y = self.y[:rows]
        first = statistics(self.design[:rows], y, intercept=self.prior.intercept)
        fault = fault_of(self.prior, first, y)
        if fault is None:
            return None
        return (
            f"rows={rows}, but the response of the first rows {fault}, which has no density under "
            "p(σ²) = 1/σ². Fix: condition on more rows, shuffle them, or give a proper noise prior, e.g. "
            "GPrior(noise_shape=0.5, noise_rate=0.5)"
        )

    def log_predictive_loo(self, gates: Tensor) -> Tensor:
        """Exact log p(y_i | y_{−i}, γ) in nats per datum, (S, K) -> (S, n): Gaussian or Student-t
        leave-one-out.

        With C⁻¹ = I − c Z_S A_S⁻¹ Z_S' (minus 11'/n with a flat intercept) and d_i = (C⁻¹)_ii the left-out
        residual is r_i = (C⁻¹y)_i/d_i and its scale² σ²/d_i; unknown noise gives a Student-t with SS_{−i}
        = SS − d_i r_i².

        References:
            Sundararajan and Keerthi, 2001. Predictive approaches for choosing hyperparameters in Gaussian
            processes.
        """
        columns, out = self.columns(gates), []
        for part in chunks(len(columns), columns.shape[1] + self.y.shape[0] // 8):
            fitted, leverage = self._smoother(columns[part])
            leave = 1 - leverage - (1 / self.data.rows if self.data.intercept else 0.0)
            error = (self._centred_y - fitted) / leave
            total = ((error * leave) @ self._centred_y)[:, None]  # y'C⁻¹y
            out.append(self.prior.noise.log_leave_one_out(error, leave, total, self.data.degrees))
        return torch.cat(out) if out else columns.new_zeros(0, self.y.shape[0])

    def sample_weights(self, gates: Tensor, generator: torch.Generator | None = None) -> Weights:
        """One exact posterior draw of (u, α, σ) per row of `gates` (D, K); closed gates are drawn from
        their prior.

        Under a g-prior a closed gate has no proper prior of its own; its u is drawn from N(0, σ²).
        """
        columns = self.columns(gates)
        draws, width = columns.shape
        normal = torch.randn(draws, width + 1, dtype=torch.float64, generator=generator)
        scale = self._sample_noise(columns, generator)
        weight = torch.empty_like(columns)
        for part in chunks(draws, width):
            mean, factor = self._solve(columns[part])
            spread = torch.linalg.solve_triangular(factor.mT, normal[part, :width, None], upper=True)[..., 0]
            shrink = torch.where(columns[part] != 0, self.prior.shrinkage, 1.0).sqrt()
            weight[part] = mean + scale[part, None] * shrink * spread
        weight = weight * self.prior.column_scale(width)
        intercept = self._intercept(columns * weight)
        if self.data.intercept:
            intercept = intercept + normal[:, -1] * scale / math.sqrt(self.data.rows)
        return Weights(weight, intercept, scale)

    def posterior_mean(self, gates: Tensor) -> Weights:
        """E[γu | y, γ] (S, P), E[α | y, γ] and E[1/σ² | y, γ]^(−1/2); under a g-prior u is (g/(1+g)) β̂."""
        columns = self.columns(gates)
        parts = [self._solve(columns[part])[0] for part in chunks(len(columns), columns.shape[1])]
        weight = torch.cat(parts) * columns * self.prior.column_scale(columns.shape[1])
        known = self.prior.noise.scale
        if known is not None:
            return Weights(weight, self._intercept(weight), columns.new_full(columns.shape[:1], known))
        shape, rate = self._noise_posterior(columns)
        return Weights(weight, self._intercept(weight), (rate / shape).sqrt())

    def posterior(self) -> Posterior:
        """The exact posterior with every gate open."""
        columns = self.columns(torch.ones(1, self.gates or 0, dtype=torch.float64))
        mean, factor = self._solve(columns)
        scale = self.prior.column_scale(columns.shape[1])
        inverse = torch.cholesky_inverse(factor[0]) * self.prior.shrinkage
        scale_tril = torch.linalg.cholesky(scale[:, None] * inverse * scale)
        if self.prior.noise.scale is not None:
            return Posterior(mean[0] * scale, scale_tril, self.prior.noise.scale, None, None)
        shape, rate = self._noise_posterior(columns)
        return Posterior(mean[0] * scale, scale_tril, None, shape[0], rate[0])

    # ---- pieces

    def _part(self, part: Statistics, gates: Tensor) -> Tensor:
        return self.prior.log_evidence_part(part, self.data, self.columns(gates))

    @property
    def _centred_y(self) -> Tensor:
        return self.y - self.y.mean() if self.data.intercept else self.y

    def _solve(self, columns: Tensor) -> tuple[Tensor, Tensor]:
        """Posterior mean of v, c A⁻¹Db (S, P), and the Cholesky factor of A (S, P, P)."""
        factor = cholesky(self.matrix[:-1, :-1], columns, self.prior.floor)
        moment = (columns * self.matrix[-1, :-1])[..., None]
        return self.prior.shrinkage * torch.cholesky_solve(moment, factor)[..., 0], factor

    def _smoother(self, columns: Tensor) -> tuple[Tensor, Tensor]:
        """Fitted values and leverages c z_i'A⁻¹z_i, both (S, n)."""
        design = self.design - self.design.mean(0) if self.data.intercept else self.design
        scaled = (design * self.prior.column_scale(design.shape[1])).T
        mean, factor = self._solve(columns)
        half = torch.linalg.solve_triangular(factor, columns[:, :, None] * scaled, upper=False)
        return (columns * mean) @ scaled, self.prior.shrinkage * half.square().sum(-2)

    def _noise_posterior(self, columns: Tensor) -> tuple[Tensor, Tensor]:
        """Shape and rate (S,) of σ² | y, γ under unknown noise."""
        noise = self.prior.noise
        residual = blocks(self.matrix, columns, floor=self.prior.floor).residual
        total = self.prior.shrunk(self.data, residual)
        shape = torch.full_like(total, noise.shape + self.data.degrees / 2)
        return shape, noise.rate + total / 2

    def _sample_noise(self, columns: Tensor, generator: torch.Generator | None) -> Tensor:
        if self.prior.noise.scale is not None:
            return columns.new_full(columns.shape[:1], self.prior.noise.scale)
        shape, rate = self._noise_posterior(columns)
        return (rate / torch._standard_gamma(shape, generator=generator)).sqrt()

    def _intercept(self, weight: Tensor) -> Tensor:
        if not self.data.intercept:
            return weight.new_zeros(weight.shape[:-1])
        return self.y.mean() - weight @ self.design.mean(0)


def owners(widths: Sequence[int]) -> Tensor:
    """The gate of each column when gate k owns `widths[k]` consecutive columns.

    Example:
        >>> owners([1, 2])
        tensor([0, 1, 1])
    """
    return torch.repeat_interleave(torch.arange(len(widths)), torch.tensor(list(widths), dtype=torch.int64))
