"""The discrete sites of a guide as plain arrays: independent plates first, then the coordinates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.distributions.distribution import Distribution
from torch import Tensor

from evidentia.inference.objectives.plates import sample_sites

__all__ = ["Block", "check_one_layer", "discrete_blocks", "linear_extension"]

_KINDS = (
    torch.distributions.Bernoulli,
    torch.distributions.OneHotCategorical,
    torch.distributions.Categorical,
)


class Block(NamedTuple):
    """One discrete guide site, with everything outside the independent plates flattened into coordinates.

    Attributes:
        name: of the site.
        logits: attached to the guide's parameters; (*plates, W) for bits, (*plates, W, C) for choices.
        categorical: choices, not bits.
        integer: the site's value is the index of the category, not a one-hot vector.
        inner: shape of the coordinates in the order of `logits`: other plates, then event dimensions.
        order: permutation from (particles, *nesting, *event) to (particles, *plates, *inner).

    References:
        none; bookkeeping.
    """

    name: str
    logits: Tensor
    categorical: bool
    integer: bool
    inner: tuple[int, ...]
    order: tuple[int, ...]

    def site_value(self, rows: Tensor) -> Tensor:
        """Rows (S, *plates, W[, C]) in the layout of the site: (S, *nesting, *event)."""
        kept = rows.shape[: rows.dim() - (2 if self.categorical else 1)]
        last = rows.shape[-1:] if self.categorical else ()
        value = rows.reshape(*kept, *self.inner, *last)
        inverse = sorted(range(len(self.order)), key=self.order.__getitem__)
        value = value.permute((*inverse, *range(len(inverse), value.dim())))
        return value.argmax(-1) if self.integer else value


def discrete_blocks(guide_trace: Any, dims: tuple[int, ...], nesting: int) -> list[Block]:
    """The latent sites of a guide as blocks.

    Args:
        guide_trace: of one run without particles.
        dims: negative batch dimensions of the independent plates, ascending.
        nesting: number of plate dimensions of the pair.

    Raises:
        NotImplementedError: a site that is neither Bernoulli nor OneHotCategorical nor Categorical.
        ValueError: no latent site.

    References:
        none; bookkeeping.

    Example:
        >>> import pyro
        >>> def guide():
        ...     with pyro.plate("data", 3):
        ...         pyro.sample("z", dist.Bernoulli(logits=torch.zeros(3, 2)).to_event(1))
        >>> (block,) = discrete_blocks(poutine.trace(guide).get_trace(), (-1,), 1)
        >>> block.logits.shape, block.site_value(torch.zeros(5, 3, 2)).shape
        (torch.Size([3, 2]), torch.Size([5, 3, 2]))
    """
    sites = [site for site in sample_sites(guide_trace) if not site["is_observed"]]
    if not sites:
        raise ValueError("guide: expected a discrete latent site, got none. Fix: declare one in the guide")
    return [_block(site, dims, nesting) for site in sites]


def _block(site: dict[str, Any], dims: tuple[int, ...], nesting: int) -> Block:
    base = _base(site["fn"])
    if not isinstance(base, _KINDS):
        raise NotImplementedError(
            f"site '{site['name']}': expected Bernoulli, OneHotCategorical or Categorical, got "
            f"{type(base).__name__}. Fix: ParticleELBO('elbo', 'total') takes any mixture of sites"
        )
    categorical = not isinstance(base, torch.distributions.Bernoulli)
    logits = base.logits
    batch = len(site["fn"].batch_shape)
    logits = logits.reshape((1,) * (nesting - batch) + tuple(logits.shape))
    choice = 1 if categorical else 0
    kept = [nesting + dim for dim in dims]
    rest = [i for i in range(logits.dim() - choice) if i not in kept]
    inner = tuple(logits.shape[i] for i in rest)
    flat = logits.permute((*kept, *rest, *([logits.dim() - 1] if categorical else [])))
    flat = flat.reshape(*flat.shape[: len(kept)], -1, *flat.shape[flat.dim() - choice :])
    order = (0, *(i + 1 for i in kept), *(i + 1 for i in rest))
    integer = isinstance(base, torch.distributions.Categorical)
    return Block(site["name"], flat, categorical, integer, inner, order)


def _base(fn: Any) -> Any:
    while isinstance(fn, torch.distributions.Independent | dist.MaskedDistribution):
        fn = fn.base_dist
    return fn


def linear_extension(fn: Any, name: str, *, detach: bool = False) -> Distribution:
    r"""The same law with a log-probability that is linear in the value, so that soft values are allowed.

    \(\log p(z)=\sum_c z_c\log p_c\) for one-hot vectors, \(z\theta-\mathrm{softplus}(\theta)\) for bits:
    equal to the log-probability at hard values, and differentiable between them.

    Args:
        fn: Bernoulli, OneHotCategorical or Categorical (which stays as it is), possibly `Independent` or
            masked.
        name: of the site, for messages.
        detach: cut off the parameters.

    Raises:
        NotImplementedError: another distribution.

    References:
        Tucker, Mnih, Maddison, Lawson and Sohl-Dickstein, 2017. REBAR: low-variance, unbiased gradient
        estimates for discrete latent variable models.

    Example:
        >>> law = linear_extension(dist.OneHotCategorical(torch.tensor([0.5, 0.25, 0.25])), "z")
        >>> round(law.log_prob(torch.tensor([0.5, 0.5, 0.0])).exp().item() ** 2, 4)
        0.125
    """
    if isinstance(fn, torch.distributions.Independent):
        return dist.Independent(
            linear_extension(fn.base_dist, name, detach=detach), fn.reinterpreted_batch_ndims
        )
    if isinstance(fn, dist.MaskedDistribution):
        inside: Any = linear_extension(fn.base_dist, name, detach=detach)
        return dist.MaskedDistribution(inside, fn._mask)
    if not isinstance(fn, _KINDS):
        raise NotImplementedError(
            f"site '{name}': expected Bernoulli, OneHotCategorical or Categorical in the model too, got "
            f"{type(fn).__name__}. Fix: an estimator that needs no soft values, such as 'rloo'"
        )
    logits = fn.logits.detach() if detach else fn.logits
    if isinstance(fn, torch.distributions.Bernoulli):
        return dist.Bernoulli(logits=logits, validate_args=False)
    if isinstance(fn, torch.distributions.OneHotCategorical):
        return _LinearOneHot(logits=logits, validate_args=False)
    return dist.Categorical(logits=logits, validate_args=False)


class _LinearOneHot(dist.OneHotCategorical):
    def log_prob(self, value: Tensor) -> Tensor:
        return (value * self.logits).sum(-1)


def check_one_layer(
    guide: Callable[..., Any], guide_trace: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    """Raise when a site's logits change after another site's value has been changed.

    Each site in turn gets another value and the guide runs again with the same random numbers. A dependence
    that does not show at the values drawn is not seen.

    Args:
        guide: a Pyro program.
        guide_trace: of one run.
        args: of the program.
        kwargs: of the program.

    Raises:
        NotImplementedError: there is more than one stochastic layer.

    References:
        none; a guard.
    """
    sites = {site["name"]: site for site in sample_sites(guide_trace) if not site["is_observed"]}
    if len(sites) < 2:
        return
    first = _logits(guide, guide_trace, args, kwargs)
    for name, site in sites.items():
        changed = guide_trace.copy()
        changed.nodes[name] = {**site, "value": _other_value(site)}
        for other, logits in _logits(guide, changed, args, kwargs).items():
            before = first[other]
            if other != name and (logits.shape != before.shape or not bool(torch.equal(logits, before))):
                raise NotImplementedError(
                    f"site '{other}': its logits depend on site '{name}', but these estimators take one "
                    "stochastic layer. Fix: ParticleELBO('elbo', 'total', num_particles=2 or more), or "
                    "'iwae' with 'vimco'"
                )


def _other_value(site: dict[str, Any]) -> Tensor:
    value, base = site["value"], _base(site["fn"])
    if isinstance(base, torch.distributions.Bernoulli):
        return 1 - value
    if isinstance(base, torch.distributions.OneHotCategorical):
        return value.roll(1, -1)
    return (value + 1) % base.logits.shape[-1]


def _logits(guide: Any, trace: Any, args: Any, kwargs: Any) -> dict[str, Tensor]:
    with torch.random.fork_rng(), torch.no_grad(), poutine.block():
        torch.manual_seed(0)
        again = poutine.trace(poutine.replay(guide, trace=trace)).get_trace(*args, **kwargs)
    return {site["name"]: _base(site["fn"]).logits for site in sample_sites(again) if not site["is_observed"]}
