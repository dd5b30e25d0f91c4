"""A Gaussian mixture as a Pyro program with an enumerable component for each datum."""

from __future__ import annotations

from typing import Any, cast, final

import pyro
import pyro.distributions as dist
from pyro.nn import PyroModule, PyroParam, pyro_method
from torch import Tensor
from torch.distributions import constraints

from evidentia.models.rows import row_plate
from evidentia.models.tractable.mixture_em import MixtureParameters, component_log_prob

__all__ = ["GaussianMixture"]


@final
class GaussianMixture(PyroModule):
    r"""\(k \sim \mathrm{Cat}(\pi),\; x \sim N(m_k, C_k)\), so that \(p(x) = \sum_k \pi_k N(x; m_k, C_k)\).

    =============  ========  ======================================================
    site           shape     support
    =============  ========  ======================================================
    ``component``  ()        0 … K-1, enumerable; one for each row, plate ``data``
    ``obs``        (D,)      real, one for each row, plate ``data``
    =============  ========  ======================================================

    All parameters are trainable. `TraceEnum_ELBO` with an empty guide sums the components out, `exact_pair`
    draws them from the posterior; both bounds are the evidence.

    Args:
        weights: π (K,), positive, sum one.
        loc: m (K, D).
        scale: lower Cholesky factors of the covariances (K, D, D), or standard deviations (K, D).

    Raises:
        ValueError: shapes that do not fit, or parameters outside their support.

    References:
        McLachlan, Peel, 2000, Finite mixture models.

    Example:
        >>> import torch
        >>> model = GaussianMixture(torch.tensor([0.3, 0.7]), torch.zeros(2, 3), torch.ones(2, 3))
        >>> model(size=4).shape, model.log_evidence(torch.zeros(4, 3)).shape
        (torch.Size([4, 3]), torch.Size([4]))
    """

    weights: Tensor
    loc: Tensor
    scale: Tensor

    def __init__(self, weights: Tensor, loc: Tensor, scale: Tensor) -> None:
        super().__init__()
        full = scale.dim() == 3
        shape = (*loc.shape, loc.shape[-1]) if full else tuple(loc.shape)
        if weights.dim() != 1 or loc.dim() != 2 or len(loc) != len(weights) or tuple(scale.shape) != shape:
            raise ValueError(
                "GaussianMixture: expected weights (K,), loc (K, D) and scale (K, D, D) or (K, D), got "
                f"{tuple(weights.shape)}, {tuple(loc.shape)} and {tuple(scale.shape)}"
            )
        support = constraints.lower_cholesky if full else constraints.positive
        for name, value, constraint, fix in (
            ("weights", weights, constraints.simplex, "weights / weights.sum()"),
            ("scale", scale, support, "Cholesky factors or standard deviations, not variances"),
        ):
            # A weight of exactly zero has no finite logarithm to train.
            if not bool(constraint.check(value).all()) or (name == "weights" and not bool((value > 0).all())):
                raise ValueError(f"GaussianMixture: {name} is outside {constraint}. Fix: {fix}")
        self.components, self.data_width = loc.shape
        self.weights = cast(Tensor, PyroParam(weights.detach().clone(), constraints.simplex))
        self.loc = cast(Tensor, PyroParam(loc.detach().clone()))
        self.scale = cast(Tensor, PyroParam(scale.detach().clone(), support))

    @property
    def parameters_now(self) -> MixtureParameters:
        """The parameters as EM takes them."""
        return MixtureParameters(self.weights, self.loc, self.scale)

    def forward(self, x: Tensor | None = None, *, size: int | None = None) -> Tensor:
        """Run the generative program.

        Args:
            x: (n, D); drawn from the prior predictive when None.
            size: rows to draw when x is None; rows of the whole data set when x is a minibatch.

        Returns:
            The observation (*draws, n, D).
        """
        weights, loc, scale = self.parameters_now
        with row_plate(x, size, self.data_width, "GaussianMixture"):
            choice = dist.Categorical(weights)
            component = pyro.sample("component", choice, infer={"enumerate": "parallel"})
            law: Any
            if scale.dim() == 3:
                law = dist.MultivariateNormal(loc[component], scale_tril=scale[component])
            else:
                law = dist.Normal(loc[component], scale[component]).to_event(1)
            obs: Tensor = pyro.sample("obs", law, obs=x)
        return obs

    def log_evidence(self, x: Tensor) -> Tensor:
        """log p(x) of each row of x (n, D): (n,), in nats; differentiable."""
        return component_log_prob(x, self.parameters_now).logsumexp(-1)

    def posterior(self, x: Tensor) -> Any:
        """p(component | x), the responsibilities: a Categorical with batch shape (n,)."""
        return dist.Categorical(logits=component_log_prob(x, self.parameters_now))

    @pyro_method
    def sample_posterior(self, x: Tensor, *, size: int | None = None) -> Tensor:
        """Draw the site "component" from the posterior in the plate "data"."""
        with row_plate(x, size, self.data_width, "GaussianMixture"):
            component: Tensor = pyro.sample("component", self.posterior(x))
        return component

    def extra_repr(self) -> str:
        """Size and form."""
        form = "full" if self.scale.dim() == 3 else "diagonal"
        return f"components={self.components}, data_width={self.data_width}, covariance={form}"
