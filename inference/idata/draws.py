"""Draws of a Markov chain sampler: constrained values by site, and what the sampler says about each draw."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, final

from torch import Tensor

from evidentia.inference.evidence.log_evidence import LogEvidence

__all__ = ["Draws"]


@final
@dataclass(frozen=True, eq=False)
class Draws:
    """Draws of a Markov chain sampler.

    Attributes:
        samples: site -> (chain, draw, *event), constrained values. A local latent has its plate among
            `event`.
        stats: name -> (chain, draw): `lp` and `energy` in nats on the unconstrained space, `diverging`,
            `acceptance_rate`, `step_size`, `n_steps`, `tree_depth`, as far as the sampler has them.
        state: flat dict of tensors and JSON-able scalars; give it back to the sampler to continue bitwise.
        stopped: "max_steps" when all the draws are there, else the reason a callback gave.
        sampler: the sampler's name.
        superchains: number of groups of consecutive chains that began at one point; 0 when every chain has
            its own.
        unconstrained: (chain, draw, D), the same draws on the unconstrained space, where they are kept.
        warmup: name -> (warm-up step,), the path of the adaptation.
        adjusted: False when the sampler makes no Metropolis correction, so that the draws are biased.
        log_evidence: a rough estimate that came with the start of the chains, or None.

    References:
        none; bookkeeping.

    Example:
        >>> import torch
        >>> Draws({"b": torch.zeros(2, 5, 3)}, {"lp": torch.zeros(2, 5)}, {}, "max_steps", "nuts")
        Draws(sampler='nuts', chains=2, draws=5, stopped='max_steps', samples={'b': (3,)})
    """

    samples: Mapping[str, Tensor]
    stats: Mapping[str, Tensor]
    state: dict[str, Any]
    stopped: str
    sampler: str
    superchains: int = 0
    unconstrained: Tensor | None = None
    warmup: Mapping[str, Tensor] = field(default_factory=dict)
    adjusted: bool = True
    log_evidence: LogEvidence | None = None

    @property
    def num_chains(self) -> int:
        """Number of chains."""
        return int(self.stats["lp"].shape[0])

    @property
    def num_draws(self) -> int:
        """Number of draws of each chain."""
        return int(self.stats["lp"].shape[1])

    def __repr__(self) -> str:
        events = {name: tuple(value.shape[2:]) for name, value in self.samples.items()}
        return (
            f"Draws(sampler={self.sampler!r}, chains={self.num_chains}, draws={self.num_draws}, "
            f"stopped={self.stopped!r}, samples={events})"
        )
