"""The adapter between a pure batched kernel and its two front ends: `pyro.infer.MCMC` and `sample`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from multiprocessing import parent_process
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from evidentia.inference.mcmc.flatten import flatten_state as flatten_state
from evidentia.inference.mcmc.flatten import restore_state as restore_state
from evidentia.inference.mcmc.info import Info
from evidentia.inference.mcmc.kernel import Kernel
from evidentia.inference.mcmc.starts import uniform_start

__all__ = ["BatchedKernel", "flatten_state", "restore_state"]


class BatchedKernel(Kernel, ABC):
    r"""Abstract: a kernel that moves \(C\) chains at once, under either front end.

    A concrete class gives `start`, `advance` and `adaptation`; each takes everything it needs as arguments
    and keeps nothing on the object, so that a front end may hold several runs of one kernel. The state is a
    NamedTuple (tensors, numbers, further NamedTuples) with `position` (C, D), `log_density` (C,) and `step`,
    the number of transitions so far; `flatten_state` and `restore_state` store it.

    Under `MCMC(kernel, num_chains=1)` with one chain inside, samples are unbatched, exactly as of Pyro's own
    kernels. With more chains inside they carry a chain dimension. The object may be set up again and again
    (sequential chains): everything is reset but the random stream, which goes on to the next one of `seed`.

    Args:
        model: a Pyro model. It is not run before `setup`.
        num_chains: chains inside the kernel.
        executor: as in `compile_density`.
        seed: of the kernel's own random stream; drawn from torch's generator at `setup` when None.

    Attributes:
        name: the kernel's word, as in `sample(kernel="hmc")`.
        needs_gradient: whether it uses the gradient.
        adjusted: False where there is no accept step and draws carry a bias.
        discrete: "sum" where discrete sites are summed out, "given" where the kernel draws them.
        adaptation_record: what the warm-up found; survives `cleanup`.

    Raises:
        ValueError: `num_chains` is below one.

    References:
        Bingham et al., 2019, Pyro: deep universal probabilistic programming. Cabezas, Corenflos, Lao, Louf,
        2024, BlackJAX: composable Bayesian inference in JAX.
    """

    name: ClassVar[str]
    needs_gradient: ClassVar[bool] = True
    adjusted: ClassVar[bool] = True
    discrete: ClassVar[Literal["sum", "given"]] = "sum"

    def __init__(
        self, model: Any = None, *, num_chains: int = 1, executor: str = "auto", seed: int | None = None
    ) -> None:
        super().__init__(model)
        if num_chains < 1:
            raise ValueError(f"num_chains: expected a number >= 1, got {num_chains}. Fix: num_chains=64")
        self.num_chains, self.executor, self.seed = num_chains, executor, seed
        # None until `setup`: Pyro's parallel mode then asks for them in the parent process.
        self.transforms: Any = None
        self.adaptation_record: dict[str, Tensor] = {}
        self.density: Any = None
        self._generator: torch.Generator | None = None
        self._warmup_steps = self._setups = 0
        self._infos: list[Info] = []
        self._densities: list[Tensor] = []

    @abstractmethod
    def start(
        self, density: Any, position: Tensor, warmup_steps: int, generator: torch.Generator | None
    ) -> Any:
        """The first state of a run of `warmup_steps` adapting transitions, at `position` (C, D)."""

    @abstractmethod
    def advance(self, density: Any, state: Any, generator: torch.Generator | None) -> tuple[Any, Info]:
        """One transition of all chains; adapts while `state.step` is within the warm-up, never after."""

    @abstractmethod
    def adaptation(self, state: Any) -> dict[str, Tensor]:
        """What the warm-up found: `step_size`, `trajectory_length`, `covariance` … as far as they apply."""

    def extra_draws(self, density: Any, state: Any) -> dict[str, Tensor]:
        """Draws of sites that are not part of the position, site -> (C, *shape); none by default."""
        return {}

    def relocate(self, density: Any, state: Any, position: Tensor) -> Any:
        """`state` with all chains moved to `position` and its adaptation kept.

        Works for states with a field `point` that holds all that depends on the position.
        """
        fresh = self.start(density, position, 0, None)
        return state._replace(point=fresh.point) if hasattr(state, "point") else fresh

    def setup(self, warmup_steps: int, *args: Any, **kwargs: Any) -> None:
        """Compiles the density, starts the chains and forgets the run before."""
        self._warmup_steps = warmup_steps
        self._infos, self._densities = [], []
        self._generator = self._new_generator()
        self._setups += 1
        super().setup(warmup_steps, *args, **kwargs)

    def init(self, *args: Any, **kwargs: Any) -> Any:
        """The first state under `MCMC.run(*args, **kwargs)`: uniform on (-2, 2) in unconstrained space."""
        # Late, so that kernels on plain functions do not load the tracer.
        from evidentia.inference.density.log_density import compile_density

        if self.model is None:
            raise ValueError(f"{type(self).__name__}: no model. Fix: {type(self).__name__}(model)")
        density: Any = compile_density(
            self.model, *args, num_chains=self.num_chains, executor=self.executor, **kwargs
        )
        self.density = density
        self.transforms = {site.name: site.transform.inv for site in density.sites}
        if self._start is not None:
            position = self._positions(self._start)
            self._start = None
        else:
            position = uniform_start(density, self.num_chains, density.dim, density.dtype, self._generator)
        return self.start(density, position, self._warmup_steps, self._generator)

    def step(self, state: Any) -> tuple[Any, Info]:
        """One transition; keeps the per-draw statistics once the warm-up is over."""
        state, info = self.advance(self.density, state, self._generator)
        if self._steps >= self._warmup_steps:
            self._infos.append(info)
            self._densities.append(state.log_density)
        return state, info

    def unpack(self, state: Any) -> dict[str, Tensor]:
        """Unconstrained sites, each (C, …), without the chain dimension for one chain."""
        sites, begin = {}, 0
        for site in self.density.sites:
            part = state.position[:, begin : begin + site.size]
            sites[site.name] = part.detach().reshape(
                (self.num_chains, *site.free) if self._batched else site.free
            )
            begin += site.size
        return sites

    def pack(self, state: Any, params: dict[str, Tensor]) -> Any:
        """`state` moved to unconstrained sites."""
        return self.relocate(self.density, state, self._positions(params))

    def logging(self) -> OrderedDict[str, str]:
        """Log density and acceptance rate, means over chains."""
        entries = super().logging()
        if self.info is not None:
            entries["acc. rate"] = f"{float(self.info.acceptance_rate.mean()):.3f}"
        return entries

    def diagnostics(self) -> dict[str, Any]:
        """Divergent draws (indices after the warm-up), acceptance rate, and (draws, chains) statistics."""
        entries: dict[str, Any] = {"divergences": [], "acceptance rate": float("nan")}
        if self._infos:
            stats = {
                name: torch.stack([getattr(info, name) for info in self._infos])
                for name in ("acceptance_rate", "energy", "diverging", "num_steps", "energy_error")
            }
            stats["n_steps"] = stats.pop("num_steps")
            stats["lp"] = torch.stack(self._densities)
            entries["divergences"] = stats["diverging"].any(-1).nonzero()[:, 0].tolist()
            entries["acceptance rate"] = float(stats["acceptance_rate"].mean())
            entries |= stats
        return entries

    def cleanup(self) -> None:
        """Lets go of the density; the state, and what the warm-up found, stay readable."""
        if self.state is not None:
            self.adaptation_record = self.adaptation(self.state)
        self._infos, self._densities = [], []

    @property
    def _batched(self) -> bool:
        return self.num_chains > 1

    def _positions(self, params: dict[str, Tensor]) -> Tensor:
        """Unconstrained sites as one (C, D) tensor."""
        for site in self.density.sites:
            if site.name not in params:
                raise ValueError(
                    f"initial_params: no entry for site {site.name!r}, got {sorted(params)}. "
                    "Fix: give every latent site, in unconstrained space"
                )
        parts = [params[site.name].reshape(self.num_chains, site.size) for site in self.density.sites]
        return torch.cat(parts, -1).to(self.density.dtype).detach()

    def _new_generator(self) -> torch.Generator:
        """The next random stream of `seed`; sequential and parallel chains must not share one."""
        if self.seed is None:
            entropy = [int(torch.randint(2**31, ()))]
        else:
            entropy = [self.seed, self._setups]
            if parent_process() is not None:
                entropy.append(torch.initial_seed() % 2**32)
        seed = int(np.random.SeedSequence(entropy).generate_state(1)[0])
        return torch.Generator(device=torch.get_default_device()).manual_seed(seed)
