"""The pieces of the Pyro program of a conjugate linear model: its noise, its weights, its flat sites."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.poutine.condition_messenger import ConditionMessenger
from pyro.poutine.runtime import _PYRO_STACK
from torch import Tensor
from torch.distributions import constraints

from evidentia.models.linear.prior import ConjugatePrior
from evidentia.models.linear.priors import GPrior


def sample_noise(prior: ConjugatePrior, x: Tensor) -> Tensor:
    """The noise scale: known, or from the site ``variance`` (proper prior) or ``log_variance`` (1/σ²)."""
    law = prior.noise
    if law.scale is not None:
        return x.new_tensor(law.scale)
    if law.proper:
        variance: Tensor = pyro.sample(
            "variance", dist.InverseGamma(x.new_tensor(law.shape), x.new_tensor(law.rate))
        )
        return variance.sqrt()
    return (flat("log_variance", x) / 2).exp()


def weight_law(
    prior: ConjugatePrior, x: Tensor, gates: Tensor, noise: Tensor
) -> pyro.distributions.TorchDistribution:
    """The law of the weights u given the open gates and the noise; a closed gate's u is N(0, σ²).

    Args:
        prior: resolved for the rows of x.
        x: (n, K).
        gates: (*batch, K).
        noise: (*batch).
    """
    if not isinstance(prior, GPrior):
        scale = prior.column_scale(x.shape[1]).to(x)
        return dist.Normal(x.new_zeros(x.shape[1]), noise[..., None] * scale).to_event(1)
    centred = x - x.mean(0) if prior.intercept else x
    precision = gates[..., :, None] * (centred.mT @ centred * (1 / prior.shrinkage - 1)) * gates[..., None, :]
    precision = precision + torch.diag_embed(1 - gates)
    return dist.MultivariateNormal(
        x.new_zeros(x.shape[1]), precision_matrix=precision / noise.square()[..., None, None]
    )


class _Flat(dist.ImproperUniform):
    """Density 1 on the real line: it can be conditioned on or integrated, never drawn.

    The dry run by which `Predictive` finds shapes, masked and not conditioned on anything, gets a zero that
    never reaches a result.
    """

    def __init__(self, site: str, batch_shape: torch.Size) -> None:
        super().__init__(constraints.real, batch_shape, torch.Size())
        self.site = site

    def expand(self, batch_shape: Any, _instance: object = None) -> _Flat:
        return _Flat(self.site, torch.Size(batch_shape))

    def sample(self, sample_shape: Any = None) -> Tensor:
        conditioned = any(isinstance(handler, ConditionMessenger) for handler in _PYRO_STACK)
        if poutine.get_mask() is False and not conditioned and not self.batch_shape:
            return torch.zeros(())
        raise ValueError(
            f"site {self.site!r} has a flat prior and cannot be drawn; condition on it, sample from the "
            "posterior with sample_weights, or use a proper prior such as NormalPrior(1.0)"
        )


def flat(name: str, like: Tensor) -> Tensor:
    """A site with density 1 on the real line.

    Raises:
        ValueError: the site would have to be drawn.
    """
    value: Tensor = pyro.sample(name, _Flat(name, torch.Size()))
    return value.to(like)
