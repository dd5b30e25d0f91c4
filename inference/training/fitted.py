"""What a fit hands back: it owns its parameters and lends them to Pyro's store on request."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, final

import pyro
import torch
from torch import Tensor

from evidentia.inference.compile.inputs import Modules
from evidentia.inference.training.running import put_running

__all__ = ["Fit", "State", "buffers"]

State = dict[str, Any]


def buffers(model: Callable[..., Any], guide: Callable[..., Any]) -> dict[str, Tensor]:
    """The buffers (running statistics and the like) of a pair's modules, named `model/...` and `guide/...`.

    References:
        none; bookkeeping.

    Example:
        >>> sorted(buffers(torch.nn.BatchNorm1d(2), lambda: None))
        ['model/num_batches_tracked', 'model/running_mean', 'model/running_var']
    """
    return Modules(model, guide).buffers()


@final
@dataclass(frozen=True, eq=False)
class Fit:
    """A finished or interrupted fit.

    Attributes:
        pair: the (model, guide) that was trained.
        losses: (steps,) float64, the loss of every step in nats; a skipped step keeps its non-finite loss.
        params: constrained parameter values by name, detached copies.
        state: flat dict of tensors and JSON-able scalars (`param/<name>`, `buffer/<name>`, `running/<name>`,
            `opt/...`, `rng/torch`, `losses`, `step`, ...). `fit(..., state=fit.state)` continues bitwise.
        stopped: "converged" (the stopping rule), "patience" (no better held-out loss; the parameters are the
            best ones), "frozen" (a restart whose numbers failed), "max_steps", "max_seconds", "callback", or
            the reason a callback gave.
        skipped: number of updates that were skipped because the numbers failed.
        evaluations: (k, 2) float64, held-out losses as rows (step, nats).
        kl_weight: weight of the latent sites at the last step, or None without a schedule.
        best_step: step of the lowest held-out loss when `patience` watched it, or None.
        restart_losses: (R, steps) float64, the losses of every restart in nats, or None for a single fit.
            NaN after a restart has stopped.
        restarts_state: flat state of all restarts; `fit(..., restarts=R, state=fit.restarts_state)` continues
            them bitwise.
        frozen: step at which a restart stopped being finite and was left behind, by restart.
        best_restart: which restart has the lowest mean loss over the last steps (up to 100, at most a
            quarter of the run), or the lowest held-out loss.

    References:
        none; bookkeeping.
    """

    pair: tuple[Callable[..., Any], Callable[..., Any]]
    losses: Tensor
    params: Mapping[str, Tensor]
    state: State
    stopped: str
    skipped: int
    evaluations: Tensor
    constraints: Mapping[str, Any] = field(repr=False)
    leaves: Mapping[str, Tensor] = field(repr=False)
    kl_weight: float | None = None
    best_step: int | None = None
    restart_losses: Tensor | None = None
    frozen: Mapping[int, int] = field(default_factory=dict)
    best_restart: int | None = None
    restarts_state: State | None = field(default=None, repr=False)
    pick: Callable[[int], Fit] | None = field(default=None, repr=False)

    def restart(self, number: int) -> Fit:
        """The fit of one restart; they are numbered 0 ... R - 1.

        Raises:
            ValueError: a single fit, or no restart of this number.

        References:
            none; bookkeeping.
        """
        if self.pick is None or self.restart_losses is None:
            raise ValueError("restart: this is a single fit. Fix: call fit(..., restarts=R)")
        if not 0 <= number < len(self.restart_losses):
            raise ValueError(f"restart: expected 0 ... {len(self.restart_losses) - 1}, got {number}")
        return self.pick(number)

    def __repr__(self) -> str:
        last = f"{float(self.losses[-1]):.4f}" if len(self.losses) else "none"
        return (
            f"Fit(steps={len(self.losses)}, loss={last}, stopped={self.stopped!r}, skipped={self.skipped}, "
            f"params={sorted(self.params)})"
        )

    @contextmanager
    def scope(self) -> Iterator[Fit]:
        """Run code with this fit's parameters in Pyro's store and in the pair's modules.

        Both are as before when the block ends, so two fits of one pair can be used in turn. Do not train
        inside.

        References:
            none; bookkeeping.

        Example:
            >>> from pyro.distributions import Normal
            >>> from torch.distributions import constraints
            >>> from evidentia.inference.fit import fit
            >>> def model():
            ...     pyro.sample("z", Normal(3.0, 1.0))
            >>> def guide():
            ...     loc = pyro.param("loc", torch.tensor(0.0))
            ...     scale = pyro.param("scale", torch.tensor(1.0), constraints.positive)
            ...     pyro.sample("z", Normal(loc, scale))
            >>> result = fit((model, guide), num_steps=2, learning_rate=0.1, seed=0)
            >>> with result.scope():
            ...     bool(pyro.param("loc") > 0)
            True
        """
        live = buffers(*self.pair)
        wanted = {name: self.state[f"param/{name}"] for name in self.leaves}
        kept = {name: leaf.detach().clone() for name, leaf in self.leaves.items()}
        kept_buffers = {name: value.clone() for name, value in live.items()}
        store = pyro.get_param_store()
        try:
            with torch.no_grad():
                for name, leaf in self.leaves.items():
                    leaf.copy_(wanted[name])
                for name, value in live.items():
                    if f"buffer/{name}" in self.state:
                        value.copy_(self.state[f"buffer/{name}"])
            entries: Any = {"params": dict(self.leaves), "constraints": dict(self.constraints)}
            with store.scope(entries):
                put_running(
                    {k.removeprefix("running/"): v for k, v in self.state.items() if k.startswith("running/")}
                )
                yield self
        finally:
            with torch.no_grad():
                for name, leaf in self.leaves.items():
                    leaf.copy_(kept[name])
                for name, value in live.items():
                    value.copy_(kept_buffers[name])
