"""Simulation-based calibration: are the posteriors of a method right on average over the prior?"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from evidentia.inference.calibration.chains import Tuned, autocorrelation, chain_draws, tune
from evidentia.inference.calibration.posteriors import amortised_draws, is_pair, posterior_draws
from evidentia.inference.calibration.quantities import Quantity, quantity_values, rank
from evidentia.inference.calibration.simulate import Simulated, simulate
from evidentia.inference.density.log_density import LogDensity, compile_density
from evidentia.inference.density.map_rows import FAILURES
from evidentia.inference.mcmc.batched import BatchedKernel
from evidentia.inference.mcmc.choose_kernel import kernel_of
from evidentia.inference.training.fitted import Fit

__all__ = ["SBCResult", "sbc"]


@final
@dataclass(frozen=True, eq=False)
class SBCResult:
    """Ranks of the truth among posterior draws, for every data set and quantity.

    Attributes:
        names: of the Q quantities.
        ranks: (N, Q) long, how many of the L draws are below the truth.
        num_draws: L.
        truth: (N, Q) values of the quantities that the data were drawn with.
        mean: (N, Q) of the draws.
        sd: (N, Q) of the draws.
        parameter: (Q,) bool, False for test quantities that depend on the data.
        method: what was tested, in a word.
        start: of the chains; "" for other methods.
        thinning: transitions between draws; 1 for other methods.
        autocorrelation: (Q,) correlation of neighbouring draws of a chain. Near 0.3 and above, ranks pile up
            at both ends even where the kernel is right.
        acceptance: (N,) mean acceptance by data set; empty for other methods.

    References:
        Talts, Betancourt, Simpson, Vehtari, Gelman, 2018, Validating Bayesian inference algorithms with
        simulation-based calibration.
    """

    names: tuple[str, ...]
    ranks: Tensor
    num_draws: int
    truth: Tensor
    mean: Tensor
    sd: Tensor
    parameter: Tensor
    method: str
    start: str
    thinning: int
    autocorrelation: Tensor
    acceptance: Tensor

    @property
    def num_datasets(self) -> int:
        """N."""
        return len(self.ranks)

    def __repr__(self) -> str:
        return (
            f"SBCResult({self.method!r}, datasets={self.num_datasets}, draws={self.num_draws}, "
            f"quantities={len(self.names)}, thinning={self.thinning})"
        )


def sbc(
    model: Callable[..., Any],
    *args: Any,
    method: Any = "hmc",
    data: str | Mapping[str, str] = "y",
    num_datasets: int = 200,
    num_draws: int = 104,
    chains_per_dataset: int = 8,
    start: str = "prior",
    warmup_steps: int = 100,
    pilot_steps: int = 100,
    thinning: int | None = None,
    quantities: Mapping[str, Quantity] | None = None,
    simulator: Callable[..., Any] | None = None,
    seed: int = 0,
    executor: str = "auto",
    **kwargs: Any,
) -> SBCResult:
    r"""Draw \((\theta^*, y)\) from the model, sample \(\theta \mid y\), rank \(\theta^*\) among the draws.

    \[ \theta^* \sim p(\theta),\; y \sim p(y \mid \theta^*),\; \theta_{1 \dots L} \sim q(\theta \mid y)
       \;\Rightarrow\; \#\{\, l : f(\theta_l, y) < f(\theta^*, y) \,\} \sim U\{0, \dots, L\}
       \text{ if } q = p(\theta \mid y) \]

    for every function \(f\). The functions are all scalar parameters, the log likelihood, the log prior (on
    unconstrained space), and `quantities`.

    A kernel runs the chains of all data sets in one batch, with the data as an input of one recorded density.
    Adaptation over such a batch would let the chains of one posterior set the step of another; here the
    kernel is adapted on as many *other* data sets from the same simulator, the pilot, and frozen. Its
    settings are then independent of everything that is ranked, and each chain is one fixed kernel, invariant
    for its own posterior. The pilot also finds the thinning. `start="prior"` starts chains from the prior and
    lets the likelihood grow during the warm-up: convergence is tested too. `start="truth"` starts them from
    the true parameters, one exact draw of the posterior, so that chains are stationary from the first step:
    only the kernel's invariance is tested, not that it finds the posterior. The warm-up then only makes
    draws independent of the truth.

    Args:
        model: a Pyro model, written for one data set.
        args: its arguments without the data, as are further keywords. A keyword with the name of the data
            gives their shape to a model that cannot run without.
        method: a kernel's word or a kernel; a `Fit` or a pair with an amortised guide; or a function of the
            model's arguments, called for every data set, that returns a `Fit`, a pair, `Draws`, or
            site -> (L, *shape).
        data: the argument that holds the data, or {argument: site}; see `simulate`.
        num_datasets: N.
        num_draws: L, in all chains of a data set together; rounded up to fill them.
        chains_per_dataset: chains for each data set.
        start: "prior" or "truth", for kernels.
        warmup_steps: transitions before the first draw, for kernels.
        pilot_steps: transitions of each of the pilot's two adaptations.
        thinning: transitions between draws; found in the pilot when None, 64 at most.
        quantities: name -> function of site -> (R, *shape), data among the sites under the name of the
            argument, to (R,).
        simulator: draws parameters and data in place of `model`, with the same arguments and sites: a
            planted difference, or a prior that is narrower than the analysis's.
        seed: of everything.
        executor: as in `compile_density`.

    Returns:
        `SBCResult`; `calibration_report` reads it.

    Raises:
        ValueError: an option is out of range; a site lacks in the draws; see `simulate` and
            `compile_density`.

    References:
        Cook, Gelman, Rubin, 2006, Validation of software for Bayesian models using posterior quantiles.
        Talts, Betancourt, Simpson, Vehtari, Gelman, 2018, Validating Bayesian inference algorithms with
        simulation-based calibration. Modrák, Moon, Kim, Bürkner, Huurre, Faltejsková, Gelman, Vehtari, 2023,
        Simulation-based calibration checking for Bayesian computation: the choice of test quantities.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> def model(y=None):
        ...     mean = pyro.sample("mean", dist.Normal(torch.tensor(0.0), 1.0))
        ...     return pyro.sample("obs", dist.Normal(mean, 1.0), obs=y)
        >>> def exact(y):
        ...     return {"mean": y / 2 + 0.5**0.5 * torch.randn(99)}
        >>> sbc(model, method=exact, num_datasets=50, num_draws=99)
        SBCResult('exact', datasets=50, draws=99, quantities=3, thinning=1)
    """
    if num_datasets < 10 or num_draws < 2 or chains_per_dataset < 1:
        raise ValueError(
            f"sbc: expected num_datasets >= 10, num_draws >= 2 and chains_per_dataset >= 1, got "
            f"{num_datasets}, {num_draws}, {chains_per_dataset}. Fix: leave them out"
        )
    if start not in ("prior", "truth"):
        raise ValueError(f"start: expected 'prior' or 'truth', got {start!r}. Fix: start='prior'")
    if isinstance(method, str) and method == "nuts":
        raise ValueError(
            "method: NUTS takes one data set at a time, got 'nuts'. "
            "Fix: method=lambda *args, **kwargs: nuts(model, *args, num_draws=num_draws, **kwargs), or 'hmc'"
        )
    source = model if simulator is None else simulator
    is_kernel = isinstance(method, str | BatchedKernel)
    chains = chains_per_dataset if is_kernel else 1
    per_chain = math.ceil(num_draws / chains)
    stream = torch.Generator().manual_seed(seed)
    seeds = torch.randint(2**62, (4,), generator=stream).tolist()
    pick: Any = {"data": data, **kwargs}
    truths = simulate(source, *args, num=num_datasets, seed=seeds[0], **pick)
    shared = {name: value for name, value in kwargs.items() if name not in truths.data}
    rows = num_datasets * chains
    first: dict[str, Any] = {name: value[0] for name, value in truths.data.items()}
    base = compile_density(
        model, *args, num_chains=rows if is_kernel else num_datasets, executor=executor, **shared, **first
    )
    density = _with(base, args, shared, truths, chains)
    true_position = density.pack(truths.values)
    rates, steps = torch.zeros(0), 1
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seeds[1])
        if is_kernel:
            kernel = kernel_of(method)
            pilot = simulate(source, *args, num=num_datasets, seed=seeds[2], **pick)
            tuned = _tuned(kernel, base, args, shared, pilot, chains, thinning, pilot_steps, stream)
            begin = true_position.repeat_interleave(chains, 0)
            if start == "prior":
                begin = base.prior_draws(rows, stream)
            position, rates = chain_draws(
                kernel,
                density,
                tuned,
                begin,
                num_draws=per_chain,
                warmup_steps=warmup_steps,
                anneal=start == "prior",
                generator=stream,
            )
            rates, steps = rates.reshape(num_datasets, chains).mean(1), tuned.thinning
        else:
            position = _all_draws(method, args, shared, truths, density, num_draws)
    names, draws, parameter = quantity_values(density, position, truths.data, quantities, chains)
    begin = true_position.repeat_interleave(chains, 0)[:, None]
    _, truth, _ = quantity_values(density, begin, truths.data, quantities, chains)
    truth = truth[::chains, 0]
    series = draws.reshape(num_datasets, chains, per_chain if is_kernel else num_draws, len(names))
    draws = series.flatten(1, 2)
    return SBCResult(
        names,
        rank(draws, truth, stream),
        draws.shape[1],
        truth,
        draws.mean(1),
        draws.std(1),
        parameter,
        kernel_of(method).name if is_kernel else getattr(method, "__name__", type(method).__name__),
        start if is_kernel else "",
        steps,
        autocorrelation(series) if is_kernel else series.new_zeros(len(names)),
        rates,
    )


def _with(
    base: LogDensity, args: tuple[Any, ...], shared: Mapping[str, Any], drawn: Simulated, chains: int
) -> LogDensity:
    """The density with one data set for every `chains` rows."""
    many = {name: value.repeat_interleave(chains, 0) for name, value in drawn.data.items()}
    return base.with_data_batch(*args, **shared, **many)


def _tuned(
    kernel: BatchedKernel,
    base: LogDensity,
    args: tuple[Any, ...],
    shared: Mapping[str, Any],
    pilot: Simulated,
    chains: int,
    thinning: int | None,
    pilot_steps: int,
    stream: torch.Generator,
) -> Tuned:
    """The kernel adapted on the pilot's data sets, chains started from their true parameters."""
    density = _with(base, args, shared, pilot, chains)
    position = density.pack(pilot.values)
    # Heavy-tailed priors: the quartiles, not the moments.
    low, high = torch.quantile(position, torch.tensor([0.25, 0.75], dtype=position.dtype), dim=0)
    return tune(
        kernel,
        density,
        position.repeat_interleave(chains, 0),
        ((high - low) / 1.35).clamp(min=1e-6),
        len(position),
        thinning=thinning,
        pilot_steps=pilot_steps,
        generator=stream,
    )


def _all_draws(
    method: Any,
    args: tuple[Any, ...],
    shared: Mapping[str, Any],
    truths: Simulated,
    density: LogDensity,
    num_draws: int,
) -> Tensor:
    """(N, L, D) positions of a method that takes one data set at a time."""
    if isinstance(method, Fit) or is_pair(method):
        state = torch.get_rng_state()
        try:
            return density.pack(amortised_draws(method, args, shared, truths.data, num_draws))
        except FAILURES:
            # A guide that cannot be mapped runs for each data set.
            torch.set_rng_state(state)
    found = []
    for number in range(len(next(iter(truths.data.values())))):
        one = {name: value[number] for name, value in truths.data.items()}
        found.append(density.pack(posterior_draws(method, args, {**shared, **one}, num_draws)))
    return torch.stack(found)
