"""Four bits with a quadratic f: the exact gradient by enumeration of 16 states."""

import torch
from torch import Tensor

LOGITS = (0.3, -0.8, 1.2, 0.0)
TARGET = (0.45, 0.3, 0.6, 0.5)
CATEGORICAL_LOGITS = (0.3, -0.2, 1.1, 0.0)
CATEGORICAL_TARGET = (0.4, 0.1, 0.3, 0.2)


def matrix() -> Tensor:
    """One fixed random A, entries of sd 0.5."""
    return 0.5 * torch.randn(4, 4, generator=torch.Generator().manual_seed(11), dtype=torch.float64)


def f(bits: Tensor) -> Tensor:
    """(..., 4) → (...); also of relaxed bits."""
    target = torch.tensor(TARGET, dtype=torch.float64)
    return (bits - target).square().sum(-1) + torch.einsum("...i,ij,...j->...", bits, matrix(), bits)


def states() -> Tensor:
    """All 16 states, (16, 4)."""
    return torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.float64)] * 4)


def logits(replicates: int | None = None) -> Tensor:
    """(4,), or replicates in a plate (R, 4)."""
    theta = torch.tensor(LOGITS, dtype=torch.float64)
    return theta if replicates is None else theta.expand(replicates, 4).clone()


def probability(theta: Tensor) -> Tensor:
    """Of the 16 states, (16,)."""
    b = states()
    return (b * theta.sigmoid() + (1 - b) * (-theta).sigmoid()).prod(-1)


def exact() -> Tensor:
    """The gradient of E f, (4,)."""
    theta = logits().requires_grad_()
    return torch.autograd.grad((probability(theta) * f(states())).sum(), theta)[0]


def categorical_f(x: Tensor) -> Tensor:
    """f(x) = 3 Σ (x_d - t_d)², (..., 4) → (...)."""
    return 3 * (x - torch.tensor(CATEGORICAL_TARGET, dtype=torch.float64)).square().sum(-1)


def categorical_logits(replicates: int | None = None) -> Tensor:
    """(4,), or (R, 4)."""
    theta = torch.tensor(CATEGORICAL_LOGITS, dtype=torch.float64)
    return theta if replicates is None else theta.expand(replicates, 4).clone()


def categorical_exact() -> Tensor:
    """The gradient of E f over one choice of four, (4,)."""
    theta = categorical_logits().requires_grad_()
    value = (theta.softmax(-1) * categorical_f(torch.eye(4, dtype=torch.float64))).sum()
    return torch.autograd.grad(value, theta)[0]
