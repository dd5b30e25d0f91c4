"""When a fit has converged: the smoothed bound *and* the parameters stand still over a window."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

__all__ = ["StoppingRule", "Window", "has_converged", "stopping_rule", "update_window"]


class StoppingRule(NamedTuple):
    r"""Tolerances of the stopping rule.

    With \(\bar\ell_1, \bar\theta_1\) the mean loss and the mean unconstrained parameters over one window and
    \(\bar\ell_0, \bar\theta_0\) those over the window before, the fit has converged when both

        |l1 - l0| / max(|l0|, 1 nat) <= loss      and      ||t1 - t0|| / max(||t0||, 1e-8) <= drift.

    A flat bound alone is not convergence: it flattens before the parameters do.

    Attributes:
        loss: tolerance on the relative change of the smoothed loss.
        drift: tolerance on the relative drift of the averaged parameters.
        window: number of steps (of held-out evaluations for the loss, if there are any) in a window.

    References:
        none; derived here. For the need of a check after stopping: Yao, Vehtari, Simpson, Gelman, 2018,
        Yes, but did it work? Evaluating variational inference.
    """

    loss: float = 1e-3
    drift: float = 1e-2
    window: int = 100


class Window(NamedTuple):
    """Running sums of the current window, the means of the previous one, and how far the last two differed.

    References:
        none; bookkeeping.
    """

    steps: int = 0
    loss_sum: float = 0.0
    loss_count: int = 0
    total: Tensor | None = None
    previous_loss: float | None = None
    previous: Tensor | None = None
    change: float = math.inf
    drift: float = math.inf

    def to_state(self) -> dict[str, Tensor | int | float]:
        """The window as flat entries `stop/...` of a fit's state."""
        entries: dict[str, Tensor | int | float] = {
            "stop/steps": self.steps,
            "stop/loss_sum": self.loss_sum,
            "stop/loss_count": self.loss_count,
        }
        if math.isfinite(self.change) and math.isfinite(self.drift):
            entries |= {"stop/change": self.change, "stop/drift": self.drift}
        if self.previous_loss is not None:
            entries["stop/previous_loss"] = self.previous_loss
        if self.total is not None:
            entries["stop/total"] = self.total.clone()
        if self.previous is not None:
            entries["stop/previous"] = self.previous.clone()
        return entries

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Window:
        """The window that `to_state` wrote; a fresh one when the state has none."""
        return cls(
            steps=int(state.get("stop/steps", 0)),
            loss_sum=float(state.get("stop/loss_sum", 0.0)),
            loss_count=int(state.get("stop/loss_count", 0)),
            total=_copy(state.get("stop/total")),
            previous_loss=state.get("stop/previous_loss"),
            previous=_copy(state.get("stop/previous")),
            change=float(state.get("stop/change", math.inf)),
            drift=float(state.get("stop/drift", math.inf)),
        )


def _copy(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.clone()


def stopping_rule(tolerance: StoppingRule | float | None) -> StoppingRule | None:
    """Turn the `tolerance` argument of `fit` into a rule: a number is the loss tolerance.

    Raises:
        ValueError: a tolerance that is not positive, or a window below 2 steps.

    References:
        none; bookkeeping.

    Example:
        >>> stopping_rule(0.001)
        StoppingRule(loss=0.001, drift=0.01, window=100)
    """
    if tolerance is None:
        return None
    rule = tolerance if isinstance(tolerance, StoppingRule) else StoppingRule(loss=float(tolerance))
    if not (rule.loss > 0.0 and rule.drift > 0.0):
        raise ValueError(f"tolerance: expected positive numbers, got {rule}; use None to run all the steps")
    if rule.window < 2:
        raise ValueError(f"tolerance.window: expected at least 2 steps, got {rule.window}")
    return rule


def update_window(
    rule: StoppingRule, window: Window, loss: float | None, parameters: Tensor
) -> tuple[Window, bool]:
    """Add one step to the window; at its end compare it with the window before.

    Args:
        rule: the tolerances.
        window: the running sums so far.
        loss: loss of the step in nats, or None when there is none to add (held-out loss not due, step
            skipped).
        parameters: all unconstrained parameters, one vector.

    Returns:
        The next window, and whether the fit has converged.

    References:
        none; derived here.

    Example:
        >>> window, rule = Window(), StoppingRule(window=2)
        >>> for _ in range(4):
        ...     window, converged = update_window(rule, window, -10.0, torch.ones(3))
        >>> converged
        True
    """
    if window.total is None or window.total.shape != parameters.shape:
        window = Window()
        total = parameters.detach().clone()
    else:
        total = window.total + parameters.detach()
    finite = loss is not None and math.isfinite(loss)
    window = window._replace(
        steps=window.steps + 1,
        total=total,
        loss_sum=window.loss_sum + (loss if finite and loss is not None else 0.0),
        loss_count=window.loss_count + int(finite),
    )
    if window.steps < rule.window:
        return window, False
    mean = total / window.steps
    mean_loss = window.loss_sum / window.loss_count if window.loss_count else None
    change = drift = math.inf
    if None not in (mean_loss, window.previous_loss) and window.previous is not None:
        before = float(window.previous_loss or 0.0)
        change = abs(float(mean_loss or 0.0) - before) / max(abs(before), 1.0)
        size = max(float(window.previous.norm()), 1e-8)
        drift = float((mean - window.previous).norm()) / size
    kept = torch.zeros_like(total)
    ended = Window(total=kept, previous_loss=mean_loss, previous=mean, change=change, drift=drift)
    return ended, has_converged(rule, ended)


def has_converged(rule: StoppingRule, window: Window) -> bool:
    """Whether the window that has just ended met the rule; False inside a window.

    A fit that resumes from the state of exactly this step asks, so that it does not train on.

    References:
        none; bookkeeping.

    Example:
        >>> has_converged(StoppingRule(), Window(change=0.0, drift=0.0))
        True
        >>> has_converged(StoppingRule(), Window())
        False
    """
    return window.steps == 0 and window.change <= rule.loss and window.drift <= rule.drift
