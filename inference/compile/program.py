"""One recorded step: loss and gradients of an objective on a pair, for one signature of the arguments."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, final

import pyro
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.fx import GraphModule

from evidentia.inference.compile.backend import Backend, build
from evidentia.inference.compile.capture import CaptureError, capture
from evidentia.inference.compile.inputs import Modules, flatten_arguments

__all__ = ["LateParameterError", "ParameterNames", "Program", "leaves", "preserved", "record"]

_Loss = Callable[..., Any]


class LateParameterError(CaptureError):
    """The program touched parameters that its last eager call had not touched.

    References:
        none; bookkeeping.
    """


class ParameterNames(Messenger):
    """Collect the names of the parameters a program touches.

    References:
        none; bookkeeping.

    Example:
        >>> with ParameterNames() as seen:
        ...     _ = pyro.param("a", torch.zeros(2))
        >>> list(seen.names)
        ['a']
    """

    def __init__(self) -> None:
        super().__init__()
        self.names: dict[str, None] = {}

    def _pyro_post_param(self, msg: Any) -> None:
        self.names[msg["name"]] = None


def leaves(names: Sequence[str]) -> list[Tensor] | None:
    """The unconstrained parameters of these names in Pyro's store, or None when one is missing.

    References:
        none; bookkeeping.
    """
    stored = dict(pyro.get_param_store().named_parameters())
    try:
        return [stored[name] for name in names]
    except KeyError:
        return None


@contextmanager
def preserved(modules: Modules) -> Iterator[None]:
    """Put the random state and the buffers back afterwards.

    Raises:
        CaptureError: the program put another tensor in the place of a buffer.

    References:
        none; bookkeeping.
    """
    live = modules.buffers()
    kept = {name: value.clone() for name, value in live.items()}
    replaced: list[str] = []
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        try:
            yield
        finally:
            replaced = modules.put(live, kept)
    if replaced:
        raise CaptureError(
            f"buffers {replaced} are replaced by new tensors. Fix: update them in place (`copy_`, `add_`)"
        )


@final
class Program:
    """A recorded step of one pair.

    Attributes:
        names: parameters in the order of the gradients.
        graph: the plain graph: parameters, buffers, data tensors -> loss, gradients.

    References:
        none; bookkeeping.
    """

    def __init__(
        self, names: tuple[str, ...], modules: Modules, graph: GraphModule, run: Callable[..., Any]
    ) -> None:
        self.names, self.modules, self.graph, self._run = names, modules, graph, run

    def inputs(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Everything the graph takes in at this moment, given the data tensors."""
        found = leaves(self.names)
        if found is None:
            raise KeyError(f"parameters {self.names}: not all are in Pyro's store any more")
        return [*found, *self.modules.buffers().values(), *tensors]

    def __call__(self, inputs: Sequence[Tensor]) -> tuple[Tensor, tuple[Tensor | None, ...]]:
        """Loss in nats and one gradient per name; None where the loss does not depend on it."""
        loss, *gradients = self._run(*inputs)
        return loss, tuple(gradients)


def record(
    loss: _Loss,
    model: Callable[..., Any],
    guide: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    names: tuple[str, ...],
    modules: Modules,
    backend: Backend,
) -> Program:
    """Record loss and gradients of `loss(model, guide, *args, **kwargs)`, and compare a replay with the run.

    The random state and the buffers are as before afterwards.

    Args:
        loss: a differentiable loss.
        model: the model.
        guide: the guide.
        args: example arguments; later ones have the same shapes.
        kwargs: example keywords.
        names: the parameters, all of them in Pyro's store.
        modules: the modules of the pair.
        backend: see `build`.

    Raises:
        CaptureError: the step cannot be recorded, or its replay differs from an eager run with equal seeds.

    References:
        none; bookkeeping.
    """
    found = leaves(names)
    if found is None:
        raise CaptureError("a parameter is not in Pyro's store")
    flat = flatten_arguments(args, kwargs)
    if any(tensor.requires_grad for tensor in flat.tensors):
        raise CaptureError("an argument requires gradients; a recorded step has those of parameters only")
    data = [tensor.detach() for tensor in flat.tensors]  # new objects: one tensor may be passed twice
    given, keywords = flat.rebuild(data)

    def step() -> tuple[Tensor | None, ...]:
        with pyro.validation_enabled(False), ParameterNames() as touched:
            value = loss(model, guide, *given, **keywords)
        late = [name for name in touched.names if name not in names and _trains(name)]
        if late:
            raise LateParameterError(f"parameters {late} were not there on the last eager call")
        if not isinstance(value, Tensor) or not value.requires_grad:
            raise CaptureError("the loss does not depend on a parameter")
        return value.detach(), *torch.autograd.grad(value, found, allow_unused=True)

    inputs = [*found, *modules.buffers().values(), *data]
    with preserved(modules), torch.enable_grad():
        graph = capture(step, inputs)
    _refuse_hidden_writes(graph)
    run = build(_copy(graph), backend, inputs)
    program = Program(names, modules, graph, run)
    with preserved(modules), torch.enable_grad():
        expected = step()
    with preserved(modules):
        value, gradients = program(inputs)
    compare(expected, (value, *gradients))
    return program


def _copy(graph: GraphModule) -> GraphModule:
    """A second module with the same tensors and a graph of its own."""
    new = torch.fx.Graph()
    output = new.graph_copy(graph.graph, {})
    new.output(output)
    return GraphModule(graph, new)


def _trains(name: str) -> bool:
    stored = leaves([name])
    return stored is not None and stored[0].requires_grad


def _refuse_hidden_writes(graph: GraphModule) -> None:
    for node in graph.graph.nodes:
        target = node.target
        if isinstance(target, torch._ops.OpOverload) and target._schema.is_mutable:
            first = node.args[0] if node.args else None
            if isinstance(first, torch.fx.Node) and first.op == "get_attr":
                raise CaptureError(
                    f"{target} writes to a tensor that belongs to no module of the pair (it was written once "
                    "while recording). Fix: pass the module itself, or a method of it, as model or guide"
                )


def compare(expected: Sequence[Tensor | None], got: Sequence[Tensor | None]) -> None:
    """Refuse a replay whose loss or gradients are not those of the eager run.

    The norm of each difference may be the square root of the type's rounding error, relative to the tensor or
    to a hundredth of all gradients together (a gradient that is zero in truth is rounding noise). Values that
    are not finite are not compared.

    Raises:
        CaptureError: they differ.

    References:
        none; bookkeeping.

    Example:
        >>> compare([torch.ones(2)], [torch.ones(2)])
    """
    total = math.sqrt(sum(float(one.norm()) ** 2 for one in expected[1:] if one is not None))
    for place, (one, two) in enumerate(zip(expected, got, strict=True)):
        what = "loss" if place == 0 else "gradient"
        if (one is None) != (two is None):
            raise CaptureError(f"a {what} is there in one of replay and eager run only")
        if one is None or two is None or not one.numel():
            continue
        difference, size = float((one - two).norm()), float(one.norm())
        if not math.isfinite(difference):
            continue
        floor = 1.0 if place == 0 else 1e-2 * total
        if not math.isfinite(floor):
            continue
        if difference > math.sqrt(torch.finfo(one.dtype).eps) * max(size, floor):
            raise CaptureError(
                f"the {what} of the replay differs from the eager run by {difference:.3g} (size {size:.3g}): "
                "the program draws from a generator that is not torch's, or keeps a state of its own"
            )
