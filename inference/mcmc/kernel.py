"""One adapter between pure batched kernels and `pyro.infer.MCMC`.

A kernel is a pair of pure functions whose leading dimensions are chains:

    init(...)    -> State          a NamedTuple with `position` and `log_density`; flat, resumable
    step(state)  -> (State, Info)  Info: a NamedTuple of what one step did

State holds everything a continuation needs, the generator included; adaptation is separate from it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from typing import Any, NamedTuple, Protocol

import torch
from pyro.infer.mcmc.mcmc_kernel import MCMCKernel
from torch import Tensor


class State(Protocol):
    """What every kernel's state has: `position` (chains, …) and `log_density` (chains,) in nats.

    References:
        Cabezas, Corenflos, Lao and Louf, 2024. BlackJAX: composable Bayesian inference in JAX.
    """

    @property
    def position(self) -> Tensor:
        """Positions of all chains."""

    @property
    def log_density(self) -> Tensor:
        """Unnormalised log-density at the positions."""


class Transition(NamedTuple):
    """The result of one step: the new state and what happened.

    References:
        Cabezas, Corenflos, Lao and Louf, 2024. BlackJAX: composable Bayesian inference in JAX.
    """

    state: Any
    info: Any


class Kernel(MCMCKernel, ABC):
    """Abstract: runs a pure batched `init`/`step` under `pyro.infer.MCMC`.

    All chains live inside one kernel as the leading dimension, so use `MCMC(kernel, num_chains=1)`; the
    samples then have shape (draws, chains, …). A concrete class gives `init`, `step` and `unpack`.

    References:
        Bingham et al., 2019. Pyro: deep universal probabilistic programming.

    Example:
        >>> from pyro.infer import MCMC
        >>> class Halve(Kernel):
        ...     def init(self, start): return Point(start, -start)
        ...     def step(self, state): return Transition(Point(state.position / 2, state.log_density), None)
        ...     def unpack(self, state): return {"z": state.position}
        ...     def pack(self, state, params): return Point(params["z"], -params["z"])
        >>> class Point(NamedTuple):
        ...     position: Tensor
        ...     log_density: Tensor
        >>> mcmc = MCMC(Halve(), num_samples=2, warmup_steps=0, disable_progbar=True)
        >>> mcmc.run(torch.tensor([8.0, 4.0]))
        >>> mcmc.get_samples()["z"]
        tensor([[4., 2.],
                [2., 1.]])
    """

    def __init__(self, model: Any = None) -> None:
        self.model = model
        self.transforms: dict[str, Any] = {}
        self.state: Any = None
        self.info: Any = None
        self._steps = 0
        self._start: dict[str, Tensor] | None = None

    @abstractmethod
    def init(self, *args: Any, **kwargs: Any) -> Any:
        """Pure: the first state, from the arguments of `MCMC.run`."""

    @abstractmethod
    def step(self, state: Any) -> Any:
        """Pure: (state, info) after one transition of every chain."""

    @abstractmethod
    def unpack(self, state: Any) -> dict[str, Tensor]:
        """The sites of a state, each (chains, …)."""

    @abstractmethod
    def pack(self, state: Any, params: dict[str, Tensor]) -> Any:
        """`state` moved to the sites `params`."""

    def setup(self, warmup_steps: int, *args: Any, **kwargs: Any) -> None:
        """Called by MCMC before the first sample, on the same object for each run: everything is reset."""
        self._steps, self.info = 0, None
        self.state = self.init(*args, **kwargs)
        if self._start is not None:
            self.state, self._start = self.pack(self.state, self._start), None

    def sample(self, params: dict[str, Tensor]) -> dict[str, Tensor]:
        """One step; a `params` that differs from the state (a caller's own start) moves it first."""
        here = self.unpack(self.state)
        if params and any(not torch.equal(params[name], here[name]) for name in here):
            self.state = self.pack(self.state, params)
        self.state, self.info = self.step(self.state)
        self._steps += 1
        return self.unpack(self.state)

    @property
    def initial_params(self) -> dict[str, Tensor]:
        """The sites of the current state."""
        return {} if self.state is None else self.unpack(self.state)

    @initial_params.setter
    def initial_params(self, params: dict[str, Tensor]) -> None:
        self._start = dict(params)

    def logging(self) -> OrderedDict[str, str]:
        """Shown by the progress bar."""
        density = self.state.log_density.mean()
        return OrderedDict([("log density", f"{float(density):.2f}")])

    def diagnostics(self) -> dict[str, Any]:
        """Plain numbers at the end of the run; `divergences` is what ArviZ looks for."""
        return {"steps": self._steps, "divergences": []}

    def cleanup(self) -> None:
        """Nothing is held; `state` stays readable after the run."""
