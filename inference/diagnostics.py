"""The bridge to ArviZ: InferenceData from any result, LOO and comparison, checks as plain records, netCDF.

No other module imports ArviZ, and this one does so inside its functions.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import torch

from evidentia.inference.idata.checks import Diagnostic as Diagnostic
from evidentia.inference.idata.checks import chain_checks, idata_entries, pareto_k_of, scalar_entries
from evidentia.inference.idata.draws import Draws
from evidentia.inference.idata.groups import draws_groups, fit_groups
from evidentia.inference.idata.parts import MANDATORY, Groups, Request
from evidentia.inference.idata.verdict import Verdict
from evidentia.inference.structure.posterior import StructurePosterior
from evidentia.inference.training.fitted import Fit

if TYPE_CHECKING:
    import pandas as pd

InferenceData: TypeAlias = Any
SCHEMA = 1
_HDF5 = b"\x89HDF\r\n\x1a\n"

__all__ = [
    "Diagnostic",
    "compare",
    "guide_check",
    "load",
    "loo",
    "mcmc_checks",
    "pareto_k",
    "save",
    "summary",
    "to_idata",
    "verdict",
]


def to_idata(
    result: Fit | Draws | StructurePosterior,
    model: Callable[..., Any] | None = None,
    *args: Any,
    obs: str | Sequence[str] | None = None,
    num_draws: int = 1000,
    prior_draws: int = 500,
    seed: int = 0,
    local: bool = False,
    dims: Mapping[str, Sequence[str]] | None = None,
    coords: Mapping[str, Sequence[Any]] | None = None,
    attrs: Mapping[str, Any] | None = None,
    notice: Callable[[str], object] | None = None,
    **kwargs: Any,
) -> InferenceData:
    """An InferenceData with every mandatory group, so that `az.loo`, `az.compare` and the plots run on it.

    Args:
        result: a `Fit` (draws of the guide, one chain), `Draws`, or a `StructurePosterior` (draws of
            structures and of their weights).
        model: the model; that of the result when None.
        args: the model's arguments, data included, as are further keywords.
        obs: names of observed sites; all of them when None.
        num_draws: draws from a guide or of enumerated structures; Markov chain draws are taken as they are.
        prior_draws: draws from the prior.
        seed: seed of everything drawn here; the caller's generator is put back.
        local: save latents that have a value per datum too.
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
    if model is None:
        model = result.pair[0] if isinstance(result, Fit) else getattr(result, "model", None)
    if model is None:
        raise ValueError("to_idata: pass the model that the draws came from")
    request = Request(model, args, kwargs, obs, num_draws, prior_draws, local, dict(dims or {}), notice)
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        if isinstance(result, Fit):
            groups = fit_groups(result, request)
        elif isinstance(result, Draws):
            groups = draws_groups(result, request)
        elif isinstance(result, StructurePosterior):
            import pyro

            from evidentia.inference.idata.structure_groups import structure_groups

            with pyro.get_param_store().scope():
                groups = structure_groups(result, request, seed)
        else:
            raise ValueError(
                f"to_idata: expected a Fit, Draws or a StructurePosterior, got {type(result).__name__}"
            )
    groups.coords |= dict(coords or {})
    groups.attrs |= dict(attrs or {})
    return _inference_data(groups)


def _inference_data(groups: Groups) -> InferenceData:
    """Turn plain groups into InferenceData; no time stamp, so that equal results are equal files."""
    import arviz as az
    import numpy as np
    import pyro
    import xarray as xr

    missing = [name for name in MANDATORY if name not in groups.groups and name not in groups.attrs]
    empty = [name for name, group in groups.groups.items() if not group.variables and name in MANDATORY]
    if missing or [name for name in empty if name != "posterior"]:
        raise ValueError(f"to_idata: the mandatory groups {missing or empty} would be missing or empty")
    common = {"schema": SCHEMA, "torch": torch.__version__, "pyro": pyro.__version__, "arviz": az.__version__}
    datasets: dict[str, Any] = {}
    for name, group in groups.groups.items():
        sizes = {d: n for dims, v in group.variables.values() for d, n in zip(dims, np.shape(v), strict=True)}
        coords = {dim: np.asarray(groups.coords.get(dim, np.arange(size))) for dim, size in sizes.items()}
        wrong = {dim: (len(coords[dim]), size) for dim, size in sizes.items() if len(coords[dim]) != size}
        if wrong:
            raise ValueError(f"coords: (values, size of the dimension) differ: {wrong}")
        attrs = {key: _attribute(value) for key, value in (common | groups.attrs | group.attrs).items()}
        datasets[name] = xr.Dataset(group.variables, coords, attrs)
    return az.InferenceData(**datasets)


def _attribute(value: Any) -> Any:
    """A value netCDF can keep."""
    return value if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


def save(idata: InferenceData, path: Path | str) -> None:
    """Write netCDF (h5netcdf); the same InferenceData gives the same bytes.

    Raises:
        ValueError: a mandatory group is missing and no attribute says why.
        OSError: the disk refuses.

    References:
        none; bookkeeping.
    """
    there = set(idata.groups())
    missing = [name for name in MANDATORY if name not in there and name not in idata.posterior.attrs]
    if missing:
        raise ValueError(f"save: the mandatory groups {missing} are missing; build it with to_idata")
    idata.to_netcdf(str(path), engine="h5netcdf")


def load(path: Path | str) -> InferenceData:
    """Read a netCDF file written by `save` into memory; nothing in it is executed.

    Raises:
        ValueError: the file is not HDF5 (a pickle, say), is truncated, or has a newer schema.
        OSError: it cannot be opened.

    References:
        none; bookkeeping.
    """
    import arviz as az

    with open(path, "rb") as file:
        head = file.read(len(_HDF5))
    if head != _HDF5:
        raise ValueError(f"{path}: expected a netCDF-4 (HDF5) file, but it begins with {head!r}")
    try:
        with az.rc_context(  # type: ignore[attr-defined]
            {"data.load": "eager"}
        ):
            idata = az.from_netcdf(str(path), engine="h5netcdf")
        found = idata.posterior.attrs.get("schema", 0)
    except (OSError, KeyError, RuntimeError, AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: it is no whole netCDF file of draws ({error})") from error
    if int(found) > SCHEMA:
        raise ValueError(f"{path}: schema {found} is newer than {SCHEMA}; use a newer evidentia to read it")
    return idata


@contextmanager
def _known_warnings() -> Iterator[None]:
    """ArviZ warns about large k-hats, which a check reports here, and calls pandas in a way that is going."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Estimated shape parameter of Pareto", category=UserWarning)
        warnings.filterwarnings("ignore", message="The inplace keyword in DataFrame")
        yield


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

    with _known_warnings():
        return az.loo(idata, pointwise=pointwise, var_name=obs)


def compare(idatas: Mapping[str, InferenceData], *, obs: str | None = None) -> pd.DataFrame:
    """ArviZ's comparison table by LOO; refuses results on different data and names them.

    Raises:
        ValueError: fewer than two results, or different observations.

    References:
        Yao, Vehtari, Simpson, Gelman, 2018, Using stacking to average Bayesian predictive distributions.
    """
    import arviz as az
    import numpy as np

    if len(idatas) < 2:
        raise ValueError("compare: expected at least two results")
    (first, reference), *others = idatas.items()
    for name, other in others:
        for variable, value in reference.observed_data.data_vars.items():
            if variable not in other.observed_data:
                raise ValueError(f"compare: '{name}' does not observe '{variable}', which '{first}' does")
            theirs = other.observed_data[variable]
            if value.shape != theirs.shape:
                raise ValueError(
                    f"compare: '{first}' has observations {value.shape}, but '{name}' has {theirs.shape}"
                )
            if not np.array_equal(value.values, theirs.values):
                raise ValueError(f"compare: '{first}' and '{name}' have different data in '{variable}'")
    with _known_warnings():
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
    """k-hat of the importance weights log p(θ, y) − log q(θ) of a guide's draws; above 0.7 distrust the
    guide.

    Raises:
        ValueError: the draws did not come from a guide.

    References:
        Yao, Vehtari, Simpson, Gelman, 2018, Yes, but did it work? Evaluating variational inference.
    """
    import arviz as az

    return pareto_k_of(idata, az.psislw)


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
        names = result.samples if var_names is None else var_names
        arrays = {name: result.samples[name].detach().double().cpu().numpy() for name in names}
        entries = [entry for name, array in arrays.items() for entry in scalar_entries(name, array)]
        stats = {name: value.detach().cpu().numpy() for name, value in result.stats.items()}
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
