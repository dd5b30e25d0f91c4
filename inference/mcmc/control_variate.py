"""Minibatch gradients that differ from an exact one at the mode: less noise near it."""

from __future__ import annotations

import math
from typing import final

import torch
from torch import Tensor

from evidentia.inference.density.minibatch import MinibatchDensity
from evidentia.inference.mcmc.stochastic_gradient import GradientEstimate

__all__ = ["ControlVariate", "climb", "full_batch"]


def full_batch(minibatch: MinibatchDensity, position: Tensor) -> tuple[Tensor, Tensor]:
    """The exact log density () and gradient (D,) at one position (D,), by batches that cover every row alike.

    Consecutive batches of b rows go round the N rows lcm(N, b) / b times: their mean is exact even where b
    does not divide N.

    References:
        none; bookkeeping.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> def model(y):
        ...     mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        ...     with pyro.plate("data", len(y), subsample_size=2) as rows:
        ...         pyro.sample("obs", dist.Normal(mean, 1.0), obs=y[rows])
        >>> full_batch(MinibatchDensity(model, (torch.arange(5.0),), 2), torch.zeros(1))[1]
        tensor([10.])
    """
    size, total = minibatch.batch_size, minibatch.num_rows
    count = math.lcm(total, size) // size
    rows = (torch.arange(count * size, device=position.device) % total).reshape(count, size)
    density = minibatch.density(min(count, 64))
    found = density.with_discrete({minibatch.plate: rows}).evaluate(position.expand(count, -1).contiguous())
    return found.log_density.mean(0), found.gradient.mean(0)


def climb(
    estimate: GradientEstimate,
    position: Tensor,
    *,
    steps: int = 500,
    learning_rate: float = 0.05,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Towards the mode by Adam on estimated gradients, with a rate that falls to zero; (C, D) → (C, D).

    Args:
        estimate: unbiased gradients.
        position: where to begin.
        steps: of Adam.
        learning_rate: the first one.
        generator: torch's global one when None.

    References:
        Kingma, Ba, 2015, Adam: a method for stochastic optimization.

    Example:
        >>> climb(lambda x, generator: (x[:, 0], 2.0 - x), torch.zeros(1, 1)).round(decimals=1)
        tensor([[2.]])
    """
    first, second = torch.zeros_like(position), torch.zeros_like(position)
    for step in range(1, steps + 1):
        _, gradient = estimate(position, generator)
        gradient = gradient.nan_to_num(0.0, 0.0, 0.0)
        first, second = 0.9 * first + 0.1 * gradient, 0.99 * second + 0.01 * gradient.square()
        move = first / (1 - 0.9**step) / ((second / (1 - 0.99**step)).sqrt() + 1e-12)
        position = position + learning_rate * (1.0 - (step - 1) / steps) * move
    return position


@final
class ControlVariate:
    r"""Gradients \(g(\hat x) + \hat g_B(x) - \hat g_B(\hat x)\), with the same rows B in both estimates.

    Unbiased for any \(\hat x\). Near it the two estimates nearly agree, so that the noise is of order \(\|x -
    \hat x\|\) in place of constant; for a posterior of N rows that is about \(\sqrt N\) times less. Each
    call costs two minibatch gradients.

    Args:
        minibatch: of a model with a subsampled plate.
        mode: \(\hat x\), (D,): near the posterior mode, from `climb` for instance.

    Raises:
        ValueError: a mode of another shape, or where the density is not finite.

    References:
        Baker, Fearnhead, Fox, Nemeth, 2019, Control variates for stochastic gradient MCMC. Nagapetyan,
        Duncan, Hasenclever, Vollmer, Szpruch, Zygalakis, 2017, The true cost of stochastic gradient Langevin
        dynamics.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> def model(y):
        ...     mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        ...     with pyro.plate("data", len(y), subsample_size=2) as rows:
        ...         pyro.sample("obs", dist.Normal(mean, 1.0), obs=y[rows])
        >>> estimate = ControlVariate(MinibatchDensity(model, (torch.arange(5.0),), 2), torch.zeros(1))
        >>> estimate(torch.ones(3, 1), None)[1][:, 0]  # the curvature is that of every row
        tensor([4., 4., 4.])
    """

    def __init__(self, minibatch: MinibatchDensity, mode: Tensor) -> None:
        if mode.ndim != 1:
            raise ValueError(f"mode: expected shape (D,), got {tuple(mode.shape)}. Fix: one position")
        self.minibatch, self.mode = minibatch, mode.detach()
        self.log_density, self.gradient = full_batch(minibatch, self.mode)
        if not bool(self.log_density.isfinite() & self.gradient.isfinite().all()):
            raise ValueError(f"mode: the log density is {float(self.log_density)} there. Fix: climb(…)")

    def __call__(self, position: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Estimates of the log density (C,) in nats and of its gradient (C, D), at fresh rows."""
        density = self.minibatch.density(len(position))
        rows = self.minibatch.rows(len(position), generator).to(position.device)
        at = density.with_discrete({self.minibatch.plate: rows})
        here, there = at.evaluate(position), at.evaluate(self.mode.expand_as(position).contiguous())
        value = self.log_density + here.log_density - there.log_density
        return value, self.gradient + here.gradient - there.gradient
