"""What a run of many chains keeps: draws and statistics, stored as they come and continued after a stop."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

import torch
from torch import Tensor

from evidentia.inference.mcmc.info import Info

__all__ = ["Recording"]


@final
class Recording:
    """Draws (N, C, D) and statistics (N, C) of a run, and the path of its warm-up.

    Memory is that of the kept draws, whole from the start; it grows with `num_draws`, not with the steps.

    Args:
        num_draws: draws to be kept of each chain.
        position: (C, D), an example.

    References:
        none; bookkeeping.
    """

    def __init__(self, num_draws: int, position: Tensor) -> None:
        self.draws = position.new_empty(num_draws, *position.shape)
        self.stats: dict[str, Tensor] = {}
        self.extra: dict[str, Tensor] = {}
        self.count = 0
        self.warmup: dict[str, list[float]] = {}

    def warm(self, info: Info, lp: Tensor, adaptation: Mapping[str, Tensor]) -> None:
        """One step of the warm-up: means over chains, and the scalars that adapt."""
        entries = {name: float(value) for name, value in adaptation.items() if value.dim() == 0}
        entries |= {
            "acceptance_rate": float(info.acceptance_rate.mean()),
            "lp": float(lp.mean()),
            "n_steps": float(info.num_steps),
            "diverging": float(info.diverging.sum()),
        }
        for name, value in entries.items():
            self.warmup.setdefault(name, []).append(value)

    def keep(self, position: Tensor, lp: Tensor, info: Info, skipped: Tensor, step_size: float) -> None:
        """One draw; `skipped` (C,) says which chains diverged in a transition that was thinned away."""
        chains = len(position)
        values = {
            "lp": lp,
            "energy": info.energy,
            "acceptance_rate": info.acceptance_rate,
            "diverging": info.diverging | skipped,
            "n_steps": info.num_steps.expand(chains),
            "step_size": torch.full((chains,), step_size, dtype=torch.float64),
        }
        if not self.stats:
            self.stats = {name: value.new_empty(len(self.draws), chains) for name, value in values.items()}
        self.draws[self.count] = position
        for name, value in values.items():
            self.stats[name][self.count] = value
        self.count += 1

    def keep_extra(self, values: Mapping[str, Tensor]) -> None:
        """Sites (C, ...) of the draw last kept that are no part of the position."""
        for name, value in values.items():
            if name not in self.extra:
                self.extra[name] = value.new_empty(len(self.draws), *value.shape)
            self.extra[name][self.count - 1] = value

    @property
    def divergences(self) -> int:
        """Divergent transitions after the warm-up, of all chains."""
        return int(self.stats["diverging"][: self.count].sum()) if self.stats else 0

    def state(self) -> dict[str, Any]:
        """Flat entries of a checkpoint."""
        flat: dict[str, Any] = {
            f"warmup/{k}": torch.tensor(v, dtype=torch.float64) for k, v in self.warmup.items()
        }
        if self.count:
            flat["draws/position"] = self.draws[: self.count].clone()
            flat |= {f"draws/{name}": value[: self.count].clone() for name, value in self.stats.items()}
            flat |= {f"extra/{name}": value[: self.count].clone() for name, value in self.extra.items()}
        return flat

    def restore(self, flat: Mapping[str, Any]) -> None:
        """Take over the entries of `state`; draws beyond `num_draws` are kept too."""
        for key, value in flat.items():
            kind, _, name = key.partition("/")
            if kind == "warmup":
                self.warmup[name] = value.tolist()
            elif key == "draws/position":
                self.count = len(value)
                if self.count > len(self.draws):
                    self.draws = value.new_empty(value.shape)
                self.draws[: self.count] = value
        for key, value in flat.items():
            if key.startswith("draws/") and key != "draws/position":
                self.stats[key.removeprefix("draws/")] = value.new_empty(len(self.draws), *value.shape[1:])
                self.stats[key.removeprefix("draws/")][: self.count] = value
            elif key.startswith("extra/"):
                self.extra[key.removeprefix("extra/")] = value.new_empty(len(self.draws), *value.shape[1:])
                self.extra[key.removeprefix("extra/")][: self.count] = value
