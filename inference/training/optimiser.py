"""The optimizer of a fit: one for all parameters, fused where torch allows it."""

from __future__ import annotations

import inspect
from collections.abc import Iterable

import torch
from torch import Tensor

__all__ = ["adam", "fusable", "needs_closure"]

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
