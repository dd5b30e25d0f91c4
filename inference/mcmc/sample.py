"""`sample`: many chains of any batched kernel in one process, judged at the end and resumable."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from evidentia.inference.density.log_density import LogDensity, compile_density
from evidentia.inference.density.sites import find_structure
from evidentia.inference.density.structure import Structure
from evidentia.inference.density.threads import enough_threads
from evidentia.inference.idata.draws import Draws
from evidentia.inference.mcmc.batched import BatchedKernel
from evidentia.inference.mcmc.choose_kernel import kernel_of
from evidentia.inference.mcmc.nuts import nuts
from evidentia.inference.mcmc.sampling_run import SamplingRun
from evidentia.inference.mcmc.warm_start import superchain_count
from evidentia.inference.training.callbacks import CallbackLike, notify

__all__ = ["sample"]

_CACHED = 2**15  # numbers of a tensor that stay near the processor
_LOG = logging.getLogger("evidentia")


def sample(
    model: Callable[..., Any] | LogDensity,
    *args: Any,
    kernel: str | BatchedKernel = "hmc",
    num_draws: int = 200,
    warmup_steps: int = 100,
    num_chains: int | None = None,
    thinning: int = 1,
    seed: int | None = None,
    start: str | Mapping[str, Tensor] | Tensor = "auto",
    num_superchains: int | None = None,
    executor: str = "auto",
    dtype: torch.dtype | None = None,
    callbacks: Sequence[CallbackLike] = (),
    checkpoint_every: int | None = None,
    state: Mapping[str, Any] | None = None,
    check: bool = True,
    **kwargs: Any,
) -> Draws:
    r"""Draw from the posterior of a Pyro model with many chains at once.

    The model's log density is compiled for all chains together (`compile_density`). Chains start from
    tempered particles where that is possible, the kernel adapts over the ensemble during the warm-up and is
    frozen afterwards. Chains are divided into about 16 superchains: those of one share their starting point,
    so that the nested R-hat sees what is left of it.

    Args:
        model: a Pyro model, whose parameters are taken from the parameter store and not trained; or its
            compiled density, which saves the compilation.
        args: the model's arguments, as are further keywords.
        kernel: a word ("hmc", "mala", "barker", … ; "nuts" runs Pyro's, chain after chain) or a kernel object
            with settings of its own, such as `HMC(target_accept_prob=0.9)`.
        num_draws: draws kept of each chain, those in `state` included.
        warmup_steps: transitions that adapt.
        num_chains: C; when None, 64 to 256: as many as the processor's cache holds of the largest tensor,
            and at least twice the dimension (4 for "nuts").
        thinning: keep every that-many-th transition.
        seed: of everything random; drawn from torch's generator when None.
        start: "auto", "smc", "prior", "uniform", constrained values by site, or unconstrained positions.
        num_superchains: groups of chains with one starting point; chosen when None, none when 0.
        executor: as in `compile_density`.
        dtype: of positions and density; torch's default when None.
        callbacks: `on_step` with a `SampleStep`, `on_checkpoint` with the state, `on_end` with the draws.
        checkpoint_every: call `on_checkpoint` every that many transitions.
        state: the state of an earlier, interrupted call with the same settings; the result is bitwise that
            of an uninterrupted one.
        check: judge the draws at the end (`evidentia.inference.diagnostics.verdict`) and log what failed,
            with its remedy.
        kwargs: keywords of the model.

    Returns:
        `Draws`, with statistics `lp`, `energy`, `acceptance_rate`, `diverging`, `n_steps`, `step_size`; its
        `log_evidence` is the rough one of the tempered start.

    Raises:
        ValueError: a setting out of range, a model that cannot be sampled (the site is named), or a state
            that does not fit.

    References:
        Hoffman, Radul and Sountsov, 2021, An adaptive-MCMC scheme for setting trajectory lengths in
        Hamiltonian Monte Carlo. Margossian, Hoffman, Sountsov, Riou-Durand, Vehtari and Gelman, 2024, Nested
        R-hat.

    Example:
        >>> import pyro
        >>> from pyro.distributions import Normal
        >>> def model(y):
        ...     mean = pyro.sample("mean", Normal(0.0, 1.0))
        ...     with pyro.plate("data", len(y)):
        ...         pyro.sample("obs", Normal(mean, 1.0), obs=y)
        >>> draws = sample(model, torch.tensor([0.5, 1.0]), num_draws=20, warmup_steps=20, seed=0)
        >>> draws.samples["mean"].shape, abs(float(draws.samples["mean"].mean()) - 0.5) < 0.1
        (torch.Size([256, 20]), True)
    """
    _check_settings(num_draws, warmup_steps, num_chains, thinning)
    if state is not None:
        seed = int(state["seed"])
    elif seed is None:
        seed = int(torch.randint(2**31, ()))
    if kernel == "nuts":
        return _pyro_nuts(
            model, *args, num_draws=num_draws, warmup_steps=warmup_steps, num_chains=num_chains or 4,
            seed=seed, callbacks=callbacks, checkpoint_every=checkpoint_every, state=state,
            thinning=thinning, check=check, **kwargs,
        )  # fmt: skip
    mover = kernel_of(kernel)
    discrete = mover.discrete
    density = _compiled(model, args, kwargs, num_chains, executor, dtype, discrete, seed)
    chains = density.num_chains
    if discrete == "given" and density.discrete and isinstance(start, str):
        # Tempered particles, and their evidence, would belong to one value of the discrete sites.
        if start == "smc":
            raise ValueError("start: 'smc' tempers continuous sites only. Fix: start='prior'")
        if start == "auto":
            start = "prior" if density.proper_prior else "uniform"
    run = SamplingRun(density, mover, num_draws, warmup_steps, thinning, seed)
    superchains = superchain_count(chains, num_superchains)
    settings: dict[str, Any] = {
        "kernel": mover.name, "num_chains": chains, "warmup_steps": warmup_steps,
        "thinning": thinning, "num_superchains": superchains,
    }  # fmt: skip
    stopped: str | None = None
    with torch.no_grad(), enough_threads(density):
        if state is None:
            run.begin(start, superchains)
        else:
            _check_state(state, settings)
            run.resume(state)
        while stopped is None and run.recording.count < num_draws:
            info = run.advance()
            if callbacks:
                stopped = notify(callbacks, "on_step", run.report(info, superchains))
            if checkpoint_every is not None and run.step % checkpoint_every == 0:
                notify(callbacks, "on_checkpoint", settings | run.flat())
    draws = run.draws(stopped or "max_steps", settings)
    if check and draws.num_draws > 3:
        _judge(draws)
    notify(callbacks, "on_end", draws)
    return draws


def _compiled(
    model: Callable[..., Any] | LogDensity,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    num_chains: int | None,
    executor: str,
    dtype: torch.dtype | None,
    discrete: str,
    seed: int,
) -> LogDensity:
    """The density of a model, or the one given."""
    if isinstance(model, LogDensity):
        if num_chains not in (None, model.num_chains) or args or kwargs:
            raise ValueError(
                f"model: a compiled density has its {model.num_chains} chains and its data, got "
                f"num_chains={num_chains} and {len(args) + len(kwargs)} arguments. Fix: leave them out"
            )
        return model
    if num_chains is None:
        num_chains = _enough_chains(find_structure(model, args, kwargs, seed=seed, discrete=discrete))
    return compile_density(
        model,
        *args,
        num_chains=num_chains,
        executor=executor,
        dtype=dtype,
        discrete=discrete,
        seed=seed,
        **kwargs,
    )


def _enough_chains(structure: Structure) -> int:
    """Chains are nearly free while a tensor of all of them fits the cache; a dense metric wants twice D."""
    free = _CACHED // structure.largest
    return min(256, 16 * math.ceil(max(64, 2 * structure.dim, free) / 16))


def _judge(draws: Draws) -> None:
    from evidentia.inference.diagnostics import verdict

    for failure in verdict(draws).failures:
        _LOG.warning("sample: %s", failure)


def _pyro_nuts(model: Callable[..., Any], *args: Any, thinning: int, check: bool, **options: Any) -> Draws:
    if thinning != 1:
        raise ValueError(f"thinning: not with kernel='nuts', got {thinning}. Fix: thin the draws afterwards")
    draws = nuts(model, *args, **options)
    if check and draws.num_draws > 3:
        _judge(draws)
    return draws


def _check_settings(num_draws: int, warmup_steps: int, num_chains: int | None, thinning: int) -> None:
    for name, value, least in (
        ("num_draws", num_draws, 1),
        ("warmup_steps", warmup_steps, 0),
        ("num_chains", 1 if num_chains is None else num_chains, 1),
        ("thinning", thinning, 1),
    ):
        if value < least:
            raise ValueError(
                f"{name}: expected a number >= {least}, got {value}. Fix: {name}={max(least, 1)}"
            )


def _check_state(state: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    for name, value in settings.items():
        if state.get(name) != value:
            raise ValueError(
                f"state: it was made with {name}={state.get(name)!r}, but {name}={value!r} was asked for. "
                "Fix: continue with the settings of the first run"
            )
