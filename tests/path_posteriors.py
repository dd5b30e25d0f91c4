"""Posteriors in plain torch, on unconstrained space, whose evidence is exact: for estimators along a path."""

import functools
import itertools
import math
from typing import NamedTuple

import numpy as np
import torch
from scipy import integrate, stats
from scipy.special import gammaln
from torch import Tensor
from torch.nn.functional import logsigmoid

from evidentia.inference.density.evaluation import Tempered, tempered_of

HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


class Posterior(NamedTuple):
    """A tempered density, draws of its prior, its dimension and its exact log evidence."""

    density: Tempered
    prior_draws: object
    dim: int
    log_evidence: float
    log_likelihood: object


def normal(dim: int = 3, scale: float = 0.5) -> Posterior:
    """x ~ N(0, I), y_d ~ N(x_d, scale), y_d = 1: everything is Gaussian at every temperature."""

    def log_prior(x: Tensor) -> Tensor:
        return -0.5 * x.square().sum(-1) - dim * HALF_LOG_2PI

    def log_likelihood(x: Tensor) -> Tensor:
        return -0.5 * ((1 - x) / scale).square().sum(-1) - dim * (HALF_LOG_2PI + math.log(scale))

    def prior_draws(num, generator=None):
        return torch.randn(num, dim, dtype=torch.float64, generator=generator)

    exact = dim * stats.norm.logpdf(1.0, 0, math.sqrt(1 + scale**2))
    return Posterior(tempered_of(log_prior, log_likelihood), prior_draws, dim, exact, log_likelihood)


@functools.cache
def eight_schools() -> Posterior:
    """Oracle 5, non-centred: position (mu, log tau, t_1 … t_8); the Jacobian of log tau is in the prior."""
    y = torch.tensor([28.0, 8, -3, 7, -1, 1, 18, 12], dtype=torch.float64)
    sigma = torch.tensor([15.0, 10, 16, 11, 9, 11, 10, 18], dtype=torch.float64)

    def log_prior(x: Tensor) -> Tensor:
        mu, log_tau, t = x[..., 0], x[..., 1], x[..., 2:]
        r = log_tau - math.log(5.0)  # log tau: HalfCauchy times Jacobian, 2/pi e^r / (1 + e^2r)
        density = math.log(2 / math.pi) + r - torch.logaddexp(torch.zeros_like(r), 2 * r)
        return (
            -0.5 * (mu / 5).square() - HALF_LOG_2PI - math.log(5.0)
            + density
            - 0.5 * t.square().sum(-1) - 8 * HALF_LOG_2PI
        )  # fmt: skip

    def log_likelihood(x: Tensor) -> Tensor:
        theta = x[..., :1] + x[..., 1:2].exp() * x[..., 2:]
        return (-0.5 * ((y - theta) / sigma).square() - sigma.log() - HALF_LOG_2PI).sum(-1)

    def prior_draws(num, generator=None):
        z = torch.randn(num, 9, dtype=torch.float64, generator=generator)
        u = torch.rand(num, 1, dtype=torch.float64, generator=generator)
        return torch.cat([5 * z[:, :1], (5 * (math.pi / 2 * u).tan()).log(), z[:, 1:]], -1)

    def given_tau(tau: float) -> float:
        cov = np.diag(sigma.numpy() ** 2 + tau**2) + 25.0
        return stats.multivariate_normal.pdf(y.numpy(), np.zeros(8), cov) * stats.halfcauchy.pdf(tau, 0, 5)

    exact = sum(
        integrate.quad(given_tau, *ends, epsabs=0, epsrel=1e-10)[0] for ends in ((0, 50), (50, np.inf))
    )
    return Posterior(tempered_of(log_prior, log_likelihood), prior_draws, 10, math.log(exact), log_likelihood)


def standard_eight_schools(z: Tensor) -> Tensor:
    """Log likelihood of the eight schools as a function of ten standard normal variables, (C, 10) -> (C,)."""
    upper = torch.special.ndtr(-z[..., 1])  # tau = 5 tan(pi/2 (1 - upper)), from the tail that stays accurate
    log_tau = math.log(5.0) - (math.pi / 2 * upper).tan().log()
    x = torch.cat([5 * z[..., :1], log_tau.unsqueeze(-1), z[..., 2:]], -1)
    return eight_schools().log_likelihood(x)


@functools.cache
def normal_inverse_gamma() -> Posterior:
    """Oracle 2: diabetes, s2 ~ InverseGamma(2, 1), w ~ N(0, s2 I), y ~ N(Xw, s2 I); (w, log s2), D = 12."""
    from sklearn.datasets import load_diabetes

    bunch = load_diabetes()
    x = bunch.data / bunch.data.std(0)
    x = np.concatenate([np.ones((len(x), 1)), x], 1)
    y = (bunch.target - bunch.target.mean()) / bunch.target.std()
    n, d = x.shape
    precision = x.T @ x + np.eye(d)
    b_n = 1 + 0.5 * (y @ y - x.T @ y @ np.linalg.solve(precision, x.T @ y))
    a_n = 2 + n / 2
    exact = (
        -n / 2 * math.log(2 * math.pi) - 0.5 * np.linalg.slogdet(precision)[1]
        - a_n * math.log(b_n) + gammaln(a_n) - gammaln(2)
    )  # fmt: skip
    gram, cross, square = torch.tensor(x.T @ x), torch.tensor(x.T @ y), float(y @ y)

    def log_prior(q: Tensor) -> Tensor:
        w, log_s2 = q[..., :d], q[..., d]
        # InverseGamma(2, 1) of s2 with its Jacobian is -2 log s2 - 1 / s2.
        return (
            -2 * log_s2 - (-log_s2).exp()
            - 0.5 * w.square().sum(-1) * (-log_s2).exp() - d * (0.5 * log_s2 + HALF_LOG_2PI)
        )  # fmt: skip

    def log_likelihood(q: Tensor) -> Tensor:
        w, log_s2 = q[..., :d], q[..., d]
        rest = square - 2 * (w * cross).sum(-1) + (w * (w @ gram)).sum(-1)
        return -0.5 * rest * (-log_s2).exp() - n * (0.5 * log_s2 + HALF_LOG_2PI)

    def prior_draws(num, generator=None):
        # 1 / s2 ~ Gamma(2, 1): a sum of two exponentials.
        rate = -torch.rand(num, 2, dtype=torch.float64, generator=generator).log().sum(-1, keepdim=True)
        w = torch.randn(num, d, dtype=torch.float64, generator=generator) / rate.sqrt()
        return torch.cat([w, -rate.log()], -1)

    return Posterior(tempered_of(log_prior, log_likelihood), prior_draws, d + 1, float(exact), log_likelihood)


@functools.cache
def bimodal() -> Posterior:
    """Oracle 8: x ~ N(0, I_5), 2 ~ N(x_0^2, sd 0.2), modes at x_0 = ±sqrt(2)."""

    def log_prior(x: Tensor) -> Tensor:
        return -0.5 * x.square().sum(-1) - 5 * HALF_LOG_2PI

    def log_likelihood(x: Tensor) -> Tensor:
        return -0.5 * ((2 - x[..., 0].square()) / 0.2).square() - HALF_LOG_2PI - math.log(0.2)

    def prior_draws(num, generator=None):
        return torch.randn(num, 5, dtype=torch.float64, generator=generator)

    value, _ = integrate.quad(
        lambda x: stats.norm.pdf(x) * stats.norm.pdf(2, x * x, 0.2), -6, 6, points=[-1.41, 1.41], epsabs=1e-12
    )
    return Posterior(tempered_of(log_prior, log_likelihood), prior_draws, 5, math.log(value), log_likelihood)


@functools.cache
def ising(side: int = 4, coupling: float = 0.3) -> Posterior:
    r"""Oracle 7: log of the sum over s in {-1, 1}^16 of exp(½ s' A s), as an integral over a real field.

    With \(A = J + cI\) positive definite, \(e^{½ s'As}\) is the mean of \(e^{x's}\) over x ~ N(0, A), so the
    sum is the evidence of the prior N(0, A) under the likelihood \(\prod_i 2\cosh x_i\). Open boundary.
    """
    size = side * side
    J = np.zeros((size, size))
    for i, j in itertools.product(range(side), range(side)):
        for k, m in ((i + 1, j), (i, j + 1)):
            if k < side and m < side:
                J[i * side + j, k * side + m] = J[k * side + m, i * side + j] = coupling
    A = J + (0.1 - np.linalg.eigvalsh(J).min()) * np.eye(size)
    spins = np.array(list(itertools.product((-1.0, 1.0), repeat=size)))
    energy = 0.5 * np.einsum("si,ij,sj->s", spins, A, spins, optimize=True)
    exact = energy.max() + math.log(np.exp(energy - energy.max()).sum())
    precision, factor = torch.tensor(np.linalg.inv(A)), torch.tensor(np.linalg.cholesky(A))
    half_log_det = float(factor.diagonal().log().sum())

    def log_prior(x: Tensor) -> Tensor:
        return -0.5 * (x * (x @ precision)).sum(-1) - size * HALF_LOG_2PI - half_log_det

    def log_likelihood(x: Tensor) -> Tensor:
        return (x - logsigmoid(2 * x)).sum(-1)

    def prior_draws(num, generator=None):
        return torch.randn(num, size, dtype=torch.float64, generator=generator) @ factor.T

    return Posterior(tempered_of(log_prior, log_likelihood), prior_draws, size, float(exact), log_likelihood)
