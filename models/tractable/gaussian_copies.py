"""A Gaussian pair with parameters for every row: copies of one datum give independent draws of a gradient."""

from __future__ import annotations

from typing import final

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from evidentia.models.pair import Pair
from evidentia.models.rows import row_plate

__all__ = ["GaussianCopies", "GaussianCopiesGuide", "gaussian_copies_pair"]


@final
class GaussianCopies(PyroModule):
    r"""\(z_i \sim N(\mu_i, I),\; x_i \sim N(z_i, I)\), so that \(x_i \sim N(\mu_i, 2I)\) exactly.

    ======  ==========  =======================================
    site    shape       support
    ======  ==========  =======================================
    ``z``   (D,)        real, one for each row, plate ``data``
    ``obs``  (D,)       real, one for each row, plate ``data``
    ======  ==========  =======================================

    Args:
        loc: \(\mu\), (n, D), one mean for each row.

    References:
        Rainforth, Kosiorek, Le, Maddison, Igl, Wood and Teh, 2018, Tighter variational bounds are not
        necessarily better.

    Example:
        >>> GaussianCopies(torch.zeros(3, 2))(size=3).shape
        torch.Size([3, 2])
    """

    def __init__(self, loc: Tensor) -> None:
        super().__init__()
        self.loc = nn.Parameter(loc.clone())

    def forward(self, x: Tensor | None = None, *, size: int | None = None) -> Tensor:
        """Run the generative program on the rows x (n, D), or draw `size` = n rows."""
        loc = self.loc
        with row_plate(x, size, loc.shape[-1], "GaussianCopies"):
            z = pyro.sample("z", dist.Normal(loc, 1.0).to_event(1))
            obs: Tensor = pyro.sample("obs", dist.Normal(z, 1.0).to_event(1), obs=x)
        return obs

    def log_evidence(self, x: Tensor) -> Tensor:
        """Exact log p(x) of each row, (n,), nats."""
        return dist.Normal(self.loc, 2**0.5).to_event(1).log_prob(x)


@final
class GaussianCopiesGuide(PyroModule):
    r"""q(z_i | x_i) = N(A_i x_i + b_i, 2/3 I).

    ======  ==========  =======================================
    site    shape       support
    ======  ==========  =======================================
    ``z``   (D,)        real, one for each row, plate ``data``
    ======  ==========  =======================================

    Args:
        weight: A, (n, D, D).
        bias: b, (n, D).

    References:
        Rainforth, Kosiorek, Le, Maddison, Igl, Wood and Teh, 2018, Tighter variational bounds are not
        necessarily better.

    Example:
        >>> guide = GaussianCopiesGuide(torch.eye(2).expand(3, 2, 2) / 2, torch.zeros(3, 2))
        >>> guide(torch.zeros(3, 2)).shape
        torch.Size([3, 2])
    """

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight.clone()), nn.Parameter(bias.clone())

    def forward(self, x: Tensor, *, size: int | None = None) -> Tensor:
        """Draw the latents of the rows x (n, D)."""
        loc = (self.weight * x.unsqueeze(-2)).sum(-1) + self.bias
        with row_plate(x, size, x.shape[-1], "GaussianCopiesGuide"):
            z: Tensor = pyro.sample("z", dist.Normal(loc, (2 / 3) ** 0.5).to_event(1))
        return z


def gaussian_copies_pair(rows: int, width: int = 5, offset: float = 0.01, seed: int = 1) -> Pair:
    r"""The pair near its optimum \(A = I/2,\; b = \mu/2\), the same parameters in every row.

    Args:
        rows: number of rows n.
        width: dimension D.
        offset: standard deviation of the distance of A and b from the optimum.
        seed: of \(\mu \sim N(0, I)\) and of the offsets.

    Returns:
        The pair; both take x (n, D).

    References:
        Rainforth, Kosiorek, Le, Maddison, Igl, Wood and Teh, 2018, Tighter variational bounds are not
        necessarily better.

    Example:
        >>> model, guide = gaussian_copies_pair(4, 2)
        >>> model.loc.shape, guide.weight.shape
        (torch.Size([4, 2]), torch.Size([4, 2, 2]))
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    loc = draw(width)
    weight = torch.eye(width, dtype=torch.float64) / 2 + offset * draw(width, width)
    bias = loc / 2 + offset * draw(width)
    return Pair(
        GaussianCopies((loc + offset * draw(width)).expand(rows, -1)),
        GaussianCopiesGuide(weight.expand(rows, -1, -1), bias.expand(rows, -1)),
    )
