"""The abstract objective: one differentiable loss, from which all that Pyro calls follows."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from pyro.infer import ELBO
from torch import Tensor

from evidentia.inference.objectives.nesting import guess_max_plate_nesting, run_pair

__all__ = ["Objective"]


class Objective(ELBO):
    r"""Something to minimise over a pair: \(-\mathcal L\), in nats for the whole data set.

    A subclass gives `differentiable_loss` only. `loss`, `loss_and_grads` (what Pyro's `SVI` calls) and
    `__call__` (an `nn.Module` that returns the loss) follow. On the way to the loss nothing reads a number
    out of a tensor, so that a step can be captured as a graph; checks that must read values run when
    `pyro.enable_validation` is on.

    Args:
        num_particles: K ≥ 1.
        max_plate_nesting: number of plate dimensions of the pair; found by one more run when infinite, and
            remembered for that pair.
        vectorize_particles: draw all the particles in one run; False runs them one by one.

    Raises:
        ValueError: K < 1.

    References:
        Bingham, Chen, Jankowiak et al., 2019. Pyro: Deep universal probabilistic programming (the
        interface).
    """

    def __init__(
        self,
        *,
        num_particles: int = 1,
        max_plate_nesting: float = math.inf,
        vectorize_particles: bool = True,
    ) -> None:
        if isinstance(num_particles, bool) or not isinstance(num_particles, int) or num_particles < 1:
            raise ValueError(
                f"num_particles: expected a whole number >= 1, got {num_particles!r}. Fix: num_particles=1"
            )
        super().__init__(num_particles=num_particles, vectorize_particles=vectorize_particles)
        # Pyro's constructor would add the particles' dimension; here the number is the pair's own.
        self.max_plate_nesting: float = max_plate_nesting
        self._known: tuple[Any, Any, int] | None = None

    @abstractmethod
    def differentiable_loss(
        self, model: Callable[..., Any], guide: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Tensor:
        """Minus the objective as a scalar tensor whose backward pass gives the gradient estimate.

        Args:
            model: a Pyro program.
            guide: a Pyro program.
            args: of both programs.
            kwargs: of both programs.

        Returns:
            Scalar, nats for the whole data set.

        References:
            none; a declaration.
        """

    def loss(self, model: Callable[..., Any], guide: Callable[..., Any], *args: Any, **kwargs: Any) -> float:
        """Minus the objective as a number, without gradients.

        Args:
            model: a Pyro program.
            guide: a Pyro program.
            args: of both programs.
            kwargs: of both programs.

        Returns:
            Nats for the whole data set.

        References:
            none; bookkeeping.
        """
        with torch.no_grad():
            return float(self.differentiable_loss(model, guide, *args, **kwargs))

    def loss_and_grads(
        self, model: Callable[..., Any], guide: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> float:
        """Accumulate the gradient of the loss into `.grad` and return the loss.

        Args:
            model: a Pyro program.
            guide: a Pyro program.
            args: of both programs.
            kwargs: of both programs.

        Returns:
            Nats for the whole data set.

        References:
            none; bookkeeping.
        """
        loss = self.differentiable_loss(model, guide, *args, **kwargs)
        if loss.requires_grad:
            loss.backward()
        return float(loss.detach())

    def nesting(
        self,
        model: Callable[..., Any],
        guide: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> float:
        """Number of plate dimensions of a pair; the last pair's is remembered.

        Args:
            model: a Pyro program.
            guide: a Pyro program.
            args: of both programs.
            kwargs: of both programs.

        References:
            none; bookkeeping.
        """
        if not math.isinf(self.max_plate_nesting):
            return self.max_plate_nesting
        # Equality, not identity: a bound method is a new object each time it is named.
        if self._known is None or self._known[0] != model or self._known[1] != guide:
            self._known = (model, guide, guess_max_plate_nesting(model, guide, args, kwargs))
        return self._known[2]

    def _get_trace(self, model: Any, guide: Any, args: Any, kwargs: Any) -> Any:
        return run_pair(model, guide, args, kwargs)
