"""A generative program and its guide, kept together."""

from collections.abc import Callable
from typing import Any, NamedTuple


class Pair(NamedTuple):
    """A model and a guide: two callables with the same arguments.

    A pair unpacks where Pyro expects the two, so ``SVI(*pair, optimizer, loss)`` works. Several guides for
    one model are the normal case, which is why the guide is not a method of the model.

    Args:
        model: the generative program ``model(*args, **kwargs)``, a Pyro function or a ``PyroModule``.
        guide: the variational program with the same arguments, sampling every latent site of the model.

    Example:
        >>> import pyro, torch, pyro.distributions as dist
        >>> def model(y):
        ...     mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        ...     with pyro.plate("data", len(y)):
        ...         pyro.sample("obs", dist.Normal(mean, 1.0), obs=y)
        >>> def guide(y):
        ...     pyro.sample("mean", dist.Normal(y.mean(), 0.5))
        >>> pair = Pair(model, guide)
        >>> pair.guide is guide
        True

    References:
        Bingham et al., 2019. Pyro: deep universal probabilistic programming.
    """

    model: Callable[..., Any]
    guide: Callable[..., Any]
