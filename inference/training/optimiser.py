"""The optimizer of a fit: one for all parameters, fused where torch allows it."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

import torch
import torch.optim.optimizer as optim
from torch import Tensor

__all__ = ["adam", "fusable", "needs_closure", "take_step"]

_FUSED_DEVICES = {"cpu", "cuda", "mps", "xpu"}


def fusable(parameters: Iterable[Tensor]) -> bool:
    """Whether torch's fused kernels take these parameters: real floating point, on a device that has them.

    References:
        none; bookkeeping.

    Example:
        >>> fusable([torch.zeros(2)]), fusable([torch.zeros(2, dtype=torch.complex64)])
        (True, False)
    """
    return all(
        p.is_floating_point() and p.device.type in _FUSED_DEVICES and p.layout == torch.strided
        for p in parameters
    )


def adam(parameters: Iterable[Tensor], lr: float) -> torch.optim.Adam:
    r"""Adam over all parameters in one object, with the fused kernel where torch allows it.

    \(m_t = \beta_1 m_{t-1} + (1 - \beta_1) g\), \(v_t = \beta_2 v_{t-1} + (1 - \beta_2) g^2\),
    \(\theta_t = \theta_{t-1} - \eta\, \hat m_t / (\sqrt{\hat v_t} + \epsilon)\).

    Args:
        parameters: leaf tensors.
        lr: the rate \(\eta\).

    References:
        Kingma, Ba, 2015, Adam: A method for stochastic optimization.

    Example:
        >>> adam([torch.zeros(2, requires_grad=True)], 0.1).defaults["fused"]
        True
    """
    listed = list(parameters)
    return torch.optim.Adam(listed, lr=lr, fused=True if fusable(listed) else None)


def needs_closure(optimizer: torch.optim.Optimizer) -> bool:
    """Whether a step of the optimizer evaluates the loss itself, several times (LBFGS).

    References:
        none; bookkeeping.

    Example:
        >>> w = [torch.zeros(1, requires_grad=True)]
        >>> needs_closure(torch.optim.LBFGS(w)), needs_closure(torch.optim.Adam(w))
        (True, False)
    """
    closure = inspect.signature(type(optimizer).step).parameters.get("closure")
    return closure is not None and closure.default is inspect.Parameter.empty


def take_step(optimizer: torch.optim.Optimizer) -> None:
    """Move the parameters by their gradients: `optimizer.step()` without its checks where that is safe.

    A plain fused Adam or AdamW that has taken a step before goes straight to the kernel that its own step
    would call with the same lists, so that parameters and state are the same bit for bit. Hooks, a changed
    `step`, mixed types, a rate that is a tensor, and every other optimizer take the long way.

    Args:
        optimizer: one without a closure.

    References:
        none; bookkeeping.

    Example:
        >>> w = torch.zeros(2, requires_grad=True)
        >>> w.grad = torch.ones(2)
        >>> optimizer = adam([w], 0.1)
        >>> take_step(optimizer); take_step(optimizer)
        >>> w.detach()
        tensor([-0.2000, -0.2000])
    """
    calls = _fused_calls(optimizer)
    if calls is None:
        optimizer.step()
        return
    kernel = _KERNELS[type(optimizer)]
    with torch.no_grad():
        for tensors, group in calls:
            beta1, beta2 = group["betas"]
            torch._foreach_add_(tensors[-1], 1)
            kernel(
                *tensors, amsgrad=False, lr=group["lr"], beta1=beta1, beta2=beta2,
                weight_decay=group["weight_decay"], eps=group["eps"], maximize=group["maximize"],
            )  # fmt: skip


_KERNELS: dict[type, Any] = {torch.optim.Adam: torch._fused_adam_, torch.optim.AdamW: torch._fused_adamw_}


def _fused_calls(optimizer: torch.optim.Optimizer) -> list[tuple[list[list[Tensor]], dict[str, Any]]] | None:
    """The lists that each parameter group would hand to the kernel, or None when the long way is due."""
    hooks = optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks
    everywhere = optim._global_optimizer_pre_hooks or optim._global_optimizer_post_hooks
    own = vars(optimizer)
    if type(optimizer) not in _KERNELS or hooks or everywhere or "step" in own or "found_inf" in own:
        return None
    calls = []
    for group in optimizer.param_groups:
        if not group["fused"] or group["amsgrad"] or group["capturable"] or group["differentiable"]:
            return None
        if not isinstance(group["lr"], float) or any(isinstance(beta, Tensor) for beta in group["betas"]):
            return None
        params = [p for p in group["params"] if p.grad is not None]
        states = [optimizer.state[p] for p in params]
        if not all(states) or len({(p.dtype, p.device) for p in params}) > 1:
            return None
        moments = [[state[key] for state in states] for key in ("exp_avg", "exp_avg_sq")]
        if params:
            gradients: list[Any] = [p.grad for p in params]
            calls.append(([params, gradients, *moments, [], [state["step"] for state in states]], group))
    return calls
