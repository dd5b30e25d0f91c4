"""The bridge to ArviZ: InferenceData from any result, LOO and comparison, checks as plain records, netCDF.

No other module imports ArviZ, and this one does so inside its functions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor

from evidentia.inference.idata.checks import Diagnostic as Diagnostic
from evidentia.inference.idata.checks import chain_checks, chain_entries, idata_entries, pareto_k_of
from evidentia.inference.idata.datasets import datasets
from evidentia.inference.idata.draws import Draws
from evidentia.inference.idata.files import check_schema, checked_reading
from evidentia.inference.idata.files import save as save
from evidentia.inference.idata.parts import Request
from evidentia.inference.idata.results import Result, model_of, result_groups
from evidentia.inference.idata.same_data import check_same_data, known_warnings
from evidentia.inference.idata.smoothed import Smoothed as Smoothed
from evidentia.inference.idata.smoothed import smoothed_weights
from evidentia.inference.idata.verdict import Verdict

if TYPE_CHECKING:
    import pandas as pd

InferenceData: TypeAlias = Any

__all__ = [
    "Diagnostic",
    "Smoothed",
    "compare",
    "guide_check",
    "load",
    "loo",
    "mcmc_checks",
    "pareto_k",
    "psis",
    "save",
    "summary",
    "to_idata",
    "verdict",
]


def to_idata(
    result: Result,
    model: Callable[..., Any] | None = None,
    *args: Any,
    obs: str | Sequence[str] | None = None,
    num_draws: int = 1000,
    prior_draws: int = 500,
    seed: int = 0,
    local: bool = False,
    max_chains: int | None = 64,
    dims: Mapping[str, Sequence[str]] | None = None,
    coords: Mapping[str, Sequence[Any]] | None = None,
    attrs: Mapping[str, Any] | None = None,
    notice: Callable[[str], object] | None = None,
    **kwargs: Any,
) -> InferenceData:
    """An InferenceData with every mandatory group, so that `az.loo`, `az.compare` and the plots run on it.

    Args:
        result: a `Fit` (draws of the guide, one chain), `Draws`, `ImportanceDraws` (resampled by their
            weights, one chain), or a `StructurePosterior` (draws of structures and of their weights).
        model: the model; that of the result when None.
        args: the model's arguments, data included, as are further keywords.
        obs: names of observed sites; all of them when None.
        num_draws: draws from a guide, of enumerated structures, or resampled from importance draws; Markov
            chain draws are taken as they are.
        prior_draws: draws from the prior.
        seed: seed of everything drawn here; the caller's generator is put back.
        local: save latents that have a value per datum too.
        max_chains: Markov chains that are kept, evenly spread over those that ran; all when None.
        dims: site -> names of its event dimensions.
        coords: dimension -> its coordinate values.
        attrs: attributes of every group (study, point, seed, data hash, ...); numbers and text.
        notice: called with notices; the logger "evidentia" when None.
        kwargs: keywords of the model.

    Returns:
        InferenceData. "/" in site names becomes "." in variable names.

    Raises:
        ValueError: the model cannot give log likelihoods, or a mandatory group would be missing.

    References:
        Kumar, Carroll, Hartikainen, Martin, 2019, ArviZ a unified library for exploratory analysis of
        Bayesian models in Python.

    Example:
        >>> from pyro import plate, sample
        >>> from pyro.distributions import Normal
        >>> from evidentia.inference.mcmc.nuts import nuts
        >>> def model(y):
        ...     mean = sample("mean", Normal(0.0, 1.0))
        ...     with plate("data", len(y)):
        ...         sample("obs", Normal(mean, 1.0), obs=y)
        >>> y = torch.tensor([0.1, 0.9, 0.3])
        >>> draws = nuts(model, y, num_draws=8, warmup_steps=20, num_chains=2, seed=0)
        >>> to_idata(draws, model, y, prior_draws=4).log_likelihood["obs"].shape
        (2, 8, 3)
    """
    program = model_of(result) if model is None else model
    request = Request(
        program, args, kwargs, obs, num_draws, prior_draws, local, dict(dims or {}), notice, max_chains
    )
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        groups = result_groups(result, request, seed)
    groups.coords |= dict(coords or {})
    groups.attrs |= dict(attrs or {})
    import arviz as az

    return az.InferenceData(**datasets(groups, az.__version__))


def load(path: Path | str) -> InferenceData:
    """Read a netCDF file written by `save` into memory; nothing in it is executed.

    Raises:
        ValueError: the file is not HDF5 (a pickle, say), is truncated, or has a newer schema.
        OSError: it cannot be opened.

    References:
        none; bookkeeping.
    """
    import arviz as az

    with checked_reading(path):
        with az.rc_context(  # type: ignore[attr-defined]
            {"data.load": "eager"}
        ):
            idata = az.from_netcdf(str(path), engine="h5netcdf")
        found = idata.posterior.attrs.get("schema", 0)
    check_schema(path, found)
    return idata


def loo(idata: InferenceData, *, obs: str | None = None, pointwise: bool = True) -> Any:
    """Leave-one-out predictive accuracy by Pareto-smoothed importance sampling, in nats.

    Args:
        idata: with a `log_likelihood` group.
        obs: the observed site, where there are several.
        pointwise: keep one value and one k-hat per datum.

    Returns:
        ArviZ's ELPDData: `elpd_loo`, `se`, `p_loo`, `loo_i`, `pareto_k`.

    References:
        Vehtari, Gelman, Gabry, 2017, Practical Bayesian model evaluation using leave-one-out
        cross-validation.
    """
    import arviz as az

    with known_warnings():
        return az.loo(idata, pointwise=pointwise, var_name=obs)


def compare(idatas: Mapping[str, InferenceData], *, obs: str | None = None) -> pd.DataFrame:
    """ArviZ's comparison table by LOO; refuses results on different data and names them.

    Raises:
        ValueError: fewer than two results, or different observations.

    References:
        Yao, Vehtari, Simpson, Gelman, 2018, Using stacking to average Bayesian predictive distributions.
    """
    import arviz as az

    check_same_data(idatas)
    with known_warnings():
        return az.compare(dict(idatas), ic="loo", var_name=obs)


def summary(idata: InferenceData, **options: Any) -> pd.DataFrame:
    """ArviZ's summary table of the posterior: mean, sd, interval, errors, ESS, R-hat.

    References:
        Kumar, Carroll, Hartikainen, Martin, 2019, ArviZ a unified library for exploratory analysis.
    """
    import arviz as az

    table: Any = az.summary(idata, **options)
    return table


def pareto_k(idata: InferenceData) -> float:
    """k-hat of the importance weights log p(θ, y) − log q(θ) of a guide's draws; a guide above 0.7 is bad.

    For log-weights at hand use `psis`.

    Raises:
        ValueError: the draws did not come from a guide.

    References:
        Yao, Vehtari, Simpson, Gelman, 2018, Yes, but did it work? Evaluating variational inference.
    """
    import arviz as az

    return pareto_k_of(idata, az.psislw)


def psis(log_weight: Tensor) -> Smoothed:
    r"""Smooth importance weights: the largest become quantiles of the generalised Pareto law fitted to them.

    Args:
        log_weight: (K, *plates), draws first, nats, up to a constant per column.

    Returns:
        `Smoothed`: log-weights (K, *plates) that are normalised over the draws, and k-hat (*plates); above
        0.7 an average with these weights is not to be trusted.

    Raises:
        ValueError: no draws, or NaN or +inf among the weights.

    References:
        Vehtari, Simpson, Gelman, Yao and Gabry, 2024, Pareto smoothed importance sampling.

    Example:
        >>> uniform = torch.rand(9000, 2, generator=torch.Generator().manual_seed(1))
        >>> found = psis(torch.tensor([-0.9, -0.2]) * uniform.log())  # Pareto weights with k = 0.9 and 0.2
        >>> [round(k, 1) for k in found.pareto_k.tolist()], found.log_weight.shape
        ([0.9, 0.2], torch.Size([9000, 2]))
    """
    import arviz as az

    return smoothed_weights(log_weight, az.psislw)


def guide_check(idata: InferenceData) -> Diagnostic:
    """`pareto_k` as a record.

    References:
        Vehtari, Simpson, Gelman, Yao, Gabry, 2024, Pareto smoothed importance sampling.
    """
    return Diagnostic("k_hat", pareto_k(idata), 0.7, "guide")


def mcmc_checks(result: InferenceData | Draws, *, var_names: Sequence[str] | None = None) -> list[Diagnostic]:
    """R-hat, bulk and tail ESS, divergences and E-BFMI as plain records; constant entries are left out.

    Args:
        result: InferenceData with a posterior, or `Draws`; a single chain is split in halves for R-hat. Where
            the draws know which chains began at one point and chains are short, the nested R-hat is given.
        var_names: variables to look at; all of them when None.

    Returns:
        Records in the order above; the last two only where the sampler has them.

    References:
        Vehtari, Gelman, Simpson, Carpenter, Buerkner, 2021, Rank-normalization, folding, and localization.
        Betancourt, 2016, Diagnosing suboptimal cotangent disintegrations in Hamiltonian Monte Carlo.
    """
    import arviz as az

    if isinstance(result, Draws):
        entries, stats = chain_entries(result, var_names)
        superchains = result.superchains
    else:
        entries = idata_entries(result, var_names)
        stats = {str(name): value.values for name, value in result.sample_stats.data_vars.items()}
        superchains = int(result.sample_stats.attrs.get("superchains", 0))
    return chain_checks(entries, stats, az.rhat, az.ess, superchains)


def verdict(draws: Draws) -> Verdict:
    """Every check of a sampling run with its limit, and a remedy for each that failed.

    An unadjusted sampler fails a check of its own: its draws keep a bias that no other check can see.

    References:
        Vehtari, Gelman, Simpson, Carpenter, Buerkner, 2021, Rank-normalization, folding, and localization.

    Example:
        >>> import torch
        >>> noise = torch.randn(4, 800, generator=torch.Generator().manual_seed(0))
        >>> found = verdict(Draws({"b": noise}, {"lp": noise}, {}, "max_steps", "hmc"))
        >>> found.passed, [check.name for check in found.checks]
        (True, ['r_hat', 'ess_bulk', 'ess_tail'])
    """
    checks = mcmc_checks(draws)
    if not draws.adjusted:
        checks.append(Diagnostic("unadjusted", 1.0, 0.0, draws.sampler))
    return Verdict(tuple(checks))
