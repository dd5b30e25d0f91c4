"""How a recorded graph is run: operation by operation, or compiled by torch's inductor."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor
from torch.fx import GraphModule

from evidentia.inference.compile.contract import contract_sums
from evidentia.inference.compile.products import faster_products
from evidentia.inference.compile.simplify import simplify

__all__ = ["Backend", "Run", "build", "check_backend", "without_autograd"]

Backend: TypeAlias = Literal["aten", "inductor"]
Run: TypeAlias = Callable[..., tuple[Tensor | None, ...]]


def check_backend(backend: str) -> None:
    """Refuse an unknown backend.

    Raises:
        ValueError: naming the two there are.

    References:
        none; bookkeeping.
    """
    if backend not in ("aten", "inductor"):
        raise ValueError(f"backend: expected 'aten' or 'inductor', got {backend!r}. Fix: use 'aten'")


@contextmanager
def without_autograd() -> Iterator[None]:
    """Run operations below autograd: no gradients, and no bookkeeping for them either.

    References:
        none; bookkeeping.
    """
    guard = getattr(torch._C, "_AutoDispatchBelowAutograd", torch.no_grad)
    with guard():
        yield


def build(graph: GraphModule, backend: Backend, example: Sequence[Tensor]) -> Run:
    """The fastest way to run a graph that the backend offers; a call runs without gradients.

    "inductor" needs a C++ compiler for the CPU, and a compile time that is paid here; random numbers are
    those of eager torch. Where it fails, a warning says why and the graph is replayed operation by
    operation.

    Args:
        graph: what `capture` returned; it is changed.
        backend: "aten" replays it, "inductor" compiles it.
        example: inputs of the right shapes.

    References:
        Ansel, Yang, He et al., 2024, PyTorch 2: Faster machine learning through dynamic Python bytecode
        transformation and graph compilation.
    """
    faster_products(contract_sums(graph), onednn=backend != "inductor")
    if backend == "inductor":
        try:
            return _inductor(simplify(graph, bindings=False), example)
        except Exception as error:
            text = str(error).strip().split("\n")[0]
            warnings.warn(
                f"inductor: {type(error).__name__}: {text}. The step is replayed operation by operation "
                "instead. Fix: install g++ or clang++ (or set CXX), or ask for compile='aten'",
                UserWarning,
                stacklevel=2,
            )
    simplify(graph)
    forward = graph.forward

    def replay(*tensors: Tensor) -> tuple[Tensor | None, ...]:
        with without_autograd():
            return forward(*tensors)

    return replay


def _inductor(graph: GraphModule, example: Sequence[Tensor]) -> Run:
    import torch._inductor  # takes long, and few ask for it

    on_cpu = all(tensor.device.type == "cpu" for tensor in example)
    if on_cpu and not any(map(shutil.which, (os.environ.get("CXX") or "g++", "clang++"))):
        raise RuntimeError("there is no C++ compiler on the path")
    with warnings.catch_warnings():
        # Notices of torch about its own code paths, which no user of ours can act on.
        warnings.simplefilter("ignore", category=DeprecationWarning)
        warnings.simplefilter("ignore", category=FutureWarning)
        copies: list[Any] = [tensor.detach().clone() for tensor in example]
        state = torch.get_rng_state()
        with torch.no_grad():
            # The graph is flat, so that dynamo and the guards it checks at every call are not needed. Equal
            # seeds must give eager draws, so random operations call torch's own kernels.
            compiled = torch._inductor.compile(graph, copies, options={"fallback_random": True})
            compiled(*copies)
        torch.set_rng_state(state)
    strides = [tensor.stride() for tensor in copies]

    def run(*tensors: Tensor) -> tuple[Tensor | None, ...]:
        with torch.no_grad():
            return compiled(*map(_laid_out, tensors, strides))

    return run


def _laid_out(tensor: Tensor, stride: tuple[int, ...]) -> Tensor:
    """A tensor in the memory layout that was compiled for: slices and expanded tensors are copied."""
    if tensor.stride() == stride:
        return tensor
    return torch.empty_strided(tensor.shape, stride, dtype=tensor.dtype, device=tensor.device).copy_(tensor)
