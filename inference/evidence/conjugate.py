"""Evidence in closed form of the textbook conjugate models, as the oracle of every estimator."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from evidentia.inference.evidence.log_evidence import LogEvidence
from evidentia.inference.evidence.observed import observed_of
from evidentia.models.linear.conjugate_regression import ConjugateRegression
from evidentia.models.linear.priors import NormalInverseGamma

__all__ = [
    "beta_binomial",
    "dirichlet_multinomial",
    "gamma_poisson",
    "normal_inverse_gamma_regression",
    "normal_mean",
]


def beta_binomial(
    successes: Tensor, trials: Tensor | int, alpha: float = 1.0, beta: float = 1.0, *, site: str = "obs"
) -> LogEvidence:
    r"""p ~ Beta(alpha, beta); y_i ~ Binomial(n_i, p), i = 1 … n.

    \(\log Z = \sum_i \log \binom{n_i}{y_i} + \log B(\alpha + \sum y_i, \beta + \sum (n_i - y_i))
    - \log B(\alpha, \beta)\), nats.

    Args:
        successes: y (n,), whole numbers; trials: n_i, one number or (n,).
        alpha, beta: of the prior, positive.
        site: name of the observed site, for comparisons.

    Raises:
        ValueError: y outside 0 … n_i, or a prior that is not proper.

    References:
        Gelman, Carlin, Stern, Dunson, Vehtari and Rubin, 2013. Bayesian data analysis, chapter 2.

    Example:
        >>> print(beta_binomial(torch.tensor([3.0]), 10))  # uniform over 0 … 10: -log 11
        -2.3979 ± 0.0000 nats (exact)
    """
    y = _counts("beta_binomial", "successes", successes)
    n = torch.as_tensor(trials).double().expand_as(y)
    if bool((y > n).any()):
        raise ValueError(
            f"beta_binomial: successes up to {float(y.max()):g} of {float(n.min()):g} trials. "
            "Fix: give trials of each count, successes <= trials"
        )
    a, b = _positive("beta_binomial", alpha=alpha, beta=beta)
    value = _log_binomial(n, y).sum() + _log_beta(a + y.sum(), b + (n - y).sum()) - _log_beta(a, b)
    return _exact(value, "beta-binomial", site, successes)


def gamma_poisson(
    counts: Tensor,
    shape: float = 1.0,
    rate: float = 1.0,
    exposure: Tensor | float = 1.0,
    *,
    site: str = "obs",
) -> LogEvidence:
    r"""λ ~ Gamma(shape, rate); y_i ~ Poisson(e_i λ).

    \(\log Z = a \log b - \log\Gamma(a) + \log\Gamma(a + \sum y_i) - (a + \sum y_i) \log(b + \sum e_i)
    + \sum_i (y_i \log e_i - \log y_i!)\), nats.

    Args:
        counts: y (n,), whole numbers.
        shape, rate: a and b of the prior, positive.
        exposure: e, one number or (n,), positive.
        site: name of the observed site, for comparisons.

    Raises:
        ValueError: negative or broken counts, or a setting that is not positive.

    References:
        Gelman, Carlin, Stern, Dunson, Vehtari and Rubin, 2013. Bayesian data analysis, chapter 2.

    Example:
        >>> print(gamma_poisson(torch.tensor([0.0])))  # ∫ exp(-2 λ) dλ = 1/2
        -0.6931 ± 0.0000 nats (exact)
    """
    y = _counts("gamma_poisson", "counts", counts)
    a, b = _positive("gamma_poisson", shape=shape, rate=rate)
    time = torch.as_tensor(exposure).double().expand_as(y)
    if not bool((time > 0).all()):
        raise ValueError(f"gamma_poisson: exposure must be positive, got {exposure!r}; e.g. exposure=1.0")
    value = (
        a * b.log()
        - torch.lgamma(a)
        + torch.lgamma(a + y.sum())
        - (a + y.sum()) * (b + time.sum()).log()
        + (y * time.log() - torch.lgamma(y + 1)).sum()
    )
    return _exact(value, "gamma-Poisson", site, counts)


def dirichlet_multinomial(
    counts: Tensor, concentration: Tensor | float = 1.0, *, site: str = "obs"
) -> LogEvidence:
    r"""p ~ Dirichlet(a); each row of counts ~ Multinomial(its total, p).

    \(\log Z = \sum_i \log \frac{n_i!}{\prod_k y_{ik}!} + \log B(a + \sum_i y_i) - \log B(a)\), nats, with
    \(\log B(a) = \sum_k \log\Gamma(a_k) - \log\Gamma(\sum_k a_k)\).

    Args:
        counts: (K,) or (n, K), whole numbers.
        concentration: one number or (K,), positive.
        site: name of the observed site, for comparisons.

    Raises:
        ValueError: negative or broken counts, or a concentration that is not positive.

    References:
        Gelman, Carlin, Stern, Dunson, Vehtari and Rubin, 2013. Bayesian data analysis, chapter 3.

    Example:
        >>> print(dirichlet_multinomial(torch.tensor([2.0, 1.0, 0.0])))  # one of 10 ways to share 3 among 3
        -2.3026 ± 0.0000 nats (exact)
    """
    y = torch.atleast_2d(_counts("dirichlet_multinomial", "counts", counts))
    a = torch.as_tensor(concentration).double().expand(y.shape[-1])
    if not bool((a > 0).all()):
        raise ValueError(
            f"dirichlet_multinomial: concentration must be positive, got {concentration!r}; e.g. 1.0"
        )
    ways = torch.lgamma(y.sum(-1) + 1).sum() - torch.lgamma(y + 1).sum()
    after = a + y.sum(0)
    value = ways + _log_simplex(after) - _log_simplex(a)
    return _exact(value, "Dirichlet-multinomial", site, counts)


def normal_mean(
    y: Tensor, scale: float = 1.0, prior_loc: float = 0.0, prior_scale: float = 1.0, *, site: str = "obs"
) -> LogEvidence:
    r"""μ ~ N(m, t²); y_i ~ N(μ, s²), i = 1 … n: y ~ N(m 1, s² I + t² 11').

    \(\log Z = -\frac n2 \log 2\pi s^2 - \frac12 \log(1 + n t^2/s^2)
    - \frac{1}{2 s^2} \left( \sum r_i^2 - \frac{t^2 (\sum r_i)^2}{s^2 + n t^2} \right)\), r = y − m, nats.

    Args:
        y: (n,); scale: s, known; prior_loc, prior_scale: m and t.
        site: name of the observed site, for comparisons.

    Raises:
        ValueError: a scale that is not positive.

    References:
        Murphy, 2007. Conjugate Bayesian analysis of the Gaussian distribution.

    Example:
        >>> print(normal_mean(torch.tensor([0.0])))  # N(0; 0, 2)
        -1.2655 ± 0.0000 nats (exact)
    """
    s, t = _positive("normal_mean", scale=scale, prior_scale=prior_scale)
    r = torch.as_tensor(y).double().reshape(-1) - prior_loc
    n = r.numel()
    energy = r.square().sum() - (t * r.sum()).square() / (s.square() + n * t.square())
    value = -0.5 * (
        n * (2 * math.pi * s.square()).log() + torch.log1p(n * t.square() / s.square()) + energy / s.square()
    )
    return _exact(value, "normal mean", site, y)


def normal_inverse_gamma_regression(
    design: Tensor,
    y: Tensor,
    *,
    scale: float = 1.0,
    shape: float = 2.0,
    rate: float = 1.0,
    intercept: bool = False,
    site: str = "obs",
) -> LogEvidence:
    """σ² ~ InvGamma(shape, rate); w | σ² ~ N(0, σ² scale² I); y ~ N(X w, σ² I): `ConjugateRegression`.

    Args:
        design: X (n, P), its column of ones included if wanted.
        y: (n,).
        scale, shape, rate: of the prior `NormalInverseGamma`, as is `intercept` (flat, integrated out).
        site: name of the observed site, for comparisons.

    Raises:
        ValueError: shapes do not match, or a setting is out of range.

    References:
        O'Hagan and Forster, 2004. Kendall's advanced theory of statistics 2B: Bayesian inference.

    Example:
        >>> x = torch.ones(2, 1, dtype=torch.float64)
        >>> print(normal_inverse_gamma_regression(x, torch.tensor([1.0, 2.0], dtype=torch.float64)))
        -3.7735 ± 0.0000 nats (exact)
    """
    prior = NormalInverseGamma(scale=scale, shape=shape, rate=rate, intercept=intercept)
    problem = ConjugateRegression(prior, design, y)
    value = problem.log_evidence(torch.ones(1, problem.gates or 0, dtype=torch.float64))[0]
    return _exact(value, "normal-inverse-gamma regression", site, y)


def _exact(value: Tensor, name: str, site: str, observed: Tensor) -> LogEvidence:
    diagnostics: dict[str, Any] = {
        "method": "exact",
        "warnings": (),
        "closed_form": name,
        "observed": {site: observed_of(torch.as_tensor(observed))},
    }
    return LogEvidence.checked(float(value), 0.0, "exact", diagnostics)


def _counts(owner: str, name: str, value: Tensor) -> Tensor:
    counts = torch.as_tensor(value).double()
    if not bool(((counts >= 0) & (counts == counts.floor()) & counts.isfinite()).all()):
        raise ValueError(f"{owner}: {name} must be whole numbers >= 0, got {value!r}")
    return counts


def _positive(owner: str, **settings: float) -> tuple[Tensor, ...]:
    for name, value in settings.items():
        if not 0 < float(value) < math.inf:
            raise ValueError(f"{owner}: {name} must be positive and finite, got {value!r}; e.g. {name}=1.0")
    return tuple(torch.tensor(float(value), dtype=torch.float64) for value in settings.values())


def _log_beta(a: Tensor, b: Tensor) -> Tensor:
    return torch.lgamma(a) + torch.lgamma(b) - torch.lgamma(a + b)


def _log_binomial(n: Tensor, k: Tensor) -> Tensor:
    return torch.lgamma(n + 1) - torch.lgamma(k + 1) - torch.lgamma(n - k + 1)


def _log_simplex(a: Tensor) -> Tensor:
    return torch.lgamma(a).sum() - torch.lgamma(a.sum())
