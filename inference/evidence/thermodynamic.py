"""Evidence out of power posteriors: thermodynamic integration, stepping-stone sampling and WBIC."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor

from evidentia.inference.evidence.log_evidence import LogEvidence
from evidentia.inference.evidence.moves import Density
from evidentia.inference.evidence.pareto import tail_shape
from evidentia.inference.evidence.power_posteriors import PowerPosteriors, power_posteriors

__all__ = ["prior_tail", "stepping_stone", "thermodynamic_integration", "wbic"]

# From this shape on the mean of a tail does not exist; from that one on draws say little about it.
NO_MEAN, HEAVY = 1.0, 0.7


def thermodynamic_integration(
    power: PowerPosteriors, *, first_step: Literal["importance", "trapezoid"] = "importance"
) -> LogEvidence:
    r"""The integral of the mean log likelihood over the inverse temperature, by corrected trapezoids.

    \[ \log Z = \int_0^1 E_\beta[\log \ell]\, d\beta \approx \sum_k \Bigl[ \frac{\Delta_k}{2} (E_k + E_{k+1})
       - \frac{\Delta_k^2}{12} (V_{k+1} - V_k) \Bigr] \]

    with \(V = dE/d\beta\) the variance of the log likelihood.

    Args:
        power: draws at each temperature.
        first_step: how to leave the prior. "importance": \(\log E_0[\ell^{\beta_1}]\) from prior draws,
            which exists for every prior. "trapezoid": through \(E_0\), which need not exist under a
            heavy-tailed prior.

    Returns:
        `LogEvidence` of kind "consistent estimate". Its error has two parts in quadrature: Monte Carlo, from
        the spread of the chains, and quadrature, from half of the temperatures. Diagnostics: `method`,
        `warnings`, `trapezoid`, `monte_carlo_error`, `quadrature_error`, `prior_tail`, `num_temperatures`.

    Raises:
        ValueError: "trapezoid" with a ladder that does not start at 0, or with a prior under which the mean
            of the log likelihood does not exist.

    References:
        Friel, Hurn and Wyse, 2014, Improving power posterior estimation of statistical evidence.

    Example:
        >>> g = torch.Generator().manual_seed(0)
        >>> draws = torch.randn(3, 4, 50, generator=g, dtype=torch.float64) - 5.0
        >>> betas = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
        >>> power = PowerPosteriors(betas, draws, draws[0].flatten(), torch.ones(3))
        >>> -5.5 < thermodynamic_integration(power, first_step="trapezoid").value < -4.5
        True
    """
    betas, value = power.betas, power.log_likelihood
    tail = prior_tail(power.prior_log_likelihood)
    warnings = []
    if not tail < HEAVY:
        warnings.append(f"heavy prior: the tail of its log likelihood has shape {tail:.2f}")
    if first_step == "trapezoid":
        if betas[0] != 0:
            raise ValueError(
                f"betas: the trapezoid needs the prior, the ladder starts at {float(betas[0])}. "
                'Fix: first_step="importance"'
            )
        if not tail < NO_MEAN:
            raise ValueError(
                f"thermodynamic_integration: the prior mean of the log likelihood does not exist (tail "
                f'shape {tail:.2f}, wanted below {NO_MEAN}). Fix: first_step="importance", or stepping_stone'
            )
        begin, offset, error = 0, 0.0, 0.0
    else:
        begin = 1 if betas[0] == 0 else 0
        log_weight = betas[begin] * power.prior_log_likelihood
        offset, error, ess = _log_mean(log_weight.unsqueeze(-1))
        if ess < 10:
            warnings.append(f"effective size of the first step only {ess:.1f}: a smaller first temperature")
    betas, value = betas[begin:], value[begin:]
    trapezoid, corrected, monte_carlo = _integral(betas, value)
    half = sorted({0, *range(len(betas) - 1, -1, -2)})
    # Two temperatures have no half: the correction itself is the scale of the error.
    coarse = _integral(betas[half], value[half])[1] if len(half) < len(betas) else trapezoid
    quadrature = abs(coarse - corrected)
    monte_carlo = math.hypot(monte_carlo, error)
    if quadrature > max(3 * monte_carlo, 0.1):
        warnings.append(f"quadrature error {quadrature:.2f} nats: more temperatures, or stepping_stone")
    diagnostics: dict[str, Any] = {
        "method": "thermodynamic integration",
        "warnings": tuple(warnings),
        "trapezoid": offset + trapezoid,
        "monte_carlo_error": monte_carlo,
        "quadrature_error": quadrature,
        "prior_tail": tail,
        "num_temperatures": len(power.betas),
    }
    return LogEvidence.checked(
        offset + corrected, math.hypot(monte_carlo, quadrature), "consistent estimate", diagnostics
    )


def stepping_stone(power: PowerPosteriors) -> LogEvidence:
    r"""A product of importance ratios between neighbouring temperatures.

    \[ \log Z = \sum_k \log E_{\beta_k}\bigl[\ell^{\beta_{k+1} - \beta_k}\bigr] \]

    Args:
        power: draws at each temperature; those of the adaptive ladder have equal effective sizes.

    Returns:
        `LogEvidence` of kind "consistent estimate" with the error of the stages' relative variances, each
        from the spread of its chains. Diagnostics: `method`, `warnings`, `ess_fraction` (the smallest, of
        independent draws), `log_ratios`, `num_temperatures`.

    References:
        Xie, Lewis, Fan, Kuo and Chen, 2011, Improving marginal likelihood estimation for Bayesian
        phylogenetic model selection.

    Example:
        >>> draws = torch.full((3, 4, 5), -3.0, dtype=torch.float64)
        >>> betas = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
        >>> stepping_stone(PowerPosteriors(betas, draws, draws[0].flatten(), torch.ones(3))).value
        -3.0
    """
    betas = torch.cat([power.betas.new_zeros(1), power.betas[power.betas > 0]])
    ratios, errors, fractions = [], [], []
    above = power.log_likelihood[power.betas > 0]
    for k, step in enumerate(betas.diff()):
        # The prior's draws are independent: each is a chain of its own.
        draws = power.prior_log_likelihood.unsqueeze(-1) if k == 0 else above[k - 1]
        ratio, error, ess = _log_mean(step * draws)
        ratios.append(ratio)
        errors.append(error)
        fractions.append(ess / draws.numel())
    warnings = []
    if min(fractions) < 0.05:
        warnings.append(
            f"effective fraction of a step only {min(fractions):.3f}: more temperatures, or betas='adaptive'"
        )
    diagnostics: dict[str, Any] = {
        "method": "stepping-stone sampling",
        "warnings": tuple(warnings),
        "ess_fraction": min(fractions),
        "log_ratios": tuple(ratios),
        "num_temperatures": len(betas),
    }
    error = math.sqrt(sum(each**2 for each in errors))
    return LogEvidence.checked(sum(ratios), error, "consistent estimate", diagnostics)


def wbic(density: Density, num_data: int, **settings: Any) -> LogEvidence:
    r"""The widely applicable Bayesian information criterion: \(E_\beta[\log \ell]\), \(\beta = 1 / \log n\).

    Args:
        density: `LogDensity` of n data, or a tempered density.
        num_data: n, at least 3.
        settings: keywords of `power_posteriors`: `num_chains`, `num_draws`, `prior_draws`, `generator` …

    Returns:
        `LogEvidence` in nats, larger is better; its error is Monte Carlo only. It approximates the evidence
        up to the root of log n even for singular models; a warning says so.

    Raises:
        ValueError: fewer than 3 data, or as `power_posteriors`.

    References:
        Watanabe, 2013, A widely applicable Bayesian information criterion.

    Example:
        >>> from evidentia.inference.density.evaluation import tempered_of
        >>> constant = tempered_of(lambda x: -0.5 * x.square().sum(-1), lambda x: 0.0 * x.sum(-1) - 3.0)
        >>> draws = lambda num, generator: torch.randn(num, 1, generator=generator)
        >>> wbic(constant, 10, num_draws=5, prior_draws=draws).value
        -3.0
    """
    if num_data < 3:
        raise ValueError(f"num_data: expected at least 3 data, got {num_data}. Fix: the number of rows")
    ladder = torch.tensor([1 / math.log(num_data), 1.0], dtype=torch.float64)
    chains = power_posteriors(density, ladder, **settings).log_likelihood[0].mean(-1)
    error = float(chains.std()) / math.sqrt(len(chains))
    diagnostics = {"method": "WBIC", "warnings": ("approximates the evidence up to the root of log n",)}
    return LogEvidence.checked(float(chains.mean()), error, "consistent estimate", diagnostics)


def prior_tail(log_likelihood: Tensor) -> float:
    """Shape k of the lower tail of the log likelihood under the prior: its mean exists for k below 1.

    Args:
        log_likelihood: (M,), nats, of independent prior draws.

    Returns:
        The shape; infinite when a value is not finite, minus infinity for a constant.

    References:
        Vehtari, Simpson, Gelman, Yao and Gabry, 2024, Pareto smoothed importance sampling.

    Example:
        >>> uniform = torch.rand(4000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        >>> 1.8 < prior_tail(-(uniform**-2.0)) < 2.2
        True
    """
    if not bool(torch.isfinite(log_likelihood).all()):
        return math.inf
    depth = log_likelihood.max() - log_likelihood
    if not bool((depth > 0).any()):
        return -math.inf
    return float(tail_shape(depth.clamp(min=1e-300).log().unsqueeze(-1)))


def _integral(betas: Tensor, value: Tensor) -> tuple[float, float, float]:
    """Trapezoid, corrected trapezoid and its Monte-Carlo error, of log likelihoods (B, P, N)."""
    step = betas.diff()
    mean = value.mean((1, 2), keepdim=True)
    square = (value - mean).square()
    pad = torch.nn.functional.pad
    height = (pad(step, (0, 1)) + pad(step, (1, 0))) / 2
    slope = (pad(step**2, (1, 0)) - pad(step**2, (0, 1))) / 12
    trapezoid = float(height @ mean.flatten())
    correction = float(slope @ square.mean((1, 2)))
    # What each chain says about its temperature's share of the sum.
    shares = height.unsqueeze(-1) * value.mean(-1) - slope.unsqueeze(-1) * square.mean(-1)
    variance = shares.var(1).sum() / value.shape[1]
    return trapezoid, trapezoid - correction, math.sqrt(float(variance))


def _log_mean(log_weight: Tensor) -> tuple[float, float, float]:
    """Log of the mean weight, its error from the spread of the chains (P, N), and the effective size."""
    flat = log_weight.flatten()
    value = flat.logsumexp(0) - math.log(len(flat))
    chains = (log_weight - value).exp().mean(-1)
    error = chains.std() / math.sqrt(len(chains))
    return float(value), float(error), float(1 / flat.softmax(0).square().sum())
