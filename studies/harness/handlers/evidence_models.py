"""Models whose evidence is known exactly: the yardsticks of every evidence estimator.

A model that knows its evidence has a method `exact_log_evidence(x[, y])`, in nats for the whole data set;
the handler `evidence` holds the estimators against it.
"""

from __future__ import annotations

import math
from itertools import product
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from torch import Tensor

NODES = 4001
"""Points of the one-dimensional quadratures (trapezoids of functions that are smooth and end at zero)."""


@final
class EightSchools:
    """mu ~ N(0, 5), tau ~ HalfCauchy(5), t ~ N(0, 1), y ~ N(mu + tau t, scale): not centred."""

    def __call__(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """x (8, 1) are the standard errors, y (8,) the effects."""
        import pyro
        from pyro import distributions as dist

        mu = pyro.sample("mu", dist.Normal(x.new_tensor(0.0), 5.0))
        tau = pyro.sample("tau", dist.HalfCauchy(x.new_tensor(5.0)))
        with pyro.plate("data", len(x)):
            t = pyro.sample("t", dist.Normal(x.new_tensor(0.0), 1.0))
            found: Tensor = pyro.sample("obs", dist.Normal(mu + tau * t, x[:, 0]), obs=y)
        return found

    def exact_log_evidence(self, x: Tensor, y: Tensor) -> float:
        """Analytic in mu and t; quadrature in u with tau = 5 tan(pi u / 2), for which the prior is flat."""
        import torch

        u = (torch.arange(NODES, dtype=torch.float64) + 0.5) / NODES  # midpoints: u = 1 is tau = infinity
        tau = 5 * torch.tan(math.pi * u / 2)
        diagonal = x[:, 0].square() + tau[:, None].square()
        value = normal_rank_one(y, diagonal, 25.0)
        return float(value.logsumexp(0)) - math.log(NODES)


@final
class NormalInverseGammaRegression:
    """s2 ~ InverseGamma(2, 1), w | s2 ~ N(0, s2 I), y ~ N(X w, s2); X has a column of ones in front."""

    def __call__(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """x (n, P) without the ones, y (n,)."""
        import pyro
        from pyro import distributions as dist

        design = _with_ones(x)
        s2 = pyro.sample("s2", dist.InverseGamma(x.new_tensor(2.0), x.new_tensor(1.0)))
        w = pyro.sample("w", dist.Normal(x.new_zeros(design.shape[1]), s2.sqrt()).to_event(1))
        with pyro.plate("data", len(x)):
            found: Tensor = pyro.sample("obs", dist.Normal(design @ w, s2.sqrt()), obs=y)
        return found

    def exact_log_evidence(self, x: Tensor, y: Tensor) -> float:
        """The closed form."""
        from evidentia.inference.evidence.conjugate import normal_inverse_gamma_regression

        return normal_inverse_gamma_regression(_with_ones(x), y, scale=1.0, shape=2.0, rate=1.0).value


@final
class NormalMean:
    """theta ~ N(0, I), each row ~ N(theta, I)."""

    def __call__(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """x (n, D), all of it observed; y is not looked at."""
        import pyro
        from pyro import distributions as dist

        theta = pyro.sample("theta", dist.Normal(x.new_zeros(x.shape[1]), 1.0).to_event(1))
        with pyro.plate("data", len(x)):
            found: Tensor = pyro.sample("obs", dist.Normal(theta, 1.0).to_event(1), obs=x)
        return found

    def exact_log_evidence(self, x: Tensor, y: Tensor | None = None) -> float:
        """The closed form of each column."""
        from evidentia.inference.evidence.conjugate import normal_mean

        return sum(normal_mean(column).value for column in x.T)


@final
class Funnel:
    """Neal's funnel seen through noise: v ~ N(0, 3), z_i ~ N(0, exp(v / 2)), y_i ~ N(z_i, 1): centred."""

    def __call__(self, x: Tensor) -> Tensor:
        """x (n, 1) are the y_i."""
        import pyro
        from pyro import distributions as dist

        v = pyro.sample("v", dist.Normal(x.new_tensor(0.0), 3.0))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_tensor(0.0), (v / 2).exp()))
            found: Tensor = pyro.sample("obs", dist.Normal(z, 1.0), obs=x[:, 0])
        return found

    def exact_log_evidence(self, x: Tensor) -> float:
        """y_i | v ~ N(0, exp(v) + 1); quadrature over v."""
        import torch

        v = torch.linspace(-36.0, 36.0, NODES, dtype=torch.float64)
        variance = v.exp()[:, None] + 1
        value = -0.5 * (x[:, 0].square() / variance + (2 * math.pi * variance).log()).sum(-1)
        return _trapezoid(value - 0.5 * (v / 3).square() - math.log(3 * (2 * math.pi) ** 0.5), v)


@final
class Square:
    """x ~ N(0, I_5), y_i ~ N(x_0^2, sd): two modes of equal mass, at x_0 = ±sqrt(2) for y = 2.

    Two observations with sd 0.2 sqrt(2) say what one with 0.2 says.
    """

    scale = 0.2 * 2**0.5

    def __call__(self, x: Tensor) -> Tensor:
        """x (n, 1) are the y_i."""
        import pyro
        from pyro import distributions as dist

        z = pyro.sample("z", dist.Normal(x.new_zeros(5), 1.0).to_event(1))
        with pyro.plate("data", len(x)):
            found: Tensor = pyro.sample("obs", dist.Normal(z[0].square(), self.scale), obs=x[:, 0])
        return found

    def exact_log_evidence(self, x: Tensor) -> float:
        """Quadrature over x_0."""
        import torch

        z = torch.linspace(-8.0, 8.0, NODES, dtype=torch.float64)
        value = _log_normal(x[:, 0], z[:, None].square(), self.scale).sum(-1)
        return _trapezoid(value + _log_normal(z, torch.zeros_like(z), 1.0), z)


@final
class TwoModes:
    """theta ~ N(0, 5), y_i ~ N(theta, 1) or N(theta + 8, 1), with equal chance: modes of unequal mass.

    For y = 0, 0 the modes lie near 0 and -8; the second has about a fifth of the mass, and no path between.
    """

    shift, prior_scale = 8.0, 5.0

    def __call__(self, x: Tensor) -> Tensor:
        """x (n, 1) are the y_i."""
        import pyro
        import torch
        from pyro import distributions as dist

        theta = pyro.sample("theta", dist.Normal(x.new_tensor(0.0), self.prior_scale))
        with pyro.plate("data", len(x)):
            loc = torch.stack([theta, theta + self.shift], -1)
            law = dist.MixtureSameFamily(dist.Categorical(probs=x.new_ones(2)), dist.Normal(loc, 1.0))
            found: Tensor = pyro.sample("obs", law, obs=x[:, 0])
        return found

    def exact_log_evidence(self, x: Tensor) -> float:
        """The sum over all assignments of the observations to the two components."""
        import torch

        from evidentia.inference.evidence.conjugate import normal_mean

        terms = [
            normal_mean(x[:, 0] - self.shift * x.new_tensor(which), prior_scale=self.prior_scale).value
            for which in product((0.0, 1.0), repeat=len(x))
        ]
        return float(torch.tensor(terms, dtype=torch.float64).logsumexp(0)) - len(x) * math.log(2)


@final
class HiddenMode:
    """theta ~ N(0, I); x ~ N(theta, 0.1^2 I) or N(theta + 0.8, 0.01^2 I), with equal chance.

    One vector was measured by one of two instruments: a rough one, or a precise one that is off by 0.8. At
    x = 0.8 the precise one explains more, but its mode has a volume of 10^-D of the other's and is invisible
    at every temperature above that of the posterior.
    """

    shift, scales = 0.8, (0.1, 0.01)

    def __call__(self, x: Tensor) -> Tensor:
        """x (D, 1) is the vector."""
        import pyro
        import torch
        from pyro import distributions as dist

        theta = pyro.sample("theta", dist.Normal(x.new_zeros(len(x)), 1.0).to_event(1))
        loc = torch.stack([theta, theta + self.shift], -2)
        parts = dist.Independent(dist.Normal(loc, x.new_tensor(self.scales).unsqueeze(-1)), 1)
        law = dist.MixtureSameFamily(dist.Categorical(probs=x.new_ones(2)), parts)
        found: Tensor = pyro.sample("obs", law, obs=x[:, 0])
        return found

    def exact_log_evidence(self, x: Tensor) -> float:
        """A mixture of two normal laws of x."""
        import torch

        parts = [
            _log_normal(x[:, 0], x.new_tensor(loc), (1 + scale**2) ** 0.5).sum()
            for loc, scale in zip((0.0, self.shift), self.scales, strict=True)
        ]
        return float(torch.stack(parts).logsumexp(0)) - math.log(2)


@final
class HierarchicalLogistic:
    """tau ~ HalfCauchy(1), alpha ~ N(0, 5), beta_j ~ N(0, tau), y ~ Bernoulli(logit = alpha + X beta).

    Centred. Its evidence is not known.
    """

    def __call__(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """x (n, P), y (n,) of zeros and ones."""
        import pyro
        from pyro import distributions as dist

        tau = pyro.sample("tau", dist.HalfCauchy(x.new_tensor(1.0)))
        alpha = pyro.sample("alpha", dist.Normal(x.new_tensor(0.0), 5.0))
        beta = pyro.sample("beta", dist.Normal(x.new_zeros(x.shape[1]), tau).to_event(1))
        with pyro.plate("data", len(x)):
            found: Tensor = pyro.sample("obs", dist.Bernoulli(logits=alpha + x @ beta), obs=y)
        return found


def normal_rank_one(y: Tensor, diagonal: Tensor, shared: float) -> Tensor:
    """log N(y; 0, diag(d) + shared 11') for rows of d (..., n), in nats (...).

    Example:
        >>> import torch
        >>> round(float(normal_rank_one(torch.zeros(1), torch.ones(1), 1.0)), 4)  # N(0; 0, 2)
        -1.2655
    """
    precision = 1 / diagonal
    total = 1 + shared * precision.sum(-1)
    energy = (y.square() * precision).sum(-1) - shared * (y * precision).sum(-1).square() / total
    log_det = (2 * math.pi * diagonal).log().sum(-1) + total.log()
    value: Tensor = -0.5 * (energy + log_det)
    return value


def _trapezoid(log_value: Tensor, grid: Tensor) -> float:
    return float(log_value.logsumexp(0)) + math.log(float(grid[1] - grid[0]))


def _log_normal(value: Tensor, loc: Tensor, scale: float) -> Tensor:
    return -0.5 * ((value - loc) / scale).square() - math.log(scale) - 0.5 * math.log(2 * math.pi)


def _with_ones(x: Tensor) -> Tensor:
    import torch

    return torch.cat([x.new_ones(len(x), 1), x], 1)
