"""Many chains through one model, eagerly: mapped, under an outer plate, or one after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import pyro
import torch
from pyro.distributions.util import scale_and_mask
from torch import Tensor

from evidentia.inference.density.joint import Joint
from evidentia.inference.density.packing import unpack_with_jacobian

__all__ = ["Batched", "looped", "mapped", "plated"]

# position (C, D), beta (C,), given (C, ...) each, data ... -> log density, gradient, log likelihood
Batched: TypeAlias = Callable[..., tuple[Tensor, Tensor, Tensor]]
Rebuild: TypeAlias = Callable[[list[Tensor]], Any]


def mapped(joint: Joint, rebuild: Rebuild, data_dims: Sequence[int | None]) -> Batched:
    """All chains by one run of the model under `vmap`; the gradient of their sum is every chain's own.

    Args:
        joint: one chain's density.
        rebuild: tensors of data -> (args, kwargs).
        data_dims: 0 for data with one set per chain, None for shared data.

    References:
        none; vectorised mapping.
    """
    num_given = len(joint.given)

    def one(position: Tensor, beta: Tensor, *rest: Tensor) -> tuple[Tensor, Tensor]:
        args, kwargs = rebuild(list(rest[num_given:]))
        return joint(position, beta, rest[:num_given], args, kwargs)

    dims = (0, 0, *(0,) * num_given, *data_dims)
    many = torch.func.vmap(one, in_dims=dims, randomness="error")
    return _differentiated(lambda position, beta, *rest: many(position, beta, *rest))


def plated(joint: Joint, rebuild: Rebuild) -> Batched:
    """All chains by one run under an outermost plate; the model must broadcast over it.

    Args:
        joint: one chain's density, without sites that are summed out.
        rebuild: tensors of data -> (args, kwargs).

    Raises:
        NotImplementedError: discrete sites are summed out.

    References:
        none; as Pyro's `vectorize_particles`.
    """
    if joint.enumerates:
        raise NotImplementedError("discrete sites are not summed out under an outer plate: not supported")
    nesting = joint.structure.max_plate_nesting

    def many(position: Tensor, beta: Tensor, *rest: Tensor) -> tuple[Tensor, Tensor]:
        args, kwargs = rebuild(list(rest[len(joint.given) :]))
        values, log_jacobian = unpack_with_jacobian(joint.structure, position)
        values |= dict(zip(joint.given, rest, strict=False))
        chains = len(position)
        event = {site.name: len(site.shape) for site in joint.structure.sites}
        event |= {name: len(shape) for name, shape in joint.structure.discrete.items()}
        outer = pyro.plate("_chains", chains, dim=-1 - nesting)
        laws = joint.trace({name: value[0] for name, value in values.items()}, args, kwargs).nodes
        for name, value in values.items():
            batch = event[name] - laws[name]["fn"].event_dim
            shape = value.shape[1:]
            values[name] = value.reshape((chains, *(1,) * (nesting - batch), *shape))
        with outer:
            trace = joint.trace(values, args, kwargs)
        prior: Any = log_jacobian
        likelihood: Any = position.new_zeros(chains)
        for name, node in trace.nodes.items():
            if node["type"] != "sample" or type(node["fn"]).__name__ == "_Subsample":
                continue
            terms = node["fn"].log_prob(node["value"], *node["args"], **node["kwargs"])
            terms = scale_and_mask(terms, node["scale"], node["mask"])
            if terms.dim() != nesting + 1 or len(terms) != chains:
                raise RuntimeError(f"site {name!r} does not broadcast over chains")
            total = terms.reshape(chains, -1).sum(-1)
            if joint.is_prior(name):
                prior = prior + total
            else:
                likelihood = likelihood + total
        return prior + beta * likelihood, likelihood

    return _differentiated(many)


def looped(joint: Joint, rebuild: Rebuild, data_dims: Sequence[int | None]) -> Batched:
    """One run of the model for each chain, without any tricks.

    Args:
        joint: one chain's density.
        rebuild: tensors of data -> (args, kwargs).
        data_dims: as for `mapped`.

    References:
        none; bookkeeping.
    """
    num_given = len(joint.given)

    def every(position: Tensor, beta: Tensor, *rest: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        rows = []
        for chain in range(len(position)):
            given = tuple(tensor[chain] for tensor in rest[:num_given])
            data = [
                tensor if dim is None else tensor[chain]
                for tensor, dim in zip(rest[num_given:], data_dims, strict=True)
            ]
            args, kwargs = rebuild(data)
            with torch.enable_grad():
                leaf = position[chain].detach().requires_grad_()
                value, likelihood = joint(leaf, beta[chain], given, args, kwargs)
                gradient = _gradient(value, leaf)
            rows.append((value.detach(), gradient, likelihood.detach()))
        value, gradient, likelihood = (torch.stack(column) for column in zip(*rows, strict=True))
        return value, gradient, likelihood

    return every


def _differentiated(many: Callable[..., tuple[Tensor, Tensor]]) -> Batched:
    def batched(position: Tensor, beta: Tensor, *rest: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        with torch.enable_grad():
            leaf = position.detach().requires_grad_()
            value, likelihood = many(leaf, beta, *rest)
            gradient = _gradient(value.sum(), leaf)
        return value.detach(), gradient, likelihood.detach()

    return batched


def _gradient(value: Tensor, leaf: Tensor) -> Tensor:
    if not value.requires_grad:
        return torch.zeros_like(leaf)
    (gradient,) = torch.autograd.grad(value, leaf, allow_unused=True)
    return torch.zeros_like(leaf) if gradient is None else gradient
