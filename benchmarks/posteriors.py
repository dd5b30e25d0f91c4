"""Eight posteriors of 3 to 100 dimensions, as data and as Pyro programs; the peers have the same ones.

Only numpy and scikit-learn are needed to make the data, so that a peer's environment can read this file; the
programs import torch and Pyro when they are asked for.

| name | dimension | what it is |
|---|---|---|
| gp | 3 | hyperparameters of a Gaussian process, 40 rows, function integrated out |
| eight_schools | 10 | hierarchical means, non-centred |
| diabetes | 12 | linear regression, 442 rows, unknown noise |
| counts | 19 | Poisson regression with 16 group effects, 160 rows |
| breast_cancer | 25 | hierarchical logistic regression, centred, 569 rows |
| tests | 44 | item response: 30 persons, 12 items |
| volatility | 63 | stochastic volatility of 60 returns, non-centred |
| gaussian | 100 | normal with condition number 10^4 and random axes; no data |
"""

from collections.abc import Callable
from typing import Any

import numpy as np

Arrays = dict[str, np.ndarray]


def gp() -> Arrays:
    """Forty noisy values of a smooth function."""
    rng = np.random.default_rng(1)
    x = np.sort(rng.uniform(-3, 3, 40))
    return {"x": x, "y": np.sin(1.5 * x) + 0.3 * x + rng.normal(0, 0.3, 40)}


def eight_schools() -> Arrays:
    """Rubin's coaching effects and their standard errors."""
    y, scale = (28, 8, -3, 7, -1, 1, 18, 12), (15, 10, 16, 11, 9, 11, 10, 18)
    return {"y": np.array(y, float), "scale": np.array(scale, float)}


def diabetes() -> Arrays:
    """scikit-learn's diabetes data, standardised."""
    from sklearn.datasets import load_diabetes

    x, y = load_diabetes(return_X_y=True)
    return {"x": x / x.std(0), "y": (y - y.mean()) / y.std()}


def counts() -> Arrays:
    """Counts of 16 groups of ten rows, with two covariates."""
    rng = np.random.default_rng(2)
    group = np.repeat(np.arange(16), 10)
    x = rng.normal(size=(160, 1))
    rate = np.exp(0.8 + 0.5 * rng.normal(size=16)[group] + 0.4 * x[:, 0])
    return {"x": x, "group": group, "y": rng.poisson(rate).astype(float)}


def breast_cancer() -> Arrays:
    """scikit-learn's breast-cancer data, its first 23 features standardised."""
    from sklearn.datasets import load_breast_cancer

    x, y = load_breast_cancer(return_X_y=True)
    x = x[:, :23]
    return {"x": (x - x.mean(0)) / x.std(0), "y": y.astype(float)}


def tests() -> Arrays:
    """Right and wrong answers of 30 persons to 12 items."""
    rng = np.random.default_rng(3)
    ability, difficulty = rng.normal(size=30), rng.normal(0.3, 1.0, 12)
    chance = 1 / (1 + np.exp(difficulty - ability[:, None]))
    return {"y": (rng.uniform(size=chance.shape) < chance).astype(float)}


def volatility() -> Arrays:
    """Sixty returns whose log variance is an autoregression."""
    rng = np.random.default_rng(4)
    h = np.zeros(60)
    for t in range(1, 60):
        h[t] = 0.9 * h[t - 1] + 0.4 * rng.normal()
    return {"y": np.exp(h / 2) * rng.normal(size=60)}


def gaussian() -> Arrays:
    """A Cholesky factor; variances spread evenly in the logarithm from 0.01 to 100."""
    rng = np.random.default_rng(5)
    axes, _ = np.linalg.qr(rng.normal(size=(100, 100)))
    return {"factor": np.linalg.cholesky((axes * np.logspace(-2, 2, 100)) @ axes.T)}


DATA: dict[str, Callable[[], Arrays]] = {
    each.__name__: each
    for each in (gp, eight_schools, diabetes, counts, breast_cancer, tests, volatility, gaussian)
}


def pyro_models() -> dict[str, Callable[..., Any]]:
    """name -> Pyro program; its keywords are the arrays of `DATA`, as tensors."""
    import pyro
    import torch
    from pyro import distributions as dist

    def site(name: str, law: Any) -> torch.Tensor:
        value: torch.Tensor = pyro.sample(name, law)
        return value

    def gp(x: torch.Tensor, y: torch.Tensor) -> None:
        amplitude = site("amplitude", dist.LogNormal(x.new_tensor(0.0), 1.0))
        length = site("length", dist.LogNormal(x.new_tensor(0.0), 1.0))
        noise = site("noise", dist.LogNormal(x.new_tensor(-1.0), 1.0))
        distance = (x[:, None] - x) / length
        kernel = amplitude**2 * torch.exp(-0.5 * distance**2) + (noise**2 + 1e-5) * torch.eye(len(x))
        site_obs("obs", dist.MultivariateNormal(torch.zeros_like(x), kernel), y)

    def eight_schools(y: torch.Tensor, scale: torch.Tensor) -> None:
        mu = site("mu", dist.Normal(y.new_tensor(0.0), 5.0))
        tau = site("tau", dist.HalfCauchy(y.new_tensor(5.0)))
        with pyro.plate("schools", len(y)):
            t = site("t", dist.Normal(y.new_tensor(0.0), 1.0))
            site_obs("obs", dist.Normal(mu + tau * t, scale), y)

    def diabetes(x: torch.Tensor, y: torch.Tensor) -> None:
        intercept = site("intercept", dist.Normal(x.new_tensor(0.0), 1.0))
        beta = site("beta", dist.Normal(x.new_zeros(10), 1.0).to_event(1))
        noise = site("noise", dist.HalfNormal(x.new_tensor(1.0)))
        with pyro.plate("data", len(y)):
            site_obs("obs", dist.Normal(intercept + x @ beta, noise), y)

    def counts(x: torch.Tensor, group: torch.Tensor, y: torch.Tensor) -> None:
        intercept = site("intercept", dist.Normal(x.new_tensor(0.0), 2.0))
        beta = site("beta", dist.Normal(x.new_tensor(0.0), 1.0))
        tau = site("tau", dist.HalfNormal(x.new_tensor(1.0)))
        effect = site("effect", dist.Normal(x.new_zeros(16), 1.0).to_event(1))
        with pyro.plate("data", len(y)):
            rate = torch.exp(intercept + tau * effect[group] + beta * x[:, 0])
            site_obs("obs", dist.Poisson(rate), y)

    def breast_cancer(x: torch.Tensor, y: torch.Tensor) -> None:
        tau = site("tau", dist.HalfCauchy(x.new_tensor(1.0)))
        alpha = site("alpha", dist.Normal(x.new_tensor(0.0), 5.0))
        beta = site("beta", dist.Normal(x.new_zeros(23), tau).to_event(1))
        with pyro.plate("data", len(y)):
            site_obs("obs", dist.Bernoulli(logits=alpha + x @ beta), y)

    def tests(y: torch.Tensor) -> None:
        mean = site("mean", dist.Normal(y.new_tensor(0.0), 1.0))
        spread = site("spread", dist.HalfNormal(y.new_tensor(1.0)))
        ability = site("ability", dist.Normal(y.new_zeros(30), 1.0).to_event(1))
        item = site("item", dist.Normal(y.new_zeros(12), 1.0).to_event(1))
        logits = ability[:, None] - (mean + spread * item)
        site_obs("obs", dist.Bernoulli(logits=logits).to_event(2), y)

    def volatility(y: torch.Tensor) -> None:
        mean = site("mean", dist.Normal(y.new_tensor(0.0), 2.0))
        phi = site("phi", dist.Beta(y.new_tensor(20.0), 1.5))
        sigma = site("sigma", dist.HalfNormal(y.new_tensor(0.5)))
        noise = site("noise", dist.Normal(y.new_zeros(60), 1.0).to_event(1))
        state, path = torch.zeros_like(mean), []
        for innovation in noise:
            state = phi * state + sigma * innovation
            path.append(state)
        h = mean + torch.stack(path)
        site_obs("obs", dist.Normal(torch.zeros_like(y), torch.exp(h / 2)).to_event(1), y)

    def gaussian(factor: torch.Tensor) -> None:
        site("x", dist.MultivariateNormal(factor.new_zeros(100), scale_tril=factor))

    def site_obs(name: str, law: Any, value: torch.Tensor) -> None:
        pyro.sample(name, law, obs=value)

    programs = (gp, eight_schools, diabetes, counts, breast_cancer, tests, volatility, gaussian)
    return {each.__name__: each for each in programs}
