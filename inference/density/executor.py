"""How a recorded density is run: generated code, TorchScript, or torch's inductor."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.fx import GraphModule

from evidentia.inference.compile.simplify import simplify

__all__ = ["Executable", "Executor", "build_executor", "check_executor"]

Executor: TypeAlias = Literal["fx", "jit", "inductor"]
_EXECUTORS: tuple[Executor, ...] = ("fx", "jit", "inductor")
Run: TypeAlias = Callable[..., tuple[Tensor, ...]]


class Executable(NamedTuple):
    """A graph ready to run.

    Attributes:
        run: inputs -> outputs, without gradients.
        kind: which executor it became.
        notice: why it is not the one asked for; empty otherwise.

    References:
        none; bookkeeping.
    """

    run: Run
    kind: Executor
    notice: str


def check_executor(executor: str) -> Executor:
    """The executor that a word stands for; "auto" is TorchScript where torch still has it.

    Raises:
        ValueError: an unknown word.

    References:
        none; bookkeeping.

    Example:
        >>> check_executor("auto")
        'jit'
    """
    if executor == "auto":
        return "jit" if callable(getattr(torch.jit, "trace", None)) else "fx"
    for known in _EXECUTORS:
        if executor == known:
            return known
    raise ValueError(
        f"executor: expected 'auto', 'fx', 'jit' or 'inductor', got {executor!r}. Fix: executor='auto'"
    )


def build_executor(graph: GraphModule, kind: Executor, example: Sequence[Tensor]) -> Executable:
    """Make a graph runnable; step down to generated code, with a notice, where the executor fails.

    Args:
        graph: a recorded graph; it may be changed.
        kind: the executor.
        example: inputs of the right shapes.

    References:
        Ansel, Yang, He et al., 2024, PyTorch 2: Faster machine learning through dynamic Python bytecode
        transformation and graph compilation.
    """
    if kind == "inductor":
        # Late: it loads torch's compiler.
        from evidentia.inference.compile.backend import build

        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            compiled = build(graph, "inductor", [tensor.detach() for tensor in example])
        failed = [str(each.message) for each in caught if str(each.message).startswith("inductor:")]
        return Executable(compiled, "fx" if failed else "inductor", failed[0] if failed else "")  # type: ignore[arg-type]
    simplify(graph)
    if kind == "jit":
        try:
            return Executable(_scripted(graph, example), "jit", "")
        except Exception as error:
            text = str(error).strip().split("\n")[0]
            return Executable(_guarded(graph.forward), "fx", f"jit: {type(error).__name__}: {text}")
    return Executable(_guarded(graph.forward), "fx", "")


def _scripted(graph: GraphModule, example: Sequence[Tensor]) -> Run:
    with warnings.catch_warnings(), torch.no_grad():
        # Its own notice that it is on its way out; the generated code is what remains then.
        warnings.filterwarnings("ignore", message=r".*torch\.jit.*", category=DeprecationWarning)
        warnings.filterwarnings("ignore", message=r".*torch\.jit.*", category=FutureWarning)
        traced = torch.jit.trace(graph, tuple(example), check_trace=False)
    return _guarded(traced)


def _guarded(function: Callable[..., tuple[Tensor, ...]]) -> Run:
    """Below autograd: no gradients, and no bookkeeping for them."""
    guard = getattr(torch._C, "_AutoDispatchBelowAutograd", torch.no_grad)

    def run(*tensors: Tensor) -> tuple[Tensor, ...]:
        with guard():
            return function(*tensors)

    return run
