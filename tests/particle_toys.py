"""Two toys whose particle objectives are exact: one Gaussian (quadrature), one discrete (enumeration).

Every estimator's mean and variance over draws is an integral (a sum) too, so unbiasedness and variance
rankings are checked without Monte-Carlo error. The objectives are written here once more, naively.
"""

import math

import numpy as np
import torch
from torch import Tensor

X, OBS_SD = 0.9, 0.6
GAUSSIAN = (0.4, 0.1, -0.2)  # theta, m, s
PRIOR_LOGITS = (0.2, -0.4, 0.9)
LIKELIHOOD = (-1.0, 0.3, -2.2)
GUIDE_LOGITS = (0.5, -0.3, 0.1)


def naive(objective, *, outer=1, alpha=None, beta=None):
    """The value of an objective as a plain function of (K, ...) log-weights."""

    def iwae(log_w):
        return log_w.exp().mean(0).log()

    def renyi(log_w, order):
        return (log_w * (1 - order)).exp().mean(0).log() / (1 - order)

    def jackknife(log_w):
        size = len(log_w)
        rest = [iwae(torch.cat([log_w[:k], log_w[k + 1 :]])) for k in range(size)]
        return size * iwae(log_w) - (size - 1) * sum(rest) / size

    return {
        "elbo": lambda log_w: log_w.mean(0),
        "iwae": iwae,
        "rws": iwae,
        "renyi": lambda log_w: renyi(log_w, alpha),
        "cubo": lambda log_w: renyi(log_w, alpha),
        "tail_adaptive": lambda log_w: log_w.mean(0),
        "miwae": lambda log_w: sum(iwae(part) for part in log_w.chunk(outer)) / outer,
        "piwae": iwae,
        "ciwae": lambda log_w: beta * log_w.mean(0) + (1 - beta) * iwae(log_w),
        "jackknife": jackknife,
    }[objective]


# -- Gaussian: p(z) = N(theta, 1), p(x|z) = N(z, .6), q = N(m, e^s) ------------------------------------


def normal_grid(size: int, nodes: int) -> tuple[Tensor, Tensor]:
    """Gauss–Hermite nodes (size, nodes^size) of independent standard normals, and their weights."""
    x, w = np.polynomial.hermite_e.hermegauss(nodes)
    x, w = torch.as_tensor(x), torch.as_tensor(w / w.sum())
    grid = torch.stack(torch.meshgrid(*[x] * size, indexing="ij")).reshape(size, -1)
    weight = torch.stack(torch.meshgrid(*[w] * size, indexing="ij")).reshape(size, -1).prod(0)
    return grid, weight


def _log_normal(value, mean, sd):
    return -((value - mean) ** 2) / (2 * sd**2) - torch.as_tensor(sd).log() - 0.5 * math.log(2 * math.pi)


def gaussian_log_weight(eps: Tensor, theta: Tensor, m: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """log w and z for the given noise."""
    z = m + s.exp() * eps
    one, obs_sd = torch.ones((), dtype=eps.dtype), torch.tensor(OBS_SD, dtype=eps.dtype)
    log_p = _log_normal(z, theta, one) + _log_normal(torch.tensor(X, dtype=eps.dtype), z, obs_sd)
    return log_p - _log_normal(z, m, s.exp()), z


def gaussian_exact(objective: str, size: int, nodes: int, **options) -> tuple[float, Tensor]:
    """E of the objective over the particles, and its gradient in (theta, m, s): autograd of quadrature."""
    parameters = torch.tensor(GAUSSIAN, dtype=torch.float64, requires_grad=True)
    eps, weight = normal_grid(size, nodes)
    log_w, _ = gaussian_log_weight(eps, *parameters)
    value = (weight * naive(objective, **options)(log_w)).sum()
    return float(value.detach()), torch.autograd.grad(value, parameters)[0]


def gaussian_gradient(eps: Tensor, coefficients, *, reparameterised: bool = True) -> Tensor:
    """One gradient in (theta, m, s) for each column of noise, built by hand from the coefficients: (n, 3)."""
    theta, m, s = (torch.tensor(v, dtype=eps.dtype) for v in GAUSSIAN)
    log_w, z = gaussian_log_weight(eps, theta, m, s)
    c = coefficients(log_w)
    score_m, score_s = (z - m) / (2 * s).exp(), (z - m) ** 2 / (2 * s).exp() - 1
    g_theta = (c.theta * (z - theta)).sum(0)
    if not reparameterised:
        return torch.stack([g_theta, (c.score_other * score_m).sum(0), (c.score_other * score_s).sum(0)], -1)
    slope = -(z - theta) + (X - z) / OBS_SD**2 + score_m  # d log w / dz
    g_m = (c.path * slope + c.score_reparam * score_m).sum(0)
    g_s = (c.path * slope * s.exp() * eps + c.score_reparam * score_s).sum(0)
    return torch.stack([g_theta, g_m, g_s], -1)


# -- discrete: three states, prior logits, log-likelihood vector t, guide logits -----------------------


def states(size: int) -> Tensor:
    """All 3^K joint draws, (K, 3^K)."""
    return torch.cartesian_prod(*[torch.arange(3)] * size).reshape(-1, size).T


def discrete_log_weight(z: Tensor, t: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
    """log w (K, n) and log q(z) (K, n)."""
    prior = torch.tensor(PRIOR_LOGITS, dtype=torch.float64).log_softmax(0)
    log_q = logits.log_softmax(0)[z]
    return prior[z] + t[z] - log_q, log_q


def discrete_exact(objective: str, size: int, **options) -> tuple[float, Tensor]:
    """E of the objective and its gradient in (t, logits): six numbers."""
    t = torch.tensor(LIKELIHOOD, dtype=torch.float64, requires_grad=True)
    logits = torch.tensor(GUIDE_LOGITS, dtype=torch.float64, requires_grad=True)
    log_w, log_q = discrete_log_weight(states(size), t, logits)
    value = (log_q.sum(0).exp() * naive(objective, **options)(log_w)).sum()
    return float(value.detach()), torch.cat(torch.autograd.grad(value, (t, logits)))


def discrete_gradient(z: Tensor, coefficients) -> Tensor:
    """One gradient in (t, logits) for each column of draws: (n, 6)."""
    t = torch.tensor(LIKELIHOOD, dtype=torch.float64)
    logits = torch.tensor(GUIDE_LOGITS, dtype=torch.float64)
    c = coefficients(discrete_log_weight(z, t, logits)[0])
    hot = torch.nn.functional.one_hot(z, 3).double()
    g_t = (c.theta[..., None] * hot).sum(0)
    g_logits = (c.score_other[..., None] * (hot - logits.softmax(0))).sum(0)
    return torch.cat([g_t, g_logits], -1)


def discrete_weight(z: Tensor) -> Tensor:
    """Probability of each column of draws."""
    logits = torch.tensor(GUIDE_LOGITS, dtype=torch.float64)
    return logits.log_softmax(0)[z].sum(0).exp()


def moments(gradient: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Exact mean and standard deviation over draws."""
    mean = (weight[:, None] * gradient).sum(0)
    return mean, ((weight[:, None] * (gradient - mean) ** 2).sum(0)).sqrt()


def z_scores(draws: Tensor, exact: Tensor) -> Tensor:
    """(mean - exact) in standard errors; 0 where every draw is exact."""
    se = draws.std(0) / math.sqrt(len(draws))
    error = draws.mean(0) - exact
    return torch.where(error.abs() < 1e-12, 0.0, error / se)
