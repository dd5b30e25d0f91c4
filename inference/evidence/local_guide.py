"""The best member of an amortised guide's family, datum by datum: the encoder's output set free."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, NamedTuple

import pyro
import torch
from pyro import poutine
from torch import Tensor

__all__ = ["LocalGuide", "local_guide"]

_NAMES = {"MultivariateNormal": ["loc", "scale_tril"]}  # it has three ways to give its covariance


class _Law(NamedTuple):
    """A distribution taken apart: how to build it from its parameters, and those parameters."""

    build: Callable[[dict[str, Tensor]], Any]
    values: dict[str, Tensor]
    constraints: dict[str, Any]


class LocalGuide:
    """A guide with the plates and families of another, and parameters of its own for every datum.

    References:
        Cremer, Li and Duvenaud, 2018, Inference suboptimality in variational autoencoders.
    """

    def __init__(self, laws: dict[str, tuple[_Law, tuple[Any, ...]]]) -> None:
        self.laws = laws

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        """Sample every site inside the plates it had; the arguments of the amortised guide are not needed."""
        plates: dict[str, Any] = {}
        for name, (law, frames) in self.laws.items():
            values = {
                key: pyro.param(f"{name}.{key}", value, constraint=law.constraints[key])
                for key, value in law.values.items()
            }
            with _entered(frames, plates):
                pyro.sample(name, law.build(values))


def _entered(frames: tuple[Any, ...], plates: dict[str, Any]) -> ExitStack:
    stack = ExitStack()
    for frame in frames:
        if frame.name not in plates:
            rows = torch.arange(frame.size)
            plates[frame.name] = pyro.plate(frame.name, frame.full_size, subsample=rows, dim=frame.dim)
        stack.enter_context(plates[frame.name])
    return stack


def local_guide(guide: Callable[..., Any], *args: Any, **kwargs: Any) -> LocalGuide:
    r"""Set the parameters of q(z | x) free: one \(\phi_i\) per datum, starting at \(\phi(x_i)\).

    Every latent site must have a reparameterised law whose constructor takes its parameters by name (normal,
    multivariate normal, gamma, ...; also inside `to_event`), and which does not depend on another latent.

    Args:
        guide: the amortised guide.
        args: its arguments, as are further keywords.

    Returns:
        A guide for the same model and the same data, trained by `fit` like any other.

    Raises:
        NotImplementedError: a site whose law cannot be set free, by name.
        ValueError: the guide has no latent site.

    References:
        Cremer, Li and Duvenaud, 2018, Inference suboptimality in variational autoencoders.
        Kim, Wiseman, Miller, Sontag and Rush, 2018, Semi-amortized variational autoencoders.

    Example:
        >>> import pyro.distributions as dist
        >>> def guide(x):
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("z", dist.Normal(x / 2, 1.0))
        >>> free = local_guide(guide, torch.tensor([2.0, 4.0]))
        >>> trace = poutine.trace(free).get_trace()
        >>> trace.nodes["z.loc"]["value"].tolist()
        [1.0, 2.0]
    """
    with torch.no_grad():
        trace = poutine.trace(guide).get_trace(*args, **kwargs)
        again = poutine.trace(guide).get_trace(*args, **kwargs)
    laws = {}
    for name, site in trace.nodes.items():
        if site["type"] != "sample" or site["is_observed"] or type(site["fn"]).__name__ == "_Subsample":
            continue
        law, other = _taken_apart(name, site["fn"]), _taken_apart(name, again.nodes[name]["fn"])
        if any(not torch.equal(law.values[key], other.values[key]) for key in law.values):
            raise NotImplementedError(
                f"guide site '{name}': its parameters change from draw to draw (they depend on another "
                "latent, or on dropout), so there is no q per datum to set free. Fix: call eval() on the "
                "modules, or write a guide whose sites depend on the data alone"
            )
        frames = tuple(frame for frame in site["cond_indep_stack"] if frame.vectorized)
        laws[name] = (law, frames)
    if not laws:
        raise ValueError("guide: it has no latent site, so there is nothing to set free")
    return LocalGuide(laws)


def _taken_apart(name: str, law: Any) -> _Law:
    """Split a distribution into a constructor and its parameters."""
    base = law
    if type(base).__name__ in ("Independent", "ExpandedDistribution", "MaskedDistribution"):
        inner = _taken_apart(name, base.base_dist)
        if type(base).__name__ != "Independent":
            return inner
        event = base.reinterpreted_batch_ndims
        return inner._replace(build=lambda values: inner.build(values).to_event(event))
    if not getattr(base, "has_rsample", False) or not base.arg_constraints:
        raise NotImplementedError(
            f"guide site '{name}': {type(base).__name__} cannot be set free; expected a reparameterised law "
            "that is built from named parameters, such as Normal or MultivariateNormal"
        )
    kind = type(base)
    names = _NAMES.get(kind.__name__, [key for key in base.arg_constraints if key != "probs"])
    values, bounds = {}, {}
    for key in names:
        value, bounds[key] = getattr(base, key), base.arg_constraints[key]
        event = value.shape[value.dim() - bounds[key].event_dim :]
        values[key] = value.expand(base.batch_shape + event).detach().clone()
    return _Law(lambda given: kind(**given), values, bounds)
