"""Diagnostics of draws as plain records: name, value, threshold, and the site that is worst."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from evidentia.inference.idata.draws import Draws
from evidentia.inference.idata.nested_rhat import nested_rhat

__all__ = [
    "Array",
    "Diagnostic",
    "Entry",
    "chain_checks",
    "chain_entries",
    "idata_entries",
    "pareto_k_of",
    "scalar_entries",
]

Array: TypeAlias = np.ndarray[Any, Any]
Entry: TypeAlias = tuple[str, Array]


class Diagnostic(NamedTuple):
    """One number with its limit.

    Attributes:
        name: `r_hat`, `nested_r_hat`, `ess_bulk`, `ess_tail`, `divergences`, `e_bfmi` or `k_hat`.
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
    if "pareto_k" in stats.attrs:
        return float(stats.attrs["pareto_k"])  # of importance draws, before they were resampled
    if "log_guide" not in stats:
        raise ValueError("pareto_k: sample_stats has no log_guide, so these are not draws of a guide")
    log_weight = (stats["lp"] - stats["log_guide"]).values.reshape(-1)
    if np.ptp(log_weight) == 0.0:
        return float("-inf")  # the guide is the posterior
    _, k = psislw(log_weight.copy())
    return float(k)


def chain_checks(
    entries: Sequence[Entry],
    stats: Mapping[str, Array],
    rhat: Callable[..., Any],
    ess: Callable[..., Any],
    superchains: int = 0,
) -> list[Diagnostic]:
    """Checks of Markov chain draws, given ArviZ's `rhat` and `ess`.

    Where chains that share their starting point are known and a chain has fewer than 100 effective draws (of
    bulk or tails, for R-hat sees both), the nested R-hat takes the place of the usual one, which is above its
    limit for any short chain.

    Args:
        entries: label and (chain, draw) array of every scalar that varies.
        stats: `diverging` and `energy`, (chain, draw), as far as the sampler has them.
        rhat: ArviZ's function.
        ess: ArviZ's function.
        superchains: number of groups of consecutive chains with a common start; 0 when unknown.

    References:
        Vehtari, Gelman, Simpson, Carpenter, Buerkner, 2021, Rank-normalization, folding, and localization.
        Margossian, Hoffman, Sountsov, Riou-Durand, Vehtari and Gelman, 2024, Nested R-hat.
    """
    found: list[Diagnostic] = []
    with np.errstate(divide="ignore", invalid="ignore"):
        # Chains that stand still in different places have an infinite R-hat, and that is what is reported.
        bulk = [(float(ess(draws, method="bulk")), label) for label, draws in entries]
        tail = [(float(ess(draws, method="tail")), label) for label, draws in entries]
        chains = entries[0][1].shape[0] if entries else 1
        if superchains > 1 and min(bulk + tail)[0] < 100 * chains:
            group = np.arange(chains) // (chains // superchains)
            found += _worst(
                "nested_r_hat", [(nested_rhat(d, group), label) for label, d in entries], 1.01, max
            )
        else:
            usual = [(float(rhat(_two(draws))), label) for label, draws in entries]
            found += _worst("r_hat", usual, 1.01, max)
    found += _worst("ess_bulk", bulk, 400.0, min) + _worst("ess_tail", tail, 400.0, min)
    if "diverging" in stats:
        found.append(Diagnostic("divergences", float(stats["diverging"].sum()), 0.0, ""))
    if "energy" in stats:
        energy = stats["energy"]
        with np.errstate(invalid="ignore", divide="ignore"):
            values = np.square(np.diff(energy, axis=1)).mean(1) / energy.var(1)
        chain = int(np.argmin(values))
        found.append(Diagnostic("e_bfmi", float(values[chain]), 0.3, f"chain {chain}"))
    return found


def _worst(
    name: str, values: Sequence[tuple[float, str]], threshold: float, worst: Callable[..., Any]
) -> list[Diagnostic]:
    bad = [pair for pair in values if not np.isfinite(pair[0])]
    if not values:
        return []
    value, site = bad[0] if bad else worst(values)
    return [Diagnostic(name, value, threshold, site)]


def _two(draws: Array) -> Array:
    """At least two chains: a single one is split in halves."""
    if draws.shape[0] > 1:
        return draws
    half = draws.shape[1] // 2
    return draws[:, : 2 * half].reshape(2, half)


def chain_entries(
    draws: Draws, var_names: Sequence[str] | None = None
) -> tuple[list[Entry], dict[str, Array]]:
    """Every scalar of Markov chain draws that is not constant, and what the sampler says of each draw.

    References:
        none; bookkeeping.
    """
    names = draws.samples if var_names is None else var_names
    arrays = {name: draws.samples[name].detach().double().cpu().numpy() for name in names}
    entries = [entry for name, array in arrays.items() for entry in scalar_entries(name, array)]
    return entries, {name: value.detach().cpu().numpy() for name, value in draws.stats.items()}


def idata_entries(idata: Any, var_names: Sequence[str] | None = None) -> list[Entry]:
    """Every scalar of the posterior that is not constant; the index of a structure is a label, no quantity.

    References:
        none; bookkeeping.
    """
    posterior = idata.posterior
    names = [name for name in posterior.data_vars if name != "structure_index"]
    found: list[Entry] = []
    for name in names if var_names is None else var_names:
        variable = posterior[name].transpose("chain", "draw", ...)
        labels = [[str(each) for each in variable.coords[dim].values] for dim in variable.dims[2:]]
        found += scalar_entries(str(name), np.asarray(variable.values, dtype=float), labels)
    return found


def scalar_entries(name: str, values: Array, labels: Sequence[Sequence[str]] | None = None) -> list[Entry]:
    """The scalars of an array (chain, draw, *event) that vary, each (chain, draw) with its label.

    References:
        none; bookkeeping.

    Example:
        >>> draws = np.stack([np.arange(6.0).reshape(2, 3), np.zeros((2, 3))], -1)
        >>> [label for label, _ in scalar_entries("b", draws)]
        ['b[0]']
    """
    found = []
    for index in np.ndindex(*values.shape[2:]):
        draws = values[(slice(None), slice(None), *index)]
        if np.ptp(draws) == 0.0:
            continue  # an indicator that never changed has no mixing to judge
        text = [labels[d][i] if labels else str(i) for d, i in enumerate(index)]
        found.append((f"{name}[{', '.join(text)}]" if text else name, draws))
    return found
