"""`sample`: many chains of any batched kernel in one process, started, adapted, recorded, judged, resumable."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import pyro
import torch
from torch import Tensor

from evidentia.inference.density.log_density import LogDensity, compile_density
from evidentia.inference.idata.draws import Draws
from evidentia.inference.mcmc.batched import BatchedKernel, flatten_state, restore_state
from evidentia.inference.mcmc.choose_kernel import kernel_of
from evidentia.inference.mcmc.nuts import nuts
from evidentia.inference.mcmc.recording import Recording
from evidentia.inference.mcmc.warm_start import first_positions, superchain_count
from evidentia.inference.training.callbacks import CallbackLike, notify

__all__ = ["SampleStep", "sample"]

_LOG = logging.getLogger("evidentia")


class SampleStep(NamedTuple):
    """What a callback learns about one finished transition of all chains.

    Attributes:
        step: transitions so far, warm-up included.
        num_steps: transitions in all.
        warmup: whether this was a transition of the warm-up.
        divergences: divergent transitions after the warm-up, of all chains.
        acceptance_rate: mean over chains.
        n_steps: density evaluations of each chain in this transition.
        group_lp: (groups,) mean log density in nats of each group of chains that began at one point.

    References:
        none; bookkeeping.
    """

    step: int
    num_steps: int
    warmup: bool
    divergences: int
    acceptance_rate: float
    n_steps: int
    group_lp: Tensor


def sample(
    model: Callable[..., Any],
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
        model: a Pyro model; its parameters are taken from the parameter store, and not trained.
        args: the model's arguments, as are further keywords.
        kernel: a word ("hmc", "mala", "barker", … ; "nuts" runs Pyro's, chain after chain) or a kernel object
            with settings of its own, such as `HMC(target_accept=0.9)`.
        num_draws: draws kept of each chain, those in `state` included.
        warmup_steps: transitions that adapt.
        num_chains: C; about twice the dimension, between 64 and 256, when None (4 for "nuts").
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
        >>> from pyro.distributions import Normal
        >>> def model(y):
        ...     mean = pyro.sample("mean", Normal(0.0, 1.0))
        ...     with pyro.plate("data", len(y)):
        ...         pyro.sample("obs", Normal(mean, 1.0), obs=y)
        >>> draws = sample(model, torch.tensor([0.5, 1.0]), num_draws=20, warmup_steps=20, seed=0)
        >>> draws.samples["mean"].shape, abs(float(draws.samples["mean"].mean()) - 0.5) < 0.1
        (torch.Size([64, 20]), True)
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
    density = compile_density(
        model, *args, num_chains=num_chains, executor=executor, dtype=dtype, seed=seed, **kwargs
    )
    run = _Run(density, mover, num_draws, warmup_steps, thinning, seed)
    settings = {
        "kernel": mover.name, "num_chains": density.num_chains, "warmup_steps": warmup_steps,
        "thinning": thinning, "num_superchains": superchain_count(density.num_chains, num_superchains),
    }  # fmt: skip
    if state is None:
        run.begin(start, settings["num_superchains"])
    else:
        _check_state(state, settings)
        run.resume(state)
    stopped: str | None = None
    with torch.no_grad():
        while stopped is None and run.recording.count < num_draws:
            info = run.advance()
            if callbacks:
                stopped = notify(callbacks, "on_step", run.report(info, settings["num_superchains"]))
            if checkpoint_every is not None and run.step % checkpoint_every == 0:
                notify(callbacks, "on_checkpoint", settings | run.flat())
    draws = run.draws(stopped or "max_steps", settings)
    if check and draws.num_draws > 3:
        _judge(draws)
    notify(callbacks, "on_end", draws)
    return draws


def _judge(draws: Draws) -> None:
    from evidentia.inference.diagnostics import verdict

    for failure in verdict(draws).failures:
        _LOG.warning("sample: %s", failure)


class _Run:
    """One call of `sample` in progress."""

    def __init__(
        self,
        density: LogDensity,
        kernel: BatchedKernel,
        num_draws: int,
        warmup_steps: int,
        thinning: int,
        seed: int,
    ) -> None:
        self.density, self.kernel, self.thinning, self.seed = density, kernel, thinning, seed
        self.num_draws, self.warmup_steps = num_draws, warmup_steps
        self.generator = torch.Generator().manual_seed(seed)
        self.step = 0
        self.how, self.log_evidence = "given", None
        self.state: Any = None
        self.recording: Recording
        self.step_size = float("nan")
        self.skipped = torch.zeros(density.num_chains, dtype=torch.bool)

    def begin(self, start: Any, superchains: int) -> None:
        """Find first positions and adapt to their spread; then superchains gather at one point each."""
        first = first_positions(self.density, start, self.density.num_chains, self.generator)
        self.how, self.log_evidence = first.how, first.log_evidence
        self.state = self.kernel.start(self.density, first.position, self.warmup_steps, self.generator)
        if superchains and first.how != "given":
            size = len(first.position) // superchains
            # Strided: the particles of one tempered copy are neighbours.
            gathered = first.position[::size].repeat_interleave(size, 0)
            self.state = self.kernel.relocate(self.density, self.state, gathered)
        self.recording = Recording(self.num_draws, first.position)

    def resume(self, saved: Mapping[str, Any]) -> None:
        """Everything as it was at the checkpoint."""
        parts = {k.removeprefix("kernel/"): v for k, v in saved.items() if k.startswith("kernel/")}
        if "position" in parts:
            position = parts["position"]
        else:
            position = next(value for name, value in parts.items() if name.endswith(".position"))
        if position.shape != (self.density.num_chains, self.density.dim):
            raise ValueError(
                f"state: its positions have shape {tuple(position.shape)}, the model needs "
                f"{(self.density.num_chains, self.density.dim)}. Fix: continue with the same model and data"
            )
        template = self.kernel.start(
            self.density, position, self.warmup_steps, torch.Generator().manual_seed(0)
        )
        self.state = restore_state(template, parts)
        self.recording = Recording(self.num_draws, position)
        self.recording.restore(saved)
        self.step, self.how = int(saved["step"]), str(saved["start"])
        self.skipped = saved["skipped"].clone()
        self.generator.set_state(saved["rng/torch"])

    def advance(self) -> Any:
        """One transition, recorded."""
        self.state, info = self.kernel.advance(self.density, self.state, self.generator)
        self.step += 1
        if self.step <= self.warmup_steps:
            self.recording.warm(info, self.state.log_density, self.kernel.adaptation(self.state))
            return info
        if self.step_size != self.step_size:
            self.step_size = float(
                self.kernel.adaptation(self.state).get("step_size", torch.tensor(torch.nan)).mean()
            )
        if (self.step - self.warmup_steps) % self.thinning:
            self.skipped = self.skipped | info.diverging
        else:
            self.recording.keep(
                self.state.position, self.state.log_density, info, self.skipped, self.step_size
            )
            self.skipped = torch.zeros_like(self.skipped)
        return info

    def report(self, info: Any, superchains: int) -> SampleStep:
        """What callbacks learn."""
        lp = self.state.log_density.reshape(max(superchains, 1), -1).mean(1)
        total = self.warmup_steps + self.num_draws * self.thinning
        return SampleStep(
            self.step, total, self.step <= self.warmup_steps, self.recording.divergences,
            float(info.acceptance_rate.mean()), int(info.num_steps), lp,
        )  # fmt: skip

    def flat(self) -> dict[str, Any]:
        """The state that continues bitwise."""
        flat: dict[str, Any] = {
            "seed": self.seed, "step": self.step, "start": self.how, "skipped": self.skipped,
            "rng/torch": self.generator.get_state(),
        }  # fmt: skip
        flat |= {f"kernel/{name}": value.clone() for name, value in flatten_state(self.state).items()}
        return flat | self.recording.state()

    def draws(self, stopped: str, settings: Mapping[str, Any]) -> Draws:
        """The result."""
        count = self.recording.count
        unconstrained = self.recording.draws[:count].transpose(0, 1)
        stats = {name: value[:count].transpose(0, 1) for name, value in self.recording.stats.items()}
        return Draws(
            self.density.unpack(unconstrained) if count else {},
            stats or {"lp": torch.zeros(self.density.num_chains, 0)},
            dict(settings) | self.flat(),
            stopped,
            self.kernel.name,
            superchains=settings["num_superchains"] if self.how != "given" else 0,
            unconstrained=unconstrained,
            warmup={name: torch.tensor(path) for name, path in self.recording.warmup.items()},
            adjusted=self.kernel.adjusted,
            log_evidence=self.log_evidence,
        )


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
