"""An amortised guide: a network that maps a datum to the normal law of its latents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor
from torch.nn.functional import softplus

from evidentia.models.nets import mlp
from evidentia.models.rows import row_plate

__all__ = ["Encoder"]

_SCALE_FLOOR = 1e-4


@final
class Encoder(PyroModule):
    r"""q(z | x) = N(μ(x), Σ(x)) with μ and Σ from one network; the guide of a model with local latents "z".

    Diagonal: \(\Sigma = \mathrm{diag}\,s^2\), \(s = \mathrm{softplus}(r(x)) + 10^{-4}\). With
    `full_covariance` \(\Sigma = LL^\top\), L lower triangular with that s on its diagonal.

    ======  ============  =======================================
    site    shape         support
    ======  ============  =======================================
    ``z``   (latent,)     real, one for each row, plate ``data``
    ======  ============  =======================================

    Args:
        data_width: number of columns D of a datum.
        latent: number of latents.
        hidden: widths of the hidden layers.
        full_covariance: let the latents of a datum correlate.
        input_scale: the data are divided by it before they enter the network.
        activation: see `mlp`.
        dropout: see `mlp`.

    Raises:
        ValueError: a width below 1, or an input scale that is not positive.

    References:
        Kingma, Welling, 2014, Auto-encoding variational Bayes.
        Cremer, Li, Duvenaud, 2018, Inference suboptimality in variational autoencoders.

    Example:
        >>> law = Encoder(4, 2, [8], full_covariance=True).distribution(torch.zeros(5, 4))
        >>> law.batch_shape, law.event_shape
        (torch.Size([5]), torch.Size([2]))
    """

    def __init__(
        self,
        data_width: int,
        latent: int,
        hidden: Sequence[int] = (200, 200),
        *,
        full_covariance: bool = False,
        input_scale: float = 1.0,
        activation: str = "elu",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if not input_scale > 0:
            raise ValueError(f"Encoder: expected a positive input_scale, got {input_scale}. Fix: 1.0")
        below = latent * (latent - 1) // 2 if full_covariance else 0
        self.data_width, self.latent, self.full_covariance = data_width, latent, full_covariance
        self.input_scale = input_scale
        self.encoder = mlp(data_width, hidden, 2 * latent + below, activation=activation, dropout=dropout)

    def distribution(self, x: Tensor) -> Any:
        """q(z | x) for data x (*batch, D): batch shape (*batch), event shape (latent,)."""
        output = self.encoder(x.to(next(self.encoder.parameters()).dtype) / self.input_scale)
        loc, raw, below = output.tensor_split([self.latent, 2 * self.latent], dim=-1)
        scale = softplus(raw) + _SCALE_FLOOR
        if not self.full_covariance:
            return dist.Normal(loc, scale).to_event(1)
        row, column = torch.tril_indices(self.latent, self.latent, -1, device=x.device)
        lower = below.new_zeros(*below.shape[:-1], self.latent**2)
        lower = lower.index_copy(-1, row * self.latent + column, below).unflatten(-1, (self.latent, -1))
        return dist.MultivariateNormal(loc, scale_tril=lower + torch.diag_embed(scale))

    def forward(self, x: Tensor | None = None, *, size: int | None = None) -> Tensor:
        """Draw the latents of the rows x (n, D); `size` rows in all when x is a minibatch."""
        if x is None:
            raise ValueError(
                "Encoder: expected data x, got None; an amortised guide has no latents without data. "
                "Fix: draw from the model instead, model(size=...)"
            )
        with row_plate(x, size, self.data_width, "Encoder"):
            z: Tensor = pyro.sample("z", self.distribution(x))
        return z

    def extra_repr(self) -> str:
        """Widths and the form of the covariance."""
        form = "full" if self.full_covariance else "diagonal"
        return f"data_width={self.data_width}, latent={self.latent}, covariance={form}"
