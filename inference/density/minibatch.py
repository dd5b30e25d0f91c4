"""An unbiased log density out of a random part of the data, for many chains at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, final

import torch
from pyro import poutine
from torch import Tensor

from evidentia.inference.density.bound import bind
from evidentia.inference.density.log_density import LogDensity
from evidentia.inference.density.patches import unvalidated
from evidentia.inference.density.sites import preserved_random_state

__all__ = ["MinibatchDensity"]


@final
class MinibatchDensity:
    r"""The log density with its likelihood estimated on a minibatch: every chain has rows of its own.

    \[ \log p(z(x)) + \log|\partial z/\partial x| + \tfrac Nb \sum_{i\in B} \log p(y_i | z(x)) \]

    The model says how: it has one `pyro.plate(name, N, subsample_size=b)` and indexes its data by the plate's
    rows. Pyro does the scaling. The rows, drawn without replacement, are inputs of the recording.

    Args:
        model: a Pyro model with one subsampled plate.
        args: its arguments: the whole data set.
        batch_size: b; it must be the plate's `subsample_size`.
        kwargs: keywords of the model.
        num_chains: C of the recording; that of the first call when None.
        executor: as in `compile_density`.
        dtype: as in `compile_density`.
        seed: as in `compile_density`.

    Attributes:
        plate: name of the plate.
        num_rows: N.

    Raises:
        ValueError: no subsampled plate, more than one, or another subsample size.

    References:
        Welling and Teh, 2011, Bayesian learning via stochastic gradient Langevin dynamics.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> def model(y):
        ...     mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        ...     with pyro.plate("data", len(y), subsample_size=2) as rows:
        ...         pyro.sample("obs", dist.Normal(mean, 1.0), obs=y[rows])
        >>> density = MinibatchDensity(model, (torch.ones(10),), 2)
        >>> value, gradient = density(torch.zeros(3, 1))
        >>> gradient[:, 0]
        tensor([10., 10., 10.])
    """

    def __init__(
        self,
        model: Callable[..., Any],
        args: Sequence[Any],
        batch_size: int,
        *,
        kwargs: Mapping[str, Any] | None = None,
        num_chains: int | None = None,
        executor: str = "auto",
        dtype: torch.dtype | None = None,
        seed: int = 0,
    ) -> None:
        self._model, self._args, self._kwargs = model, tuple(args), dict(kwargs or {})
        self._executor, self._dtype, self._seed = executor, dtype, seed
        self.batch_size = batch_size
        self.plate, self.num_rows = _subsampled_plate(model, self._args, self._kwargs, batch_size, seed)
        self._density: LogDensity | None = None
        if num_chains is not None:
            self.density(num_chains)

    def density(self, num_chains: int) -> LogDensity:
        """The density at given rows (`with_discrete({plate: rows})`); recorded at the first call."""
        if self._density is None:
            self._density = LogDensity(
                bind(
                    self._model,
                    self._args,
                    self._kwargs,
                    num_chains,
                    self._executor,
                    self._dtype,
                    "given",
                    self._seed,
                    self.plate,
                )
            )
        return self._density

    def rows(self, num_chains: int, generator: torch.Generator | None = None) -> Tensor:
        """Rows (C, b) of one minibatch for each chain, without replacement."""
        noise = torch.rand(num_chains, self.num_rows, generator=generator)
        return noise.topk(self.batch_size, -1).indices

    def __call__(self, position: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Estimates of the log density (C,) in nats and of its gradient (C, D), at fresh rows."""
        density = self.density(len(position))
        rows = self.rows(len(position), generator).to(position.device)
        value, gradient, _ = density.with_discrete({self.plate: rows}).evaluate(position)
        return value, gradient


def _subsampled_plate(
    model: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], batch_size: int, seed: int
) -> tuple[str, int]:
    with preserved_random_state(seed), torch.no_grad(), unvalidated(), poutine.block():
        nodes: Any = poutine.trace(model).get_trace(*args, **kwargs).nodes
    found = {
        name: (node["fn"].size, node["fn"].subsample_size)
        for name, node in nodes.items()
        if type(node.get("fn")).__name__ == "_Subsample" and node["fn"].subsample_size < node["fn"].size
    }
    if len(found) != 1:
        raise ValueError(
            f"model: expected one subsampled plate, got {sorted(found)}. "
            'Fix: pyro.plate("data", len(y), subsample_size=batch_size)'
        )
    ((name, (size, subsample)),) = found.items()
    if subsample != batch_size:
        raise ValueError(
            f"batch_size: expected the subsample_size {subsample} of plate {name!r}, got {batch_size}. "
            "Fix: use the same number in both"
        )
    return name, size
