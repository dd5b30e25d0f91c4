"""Posteriors with exact draws and exact evidence, as plain densities on unconstrained space, float64."""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import posteriors
import torch
import torch.distributions as dist
from torch import Tensor

from evidentia.inference.density.evaluation import tempered_of
from evidentia.inference.evidence import conjugate


class Toy(NamedTuple):
    """`density` is tempered; `draw(size, generator)` gives exact posterior draws (size, D)."""

    dim: int
    density: Callable
    draw: Callable
    log_evidence: float
    prior: Callable | None = None

    def chains(self, chains: int, length: int, seed: int, stay: float = 0.0) -> Tensor:
        """Exact draws (chains, length, D); each repeats the one before with probability `stay`.

        The autocorrelation time of every function of a draw is then (1 + stay) / (1 - stay).
        """
        random = torch.Generator().manual_seed(seed)
        fresh = self.draw(chains * length, random).reshape(chains, length, self.dim)
        if not stay:
            return fresh
        new = torch.rand(chains, length, generator=random) >= stay
        new[:, 0] = True
        index = torch.where(new, torch.arange(length), 0).cummax(1).values
        return fresh.gather(1, index[..., None].expand(-1, -1, self.dim))


def double(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def normal(size: tuple[int, ...], random: torch.Generator) -> Tensor:
    return torch.randn(size, generator=random, dtype=torch.float64)


def gamma(shape: Tensor | float, size: tuple[int, ...], random: torch.Generator) -> Tensor:
    shape = torch.as_tensor(shape, dtype=torch.float64).expand(size)
    return torch._standard_gamma(shape.contiguous(), generator=random)


def from_grid(log_density: Tensor, grid: Tensor, size: int, random: torch.Generator) -> Tensor:
    """Draws of a density given on a fine equidistant grid, uniform within a cell."""
    cell = torch.multinomial(torch.softmax(log_density, 0), size, replacement=True, generator=random)
    jitter = torch.rand(size, generator=random, dtype=torch.float64) - 0.5
    return grid[cell] + jitter * (grid[1] - grid[0])


@functools.cache
def beta_binomial() -> Toy:
    y, n = double(3, 7, 2), double(10, 9, 4)
    after = 2.0 + y.sum(), 1.5 + (n - y).sum()
    ways = (torch.lgamma(n + 1) - torch.lgamma(y + 1) - torch.lgamma(n - y + 1)).sum()
    log_p = torch.nn.functional.logsigmoid

    def log_prior(x):
        constant = math.lgamma(3.5) - math.lgamma(2.0) - math.lgamma(1.5)
        return constant + (2.0 * log_p(x) + 1.5 * log_p(-x))[:, 0]

    def log_likelihood(x):
        return ways + (y.sum() * log_p(x) + (n - y).sum() * log_p(-x))[:, 0]

    def draw(size, random):
        a, b = gamma(after[0], (size, 1), random), gamma(after[1], (size, 1), random)
        return a.log() - b.log()

    density = tempered_of(log_prior, log_likelihood)
    return Toy(1, density, draw, conjugate.beta_binomial(y, n, 2.0, 1.5).value)


@functools.cache
def gamma_poisson() -> Toy:
    y, a, b = double(3, 0, 5, 2), 2.0, 0.7
    factorials = torch.lgamma(y + 1).sum()
    density = tempered_of(
        lambda x: (a * x - b * x.exp())[:, 0] + a * math.log(b) - math.lgamma(a),
        lambda x: (y.sum() * x - len(y) * x.exp())[:, 0] - factorials,
    )

    def draw(size, random):
        return (gamma(a + y.sum(), (size, 1), random) / (b + len(y))).log()

    return Toy(1, density, draw, conjugate.gamma_poisson(y, a, b).value)


@functools.cache
def dirichlet_multinomial() -> Toy:
    y, a = double(3, 0, 5, 2), double(0.7, 1.0, 2.0, 1.5)
    constant = torch.lgamma(a.sum()) - torch.lgamma(a).sum()
    ways = torch.lgamma(y.sum() + 1) - torch.lgamma(y + 1).sum()

    def log_p(x):  # additive log ratio: the last coordinate is the reference; its Jacobian is Π p_k
        return torch.cat([x, torch.zeros_like(x[:, :1])], 1).log_softmax(1)

    density = tempered_of(lambda x: constant + (a * log_p(x)).sum(1), lambda x: ways + (y * log_p(x)).sum(1))

    def draw(size, random):
        log_g = gamma(a + y, (size, 4), random).log()
        return log_g[:, :3] - log_g[:, 3:]

    return Toy(3, density, draw, conjugate.dirichlet_multinomial(y, a).value)


@functools.cache
def normal_mean() -> Toy:
    y = double(0.3, -0.2, 1.5, 0.8)
    prior, noise = dist.Normal(double(0.5), 2.0), 0.7
    density = tempered_of(
        lambda x: prior.log_prob(x).sum(1), lambda x: dist.Normal(x, noise).log_prob(y).sum(1)
    )
    precision = 1 / 4 + len(y) / noise**2
    loc = (0.5 / 4 + y.sum() / noise**2) / precision
    return Toy(
        1,
        density,
        lambda size, random: loc + normal((size, 1), random) / math.sqrt(precision),
        conjugate.normal_mean(y, noise, 0.5, 2.0).value,
    )


@functools.cache
def diabetes() -> tuple[Tensor, Tensor]:
    """Ten features and the response, standardised (442, 10) and (442,)."""
    from sklearn.datasets import load_diabetes

    x, y = (torch.tensor(part) for part in load_diabetes(return_X_y=True))
    return x / x.std(0, correction=0), (y - y.mean()) / y.std(correction=0)


@functools.cache
def regression() -> Toy:
    """Oracle 2: normal-inverse-gamma regression on diabetes, D = 12 (11 weights, log variance)."""
    x, y = diabetes()
    x = torch.cat([torch.ones(442, 1).double(), x], 1)
    gram, moment, energy, rows = x.T @ x, x.T @ y, y @ y, len(y)
    precision = gram + torch.eye(11)
    mean = torch.linalg.solve(precision, moment)
    rate = 1 + (energy - mean @ precision @ mean) / 2
    factor = torch.linalg.cholesky(precision)

    def log_prior(v):
        w, s = v[:, :11], v[:, 11]
        variance = -2 * s - (-s).exp() - math.lgamma(2)  # log variance, its Jacobian included
        return variance - 5.5 * (math.log(2 * math.pi) + s) - 0.5 * w.square().sum(1) * (-s).exp()

    def log_likelihood(v):
        w, s = v[:, :11], v[:, 11]
        square = energy - 2 * w @ moment + ((w @ gram) * w).sum(1)
        return -0.5 * rows * (math.log(2 * math.pi) + s) - 0.5 * square * (-s).exp()

    def draw(size, random):
        variance = rate / gamma(2 + rows / 2, (size,), random)
        noise = torch.linalg.solve_triangular(factor.T, normal((11, size), random), upper=True).T
        return torch.cat([mean + variance.sqrt()[:, None] * noise, variance.log()[:, None]], 1)

    def prior(size, random):
        variance = 1 / gamma(2.0, (size,), random)
        w = variance.sqrt()[:, None] * normal((size, 11), random)
        return torch.cat([w, variance.log()[:, None]], 1)

    value = conjugate.normal_inverse_gamma_regression(x, y, shape=2.0, rate=1.0).value
    return Toy(12, tempered_of(log_prior, log_likelihood), draw, value, prior)


@functools.cache
def schools() -> Toy:
    """Oracle 5: eight schools, non-centred, D = 10 (mu, log tau, t)."""
    y, scale = double(*posteriors.SCHOOLS_Y), double(*posteriors.SCHOOLS_SCALE)
    grid = torch.linspace(-20.0, 12.0, 16_001, dtype=torch.float64)
    variance = scale**2 + (2 * grid).exp()[:, None]
    weight = 1 / 25 + (1 / variance).sum(1)
    centre = (y / variance).sum(1) / weight
    marginal = -0.5 * (variance.log().sum(1) + weight.log() + (y**2 / variance).sum(1) - weight * centre**2)
    log_posterior = marginal - torch.log1p((2 * grid).exp() / 25) + grid

    def log_prior(x):
        mu, s, t = x[:, 0], x[:, 1], x[:, 2:]
        tau = math.log(2 / (5 * math.pi)) - torch.log1p((2 * s).exp() / 25) + s
        return dist.Normal(0.0, 5.0).log_prob(mu) + tau + dist.Normal(0.0, 1.0).log_prob(t).sum(1)

    def log_likelihood(x):
        return dist.Normal(x[:, :1] + x[:, 1:2].exp() * x[:, 2:], scale).log_prob(y).sum(1)

    def draw(size, random):
        s = from_grid(log_posterior, grid, size, random)
        tau = s.exp()[:, None]
        variance = scale**2 + tau**2
        weight = 1 / 25 + (1 / variance).sum(1)
        mu = (y / variance).sum(1) / weight + normal((size,), random) / weight.sqrt()
        precision = 1 + (tau / scale) ** 2
        t = tau * (y - mu[:, None]) / scale**2 / precision + normal((size, 8), random) / precision.sqrt()
        return torch.cat([mu[:, None], s[:, None], t], 1)

    return Toy(10, tempered_of(log_prior, log_likelihood), draw, posteriors.schools_log_evidence())


@functools.cache
def bimodal() -> Toy:
    """Oracle 8: x ~ N(0, I_5), 2 ~ N(x_0^2, sd 0.2); modes at x_0 = ±√2."""
    grid = torch.linspace(-6.0, 6.0, 240_001, dtype=torch.float64)

    def log_prior(x):
        return dist.Normal(0.0, 1.0).log_prob(x).sum(1)

    def log_likelihood(x):
        return dist.Normal(x[:, 0] ** 2, 0.2).log_prob(double(2.0))

    joint = dist.Normal(0.0, 1.0).log_prob(grid) + log_likelihood(grid[:, None])

    def draw(size, random):
        first = from_grid(joint, grid, size, random)
        return torch.cat([first[:, None], normal((size, 4), random)], 1)

    value = float(joint.logsumexp(0)) + math.log(12.0 / 240_000)
    return Toy(5, tempered_of(log_prior, log_likelihood), draw, value)


def linear_gaussian(matrix: Tensor, y: Tensor, noise: float, log_evidence: float) -> Toy:
    """x ~ N(0, I); y ~ N(A x, noise^2): the posterior is normal."""
    dim = matrix.shape[1]
    factor = torch.linalg.cholesky(torch.eye(dim) + matrix.T @ matrix / noise**2)
    mean = torch.cholesky_solve((matrix.T @ y / noise**2)[:, None], factor)[:, 0]

    def draw(size, random):
        return mean + torch.linalg.solve_triangular(factor.T, normal((dim, size), random), upper=True).T

    density = tempered_of(
        lambda x: dist.Normal(0.0, 1.0).log_prob(x).sum(1),
        lambda x: dist.Normal(x @ matrix.T, noise).log_prob(y).sum(1),
    )
    return Toy(dim, density, draw, log_evidence)


@functools.cache
def gaussian_process() -> Toy:
    """Oracle 4: 12 points, squared exponential kernel, f = L x; the evidence is a multivariate normal."""
    place = torch.linspace(0.0, 3.0, 12, dtype=torch.float64)
    kernel = 1.5 * torch.exp(-0.5 * ((place[:, None] - place) / 0.8).square()) + 1e-8 * torch.eye(12)
    y = torch.sin(2 * place) + 0.2 * normal((12,), torch.Generator().manual_seed(4))
    marginal = dist.MultivariateNormal(torch.zeros(12).double(), kernel + 0.25**2 * torch.eye(12))
    return linear_gaussian(torch.linalg.cholesky(kernel), y, 0.25, float(marginal.log_prob(y)))


@functools.cache
def state_space() -> Toy:
    """Oracle 4: x_t = 0.8 x_{t-1} + 0.6 e_t, y_t = x_t + 0.5 v_t, 15 steps; evidence by the Kalman filter."""
    y = torch.cumsum(normal((15,), torch.Generator().manual_seed(5)), 0) / 2
    step = torch.arange(15)
    lag = (step[:, None] - step).double()
    matrix = torch.where(lag >= 0, 0.6 * 0.8 ** lag.clamp_min(0), 0.0)
    mean, variance, value = 0.0, 0.0, 0.0
    for observed in y.tolist():
        mean, variance = 0.8 * mean, 0.64 * variance + 0.36
        total = variance + 0.25
        value -= 0.5 * (math.log(2 * math.pi * total) + (observed - mean) ** 2 / total)
        gain = variance / total
        mean, variance = mean + gain * (observed - mean), (1 - gain) * variance
    return linear_gaussian(matrix, y, 0.5, value)


TOYS = {
    "beta-binomial": beta_binomial,
    "gamma-Poisson": gamma_poisson,
    "Dirichlet-multinomial": dirichlet_multinomial,
    "normal mean": normal_mean,
    "regression": regression,
    "Gaussian process": gaussian_process,
    "state space": state_space,
    "eight schools": schools,
    "bimodal": bimodal,
}
