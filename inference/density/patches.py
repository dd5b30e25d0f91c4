"""What is changed in torch and Pyro while a model is traced, and put back afterwards."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyro
import pyro.distributions.hmm as hmm
import pyro.ops.einsum.torch_log as torch_log
import pyro.ops.gaussian as gaussian
import pyro.ops.special as special
import pyro.ops.tensor_utils as tensor_utils
import torch
from torch import Tensor
from torch.distributions import Distribution, bernoulli, dirichlet

__all__ = [
    "default_dtype",
    "lean_cross_entropy",
    "plain_dirichlet",
    "safe_cholesky",
    "safe_log",
    "traceable",
    "unvalidated",
]


def safe_log(x: Tensor) -> Tensor:
    r"""\(\log x\) whose gradient is bounded by one over the rounding error, also at zero.

    The same values and gradients as `pyro.ops.special.safe_log`, in operations that can be batched (Pyro's is
    an old-style `autograd.Function`).

    Args:
        x: any shape, not negative.

    References:
        none; it restates Pyro's function.

    Example:
        >>> x = torch.zeros(1, requires_grad=True)
        >>> safe_log(x).sum().backward()
        >>> float(x.grad) == 1 / torch.finfo(x.dtype).eps
        True
    """
    # A quotient that is differentiable in its numerator only carries the bounded gradient.
    slope = x / x.detach().clamp(min=torch.finfo(x.dtype).eps)
    return x.detach().log() + (slope - slope.detach())


def safe_cholesky(x: Tensor) -> Tensor:
    """Cholesky factor with a jitter of the size of rounding errors on the diagonal.

    The same values and gradients as `pyro.ops.tensor_utils.safe_cholesky`, without its write to `x.data`.

    Args:
        x: (..., D, D), positive semi-definite.

    References:
        none; it restates Pyro's function.

    Example:
        >>> safe_cholesky(4 * torch.eye(1))
        tensor([[2.]])
    """
    relative = tensor_utils.CHOLESKY_RELATIVE_JITTER
    if x.size(-1) == 1:
        return (x.clamp(min=torch.finfo(x.dtype).tiny) if relative else x).sqrt()
    if relative:
        largest = x.detach().abs().amax(-1)
        x = x + torch.diag_embed(relative * torch.finfo(x.dtype).eps * largest)
    return torch.linalg.cholesky(x)


def lean_cross_entropy(logits: Tensor, target: Tensor, *rest: Any, **options: Any) -> Tensor:
    r"""\(-y x - \log\sigma(-x)\): torch's `binary_cross_entropy_with_logits`, with one kernel each way.

    Under a map torch takes its own apart into some thirty operations, each as large as the data.

    Args:
        logits: any shape.
        target: the same shape.
        rest: with further arguments torch's own function is called, as with any option but this one.
        options: `reduction="none"`.

    References:
        none; it restates torch's function.

    Example:
        >>> lean_cross_entropy(torch.zeros(1), torch.ones(1), reduction="none")
        tensor([0.6931])
    """
    if rest or options != {"reduction": "none"}:
        return torch.nn.functional.binary_cross_entropy_with_logits(logits, target, *rest, **options)
    return -(target * logits + torch.nn.functional.logsigmoid(-logits))


def _accept(self: Distribution, value: Tensor) -> None:
    """In place of `Distribution._validate_sample`, whose `if` on values cannot be traced."""


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Constants that a model makes have this type.

    References:
        none; bookkeeping.

    Example:
        >>> with default_dtype(torch.float64):
        ...     torch.tensor(1.0).dtype
        torch.float64
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def unvalidated() -> Iterator[None]:
    """No validation, not even by distributions that were built earlier with validation on.

    References:
        none; bookkeeping.

    Example:
        >>> early = pyro.distributions.Bernoulli(torch.tensor(0.5), validate_args=True)
        >>> with unvalidated():
        ...     early.log_prob(torch.tensor(1.0)).item() < 0
        True
    """
    original = Distribution._validate_sample
    with pyro.validation_enabled(False):
        Distribution._validate_sample = _accept  # type: ignore[method-assign]
        try:
            yield
        finally:
            Distribution._validate_sample = original  # type: ignore[method-assign]


class _PlainDirichlet:
    """In place of torch's `autograd.Function` of the same use: draws without gradients."""

    @staticmethod
    def apply(concentration: Tensor) -> Tensor:
        return torch._sample_dirichlet(concentration)


@contextmanager
def plain_dirichlet() -> Iterator[None]:
    """Dirichlet and beta distributions can be drawn from under `vmap`, without gradients.

    References:
        none; bookkeeping.

    Example:
        >>> with plain_dirichlet(), torch.no_grad():
        ...     pyro.distributions.Beta(torch.ones(3), 1.0).sample().shape
        torch.Size([3])
    """
    original = dirichlet._Dirichlet
    dirichlet._Dirichlet = _PlainDirichlet  # type: ignore[assignment, misc]
    try:
        yield
    finally:
        dirichlet._Dirichlet = original  # type: ignore[misc]


@contextmanager
def traceable() -> Iterator[None]:
    """Everything a trace of a batched model needs: no validation, and numerical helpers that can be batched.

    The originals are back on exit and on error.

    References:
        none; bookkeeping.

    Example:
        >>> original = special.safe_log
        >>> with traceable():
        ...     inside = special.safe_log is safe_log
        >>> inside, special.safe_log is original
        (True, True)
    """
    patches: list[tuple[Any, str, Any]] = [
        (bernoulli, "binary_cross_entropy_with_logits", lean_cross_entropy)
    ]
    patches += [(module, "safe_log", safe_log) for module in (special, torch_log, hmm)]
    patches += [(module, "safe_cholesky", safe_cholesky) for module in (tensor_utils, gaussian, hmm)]
    originals = [getattr(module, name) for module, name, _ in patches]
    with unvalidated(), warnings.catch_warnings():
        # A missing batching rule of torch is slower eagerly, and costs nothing in a recording.
        warnings.filterwarnings("ignore", message="There is a performance drop", category=UserWarning)
        try:
            for module, name, own in patches:
                setattr(module, name, own)
            yield
        finally:
            for (module, name, _), original in zip(patches, originals, strict=True):
                setattr(module, name, original)
