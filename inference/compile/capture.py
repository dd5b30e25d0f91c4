"""Record one run of a function as a flat graph; the only file that touches torch's `make_fx`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

__all__ = ["CaptureError", "capture", "capture_batched"]


class CaptureError(ValueError):
    """A program that cannot be recorded as a static graph, or whose graph does not repeat the program.

    References:
        none; bookkeeping.
    """


def capture(function: Callable[[], Any], inputs: Sequence[Tensor]) -> GraphModule:
    r"""Run \(f\) once and keep its tensor operations as a graph of the inputs.

    The function takes no argument: it reaches the inputs by its own ways (a module's parameter, Pyro's
    store, a buffer), and every use of one of these very tensors becomes a use of the graph's argument. This
    is how parameters of modules and of the store become inputs without being moved. Tensors that are not
    inputs are kept by reference. Random draws are recorded as operations.

    Args:
        function: called once without arguments; returns tensors, or a flat tuple of tensors and None.
        inputs: the tensors that are arguments of the graph, each object once.

    Returns:
        A module: the inputs in their order -> what the function returned. Its run is the function's run: it
        draws from the generator and writes to buffers.

    Raises:
        CaptureError: the function branches on values, reads a number out of a tensor, or fails.

    References:
        Reed, DeVito, He, Ussery, Ansel, 2022, torch.fx: Practical program capture and transformation for
        deep learning in Python.

    Example:
        >>> x = torch.ones(2)
        >>> graph = capture(lambda: (x * 2).sum(), [x])
        >>> graph(torch.full((2,), 3.0))
        tensor(12.)
    """
    if len({id(tensor) for tensor in inputs}) < len(inputs):
        raise ValueError(
            "inputs: expected every tensor once, got one twice. Fix: pass views (tensor.detach())"
        )

    def body(*tensors: Tensor) -> Any:
        # The recorder must hand on the tensors themselves; a change of this in torch would silently turn
        # every input into a constant.
        if any(given is not own for given, own in zip(tensors, inputs, strict=True)):
            raise RuntimeError("make_fx handed on copies of its inputs")
        return function()

    return _record(body, inputs)


def capture_batched(
    graph: Callable[..., Any], in_dims: tuple[int | None, ...], inputs: Sequence[Tensor]
) -> GraphModule:
    """Record a function of tensors, mapped over the leading dimension of some of them.

    Args:
        graph: a pure function of tensors (or one that writes to mapped ones only).
        in_dims: 0 for an input with the leading dimension R, None for a shared one.
        inputs: example inputs.

    Returns:
        A module with the same arguments; its outputs have the leading dimension R. Every one of the R draws
        random numbers of its own.

    Raises:
        CaptureError: an operation cannot be mapped.

    References:
        none; it is `torch.func.vmap` recorded once.

    Example:
        >>> x = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
        >>> capture_batched(lambda row: row.sum(), (0,), [x])(x)
        tensor([3., 7.])
    """
    mapped = torch.func.vmap(graph, in_dims=in_dims, randomness="different")

    def dense(*tensors: Tensor) -> Any:
        # What depends on no mapped input is expanded; nobody could write to it or step with it.
        return torch.utils._pytree.tree_map_only(Tensor, Tensor.contiguous, mapped(*tensors))

    return _record(dense, inputs)


def _record(function: Callable[..., Any], inputs: Sequence[Tensor]) -> GraphModule:
    try:
        return make_fx(function, tracing_mode="real")(*inputs)
    except CaptureError:
        raise
    except Exception as error:
        # Whatever the program raised under the recorder, the caller runs it without the recorder next, where
        # a true mistake is raised again with its own message.
        text = str(error).strip().split("\n")[0]
        raise CaptureError(f"{type(error).__name__}: {text}") from error
