"""One call of `sample` in progress: chains started, adapted, recorded, and stored to be continued."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, final

import torch
from torch import Tensor

from evidentia.inference.density.log_density import LogDensity
from evidentia.inference.evidence.log_evidence import LogEvidence
from evidentia.inference.idata.draws import Draws
from evidentia.inference.mcmc.batched import BatchedKernel, flatten_state, restore_state
from evidentia.inference.mcmc.info import Info
from evidentia.inference.mcmc.recording import Recording
from evidentia.inference.mcmc.warm_start import first_positions

__all__ = ["SampleStep", "SamplingRun"]


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


@final
class SamplingRun:
    """Chains of one kernel on one density.

    Args:
        density: compiled for all the chains.
        kernel: pure; holds no run state.
        num_draws: draws kept of each chain.
        warmup_steps: transitions that adapt.
        thinning: keep every that-many-th transition.
        seed: of everything random.

    References:
        none; bookkeeping.
    """

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
        self.how = "given"
        self.log_evidence: LogEvidence | None = None
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
        position = saved["position"]
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
        if "smc/value" in saved:
            rough, error = float(saved["smc/value"]), float(saved["smc/standard_error"])
            self.log_evidence = LogEvidence.checked(
                rough, error, "consistent estimate", {"method": "tempered SMC"}
            )
        self.skipped = saved["skipped"].clone()
        self.generator.set_state(saved["rng/torch"])

    def advance(self) -> Info:
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
            self.recording.keep_extra(self.kernel.extra_draws(self.density, self.state))
            self.skipped = torch.zeros_like(self.skipped)
        return info

    def report(self, info: Info, superchains: int) -> SampleStep:
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
            "position": self.state.position.clone(),
            "rng/torch": self.generator.get_state(),
        }  # fmt: skip
        if self.log_evidence is not None:
            flat |= {
                "smc/value": self.log_evidence.value,
                "smc/standard_error": self.log_evidence.standard_error,
            }
        flat |= {f"kernel/{name}": value.clone() for name, value in flatten_state(self.state).items()}
        return flat | self.recording.state()

    def draws(self, stopped: str, settings: Mapping[str, Any]) -> Draws:
        """The result."""
        count = self.recording.count
        unconstrained = self.recording.draws[:count].transpose(0, 1)
        stats = {name: value[:count].transpose(0, 1) for name, value in self.recording.stats.items()}
        extra = {name: value[:count].transpose(0, 1) for name, value in self.recording.extra.items()}
        return Draws(
            self.density.unpack(unconstrained) | extra if count else {},
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
