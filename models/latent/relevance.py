"""The squared scale γ² of each latent: its hyperprior and its variational law."""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from typing import Any, cast, final

import pyro.distributions as dist
import torch
from pyro.nn import PyroModule, PyroParam
from torch import Tensor
from torch.distributions import constraints

__all__ = ["HYPERPRIORS", "RELEVANCE_FAMILIES", "Relevance", "hyperprior"]

HYPERPRIORS = ("inverse_gamma", "gamma", "half_normal")
RELEVANCE_FAMILIES = ("log_normal", "gamma", "inverse_gamma")

_START = 10.0  # concentration at the start: a relative standard deviation of about a third


def hyperprior(name: str, first: float, second: float, like: Tensor) -> Any:
    r"""The law p(γ²) of one latent.

    "inverse_gamma": \(\gamma^2 \sim IG(a, b)\), mode b/(a+1). "gamma": \(\gamma^2 \sim G(a, b)\).
    "half_normal": \(\gamma \sim N^+(0, s^2)\), that is \(\gamma^2 \sim G(1/2,\, 1/(2s^2))\) with s = `first`;
    `second` is not used.

    Args:
        name: one of `HYPERPRIORS`.
        first: concentration a, or s.
        second: rate b.
        like: a tensor of the dtype and device wanted.

    Raises:
        ValueError: an unknown name, or a number that is not positive.

    References:
        Neal, 1996, Bayesian learning for neural networks.
        Karaletsos, Rätsch, 2015, Automatic relevance determination for deep generative models.

    Example:
        >>> round(float(hyperprior("inverse_gamma", 1.0, 0.5, torch.zeros(())).mode), 4)
        0.25
    """
    check_choice("hyperprior", name, HYPERPRIORS)
    if not (0 < first < math.inf and 0 < second < math.inf):
        raise ValueError(f"hyperprior: expected positive finite numbers, got ({first}, {second})")
    if name == "half_normal":
        return dist.Gamma(like.new_tensor(0.5), like.new_tensor(0.5 / first**2))
    law = dist.InverseGamma if name == "inverse_gamma" else dist.Gamma
    return law(like.new_tensor(first), like.new_tensor(second))


@final
class Relevance(PyroModule):
    r"""q(γ²), independent over the latents, by its centre c and its concentration a.

    "log_normal": \(\log\gamma^2 \sim N(\log c, 1/a)\). "gamma": \(\gamma^2 \sim G(a, a/c)\), mean c.
    "inverse_gamma": \(\gamma^2 \sim IG(a, ac)\), harmonic mean c. The last two have implicit gradients.
    Centre and concentration are nearly orthogonal parameters; concentration and rate are not.

    Args:
        latent: number of latents.
        family: one of `RELEVANCE_FAMILIES`.

    Raises:
        ValueError: an unknown family.

    References:
        Figurnov, Mohamed, Mnih, 2018, Implicit reparameterization gradients.

    Example:
        >>> Relevance(3, "gamma").distribution().mean.detach()
        tensor([1., 1., 1.])
    """

    def __init__(self, latent: int, family: str = "log_normal") -> None:
        super().__init__()
        check_choice("family", family, RELEVANCE_FAMILIES)
        self.family = family
        self.centre = positive(torch.ones(latent))
        self.concentration = positive(torch.full((latent,), _START))

    def distribution(self) -> Any:
        """q(γ²) with batch shape (latent,)."""
        centre, concentration = self.centre, self.concentration
        if self.family == "log_normal":
            return dist.LogNormal(centre.log(), concentration.rsqrt())
        if self.family == "gamma":
            return dist.Gamma(concentration, concentration / centre)
        return dist.InverseGamma(concentration, concentration * centre)

    def mean_gamma(self) -> Tensor:
        r"""\(E_q\,\gamma_j\) in closed form, (latent,); infinite for an inverse-gamma with a <= 1/2."""
        a, c = self.concentration, self.centre
        if self.family == "log_normal":
            return c.sqrt() * (1 / (8 * a)).exp()
        if self.family == "gamma":
            return (torch.lgamma(a + 0.5) - torch.lgamma(a)).exp() * (c / a).sqrt()
        ratio = (torch.lgamma((a - 0.5).clamp(min=0)) - torch.lgamma(a)).exp()
        return torch.where(a > 0.5, ratio * (a * c).sqrt(), torch.inf)

    def extra_repr(self) -> str:
        """The family."""
        return f"latent={len(self.centre)}, family={self.family!r}"


def positive(start: Tensor) -> Tensor:
    """A positive `PyroParam`, typed as the tensor that reading it gives."""
    return cast(Tensor, PyroParam(start, constraints.positive, event_dim=start.dim()))


def check_choice(argument: str, value: str, choices: Sequence[str]) -> None:
    """Refuse a name that is not one of the choices, with the nearest one.

    References:
        none; bookkeeping.

    Example:
        >>> check_choice("family", "gamma", ["gamma"])
    """
    if value not in choices:
        near = difflib.get_close_matches(str(value), choices, 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(f"{argument}: unknown {value!r}; {hint}Fix: use one of {list(choices)}")
