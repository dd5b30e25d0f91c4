"""Three posteriors used all over the tests: each function returns a Pyro model and its arguments."""

import math

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

SCHOOLS_Y = (28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0)
SCHOOLS_SCALE = (15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0)


def schools_model(y: Tensor, scale: Tensor) -> None:
    """Eight schools, non-centred: y ~ N(mu + tau t, scale), t ~ N(0, 1); D = 10; tau ~ HalfCauchy(5)."""
    mu = pyro.sample("mu", dist.Normal(y.new_tensor(0.0), 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(y.new_tensor(5.0)))
    with pyro.plate("schools", len(y)):
        t = pyro.sample("t", dist.Normal(y.new_tensor(0.0), 1.0))
        pyro.sample("obs", dist.Normal(mu + tau * t, scale), obs=y)


def eight_schools(dtype: torch.dtype = torch.float64):
    """Model and (y, scale); log evidence -31.31135."""
    return schools_model, (torch.tensor(SCHOOLS_Y, dtype=dtype), torch.tensor(SCHOOLS_SCALE, dtype=dtype))


def logistic_model(x: Tensor, y: Tensor) -> None:
    """Hierarchical logistic regression, centred; sites tau, alpha, beta."""
    tau = pyro.sample("tau", dist.HalfCauchy(x.new_tensor(1.0)))
    alpha = pyro.sample("alpha", dist.Normal(x.new_tensor(0.0), 5.0))
    beta = pyro.sample("beta", dist.Normal(x.new_zeros(x.shape[-1]), tau).to_event(1))
    with pyro.plate("data", len(x)):
        pyro.sample("obs", dist.Bernoulli(logits=alpha + x @ beta), obs=y)


def logistic(dtype: torch.dtype = torch.float64):
    """Model and (x, y): breast cancer, its first 23 features standardised; N = 569, D = 25."""
    from sklearn.datasets import load_breast_cancer

    data, label = load_breast_cancer(return_X_y=True)
    data = data[:, :23]
    x = torch.tensor((data - data.mean(0)) / data.std(0), dtype=dtype)
    return logistic_model, (x, torch.tensor(label, dtype=dtype))


def gaussian_model(scale_tril: Tensor) -> None:
    """One multivariate normal site `x`; no data."""
    pyro.sample("x", dist.MultivariateNormal(scale_tril.new_zeros(len(scale_tril)), scale_tril=scale_tril))


def gaussian(dtype: torch.dtype = torch.float64, dim: int = 100):
    """Model and (scale_tril,): variances log-spaced from 1e-2 to 1e2, random axes (condition number 1e4)."""
    generator = torch.Generator().manual_seed(5)
    axes, _ = torch.linalg.qr(torch.randn(dim, dim, generator=generator, dtype=torch.float64))
    variance = torch.logspace(-2, 2, dim, dtype=torch.float64)
    factor = torch.linalg.cholesky((axes * variance) @ axes.mT)
    return gaussian_model, (factor.to(dtype),)


def gaussian_covariance(dim: int = 100) -> Tensor:
    """The exact covariance of `gaussian`, float64."""
    (factor,) = gaussian(dim=dim)[1]
    return factor @ factor.mT


def schools_log_evidence() -> float:
    """By quadrature over log tau: y given tau is N(0, diag(scale^2 + tau^2) + 25 11')."""
    y = torch.tensor(SCHOOLS_Y, dtype=torch.float64)
    scale = torch.tensor(SCHOOLS_SCALE, dtype=torch.float64)
    log_tau = torch.linspace(-25.0, 25.0, 20001, dtype=torch.float64)
    tau = log_tau.exp()
    covariance = torch.diag_embed(scale**2 + tau[:, None] ** 2) + 25.0
    value = torch.distributions.MultivariateNormal(y.new_zeros(8), covariance).log_prob(y)
    prior = math.log(2 / (math.pi * 5.0)) - torch.log1p((tau / 5.0) ** 2) + log_tau
    return float(torch.logsumexp(value + prior, 0) + math.log(50.0 / 20000))
