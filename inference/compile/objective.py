"""An objective whose loss and gradients are replayed from a recorded graph."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable
from typing import Any, final

import pyro
import torch
from pyro.poutine.runtime import am_i_wrapped
from torch import Tensor

from evidentia.inference.compile.backend import Backend, check_backend
from evidentia.inference.compile.capture import CaptureError
from evidentia.inference.compile.inputs import Arguments, Identity, Modules, flatten_arguments
from evidentia.inference.compile.program import (
    LateParameterError,
    ParameterNames,
    Program,
    compare,
    preserved,
    record,
)
from evidentia.inference.objectives.objective import Objective

__all__ = ["CompiledObjective", "compile_objective"]

_MANY = 8  # graphs of one pair after which a notice asks whether a number should be a tensor


def compile_objective(
    objective: Any, backend: Backend = "aten", *, check_every: int | None = None
) -> CompiledObjective:
    r"""An objective with the loss and gradients of another, recorded once for each shape of the arguments.

    The graph is a function \((\theta, \text{buffers}, \text{data}) \mapsto (\ell, \nabla_\theta \ell)\).
    Parameters, buffers (running statistics are updated in place) and every tensor among the arguments are
    inputs; random draws are operations of the graph, so that equal seeds give the eager losses, to rounding
    (large products are computed by faster kernels where there are any). The first call of a pair is eager,
    because it may create parameters; the second one records. Each graph is compared with an eager run before
    it is used.

    What is frozen: numbers that are not tensors (another number is another graph), the number of particles,
    plate sizes, the handlers active at the call, tensors inside objects other than tuples, lists and dicts,
    and what the program draws from `random` or `numpy`. Pass a temperature as a tensor.
    A program that branches on values cannot be recorded: a warning says so once, and it runs eagerly.

    Args:
        objective: an object with `differentiable_loss(model, guide, *args, **kwargs)`.
        backend: "aten" replays the operations, "inductor" compiles them (a C++ compiler and a wait).
        check_every: compare every that many calls with an eager run at the same seed; None never does.

    Raises:
        ValueError: an unknown backend, or an objective without `differentiable_loss`.

    References:
        Reed, DeVito, He, Ussery, Ansel, 2022, torch.fx: Practical program capture and transformation for
        deep learning in Python.

    Example:
        >>> from pyro import poutine
        >>> from pyro.distributions import Normal
        >>> class Elbo:
        ...     def differentiable_loss(self, model, guide, *args):
        ...         q = poutine.trace(guide).get_trace(*args)
        ...         p = poutine.trace(poutine.replay(model, trace=q)).get_trace(*args)
        ...         return q.log_prob_sum() - p.log_prob_sum()
        >>> def model(y):
        ...     pyro.sample("obs", Normal(pyro.sample("z", Normal(0.0, 1.0)), 1.0), obs=y)
        >>> def guide(y):
        ...     pyro.sample("z", Normal(pyro.param("loc", torch.tensor(0.0)), 1.0))
        >>> compiled = compile_objective(Elbo())
        >>> svi = pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": 0.1}), loss=compiled)
        >>> losses = [svi.step(torch.tensor(2.0)) for _ in range(50)]
        >>> bool(pyro.param("loc") > 0.5), compiled.captures
        (True, 1)
    """
    if isinstance(objective, CompiledObjective):
        return objective
    check_backend(backend)
    if not hasattr(objective, "differentiable_loss"):
        raise ValueError(
            f"objective: {type(objective).__name__} has no differentiable_loss, so there is nothing to "
            "record. Fix: use an objective of evidentia.inference.objectives, or compile=None"
        )
    if check_every is not None and check_every < 1:
        raise ValueError(f"check_every: expected a number >= 1 or None, got {check_every}")
    return CompiledObjective(objective, backend, check_every)


@final
class CompiledObjective(Objective):
    """What `compile_objective` returns; it works in `pyro.infer.SVI` and in `fit`.

    Attributes:
        objective: the objective that is recorded.
        backend: "aten" or "inductor".
        captures: number of graphs recorded so far.
        fallback: why the last program that could not be recorded runs eagerly, or None.

    References:
        none; bookkeeping.
    """

    def __init__(self, objective: Any, backend: Backend, check_every: int | None) -> None:
        super().__init__(num_particles=getattr(objective, "num_particles", 1))
        self.objective, self.backend, self.check_every = objective, backend, check_every
        self.captures, self.calls = 0, 0
        self.fallback: str | None = None
        self._pairs: dict[Hashable, _Pair] = {}

    def __repr__(self) -> str:
        return f"CompiledObjective({self.objective!r}, backend={self.backend!r}, captures={self.captures})"

    # -- what Pyro calls ---------------------------------------------------------------------------------

    def differentiable_loss(
        self, model: Callable[..., Any], guide: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Tensor:
        """The loss in nats; its backward pass hands on the recorded gradients."""
        if not torch.is_grad_enabled():
            return self.objective.differentiable_loss(model, guide, *args, **kwargs)
        found = self.program(model, guide, args, kwargs)
        if found is None:
            return self._eager(model, guide, args, kwargs)
        program, arguments = found
        self.count(model, guide, args, kwargs, program)
        inputs = self._touch(program, arguments)
        loss, gradients = program(inputs)
        return _Attached.apply(loss, gradients, *inputs[: len(program.names)])

    def loss_and_grads(
        self, model: Callable[..., Any], guide: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> float:
        """The loss in nats; gradients are added to the parameters' `.grad`."""
        found = self.program(model, guide, args, kwargs)
        if found is None:
            value = self._eager(model, guide, args, kwargs)
            if value.requires_grad:
                value.backward()
            return float(value.detach())
        program, arguments = found
        self.count(model, guide, args, kwargs, program)
        inputs = self._touch(program, arguments)
        loss, gradients = program(inputs)
        for leaf, gradient in zip(inputs, gradients, strict=False):
            if gradient is not None:
                leaf.grad = gradient if leaf.grad is None else leaf.grad + gradient
        return float(loss)

    def loss(self, model: Callable[..., Any], guide: Callable[..., Any], *args: Any, **kwargs: Any) -> float:
        """The loss in nats by the objective itself, eagerly."""
        return self.objective.loss(model, guide, *args, **kwargs)

    # -- recording ---------------------------------------------------------------------------------------

    def program(
        self,
        model: Callable[..., Any],
        guide: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        names: tuple[str, ...] | None = None,
    ) -> tuple[Program, Arguments] | None:
        """The recorded step for these arguments, recorded now if it is new; None when eager is due.

        Args:
            model: the model.
            guide: the guide.
            args: arguments of both.
            kwargs: keywords of both.
            names: the parameters; those found by the first eager call when None.
        """
        pair = self._pair(model, guide)
        if names is None:
            names = pair.names
        stored = pyro.get_param_store()
        if not names or not all(name in stored for name in names):
            pair.names = ()
            return None
        arguments = flatten_arguments(args, kwargs)
        key = (arguments.key, names, pair.modules.modes(), torch.get_default_dtype())
        if key not in pair.programs:
            try:
                pair.programs[key] = self._record(model, guide, args, kwargs, names, pair)
            except LateParameterError:
                return None
        program = pair.programs[key]
        return None if program is None else (program, arguments)

    def _pair(self, model: Callable[..., Any], guide: Callable[..., Any]) -> _Pair:
        # Two looks at one method of an object are two objects that are equal.
        key = tuple(p if isinstance(p, Hashable) else Identity(p) for p in (model, guide))
        if key not in self._pairs:
            self._pairs[key] = _Pair(model, guide)
        return self._pairs[key]

    def _record(self, model: Any, guide: Any, args: Any, kwargs: Any, names: Any, pair: _Pair) -> Any:
        if len(pair.programs) == _MANY:
            warnings.warn(
                f"compile: this is graph {_MANY + 1} of one pair. Fix: pass changing numbers as tensors, and "
                "batches of one size",
                UserWarning,
                stacklevel=4,
            )
        try:
            program = record(
                self.objective.differentiable_loss, model, guide, args, kwargs,
                names=names, modules=pair.modules, backend=self.backend,
            )  # fmt: skip
        except CaptureError as error:
            pair.late += isinstance(error, LateParameterError)
            if isinstance(error, LateParameterError) and pair.late <= _MANY:
                raise  # an eager call takes them in
            if self.fallback is None:
                warnings.warn(
                    f"compile: the step cannot be recorded, so it runs eagerly ({error}). Fix: leave "
                    "branches on values and .item() out of model, guide and objective, or use compile=None",
                    UserWarning,
                    stacklevel=4,
                )
            self.fallback = str(error)
            return None
        self.captures += 1
        return program

    def _eager(self, model: Any, guide: Any, args: Any, kwargs: Any) -> Tensor:
        with ParameterNames() as seen:
            loss = self.objective.differentiable_loss(model, guide, *args, **kwargs)
        pair = self._pair(model, guide)
        pair.modules = Modules(model, guide)  # a lazy guide has built its modules by now
        stored = dict(pyro.get_param_store().named_parameters())
        pair.names = tuple(name for name in seen.names if name in stored and stored[name].requires_grad)
        return loss

    def _touch(self, program: Program, arguments: Arguments) -> list[Tensor]:
        if am_i_wrapped():
            # Pyro's SVI finds the parameters of a step by looking at the messages it sends.
            for name in program.names:
                pyro.param(name)
        return program.inputs(arguments.tensors)

    def count(self, model: Any, guide: Any, args: Any, kwargs: Any, program: Program) -> None:
        """Count a call that is about to be replayed, and check it when `check_every` says so."""
        self.calls += 1
        if self.check_every is not None and self.calls % self.check_every == 0:
            self.check(model, guide, args, kwargs, program)

    def check(self, model: Any, guide: Any, args: Any, kwargs: Any, program: Program) -> None:
        """Compare the recorded step with an eager one, both from the present random state.

        Raises:
            CaptureError: they differ.
        """
        inputs = program.inputs(flatten_arguments(args, kwargs).tensors)
        found = inputs[: len(program.names)]
        with preserved(program.modules):
            loss, gradients = program(inputs)
        with preserved(program.modules), torch.enable_grad():
            eager = self.objective.differentiable_loss(model, guide, *args, **kwargs)
            expected = (eager.detach(), *torch.autograd.grad(eager, found, allow_unused=True))
        compare(expected, (loss, *gradients))


@final
class _Pair:
    """The graphs of one pair; it holds on to the pair, so that its identity is not used again."""

    def __init__(self, model: Callable[..., Any], guide: Callable[..., Any]) -> None:
        self.pair = (model, guide)
        self.modules = Modules(model, guide)
        self.names: tuple[str, ...] = ()
        self.late = 0
        self.programs: dict[Hashable, Program | None] = {}


class _Attached(torch.autograd.Function):
    """A loss whose gradients are known already."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, gradients: tuple[Tensor | None, ...], *found: Tensor) -> Tensor:
        """Keep the gradients and return the loss."""
        ctx.gradients = gradients
        return loss.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, factor: Tensor) -> tuple[Tensor | None, ...]:
        """Scale the gradients."""
        return None, None, *(None if g is None else factor * g for g in ctx.gradients)
