"""One chain's log density of a Pyro model, split into prior and likelihood."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.infer import config_enumerate
from pyro.infer.mcmc.util import TraceEinsumEvaluator
from pyro.poutine.enum_messenger import EnumMessenger
from pyro.poutine.messenger import Messenger
from torch import Tensor

from evidentia.inference.density.packing import unpack_with_jacobian
from evidentia.inference.density.sites import Structure

__all__ = ["Joint"]


class _Frozen(Messenger):
    """Parameters are constants of the density's type."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def _pyro_post_param(self, msg: Any) -> None:
        value = msg["value"]
        if value is not None:
            value = value.detach()
            msg["value"] = value.to(self.dtype) if value.is_floating_point() else value


class _Enumerate(EnumMessenger):
    """Pyro's enumeration, without the look at `value.data` that a mapped tensor refuses."""

    def _pyro_post_sample(self, msg: Any) -> None:
        value = msg["value"]
        if isinstance(value, Tensor):
            msg["value"] = torch.empty(()).expand(value.shape)
        super()._pyro_post_sample(msg)
        msg["value"] = value


@final
class Joint:
    r"""The tempered log density of one position, by one run of the model.

    \[ \log p_\beta(x) = \log p(z(x)) + \log|\partial z/\partial x| + \beta \log p(y | z(x)) \]

    Discrete latents that are summed out stay inside both parts: the prior is \(\sum_d p(z, d)\), the
    likelihood \(\sum_d p(y, z, d) / \sum_d p(z, d)\).

    Args:
        model: a Pyro model.
        structure: its sites.
        dtype: of the density.
        given: names of further sites whose values are inputs.

    Attributes:
        last: the site that ran last, for messages about what failed.

    References:
        none; bookkeeping.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        structure: Structure,
        dtype: torch.dtype,
        given: tuple[str, ...] = (),
    ) -> None:
        self.structure, self.given, self.dtype = structure, given, dtype
        self.plain = model
        self.enumerates = structure.summed and bool(structure.discrete)
        if self.enumerates:
            first = -1 - structure.max_plate_nesting
            model = _Enumerate(first_available_dim=first)(config_enumerate(model))
        self.model = model
        self.last = "the first site"
        own = {site.name for site in structure.sites} | set(structure.prior) | set(structure.discrete)
        self._prior = own

    def __call__(
        self,
        position: Tensor,
        beta: Tensor,
        given: tuple[Tensor, ...],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> tuple[Tensor, Tensor]:
        """Log density () and log likelihood () at one position (D,), in nats."""
        values, log_jacobian = unpack_with_jacobian(self.structure, position)
        values |= dict(zip(self.given, given, strict=True))
        trace = self.trace(values, args, kwargs)
        log_prior, log_likelihood = self._enumerated(trace) if self.enumerates else self._summed(trace)
        log_likelihood = torch.as_tensor(log_likelihood, dtype=position.dtype, device=position.device)
        return log_prior + log_jacobian + beta * log_likelihood, log_likelihood

    def values(self, position: Tensor, given: tuple[Tensor, ...]) -> dict[str, Tensor]:
        """Constrained values of all latent sites at one position (D,)."""
        found = unpack_with_jacobian(self.structure, position)[0]
        return found | dict(zip(self.given, given, strict=True))

    def trace(self, values: dict[str, Tensor], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Pyro's trace of the model at these constrained values."""
        tracer = poutine.trace(poutine.condition(self.model, values))
        self.last = "before the first site"
        try:
            with poutine.block(), _Frozen(self.dtype):
                return tracer.get_trace(*args, **kwargs)
        except Exception:
            names = [n for n, node in tracer.trace.nodes.items() if node["type"] in ("sample", "param")]
            self.last = f"after site {names[-1]!r}" if names else "before the first site"
            raise

    def site_log_probs(self, trace: Any) -> list[tuple[str, Tensor]]:
        """Every sample site's log probabilities, scaled and masked, not summed."""
        found = []
        for name, node in trace.nodes.items():
            if node["type"] != "sample" or type(node["fn"]).__name__ == "_Subsample":
                continue
            self.last = f"site {name!r}"
            value = node["fn"].log_prob(node["value"], *node["args"], **node["kwargs"])
            found.append((name, scale_and_mask(value, node["scale"], node["mask"])))
        return found

    def is_prior(self, name: str) -> bool:
        """Whether a site counts as prior."""
        return name in self._prior

    def _summed(self, trace: Any) -> tuple[Any, Any]:
        prior: Any = 0.0
        likelihood: Any = 0.0
        for name, value in self.site_log_probs(trace):
            # A sum over nothing would be one more operation for every scalar site.
            total = value.sum() if isinstance(value, Tensor) and value.dim() else value
            if self.is_prior(name):
                prior = prior + total
            else:
                likelihood = likelihood + total
        return prior, likelihood

    def _enumerated(self, trace: Any) -> tuple[Any, Any]:
        self.last = f"discrete sites {list(self.structure.discrete)}"
        nesting = self.structure.max_plate_nesting
        joint = TraceEinsumEvaluator(trace, True, nesting).log_prob(trace)
        latents = {site.name for site in self.structure.sites} | set(self.structure.prior)
        depends = any(
            trace.nodes[name]["log_prob"].dim() > nesting for name in latents if name in trace.nodes
        )
        kept = self._prior if depends else latents  # sum_d p(d) = 1 where no latent depends on d
        part = trace.copy()
        for name in list(part.nodes):
            if part.nodes[name]["type"] == "sample" and name not in kept:
                part.remove_node(name)
        if depends:
            prior = TraceEinsumEvaluator(part, True, nesting).log_prob(part)
        else:
            prior = sum(node["log_prob_sum"] for node in part.nodes.values() if node["type"] == "sample")
        return prior, joint - prior
