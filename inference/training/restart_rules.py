"""Stopping rules of many restarts at once: convergence and patience, one row for each restart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from evidentia.inference.training.patience import Best
from evidentia.inference.training.stopping import StoppingRule, Window

__all__ = ["Bests", "Windows", "update_bests", "update_windows"]


class Windows(NamedTuple):
    """`evidentia.inference.training.stopping.Window` of every restart; NaN stands for no loss yet.

    Attributes:
        steps: in the current window, common to all.
        loss_sum: (R,) nats.
        loss_count: (R,).
        total: (R, P), running sum of the unconstrained parameters.
        previous_loss: (R,), mean of the window before.
        previous: (R, P), mean parameters of the window before.

    References:
        none; bookkeeping.
    """

    steps: int
    loss_sum: Tensor
    loss_count: Tensor
    total: Tensor
    previous_loss: Tensor
    previous: Tensor

    @classmethod
    def fresh(cls, parameters: Tensor) -> Windows:
        """No step yet; `parameters` (R, P) gives the sizes."""
        rows, none = parameters.new_zeros(len(parameters)), torch.full_like(parameters, torch.nan)
        return cls(0, rows, rows.clone(), torch.zeros_like(parameters), none[:, 0].clone(), none)

    def to_state(self) -> dict[str, Tensor | int]:
        """Flat entries `stop/...`."""
        return {f"stop/{k}": v if isinstance(v, int) else v.clone() for k, v in self._asdict().items()}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Windows | None:
        """What `to_state` wrote, or None."""
        if "stop/previous" not in state:
            return None
        rest = {name: state[f"stop/{name}"].clone() for name in cls._fields if name != "steps"}
        return cls(steps=int(state["stop/steps"]), **rest)

    def row(self, number: int) -> Window:
        """The window of one restart."""
        known = not bool(torch.isnan(self.previous[number]).any())
        loss = float(self.previous_loss[number])
        return Window(
            self.steps,
            float(self.loss_sum[number]),
            int(self.loss_count[number]),
            self.total[number].clone(),
            loss if loss == loss else None,
            self.previous[number].clone() if known else None,
        )


def update_windows(
    rule: StoppingRule, windows: Windows, loss: Tensor | None, parameters: Tensor
) -> tuple[Windows, Tensor]:
    """Add one step of all restarts; at the end of the window compare it with the one before.

    Args:
        rule: the tolerances.
        windows: so far.
        loss: (R,) nats; None when there is none to add, NaN where a restart has none.
        parameters: (R, P), unconstrained.

    Returns:
        The next windows, and which restarts have converged (R,).

    References:
        none; derived here.

    Example:
        >>> rule, ones = StoppingRule(window=2), torch.ones(2, 3)
        >>> windows = Windows.fresh(ones)
        >>> for step in range(4):
        ...     windows, converged = update_windows(rule, windows, torch.tensor([5.0, float(step)]), ones)
        >>> converged
        tensor([ True, False])
    """
    windows = windows._replace(steps=windows.steps + 1, total=windows.total + parameters)
    if loss is not None:
        finite = torch.isfinite(loss)
        windows = windows._replace(
            loss_sum=windows.loss_sum + torch.where(finite, loss, 0.0),
            loss_count=windows.loss_count + finite,
        )
    if windows.steps < rule.window:
        return windows, torch.zeros(len(parameters), dtype=torch.bool)
    mean, mean_loss = windows.total / windows.steps, windows.loss_sum / windows.loss_count  # 0 / 0 is NaN
    before, old = windows.previous_loss, windows.previous
    change = (mean_loss - before).abs() / before.abs().clamp(min=1.0)
    drift = (mean - old).norm(dim=1) / old.norm(dim=1).clamp(min=1e-8)
    converged = (change <= rule.loss) & (drift <= rule.drift)  # false for NaN
    return Windows.fresh(parameters)._replace(previous_loss=mean_loss, previous=mean), converged


class Bests(NamedTuple):
    """`evidentia.inference.training.patience.Best` of every restart; step -1 before the first evaluation.

    Attributes:
        loss: (R,) nats, the lowest held-out loss.
        step: (R,), where it was.
        since: (R,), evaluations since then.
        values: parameters and buffers at that step, (R, ...).

    References:
        Prechelt, 1998, Early stopping - but when?
    """

    loss: Tensor
    step: Tensor
    since: Tensor
    values: Mapping[str, Tensor]

    @classmethod
    def fresh(cls, number: int) -> Bests:
        """No evaluation yet of so many restarts."""
        zero = torch.zeros(number, dtype=torch.int64)
        return cls(torch.full((number,), torch.inf, dtype=torch.float64), zero - 1, zero, {})

    def to_state(self) -> dict[str, Tensor]:
        """Flat entries `best/...`."""
        entries = {"best/loss": self.loss, "best/step": self.step, "best/since": self.since}
        entries |= {f"best/{name}": value for name, value in self.values.items()}
        return {name: value.clone() for name, value in entries.items()}

    @classmethod
    def from_state(cls, state: Mapping[str, Any], number: int) -> Bests:
        """What `to_state` wrote; a fresh one when there is none."""
        if "best/step" not in state:
            return cls.fresh(number)
        values = {
            key.removeprefix("best/"): value.clone()
            for key, value in state.items()
            if key.startswith(("best/param/", "best/buffer/"))
        }
        loss, step, since = (state[f"best/{name}"].clone() for name in ("loss", "step", "since"))
        return cls(loss, step, since, values)

    def row(self, number: int) -> Best:
        """The best of one restart."""
        if int(self.step[number]) < 0:
            return Best()
        values = {name: value[number].clone() for name, value in self.values.items()}
        return Best(float(self.loss[number]), int(self.step[number]), int(self.since[number]), values)


def update_bests(bests: Bests, loss: Tensor, step: int, live: Mapping[str, Tensor], watched: Tensor) -> Bests:
    """Take in one evaluation of the watched restarts; a loss that is not finite is no improvement.

    Args:
        bests: so far.
        loss: (R,) nats.
        step: of the evaluation.
        live: present parameters and buffers, (R, ...).
        watched: (R,), which restarts were evaluated.

    References:
        Prechelt, 1998, Early stopping - but when?

    Example:
        >>> bests, watched = Bests.fresh(2), torch.tensor([True, True])
        >>> for step, loss in enumerate(([3.0, 1.0], [2.0, 1.5])):
        ...     bests = update_bests(bests, torch.tensor(loss), step, {"w": torch.tensor(loss)}, watched)
        >>> bests.step.tolist(), bests.since.tolist(), bests.values["w"].tolist()
        ([1, 0], [0, 1], [2.0, 1.0])
    """
    better = watched & torch.isfinite(loss) & (loss < bests.loss)
    values = {}
    for name, value in live.items():
        new = value.detach().clone()
        if name in bests.values:
            new[~better] = bests.values[name][~better]
        values[name] = new
    return Bests(
        torch.where(better, loss.to(bests.loss), bests.loss),
        torch.where(better, step, bests.step),
        torch.where(better, 0, bests.since + watched),
        values,
    )
