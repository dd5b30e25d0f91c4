"""The trained parts of REBAR, RELAX and NVIL: the scale, the temperature, the networks."""

from __future__ import annotations

import math
from typing import final

import torch
from torch import Tensor, nn

__all__ = ["Baseline", "ControlVariate"]

_GAIN = 10.0  # of a baseline: log densities are tens of nats, and Adam moves a weight little in a step


@final
class ControlVariate(nn.Module):
    r"""What REBAR and RELAX train on \(\lVert g\rVert^2\): η, log λ, and a network c.

    The network sees the relaxed bits and the logits (detached), so that with one weight for all data it can
    still be another function for each. It starts at c = 0, where RELAX is REINFORCE.

    Args:
        width: number of bits in one element of the independent plates; None makes no network.
        hidden: width of the network's hidden layer.
        temperature: λ at the start.
        dtype: of the parameters.
        device: of the parameters.

    References:
        Grathwohl, Choi, Wu, Roeder and Duvenaud, 2018. Backpropagation through the void: optimizing control
        variates for black-box gradient estimation.

    Example:
        >>> control = ControlVariate(3)
        >>> control.network(torch.zeros(2, 5, 3), torch.zeros(5, 3)).shape
        torch.Size([2, 5])
    """

    def __init__(
        self,
        width: int | None,
        *,
        hidden: int = 32,
        temperature: float = 0.5,
        dtype: torch.dtype | None = None,
        device: torch.device | None = None,
    ) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones((), dtype=dtype, device=device))
        self.log_temperature = nn.Parameter(torch.full((), math.log(temperature), dtype=dtype, device=device))
        self.width = width
        self.net: nn.Sequential | None = None
        if width is not None:
            last = nn.Linear(hidden, 1, dtype=dtype, device=device)
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
            self.net = nn.Sequential(
                nn.Linear(2 * width, hidden, dtype=dtype, device=device), nn.Tanh(), last
            )

    def soften(self, z: Tensor) -> Tensor:
        r"""\(\mathrm{sigmoid}(z/\lambda)\), the shape of z."""
        return (z / self.log_temperature.exp()).sigmoid()

    def network(self, z: Tensor, logits: Tensor) -> Tensor:
        """c(z): (n, *plates, W) → (n, *plates)."""
        if self.net is None:
            raise ValueError("ControlVariate: it was made without a network. Fix: give its width")
        soft = self.soften(z)
        inputs: Tensor = self.net(torch.cat([soft, logits.detach().expand(soft.shape)], -1))
        return inputs[..., 0]


@final
class Baseline(nn.Module):
    r"""The baseline of NVIL, \(b_\psi(\theta)\), a network of the guide's logits trained on \((f-b)^2\).

    It does not see the draws, so the gradient stays unbiased whatever b is. The logits (detached) stand for
    the datum that they were made from. It starts at b = 0, where NVIL is REINFORCE.

    Args:
        width: numbers in the logits of one element of the independent plates.
        hidden: width of the network's hidden layer.
        dtype: of the parameters.
        device: of the parameters.

    References:
        Mnih and Gregor, 2014. Neural variational inference and learning in belief networks.

    Example:
        >>> Baseline(3)(torch.zeros(5, 3))
        tensor([0., 0., 0., 0., 0.], grad_fn=<MulBackward0>)
    """

    def __init__(
        self,
        width: int,
        *,
        hidden: int = 32,
        dtype: torch.dtype | None = None,
        device: torch.device | None = None,
    ) -> None:
        super().__init__()
        self.width = width
        last = nn.Linear(hidden, 1, dtype=dtype, device=device)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.net = nn.Sequential(nn.Linear(width, hidden, dtype=dtype, device=device), nn.Tanh(), last)

    def forward(self, logits: Tensor) -> Tensor:
        """b: (*plates, W) → (*plates)."""
        value: Tensor = _GAIN * self.net(logits.detach())[..., 0]
        return value
