"""Diagnostics of draws as plain records: name, value, threshold, and the site that is worst."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

__all__ = ["Diagnostic", "chain_checks", "pareto_k_of"]


class Diagnostic(NamedTuple):
    """One number with its limit.

    Attributes:
        name: `r_hat`, `ess_bulk`, `ess_tail`, `divergences`, `e_bfmi` or `k_hat`.
        value: the worst value found.
        threshold: its limit; ESS and E-BFMI must not be below it, the others not above.
        site: the variable (with its index) that has it.

    References:
        none; bookkeeping.

    Example:
        >>> Diagnostic("ess_bulk", 350.0, 400.0, "b[2]").passed
        False
    """

    name: str
    value: float
    threshold: float
    site: str

    @property
    def passed(self) -> bool:
        """Whether the value is within its limit; a value that is not a number never is."""
        if self.name in ("ess_bulk", "ess_tail", "e_bfmi"):
            return self.value >= self.threshold
        return self.value <= self.threshold


def pareto_k_of(idata: Any, psislw: Callable[..., Any]) -> float:
    """k-hat of a guide's draws, by ArviZ's `psislw`.

    Raises:
        ValueError: the draws did not come from a guide.

    References:
        Vehtari, Simpson, Gelman, Yao, Gabry, 2024, Pareto smoothed importance sampling.
    """
    stats = idata.sample_stats
    if "log_guide" not in stats:
        raise ValueError("pareto_k: sample_stats has no log_guide, so these are not draws of a guide")
    log_weight = (stats["lp"] - stats["log_guide"]).values.reshape(-1)
    if np.ptp(log_weight) == 0.0:
        return float("-inf")  # the guide is the posterior
    _, k = psislw(log_weight.copy())
    return float(k)


def chain_checks(
    idata: Any,
    rhat: Callable[..., Any],
    ess: Callable[..., Any],
    var_names: Sequence[str] | None = None,
) -> list[Diagnostic]:
    """Checks of Markov chain draws, given ArviZ's `rhat` and `ess`.

    References:
        Vehtari, Gelman, Simpson, Carpenter, Buerkner, 2021, Rank-normalization, folding, and localization.
    """
    posterior = idata.posterior
    # The index of a structure is a label, not a quantity.
    names = [name for name in posterior.data_vars if name != "structure_index"]
    names = names if var_names is None else list(var_names)
    entries = [(label, draws) for name in names for label, draws in _entries(posterior[name])]
    found: list[Diagnostic] = []
    for name, function, threshold, worst in (
        ("r_hat", lambda draws: rhat(_two(draws)), 1.01, max),
        ("ess_bulk", lambda draws: ess(draws, method="bulk"), 400.0, min),
        ("ess_tail", lambda draws: ess(draws, method="tail"), 400.0, min),
    ):
        with np.errstate(divide="ignore", invalid="ignore"):
            # Chains that stand still in different places have an infinite R-hat, and that is what is
            # reported.
            values = [(float(function(draws)), label) for label, draws in entries]
        bad = [pair for pair in values if not np.isfinite(pair[0])]
        if values:
            value, site = bad[0] if bad else worst(values)
            found.append(Diagnostic(name, value, threshold, site))
    stats = idata.sample_stats
    if "diverging" in stats:
        found.append(Diagnostic("divergences", float(stats["diverging"].values.sum()), 0.0, ""))
    if "energy" in stats:
        energy = stats["energy"].values
        with np.errstate(invalid="ignore", divide="ignore"):
            values = np.square(np.diff(energy, axis=1)).mean(1) / energy.var(1)
        chain = int(np.argmin(values))
        found.append(Diagnostic("e_bfmi", float(values[chain]), 0.3, f"chain {chain}"))
    return found


def _two(draws: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """At least two chains: a single one is split in halves."""
    if draws.shape[0] > 1:
        return draws
    half = draws.shape[1] // 2
    return draws[:, : 2 * half].reshape(2, half)


def _entries(variable: Any) -> list[tuple[str, np.ndarray[Any, Any]]]:
    """Every scalar of a variable that is not constant, with its label: (chain, draw) arrays."""
    values = np.asarray(variable.transpose("chain", "draw", ...).values, dtype=float)
    dims = [dim for dim in variable.dims if dim not in ("chain", "draw")]
    shape = values.shape[2:]
    found = []
    for index in np.ndindex(*shape):
        draws = values[(slice(None), slice(None), *index)]
        if np.ptp(draws) == 0.0:
            continue  # an indicator that never changed has no mixing to judge
        label = [str(variable.coords[dim].values[i]) for dim, i in zip(dims, index, strict=True)]
        found.append((f"{variable.name}[{', '.join(label)}]" if label else str(variable.name), draws))
    return found
