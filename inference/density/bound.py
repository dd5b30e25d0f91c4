"""A density bound to its data: what runs, and how other data or other numbers of chains get there."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from evidentia.inference.compile.inputs import Arguments
from evidentia.inference.density.batch import looped
from evidentia.inference.density.chunks import in_chunks
from evidentia.inference.density.examples import (
    batch_dims,
    cast_arguments,
    check_shapes,
    example_discrete,
    example_positions,
)
from evidentia.inference.density.executor import check_executor
from evidentia.inference.density.joint import Joint
from evidentia.inference.density.levels import Chosen, choose, disagreement
from evidentia.inference.density.patches import default_dtype, traceable
from evidentia.inference.density.sites import (
    Structure,
    differing_supports,
    find_structure,
)
from evidentia.inference.density.solves import IllConditionedError

__all__ = ["Bound", "bind"]


class _Settings(NamedTuple):
    model: Callable[..., Any]
    executor: str
    discrete: str
    seed: int
    subsampled: str | None


class Bound(NamedTuple):
    """Everything a `LogDensity` holds.

    Attributes:
        settings: what it was compiled with.
        structure: the sites.
        joint: one chain's density.
        num_chains: C of the recording.
        chosen: the level in use.
        flat: the arguments taken apart, tensors cast.
        dims: which data tensors have one set per chain.
        fixed: what the recording made of the data.
        given: values of the discrete sites, if they are inputs, (*shape) or (C, *shape).
        batches: recordings with one data set per chain, by which tensors have one.

    References:
        none; bookkeeping.
    """

    settings: _Settings
    structure: Structure
    joint: Joint
    num_chains: int
    chosen: Chosen
    flat: Arguments
    dims: tuple[int | None, ...]
    fixed: tuple[Tensor, ...]
    given: dict[str, Tensor]
    batches: dict[tuple[int | None, ...], Chosen]

    @contextmanager
    def tracing(self) -> Iterator[None]:
        """The state in which the model is run."""
        with traceable(), default_dtype(self.joint.dtype):
            yield

    def first_arguments(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Arguments of the model; those of the first chain where every chain has its own."""
        tensors = [
            each if dim is None else each[0] for each, dim in zip(self.flat.tensors, self.dims, strict=True)
        ]
        args, kwargs = self.flat.rebuild(tensors)
        return args, kwargs

    def evaluate(self, chains: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """(position, beta) -> log density, gradient, log likelihood."""
        program = self.chosen.program
        inputs = self._with_given(chains)
        if program is None:
            return self._eager(inputs)
        if len(inputs[0]) == self.num_chains:
            return program.evaluate(self.fixed, inputs)
        return self._chunked(lambda part: program.evaluate(self.fixed, part), inputs)

    def value(self, chains: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """(position, beta) -> log density, log likelihood."""
        program = self.chosen.program
        inputs = self._with_given(chains)
        if program is None:
            value, _, likelihood = self._eager(inputs)
            return value, likelihood
        if len(inputs[0]) == self.num_chains:
            return program.value(self.fixed, inputs)
        return self._chunked(lambda part: program.value(self.fixed, part), inputs)

    def leapfrog(self, phase: tuple[Tensor, ...], beta: Tensor) -> tuple[Tensor, ...]:
        """A leapfrog step; fused where there is a recording."""
        program = self.chosen.program
        position, momentum, gradient, step, covariance = phase
        if program is None:
            half = step * 0.5
            middle = momentum + half * gradient
            moved = middle @ covariance if covariance.dim() == 2 else middle * covariance
            new = position + step * moved
            value, slope, likelihood = self._eager(self._with_given((new, beta)))
            return new, middle + half * slope, slope, value, likelihood
        inputs = self._with_given((position, beta))
        if len(position) == self.num_chains:
            return program.leapfrog(self.fixed, phase, inputs[1:])

        def part(tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
            own = (*tensors[:3], tensors[3] if step.dim() else step, covariance)
            return program.leapfrog(self.fixed, own, tensors[4 if step.dim() else 3 :])

        split = (position, momentum, gradient, *((step.expand(len(position), 1),) if step.dim() else ()))
        return self._chunked(part, (*split, *inputs[1:]))

    def with_data(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Bound:
        """Bound to other data."""
        flat, _ = cast_arguments(args, kwargs, self.joint.dtype)
        check_shapes([tuple(each.shape) for each in self.flat.tensors], flat)
        if any(dim is not None for dim in self.dims):
            return self._with_batch(flat, self.dims)
        if not self.chosen.takes_data or flat.key != self.flat.key:
            return self._anew(flat)
        if any(self.structure.supports.values()):
            with self.tracing():
                own = flat.rebuild(flat.tensors)
                model, _, discrete, seed, plate = self.settings
                found = find_structure(model, *own, seed=seed, discrete=discrete, subsampled=plate)
            moved = differing_supports(self.structure, found)
            if moved:
                raise ValueError(
                    f"sites {moved}: the support depends on the data. Fix: compile_density(model, new data)"
                )
        other = self._replace(flat=flat, fixed=())
        if self.chosen.program is not None:
            try:
                other = other._replace(fixed=self.chosen.program.bind(flat.tensors))
            except IllConditionedError:
                program = self.chosen.program.without_solves()
                chosen = self.chosen._replace(program=program)
                other = other._replace(chosen=chosen, fixed=program.bind(flat.tensors))
        return other if other._follows() else self._anew(flat)

    def with_data_batch(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Bound:
        """Bound to one data set per chain."""
        flat, _ = cast_arguments(args, kwargs, self.joint.dtype)
        single = [
            tuple(each.shape if dim is None else each.shape[1:])
            for each, dim in zip(self.flat.tensors, self.dims, strict=True)
        ]
        dims = batch_dims(single, flat, self.num_chains)
        return self._with_batch(flat, dims)

    def with_discrete(self, values: Mapping[str, Tensor]) -> Bound:
        """At other values of the discrete sites."""
        if not self.joint.given:
            raise ValueError('discrete: no site is given. Fix: compile_density(..., discrete="given")')
        found = {}
        for name in self.joint.given:
            if name not in values:
                raise ValueError(
                    f"site {name!r}: no value, got {sorted(values)}. Fix: give every discrete site"
                )
            found[name] = torch.as_tensor(values[name]).to(self.structure.dtypes[name])
        return self._replace(given=found)

    def _with_batch(self, flat: Arguments, dims: tuple[int | None, ...]) -> Bound:
        chosen = self.batches.get(dims)
        if chosen is None:
            with self.tracing():
                chosen = choose(
                    self.joint,
                    flat.rebuild,
                    flat.tensors,
                    self._with_given(self._points(1.0, 17)),
                    lambda radius: list(self._with_given(self._points(radius, 18))),
                    check_executor(self.settings.executor),
                    data_dims=dims,
                )
            self.batches[dims] = chosen
        fixed = () if chosen.program is None else chosen.program.bind(flat.tensors)
        return self._replace(chosen=chosen, flat=flat, dims=dims, fixed=fixed)

    def _follows(self) -> bool:
        """Whether the density at these data is that of a plain run, at one point."""
        position, beta = self._points(0.5, 19)
        with self.tracing():
            inputs = self._with_given((position[:1], beta[:1]))
            expected = looped(self.joint, self.flat.rebuild, self.dims)(*inputs, *self.flat.tensors)
        got = self.evaluate((position[:1], beta[:1]))
        return disagreement(got, expected, 1, self.joint.dtype) is None

    def _points(self, radius: float, seed: int, rows: int | None = None) -> tuple[Tensor, Tensor]:
        """Example positions and betas, on the device of the data."""
        devices = {tensor.device for tensor in self.flat.tensors}
        device = devices.pop() if len(devices) == 1 else torch.get_default_device()
        return example_positions(self.joint, rows or self.num_chains, radius, seed, device)

    def _anew(self, flat: Arguments) -> Bound:
        args, kwargs = flat.rebuild(flat.tensors)
        model, executor, discrete, seed, plate = self.settings
        dtype = self.joint.dtype
        return bind(model, args, kwargs, self.num_chains, executor, dtype, discrete, seed, plate)

    def _eager(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        with self.tracing():
            return self.chosen.batched(*inputs, *self.flat.tensors)

    def _with_given(self, chains: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        if not self.joint.given:
            return chains
        found = []
        for name in self.joint.given:
            value, shape = self.given[name], self.structure.discrete[name]
            if tuple(value.shape) == shape:
                value = value.expand(len(chains[0]), *shape)
            if tuple(value.shape) != (len(chains[0]), *shape):
                raise ValueError(
                    f"site {name!r}: expected {(len(chains[0]), *shape)}, got {tuple(value.shape)}. "
                    "Fix: one value for each chain"
                )
            found.append(value)
        return (*chains, *found)

    def _chunked(
        self, run: Callable[[Sequence[Tensor]], tuple[Tensor, ...]], inputs: tuple[Tensor, ...]
    ) -> tuple[Tensor, ...]:
        """Any number of chains, in pieces of C."""
        chains, size = len(inputs[0]), self.num_chains
        if any(dim is not None for dim in self.dims):
            raise ValueError(
                f"position: expected {size} rows, one for each data set, got {chains}. "
                f"Fix: compile the density with num_chains={chains}"
            )
        return in_chunks(run, inputs, size)


def bind(
    model: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    num_chains: int,
    executor: str,
    dtype: torch.dtype | None,
    discrete: str,
    seed: int,
    subsampled: str | None = None,
) -> Bound:
    """Find the sites, record, check; see `compile_density`.

    References:
        none; bookkeeping.
    """
    kind = check_executor(executor)
    if num_chains < 1:
        raise ValueError(f"num_chains: expected a number >= 1, got {num_chains}. Fix: num_chains=64")
    if discrete not in ("sum", "given"):
        raise ValueError(f"discrete: expected 'sum' or 'given', got {discrete!r}. Fix: discrete='sum'")
    flat, dtype = cast_arguments(args, kwargs, dtype)
    with traceable(), default_dtype(dtype):
        own_args, own_kwargs = flat.rebuild(flat.tensors)
        structure = find_structure(
            model, own_args, own_kwargs, seed=seed, discrete=discrete, subsampled=subsampled
        )
        given = () if structure.summed else tuple(structure.discrete)
        joint = Joint(model, structure, dtype, given)
        start = example_discrete(joint, own_args, own_kwargs, seed)
        settings = _Settings(model, executor, discrete, seed, subsampled)
        dims: tuple[int | None, ...] = (None,) * len(flat.tensors)
        empty = Chosen("loop", looped(joint, flat.rebuild, dims), None, True, ())
        bound = Bound(settings, structure, joint, num_chains, empty, flat, dims, (), start, {})
        rows = num_chains * math.ceil(4 / num_chains)
        chosen = choose(
            joint,
            flat.rebuild,
            flat.tensors,
            bound._with_given(bound._points(1.0, seed + 2)),
            lambda radius: list(bound._with_given(bound._points(radius, seed + 3, rows))),
            kind,
        )
    bound = bound._replace(chosen=chosen)
    if chosen.program is not None:
        bound = bound._replace(fixed=chosen.program.bind(flat.tensors if chosen.takes_data else []))
    return bound
