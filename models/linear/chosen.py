"""One subset of the columns on its own: a plain conjugate regression, and its exact posterior as a guide."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import pyro
import pyro.distributions as dist
from pyro.nn import PyroModule
from torch import Tensor
from torch.distributions import ExpTransform

from evidentia.models.linear.conjugate_regression import ConjugateRegression
from evidentia.models.linear.prior import ConjugatePrior
from evidentia.models.linear.program import flat, sample_noise, weight_law
from evidentia.models.response import check_response_shape


@final
class ChosenRegression(PyroModule):
    """y ~ N(α + Σ_{j in S} x_j w_j, σ²) for one subset S: no gates, no dead weights.

    ================  ====  ======================  =========================================
    site              shape  support                present when
    ================  ====  ======================  =========================================
    ``w``             (k,)  real                    the subset is not empty
    ``intercept``     ()    real, flat              the prior has a flat intercept
    ``variance``      ()    positive, inverse-gamma the noise is unknown, its prior proper
    ``log_variance``  ()    real, flat              the noise is unknown, p(σ²) = 1/σ²
    ``obs``           (n,)  real, plate ``data``    always
    ================  ====  ======================  =========================================

    Args:
        names: of all columns of the inputs.
        columns: numbers of the columns in S.
        prior: the conjugate prior of the family.

    References:
        Liang, Paulo, Molina, Clyde and Berger, 2008. Mixtures of g priors for Bayesian variable selection.

    Example:
        >>> import torch
        >>> from evidentia.models.linear.priors import NormalPrior
        >>> model = ChosenRegression(["a", "b", "c"], [0, 2], NormalPrior(noise_scale=0.5))
        >>> model(torch.zeros(4, 3, dtype=torch.float64)).shape
        torch.Size([4])
    """

    def __init__(self, names: Sequence[str], columns: Sequence[int], prior: ConjugatePrior) -> None:
        super().__init__()
        self.names, self.columns, self.prior = tuple(names), tuple(columns), prior

    def select(self, x: Tensor) -> Tensor:
        """The columns of the subset, (n, k).

        Raises:
            ValueError: x has another number of columns.
        """
        if x.dim() != 2 or x.shape[1] != len(self.names):
            raise ValueError(
                f"regression: expected x (n, {len(self.names)}) with all columns {list(self.names)}, "
                f"got {tuple(x.shape)}"
            )
        return x[:, list(self.columns)]

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Run the generative program on x (n, K); y (n,) is drawn when None."""
        chosen, prior = self.select(x), self.prior.resolve(len(x))
        if y is not None:
            check_response_shape("regression", x, y, x.shape[:1])
        noise = sample_noise(prior, x)
        value = x.new_zeros(len(x))
        if self.columns:
            weights = pyro.sample("w", weight_law(prior, chosen, chosen.new_ones(chosen.shape[1]), noise))
            value = weights.to(x) @ chosen.mT
            if value.dim() > 1:  # (*batch, 1, n): the place of the data plate holds the rows
                value = value.squeeze(-2)
        if prior.intercept:
            value = value + flat("intercept", x)
        with pyro.plate("data", len(x), dim=-1):
            return pyro.sample("obs", dist.Normal(value, noise), obs=y)

    def conjugate(self, x: Tensor, y: Tensor) -> ConjugateRegression:
        """The model with weights and noise integrated out, bound to data."""
        check_response_shape("regression", x, y, x.shape[:1])
        return ConjugateRegression(self.prior, self.select(x), y)

    def extra_repr(self) -> str:
        """Columns and prior."""
        return f"{[self.names[i] for i in self.columns]}, {self.prior!r}"


@final
class ExactGuide(PyroModule):
    """The exact posterior of a `ChosenRegression` given data, as a Pyro guide.

    ``log p(draw, y) − log q(draw) = log p(y | S)`` for every draw, so its ELBO is the log evidence.

    Args:
        model: the regression.
        x: (n, K).
        y: (n,).

    References:
        Gelman et al., 2013. Bayesian data analysis, chapter 14.

    Example:
        >>> import torch
        >>> from evidentia.models.linear.priors import NormalPrior
        >>> x = torch.tensor([[1.0], [2.0]], dtype=torch.float64)
        >>> guide = ExactGuide(ChosenRegression(["a"], [0], NormalPrior(noise_scale=0.5)), x, x[:, 0])
        >>> round(float(guide.loc), 3)
        0.952
    """

    def __init__(self, model: ChosenRegression, x: Tensor, y: Tensor) -> None:
        super().__init__()
        problem = model.conjugate(x, y)
        found = problem.posterior()
        self.rows, self.intercept, self.noise_scale = len(x), model.prior.intercept, found.noise_scale
        self.proper = model.prior.noise.proper
        self.register_buffer("loc", found.loc)
        self.register_buffer("scale_tril", found.scale_tril)
        self.register_buffer("centre", model.select(x).double().mean(0))
        self.register_buffer("level", y.double().mean())
        if found.noise_scale is None:
            self.register_buffer("shape", found.shape)
            self.register_buffer("rate", found.rate)

    def forward(self, x: Tensor | None = None, y: Tensor | None = None) -> None:
        """Draw from the posterior; the data of the call are not used."""
        del x, y
        noise = self._noise()
        weights = self.loc
        if self.loc.numel():
            scale_tril = noise[..., None, None] * self.scale_tril
            weights = pyro.sample("w", dist.MultivariateNormal(self.loc, scale_tril=scale_tril))
        if self.intercept:
            pyro.sample("intercept", dist.Normal(self.mean_intercept(weights), noise / self.rows**0.5))

    def mean_intercept(self, weights: Tensor) -> Tensor:
        """E[α | w, y] = ȳ − w'x̄."""
        level: Tensor = self.level - (weights * self.centre).sum(-1)
        return level

    def _noise(self) -> Tensor:
        if self.noise_scale is not None:
            return self.loc.new_tensor(self.noise_scale)
        law = dist.InverseGamma(self.shape, self.rate)
        if self.proper:
            variance: Tensor = pyro.sample("variance", law)
            return variance.sqrt()
        logged = dist.TransformedDistribution(law, [ExpTransform().inv])
        return (pyro.sample("log_variance", logged) / 2).exp()
