"""Early stopping: the held-out loss has not improved for a number of evaluations."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from evidentia.inference.training.stopping import StoppingRule, Window, has_converged

__all__ = ["Best", "ended_by", "put_back", "update_best"]


class Best(NamedTuple):
    r"""The best held-out evaluation so far, with copies of what was trained at that moment.

    The rule fires when \(\ell_{k - p + 1}, \ldots, \ell_k\) are all at least the best loss before them.

    Attributes:
        loss: the lowest held-out loss in nats.
        step: the step it belongs to, or None before the first evaluation.
        since: evaluations since then.
        values: copies of parameters (`param/...`) and buffers (`buffer/...`).

    References:
        Prechelt, 1998, Early stopping - but when?
    """

    loss: float = math.inf
    step: int | None = None
    since: int = 0
    values: Mapping[str, Tensor] = {}

    def to_state(self) -> dict[str, Tensor | int | float]:
        """The flat entries `best/...` of a fit's state; none before the first evaluation."""
        if self.step is None:
            return {}
        scalars: dict[str, Tensor | int | float] = {
            "best/loss": self.loss,
            "best/step": self.step,
            "best/since": self.since,
        }
        return scalars | {f"best/{name}": value.clone() for name, value in self.values.items()}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Best:
        """What `to_state` wrote; a fresh one when the state has none."""
        if "best/step" not in state:
            return cls()
        values = {
            key.removeprefix("best/"): value.clone()
            for key, value in state.items()
            if key.startswith(("best/param/", "best/buffer/"))
        }
        return cls(float(state["best/loss"]), int(state["best/step"]), int(state["best/since"]), values)


def update_best(best: Best, loss: float, step: int, live: Mapping[str, Tensor]) -> Best:
    """Take in one evaluation; a loss that is not finite is no improvement.

    Args:
        best: the best so far.
        loss: the held-out loss in nats.
        step: the step it belongs to.
        live: the present parameters and buffers, copied if this is the best.

    References:
        Prechelt, 1998, Early stopping - but when?

    Example:
        >>> best = Best()
        >>> for step, loss in enumerate([3.0, 2.0, 2.5, 2.0]):
        ...     best = update_best(best, loss, step, {"param/w": torch.tensor(loss)})
        >>> best.step, best.since, best.values["param/w"]
        (1, 2, tensor(2.))
    """
    if math.isfinite(loss) and loss < best.loss:
        return Best(loss, step, 0, {name: value.detach().clone() for name, value in live.items()})
    return best._replace(since=best.since + 1)


def put_back(best: Best, live: Mapping[str, Tensor]) -> None:
    """Write the best parameters and buffers over the present ones.

    References:
        none; bookkeeping.
    """
    with torch.no_grad():
        for name, value in best.values.items():
            if name in live:
                live[name].copy_(value)


def ended_by(
    rule: StoppingRule | None, window: Window, patience: int | None, best: Best
) -> Literal["converged", "patience"] | None:
    """Which rule ends a fit at this step, if any; asked after every step, and of a state that is loaded.

    Args:
        rule: tolerances of the stopping rule.
        window: its running sums.
        patience: evaluations in a row without a new best.
        best: the best evaluation.

    References:
        Prechelt, 1998, Early stopping - but when?

    Example:
        >>> ended_by(None, Window(), 2, Best(since=2))
        'patience'
    """
    if rule is not None and has_converged(rule, window):
        return "converged"
    return "patience" if patience is not None and best.since >= patience else None
