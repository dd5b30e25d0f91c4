"""Which latents of an autoencoder carry information about the data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

__all__ = ["activity", "posterior_means"]


def posterior_means(guide: Callable[..., Any], *args: Any, site: str = "z", **kwargs: Any) -> Tensor:
    r"""\(E_q[z_i | x_i]\) of an amortised guide, without sampling error.

    Args:
        guide: a Pyro program whose site has a law with a mean.
        args: its arguments, as are further keywords.
        site: name of the latent site.

    Returns:
        (n, latent), in the units of z.

    Raises:
        ValueError: the guide has no such site.

    References:
        Kingma and Welling, 2014, Auto-encoding variational Bayes.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> def guide(x):
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("z", dist.Normal(x / 2, 1.0).to_event(1))
        >>> posterior_means(guide, torch.tensor([[2.0], [4.0]])).tolist()
        [[1.0], [2.0]]
    """
    with torch.no_grad():
        trace = poutine.trace(guide).get_trace(*args, **kwargs)
    if site not in trace.nodes:
        raise ValueError(f"site '{site}': the guide has {list(trace.stochastic_nodes)}. Fix: site=...")
    law: Any = trace.nodes[site]["fn"]
    mean: Tensor = law.mean
    return mean


def activity(means: Tensor) -> Tensor:
    r"""How much the posterior mean of a latent moves with the data: \(A_j = \mathrm{Var}_x(E_q[z_j | x])\).

    Under a standard normal prior A lies near 0 for a latent that the decoder ignores (its posterior is the
    prior for every datum) and near 1 for one that the data determine. Burda et al. call a latent active when
    A > 0.01.

    Args:
        means: (n, latent).

    Returns:
        (latent,), in the squared units of z.

    References:
        Burda, Grosse and Salakhutdinov, 2016, Importance weighted autoencoders.

    Example:
        >>> activity(torch.tensor([[1.0, 0.0], [-1.0, 0.0]])).tolist()
        [2.0, 0.0]
    """
    return means.var(0)
