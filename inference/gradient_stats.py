"""Mean, standard deviation and signal-to-noise ratio of a gradient estimator, parameter by parameter."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import pyro
import torch
from pyro import poutine
from torch import Tensor

from evidentia.inference.evidence.importance import lent
from evidentia.inference.training.fitted import Fit
from evidentia.inference.training.settings import own_generator

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["GradientStats", "gradient_stats"]


class GradientStats(NamedTuple):
    r"""Moments of independent draws of a gradient, for each unconstrained parameter.

    Attributes:
        mean: average gradient of the loss (minus the objective), by parameter name, nats per unit.
        sd: standard deviation of one draw, of the same shapes.
        num_draws: how many draws.

    References:
        Rainforth, Kosiorek, Le, Maddison, Igl, Wood and Teh, 2018, Tighter variational bounds are not
        necessarily better.
    """

    mean: Mapping[str, Tensor]
    sd: Mapping[str, Tensor]
    num_draws: int

    @property
    def standard_error(self) -> dict[str, Tensor]:
        """Standard error of `mean`."""
        return {name: value / self.num_draws**0.5 for name, value in self.sd.items()}

    def snr(self, mean: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        r"""Signal-to-noise ratio \(|\mu| / \mathrm{sd}\) of every entry.

        The ratio of a noisy mean saturates at \(1/\sqrt{\mathrm{draws}}\). Where another unbiased estimator
        of the same gradient is quieter, pass its mean.

        Args:
            mean: the mean to use, by parameter; its own when None.
        """
        used = self.mean if mean is None else mean
        return {name: used[name].abs() / self.sd[name] for name in self.sd}

    def table(self, mean: Mapping[str, Tensor] | None = None) -> pd.DataFrame:
        """One row per parameter: entries, norm of the mean, root of the summed variance, mean ratio.

        Args:
            mean: see `snr`. Entries without noise (sd 0) are left out of the mean ratio.
        """
        import pandas as pd

        ratios = self.snr(mean)
        rows = []
        for name, sd in self.sd.items():
            ratio = ratios[name][sd > 0]
            rows.append(
                {
                    "parameter": name,
                    "entries": sd.numel(),
                    "norm": float(self.mean[name].norm()),
                    "sd": float(sd.norm()),
                    "snr": float(ratio.mean()) if ratio.numel() else float("nan"),
                }
            )
        return pd.DataFrame(rows)


def gradient_stats(
    objective: Any,
    pair: tuple[Callable[..., Any], Callable[..., Any]] | Fit,
    *args: Any,
    num_draws: int = 100,
    seed: int | None = None,
    **kwargs: Any,
) -> GradientStats:
    r"""Draw a gradient estimator n times at fixed parameters: \(\bar g\) and \(\mathrm{sd}(g)\).

    Args:
        objective: any object with `differentiable_loss`, Pyro's ELBOs among them.
        pair: model and guide, or a `Fit`, whose parameters are then used.
        args: passed to both, as are further keywords.
        num_draws: number of draws n, at least 2.
        seed: seed of torch's generator, which is put back afterwards; None draws from the caller's.

    Returns:
        `GradientStats` over the unconstrained parameters that the objective reaches. Gradients that the
        parameters held before are left as they were.

    Raises:
        ValueError: fewer than two draws, no parameter, or an objective without `differentiable_loss`.

    References:
        Rainforth, Kosiorek, Le, Maddison, Igl, Wood and Teh, 2018, Tighter variational bounds are not
        necessarily better.

    Example:
        >>> import pyro.distributions as dist
        >>> from pyro.infer import Trace_ELBO
        >>> def model():
        ...     pyro.sample("z", dist.Normal(0.0, 1.0))
        >>> def guide():
        ...     pyro.sample("z", dist.Normal(pyro.param("loc", torch.tensor(1.0)), 1.0))
        >>> stats = gradient_stats(Trace_ELBO(), (model, guide), num_draws=2000, seed=0)
        >>> abs(float(stats.mean["loc"]) - 1.0) < 4 * float(stats.standard_error["loc"])
        True
    """
    if num_draws < 2:
        raise ValueError(f"num_draws: a spread needs at least 2 draws, got {num_draws}")
    if not hasattr(objective, "differentiable_loss"):
        raise ValueError(
            f"objective: expected an object with differentiable_loss, got {type(objective).__name__}"
        )
    mean: dict[str, Tensor] = {}
    squares: dict[str, Tensor] = {}
    with lent(pair) as (model, guide), own_generator(seed):
        for draw in range(num_draws):
            for name, value in _one(objective, model, guide, args, kwargs).items():
                old = mean.setdefault(name, torch.zeros_like(value))
                squares.setdefault(name, torch.zeros_like(value))
                mean[name] = old + (value - old) / (draw + 1)
                squares[name] += (value - old) * (value - mean[name])
    if not mean:
        raise ValueError("pair: neither the model nor the guide has a parameter that the objective reaches")
    sd = {name: (value / (num_draws - 1)).sqrt() for name, value in squares.items()}
    return GradientStats(mean, sd, num_draws)


def _one(
    objective: Any,
    model: Callable[..., Any],
    guide: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> dict[str, Tensor]:
    """One draw of the gradient by parameter, in double precision."""
    with poutine.trace(param_only=True) as capture:
        loss = objective.differentiable_loss(model, guide, *args, **kwargs)
    store = dict(pyro.get_param_store().named_parameters())
    leaves = {
        name: store[name] for name in capture.trace.nodes if name in store and store[name].requires_grad
    }
    if not leaves:
        return {}
    gradients = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    return {
        name: (torch.zeros_like(leaf) if gradient is None else gradient).detach().double()
        for (name, leaf), gradient in zip(leaves.items(), gradients, strict=True)
    }
