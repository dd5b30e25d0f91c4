"""Priors on the weights: automatic relevance determination, non-centred in the gates."""

import math
from typing import Literal, final

import pyro
import pyro.distributions as dist
import torch
from torch import Size, Tensor
from torch.distributions import constraints

from evidentia.models.structure.errors import FamilyError


@final
class ARD:
    """``w = γ u``, ``u_i ~ N(0, a_i)``: the weights of an operation scale with its gate γ (non-centred form).

    This is ``w | γ ~ N(0, γ² a)`` with ``a`` a *variance* per weight. The sample site holds ``u``, so the
    prior of the site does not depend on the structure and its KL divergence stays finite at any temperature.

    Three uses:

    * ``ARD(scale)``: fixed ``a = scale²``.
    * ``ARD(shape=λ1, rate=λ2)``: each ``a_i`` is a ``pyro.param`` ``variance/<weight>`` with the hyperprior
      ``InvGamma(λ1, λ2)``; the model adds ``log p(a)`` as the factor ``log_hyperprior`` (MAP-II). λ1 = λ2 = 0
      is the improper ``1/a``, for which constants are dropped.
    * ``ARD(shape=λ1, rate=λ2, hyper="sample")``: each ``a_i`` is a sample site ``variance/<weight>``.

    Args:
        scale: prior standard deviation of u; with a hyperprior, its initial value.
        shape: λ1 of the inverse-gamma hyperprior.
        rate: λ2 of the inverse-gamma hyperprior.
        hyper: ``"param"`` or ``"sample"``.
        coupled: False gives ``w = u`` whatever the gates.

    Raises:
        FamilyError: a value out of range, or only one of shape and rate.

    Example:
        >>> import torch
        >>> ARD(2.0).log_prior(torch.zeros(3), torch.Size([3]))
        tensor(-4.8363)
        >>> ARD(shape=0, rate=0).map_variance(torch.tensor([9.0]))
        tensor([3.])

    References:
        MacKay, 1994. Bayesian nonlinear modeling for the prediction competition.
        Bakhteev & Strijov, 2018. Deep learning model selection of suboptimal complexity.
    """

    def __init__(
        self,
        scale: float = 1.0,
        *,
        shape: float | None = None,
        rate: float | None = None,
        hyper: Literal["param", "sample"] = "param",
        coupled: bool = True,
    ) -> None:
        if not 0 < float(scale) < math.inf:
            raise FamilyError(f"ARD: argument 'scale' must be a positive standard deviation, got {scale}.")
        if (shape is None) != (rate is None):
            raise FamilyError(
                "ARD: give both 'shape' and 'rate' of the inverse-gamma hyperprior, or neither."
            )
        if hyper not in ("param", "sample"):
            raise FamilyError(f"ARD: argument 'hyper' must be 'param' or 'sample', got {hyper!r}.")
        if shape is not None and rate is not None:
            if not (0 <= shape < math.inf and 0 <= rate < math.inf):
                raise FamilyError(
                    f"ARD: 'shape' and 'rate' must not be negative, got shape={shape}, rate={rate}."
                )
            if hyper == "sample" and not (shape > 0 and rate > 0):
                raise FamilyError(
                    f"ARD: the hyperprior shape={shape}, rate={rate} is improper and cannot be sampled. Use "
                    "positive values, or hyper='param'."
                )
        elif hyper == "sample":
            raise FamilyError(
                "ARD: hyper='sample' needs the hyperprior, e.g. ARD(shape=2.0, rate=1.0, hyper='sample')."
            )
        self.scale = float(scale)
        self.shape = None if shape is None else float(shape)
        self.rate = None if rate is None else float(rate)
        self.hyper = hyper
        self.coupled = coupled

    @property
    def learned(self) -> bool:
        """Whether there is a hyperprior."""
        return self.shape is not None

    def variance(self, name: str, shape: Size, like: Tensor, initial: Tensor | None = None) -> Tensor:
        """The variance of the weight ``name`` inside a Pyro model: a constant, a param or a sample site.

        The constant, or the first value of the param, is ``initial``, or ``scale²`` when None.
        """
        initial = like.new_full(shape, self.scale**2) if initial is None else initial.to(like)
        if self.shape is None or self.rate is None:
            return initial
        site = f"variance/{name}"
        if self.hyper == "param":
            return pyro.param(site, initial, constraint=constraints.positive)
        law = dist.InverseGamma(like.new_tensor(self.shape), like.new_tensor(self.rate))
        return pyro.sample(site, law.expand(shape).to_event(len(shape)))

    def log_variance_moments(self) -> tuple[float, float]:
        """Mean ``log λ2 − ψ(λ1)`` and standard deviation ``√ψ'(λ1)`` of ``log a`` under the hyperprior.

        Raises:
            FamilyError: there is no proper hyperprior.
        """
        if not self.shape or not self.rate:
            raise FamilyError(
                "ARD: log_variance_moments needs a proper hyperprior, e.g. ARD(shape=2.0, rate=1.0)."
            )
        shape = torch.tensor(self.shape, dtype=torch.float64)
        spread = float(torch.polygamma(1, shape).sqrt())
        return math.log(self.rate) - float(torch.digamma(shape)), spread

    def couple(self, weight: Tensor, gate: Tensor, shape: Size) -> Tensor:
        """``w = γ u`` for u ``(*b, *shape)`` and γ ``(*b)``; u itself when not coupled."""
        if not self.coupled:
            return weight
        return weight * gate.reshape(gate.shape + (1,) * len(shape))

    def log_prior(self, weight: Tensor, shape: Size, variance: Tensor | None = None) -> Tensor:
        """``Σ_i log N(u_i; 0, a_i)`` in nats for u ``(*b, *shape)``, shape ``(*b)``."""
        if variance is None:
            variance = weight.new_tensor(self.scale**2)
        terms = -0.5 * (weight**2 / variance + variance.log() + math.log(2 * math.pi))
        return terms.sum(tuple(range(-len(shape), 0))) if len(shape) else terms

    def log_hyperprior(self, variance: Tensor) -> Tensor:
        """``Σ_i [λ1 log λ2 - lnΓ(λ1) - (λ1+1) log a_i - λ2/a_i]`` over all entries; 0 without a hyperprior.

        For λ1 = 0 or λ2 = 0 the law is improper and the constant ``λ1 log λ2 - lnΓ(λ1)`` is left out.
        """
        if self.shape is None or self.rate is None:
            return variance.new_zeros(())
        proper = self.shape > 0 and self.rate > 0
        constant = self.shape * math.log(self.rate) - math.lgamma(self.shape) if proper else 0.0
        return (constant - (self.shape + 1) * variance.log() - self.rate / variance).sum()

    def map_variance(self, second_moment: Tensor, prior_weight: float = 1.0) -> Tensor:
        """The variances that maximise the upper-level objective in closed form.

        ``a_i = (λ2 + λ M_i/2)/(λ1 + 1 + λ/2)`` with ``M_i = E_q[u_i²] = m_i² + v_i`` and λ the weight of the
        KL divergence in that objective.

        Args:
            second_moment: M, any shape.
            prior_weight: λ > 0.

        Raises:
            FamilyError: there is no hyperprior, so nothing to update.
        """
        if self.shape is None or self.rate is None:
            raise FamilyError("ARD: map_variance needs the hyperprior, e.g. ARD(shape=0, rate=0).")
        return (self.rate + 0.5 * prior_weight * second_moment) / (self.shape + 1 + 0.5 * prior_weight)

    def __repr__(self) -> str:
        extra = "" if not self.learned else f", shape={self.shape}, rate={self.rate}, hyper={self.hyper!r}"
        return f"ARD({self.scale}{extra}{'' if self.coupled else ', coupled=False'})"
