"""Data for which every particle has weight zero: which they are, and the warning about them."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import get_proxy_mode

_SHOWN = 5


class DeadRowWarning(UserWarning):
    """Every particle of some plate element has weight zero.

    References:
        none; bookkeeping.
    """


def warn_dead_rows(log_weight: Tensor) -> None:
    r"""Warn, by plate index, about elements whose log-weights are all \(-\infty\).

    The normalised weights of such an element are 0/0. The coefficients are set to zero there, so that one
    impossible datum does not turn the gradient of all the others into NaN; its value stays -inf.
    While a graph is captured nothing is looked at, because a graph cannot branch on numbers.

    Args:
        log_weight: (K, *plates), nats.

    References:
        none; a guard.

    Example:
        >>> import warnings
        >>> with warnings.catch_warnings(record=True) as caught:
        ...     warnings.simplefilter("always")
        ...     warn_dead_rows(torch.tensor([[0.0, -torch.inf], [1.0, -torch.inf]]))
        >>> print(str(caught[0].message).split(":")[1])
         all 2 particles have weight zero at plate index 1
    """
    if get_proxy_mode() is not None:
        return
    dead = torch.isneginf(log_weight).all(0)
    if not bool(dead.any()):
        return
    indices = [tuple(index) for index in dead.nonzero().tolist()]
    if dead.dim() == 0:
        where = ""
    else:
        shown = ", ".join(str(i[0]) if len(i) == 1 else str(i) for i in indices[:_SHOWN])
        more = f" and {len(indices) - _SHOWN} more" if len(indices) > _SHOWN else ""
        where = f" at plate index {shown}{more}"
    warnings.warn(
        f"log-weights: all {log_weight.shape[0]} particles have weight zero{where}: no gradient there. "
        "Fix: check the support of the guide, and that the likelihood allows the datum",
        DeadRowWarning,
        stacklevel=3,
    )
