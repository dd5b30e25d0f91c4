"""One NUTS chain: Pyro's kernel with its energies kept, and its five-part state."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, final

import pyro
import torch
from pyro.infer.mcmc.nuts import NUTS
from torch import Tensor

__all__ = ["Chain", "RecordingNUTS"]

_FIX = "Fix: continue with the same model"


@final
class RecordingNUTS(NUTS):  # type: ignore[misc, unused-ignore]
    """Pyro's NUTS that remembers what its last transition did: energy, leaves, acceptance, divergence.

    References:
        Betancourt, 2016, Diagnosing suboptimal cotangent disintegrations in Hamiltonian Monte Carlo.
    """

    def _reset(self) -> None:
        super()._reset()
        self.energy = float("nan")
        self.leaves = 0
        self.acceptance = 0.0
        self.diverged = False

    def _sample_r(self, name: str) -> Any:
        r, r_unscaled = super()._sample_r(name)
        if name.startswith("r_t="):
            # The momentum of a transition, not one of the trials that look for a step size.
            self.energy = float(self._kinetic_energy(r_unscaled) + self._potential_energy_last)
            self.leaves, self.acceptance, self.diverged = 0, 0.0, False
        return r, r_unscaled

    def _build_basetree(self, *args: Any) -> Any:
        tree = super()._build_basetree(*args)
        self.leaves += 1
        self.acceptance += float(tree.sum_accept_probs)
        self.diverged = self.diverged or bool(tree.diverging)
        return tree


@final
class Chain:
    """A chain of NUTS that can be suspended after its warm-up and continued by another object.

    The state that continues bitwise is the position, the step size, the inverse mass matrix, the iteration
    counter and the random state; the draws so far are kept beside it.

    References:
        Hoffman, Gelman, 2014, The No-U-Turn sampler.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        warmup_steps: int,
        options: Mapping[str, Any],
    ) -> None:
        self.model, self.args, self.kwargs = model, args, kwargs
        self.warmup_steps, self.options = warmup_steps, dict(options)
        self.samples: dict[str, list[Tensor]] = {}
        self.stats: dict[str, list[Tensor]] = {}
        self.kernel: RecordingNUTS | None = None
        self.z: dict[str, Tensor] = {}
        self.step = 0
        self.rng: Tensor | None = None
        self.saved: dict[str, Any] = {}

    @property
    def warming(self) -> bool:
        """Whether the last transition belonged to the warm-up."""
        return self.step <= self.warmup_steps

    @property
    def num_draws(self) -> int:
        """Draws kept so far."""
        return len(self.stats.get("lp", ()))

    @property
    def divergences(self) -> int:
        """Divergent transitions after the warm-up."""
        return int(sum(bool(flag) for flag in self.stats.get("diverging", ())))

    @property
    def lp(self) -> float:
        """Log density of the position on the unconstrained space, nats."""
        energy: Any = None if self.kernel is None else self.kernel._potential_energy_last
        return float("nan") if energy is None else -float(energy)

    def keep(self, saved: Mapping[str, Any]) -> None:
        """Take over the draws of a saved chain without continuing it."""
        self.saved = dict(saved)
        self.step = int(saved.get("t", 0))
        for key, value in saved.items():
            kind, _, name = key.partition("/")
            if kind == "samples":
                self.samples[name] = list(value)
            elif kind == "stats":
                self.stats[name] = list(value)

    def start(self, saved: Mapping[str, Any]) -> None:
        """Begin the warm-up from torch's generator as it is, or continue from a saved state."""
        self.keep(saved)
        resume = "t" in saved
        self.kernel = RecordingNUTS(
            self.model, adapt_step_size=not resume, adapt_mass_matrix=not resume, **self.options
        )
        if resume:
            positions = {key: value for key, value in saved.items() if key.startswith("z/")}
            self.z = {key.removeprefix("z/"): value.clone() for key, value in positions.items()}
            self.kernel.initial_params = self.z
        try:
            # Validation is on here and only here: it is the model's first run.
            with pyro.validation_enabled(True):
                self.kernel.setup(self.warmup_steps, *self.args, **self.kwargs)
            if resume:
                _check_shapes(self.z, self.kernel)
        except (KeyError, RuntimeError) as error:
            if not resume:
                raise
            shapes = {name: tuple(value.shape) for name, value in self.z.items()}
            raise ValueError(
                f"state: its positions {shapes} do not fit the model ({error!r}). {_FIX}"
            ) from error
        if not self.kernel.initial_params:
            raise ValueError(
                "model: it has no continuous latent to sample. Fix: declare one with pyro.sample"
            )
        if not resume:
            self.z = dict(self.kernel.initial_params)
            return
        adapter = self.kernel.mass_matrix_adapter
        self.kernel._adapter.step_size = float(saved["step_size"])
        adapter.inverse_mass_matrix = {
            sites: saved[f"mass/{position}"].clone()
            for position, sites in enumerate(adapter.inverse_mass_matrix)
        }
        self.kernel._t = self.step
        torch.set_rng_state(saved["rng/torch"])

    def advance(self) -> None:
        """One transition; after the warm-up its draw and its statistics are kept."""
        kernel = self.kernel
        if kernel is None:
            raise RuntimeError("Chain.advance: call start() first")
        self.z = kernel.sample(self.z)
        self.step += 1
        self.rng = torch.get_rng_state()
        if self.step <= self.warmup_steps:
            return
        for name, value in self.z.items():
            self.samples.setdefault(name, []).append(kernel.transforms[name].inv(value).detach().clone())
        dtype = torch.float64
        for name, number in (
            ("lp", self.lp),
            ("energy", kernel.energy),
            ("acceptance_rate", kernel.acceptance / max(1, kernel.leaves)),
            ("step_size", kernel.step_size),
        ):
            self.stats.setdefault(name, []).append(torch.tensor(float(number), dtype=dtype))
        self.stats.setdefault("diverging", []).append(torch.tensor(kernel.diverged))
        for name, count in (("n_steps", kernel.leaves), ("tree_depth", kernel.leaves.bit_length())):
            self.stats.setdefault(name, []).append(torch.tensor(count))

    def suspend(self) -> None:
        """Write the state down and let go of the kernel."""
        self.saved = self.state()
        self.kernel = None

    def state(self) -> dict[str, Any]:
        """Flat state; empty before the end of the warm-up, so that the chain then starts from its seed."""
        if self.kernel is None or self.rng is None:
            return dict(self.saved)
        if self.step < self.warmup_steps:
            return {}
        flat: dict[str, Any] = {
            "t": self.step,
            "step_size": float(self.kernel.step_size),
            "rng/torch": self.rng,
        }
        flat |= {f"z/{name}": value.detach().clone() for name, value in self.z.items()}
        mass = self.kernel.mass_matrix_adapter.inverse_mass_matrix
        flat |= {f"mass/{position}": value.clone() for position, value in enumerate(mass.values())}
        flat |= {f"samples/{name}": torch.stack(values) for name, values in self.samples.items()}
        return flat | {f"stats/{name}": torch.stack(values) for name, values in self.stats.items()}


def _check_shapes(z: Mapping[str, Tensor], kernel: RecordingNUTS) -> None:
    """Refuse a position that is not one of this model."""
    wanted = {name: tuple(kernel.transforms[name](site["value"]).shape) for name, site in _latents(kernel)}
    got = {name: tuple(value.shape) for name, value in z.items()}
    if wanted != got:
        raise ValueError(
            f"state: its positions are {got}, but the model has {wanted}. Fix: use the same model"
        )


def _latents(kernel: RecordingNUTS) -> list[tuple[str, Any]]:
    trace: Any = kernel._prototype_trace
    return [(name, site) for name, site in trace.iter_stochastic_nodes() if name in kernel.transforms]
