"""Running averages that an objective keeps in Pyro's store: part of a fit's state, but nothing to train."""

from __future__ import annotations

from collections.abc import Mapping

import pyro
from pyro.ops.provenance import detach_provenance
from torch import Tensor

__all__ = ["is_running", "put_running", "refuse_ranks", "running_values"]

# The name under which Pyro's `TraceGraph_ELBO` keeps the decaying average of a site's cost.
_PREFIX = "__baseline_"


def is_running(name: str) -> bool:
    """Whether an entry of the store is a running average that the objective itself replaces every step.

    Networks given as `nn_baseline` are trained by gradients and count as parameters.

    References:
        Mnih and Gregor, 2014, Neural variational inference and learning in belief networks.

    Example:
        >>> is_running("__baseline_avg_downstream_cost_k"), is_running("loc")
        (True, False)
    """
    return name.startswith(_PREFIX)


def running_values() -> dict[str, Tensor]:
    """Copies of the running averages in the present store, by name.

    References:
        none; bookkeeping.
    """
    stored = pyro.get_param_store().named_parameters()
    # Pyro leaves its record of what the average depends on in it, a kind of tensor that cannot be saved.
    return {name: detach_provenance(value).detach().clone() for name, value in stored if is_running(name)}


def put_running(values: Mapping[str, Tensor]) -> None:
    """Make these the running averages of the present store; others are forgotten.

    References:
        none; bookkeeping.

    Example:
        >>> import torch
        >>> with pyro.get_param_store().scope():
        ...     put_running({"__baseline_k": torch.ones(2)})
        ...     found = running_values()
        >>> found
        {'__baseline_k': tensor([1., 1.])}
    """
    store = pyro.get_param_store()
    for name in [name for name, _ in store.named_parameters() if is_running(name) and name not in values]:
        del store[name]
    for name, value in values.items():
        store[name] = value.detach().clone()


def refuse_ranks(several: bool) -> None:
    """Refuse running averages in a fit of several ranks: each would have those of its own rows.

    Raises:
        ValueError: there are some.

    References:
        none; bookkeeping.
    """
    if several and running_values():
        raise ValueError(
            "data_parallel: the objective keeps running averages of each rank's own rows, which ranks cannot "
            "share. Fix: leave use_decaying_avg_baseline out"
        )
