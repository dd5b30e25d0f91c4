"""Numbers that a fit changes from step to step: keywords of the programs, and the weight of the latents."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any, final

import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor

__all__ = ["Annealing", "LatentScale", "Weighted"]

_WEIGHT = "_kl_weight"
_Program = Callable[..., Any]


class LatentScale(Messenger):
    r"""Multiply the log densities of the latent sites by a weight; observations keep theirs.

    Around model and guide it turns the bound into \(E_q[\log p(x|z)] - \beta\, KL(q(z) \| p(z))\).

    Args:
        weight: \(\beta > 0\), a 0-dimensional tensor or a number.

    References:
        Higgins, Matthey, Pal et al., 2017, beta-VAE: Learning basic visual concepts with a constrained
        variational framework.

    Example:
        >>> import pyro
        >>> from pyro.distributions import Normal
        >>> def model():
        ...     pyro.sample("x", Normal(pyro.sample("z", Normal(0.0, 1.0)), 1.0), obs=torch.tensor(1.0))
        >>> trace = pyro.poutine.trace(LatentScale(0.5)(model)).get_trace()
        >>> trace.nodes["z"]["scale"], trace.nodes["x"]["scale"]
        (0.5, 1.0)
    """

    def __init__(self, weight: Tensor | float) -> None:
        super().__init__()
        self.weight = weight

    def _pyro_sample(self, msg: Any) -> None:
        if not msg["is_observed"] and type(msg["fn"]).__name__ != "_Subsample":
            msg["scale"] = msg["scale"] * self.weight


@final
class Weighted:
    """A program whose latent sites are weighted by a keyword of its own, which the program does not see.

    References:
        none; bookkeeping.
    """

    def __init__(self, program: _Program) -> None:
        self.program = program

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the program; without the weight it runs as it is."""
        weight = kwargs.pop(_WEIGHT, None)
        if weight is None:
            return self.program(*args, **kwargs)
        with LatentScale(weight):
            return self.program(*args, **kwargs)


@final
class Annealing:
    """The schedules of one fit, and tensors that hold their present values.

    The tensors are made once and written to, so that a recorded graph takes them as inputs.

    Args:
        keywords: schedule by keyword of the programs.
        kl_weight: schedule of the weight of the latent sites, or None.

    Raises:
        ValueError: a schedule that cannot be called, or a value that is not finite (not positive, for the
            weight).

    References:
        Bowman, Vilnis, Vinyals et al., 2016, Generating sentences from a continuous space.

    Example:
        >>> annealing = Annealing({"temperature": lambda step: 1.0 / (1 + step)}, None)
        >>> annealing.at(3)["temperature"]
        tensor(0.2500)
    """

    def __init__(
        self, keywords: Mapping[str, Callable[[int], float]] | None, kl_weight: Callable[[int], float] | None
    ) -> None:
        self.kl_weight = kl_weight
        self._schedules = dict(keywords or {}) | ({_WEIGHT: kl_weight} if kl_weight is not None else {})
        for name, schedule in self._schedules.items():
            if not callable(schedule):
                raise ValueError(
                    f"{_shown(name)}: expected a function of the step, got {schedule!r}. "
                    "Fix: pass lambda step: value, or a schedule of evidentia.inference.training.schedules"
                )
        self._tensors = {name: torch.zeros(()) for name in self._schedules}
        self._step: int | None = None

    def at(self, step: int) -> dict[str, Tensor]:
        """The keywords at a step; the tensors are the same objects at every step."""
        if step != self._step:
            for name, schedule in self._schedules.items():
                value = float(schedule(step))
                if not math.isfinite(value) or (name == _WEIGHT and value <= 0):
                    wanted = "a positive finite number" if name == _WEIGHT else "a finite number"
                    raise ValueError(
                        f"{_shown(name)}: expected {wanted} at step {step}, got {value}. "
                        "Fix: start at a small positive value such as 0.01"
                    )
                self._tensors[name].fill_(value)
            self._step = step
        return self._tensors

    def held_out(self) -> dict[str, Tensor]:
        """The present keywords without the weight: evaluations are at weight 1."""
        return {name: value for name, value in self._tensors.items() if name != _WEIGHT}

    def programs(self, pair: tuple[_Program, _Program]) -> tuple[_Program, _Program]:
        """The pair as the objective sees it."""
        return pair if self.kl_weight is None else (Weighted(pair[0]), Weighted(pair[1]))

    def weight(self, step: int) -> float | None:
        """The weight of the latents that step `step` uses."""
        return None if self.kl_weight is None else float(self.kl_weight(step))

    def rests(self, step: int) -> bool:
        """Whether the weight is the same at this step and the next; only then do losses compare."""
        return self.weight(step) == self.weight(step + 1)

    def warn(self, steps: int) -> None:
        """Say so when the last of `steps` steps had a weight other than 1."""
        last = self.weight(steps - 1) if steps else None
        if last is not None and abs(last - 1.0) > 1e-6:
            warnings.warn(
                f"kl_weight: the schedule has not reached 1 after {steps} steps (it is at {last:.4g}), so "
                "the last losses are not the bound"
                + ("; below 1 they are no bound at all" if last < 1 else "")
                + ". Fix: end the schedule at 1 before num_steps, e.g. linear(0.01, 1.0, num_steps // 2)",
                UserWarning,
                stacklevel=3,
            )


def _shown(name: str) -> str:
    return "kl_weight" if name == _WEIGHT else f"anneal['{name}']"
