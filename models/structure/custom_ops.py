"""A user's own operations: a plain function with declared weight shapes, or a torch module."""

from collections.abc import Callable, Sequence
from typing import Any, final

import torch
from torch import Size, Tensor, nn

from evidentia.models.structure.base_op import Op
from evidentia.models.structure.errors import FamilyError

Shape = int | Sequence[int | str]


def _batched(
    function: Callable[..., Tensor], x: Tensor, weights: dict[str, Tensor], shapes: dict[str, Size]
) -> Tensor:
    """Apply a function of one ``x (n, d)`` and unbatched weights over their broadcast batch dimensions."""
    batches = [x.shape[:-2]] + [weights[k].shape[: weights[k].ndim - len(shapes[k])] for k in shapes]
    batch = torch.broadcast_shapes(*batches)
    if not batch:
        return function(x, weights)
    dims = 0 if x.ndim > 2 else None
    flat_x = x.expand(batch + x.shape[-2:]).flatten(0, len(batch) - 1) if x.ndim > 2 else x
    flat = {k: weights[k].expand(batch + shapes[k]).flatten(0, len(batch) - 1) for k in shapes}
    if not flat and dims is None:
        return function(x, weights)
    out = torch.vmap(function, in_dims=(dims, 0 if flat else None), randomness="different")(flat_x, flat)
    return out.unflatten(0, batch)


class _Probed(Op):
    """An operation whose output width is found by one call on zeros; abstract."""

    def _probe(self, inputs: int) -> Tensor:
        weights = {k: torch.zeros(s) for k, s in self.shapes(inputs).items()}
        with torch.no_grad():
            try:
                out = self(torch.zeros(2, inputs), **weights)
            except FamilyError:
                raise
            except Exception as error:
                raise FamilyError(
                    f"{self!r}: it cannot be applied to an input of {inputs} columns: {error}. Check the "
                    "declared weight shapes against the input width."
                ) from error
        if not isinstance(out, Tensor) or out.ndim != 2 or out.shape[0] != 2:
            got = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
            raise FamilyError(
                f"{self!r}: for an input of shape (n, {inputs}) it must return a tensor (n, width); for n = "
                f"2 it returned {got}. Keep the rows, e.g. return value.unsqueeze(-1)."
            )
        return out

    def width(self, inputs: int) -> int:
        """Number of output columns, found by one call on two rows of zeros."""
        return self._probe(inputs).shape[-1]


@final
class Function(_Probed):
    """An operation from a plain function; made by `op`.

    References:
        Liu, Simonyan & Yang, 2019. DARTS: differentiable architecture search.
    """

    def __init__(self, function: Callable[..., Tensor], shapes: dict[str, Shape]) -> None:
        self.function = function
        self._shapes: dict[str, tuple[int | str, ...]] = {}
        for name, shape in shapes.items():
            sizes = (shape,) if isinstance(shape, int) else tuple(shape)
            for size in sizes:
                if size != "inputs" and (not isinstance(size, int) or isinstance(size, bool) or size < 1):
                    raise FamilyError(
                        f"{self!r}: weight {name!r} has the size {size!r}; sizes are positive integers or "
                        "'inputs' (the number of input columns), e.g. op(f, weight=('inputs', 3), bias=3)."
                    )
            self._shapes[name] = sizes

    def shapes(self, width: int) -> dict[str, Size]:
        """The declared shapes, ``'inputs'`` replaced by the input width."""
        return {k: Size([width if s == "inputs" else int(s) for s in v]) for k, v in self._shapes.items()}

    def __call__(self, x: Tensor, **weights: Tensor) -> Tensor:
        """The function, mapped over batch dimensions of the input and the weights."""
        shapes = self.shapes(x.shape[-1])
        return _batched(lambda a, w: self.function(a, **w), x, weights, shapes)

    def __repr__(self) -> str:
        return f"op({getattr(self.function, '__name__', self.function)})"


def op(function: Callable[..., Tensor], **shapes: Shape) -> Op:
    """An operation from a plain function ``function(x, **weights)`` and the shapes of its weights.

    The function is written for one set of weights: x ``(n, inputs)`` and each weight of its declared shape,
    result
    ``(n, width)``. Batches of weights are mapped over it.

    Args:
        function: a differentiable torch function.
        shapes: shape by weight name: an integer, a tuple, ``()`` for a scalar; the size ``"inputs"`` stands
            for the number of input columns.

    Raises:
        FamilyError: a size that is neither a positive integer nor ``"inputs"``.

    Example:
        >>> import torch
        >>> wave = op(lambda x, a, b: a * torch.sin(x @ b), a=(), b=("inputs", 1))
        >>> wave.shapes(2), wave.width(2)
        ({'a': torch.Size([]), 'b': torch.Size([2, 1])}, 1)
        >>> wave(torch.ones(5, 2), a=torch.ones(3), b=torch.ones(3, 2, 1)).shape
        torch.Size([3, 5, 1])

    References:
        Liu, Simonyan & Yang, 2019. DARTS: differentiable architecture search.
    """
    return Function(function, dict(shapes))


@final
class Module(_Probed):
    """An operation from a torch module, ``g(x; w) = module(x)`` with its parameters replaced by w.

    The values stored in the module are not used: the weight prior rules. Buffers are kept and never written.
    Put a module with batch statistics or dropout into ``eval()``. The module is never modified.

    Args:
        module: maps ``(n, inputs)`` to ``(n, width)``.

    Example:
        >>> import torch
        >>> net = Module(torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1)))
        >>> list(net.shapes(2)), net.width(2)
        (['0.weight', '0.bias', '2.weight', '2.bias'], 1)

    References:
        Ritter & Karaletsos, 2022. TyXe: Pyro-based Bayesian neural nets for PyTorch.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self._shapes = {k: Size(p.shape) for k, p in module.named_parameters()}

    def shapes(self, width: int) -> dict[str, Size]:
        """The shapes of the module's parameters."""
        return dict(self._shapes)

    def __call__(self, x: Tensor, **weights: Tensor) -> Tensor:
        """The module with these weights, mapped over batch dimensions."""

        def call(a: Tensor, w: dict[str, Tensor]) -> Any:
            buffers = {
                k: (b.to(a.dtype) if b.is_floating_point() else b).clone()
                for k, b in self.module.named_buffers()
            }
            return torch.func.functional_call(self.module, {**buffers, **w}, (a,))

        return _batched(call, x, weights, self._shapes)

    def __repr__(self) -> str:
        return f"Module({type(self.module).__name__})"


def as_op(owner: str, value: object) -> Op:
    """The operation itself, or the wrapped torch module.

    Raises:
        FamilyError: anything else, naming ``owner``.

    References:
        Liu, Simonyan & Yang, 2019. DARTS: differentiable architecture search.
    """
    if isinstance(value, Op):
        return value
    if isinstance(value, nn.Module):
        return Module(value)
    if isinstance(value, type) and issubclass(value, Op):
        raise FamilyError(
            f"{owner}: got the class {value.__name__}; give an instance: {value.__name__}(...)."
        )
    if callable(value):
        raise FamilyError(
            f"{owner}: a plain function needs the shapes of its weights. Write op(function, weight=(3,)); "
            "for a function without weights op(function)."
        )
    raise FamilyError(
        f"{owner}: unknown operation type {type(value).__name__}. Give an Op (Constant(), GLM(), "
        "Dense(units), …), op(function, **shapes) or a torch.nn.Module."
    )
