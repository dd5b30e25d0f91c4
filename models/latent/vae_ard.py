"""An autoencoder that finds its own number of latents: a global scale for each, learned with the rest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import pyro
import pyro.distributions as dist
from pyro.nn import PyroModule
from torch import Tensor, nn
from torch.nn.functional import normalize

from evidentia.models.latent.encoder import Encoder
from evidentia.models.latent.heads import BernoulliHead, Head
from evidentia.models.latent.relevance import Relevance, hyperprior
from evidentia.models.nets import ACTIVATIONS, mlp
from evidentia.models.pair import Pair
from evidentia.models.rows import row_plate

__all__ = ["VAEARD", "RelevanceGuide", "UnitColumns", "vae_ard_pair"]


@final
class UnitColumns(nn.Linear):
    r"""An affine map whose columns have norm one: \(x \mapsto \sum_j x_j\, w_j/\|w_j\| + b\).

    Behind a scale γ it removes the freedom to let γ shrink while the weights grow.

    References:
        Salimans, Kingma, 2016, Weight normalization.

    Example:
        >>> import torch
        >>> UnitColumns(3, 5)(torch.eye(3)).shape
        torch.Size([3, 5])
    """

    def columns(self) -> Tensor:
        """The weight (outputs, inputs) with unit columns."""
        return normalize(self.weight, dim=0)

    def forward(self, input: Tensor) -> Tensor:
        """Apply the map to (*batch, inputs)."""
        return nn.functional.linear(input, self.columns(), self.bias)


@final
class VAEARD(PyroModule):
    r"""\(\gamma^2 \sim p,\; z_i \sim N(0, I),\; x_i \sim \mathrm{head}(f(z_i \odot \gamma))\).

    \(p(x) = \iint p(x \mid z \odot \gamma)\, p(z)\, p(\gamma)\, dz\, d\gamma\), γ shared by all rows, z not.
    The first layer of f has unit columns, so that γ measures how much of a latent reaches the data. With a
    linear decoder and noise σ² a latent stays, \(\gamma_j^2 \approx \lambda_j - \sigma^2\), if and only if
    its eigenvalue λ_j of the sample covariance exceeds σ² (for a hyperprior that is weak against the data).

    ==================  ===========  =====================================================
    site                shape        support
    ==================  ===========  =====================================================
    ``gamma_squared``   (latent,)    positive; global
    ``gamma``           (latent,)    positive; deterministic, the square root
    ``z``               (latent,)    real, one for each row, plate ``data``
    ``obs``             (D,)         the head's, one for each row, plate ``data``
    ==================  ===========  =====================================================

    Args:
        latent: the largest number of latents.
        data_width: number of pixels D.
        hidden: widths of the decoder's hidden layers; () for a linear decoder.
        head: the law of the pixels; `BernoulliHead()` when None.
        prior: law of γ², see `hyperprior`. An inverse gamma whose mode is far below σ²/n leaves unused
            latents near that mode.
        prior_parameters: two positive numbers, see `hyperprior`.
        activation: see `mlp`.

    Raises:
        ValueError: an unknown prior, a width below 1, or data outside the head's support.

    References:
        Karaletsos, Rätsch, 2015, Automatic relevance determination for deep generative models.
        Bishop, 1999, Bayesian PCA.

    Example:
        >>> VAEARD(2, 6, [8])(size=5).shape
        torch.Size([5, 6])
    """

    def __init__(
        self,
        latent: int,
        data_width: int,
        hidden: Sequence[int] = (200, 200),
        head: Head | None = None,
        *,
        prior: str = "inverse_gamma",
        prior_parameters: tuple[float, float] = (1.0, 1e-3),
        activation: str = "elu",
    ) -> None:
        super().__init__()
        self.latent, self.data_width = latent, data_width
        self.head = BernoulliHead() if head is None else head
        self.prior, self.prior_parameters = prior, prior_parameters
        widths = [*hidden, data_width * self.head.width]
        rest = mlp(widths[0], hidden[1:], widths[-1], activation=activation) if hidden else nn.Sequential()
        between = [ACTIVATIONS[activation]()] if hidden else []
        self.decoder = nn.Sequential(UnitColumns(latent, widths[0]), *between, *rest)
        self.relevance_prior()

    def relevance_prior(self) -> Any:
        """p(γ²) with batch shape (latent,)."""
        like = next(self.decoder.parameters())
        return hyperprior(self.prior, *self.prior_parameters, like).expand([self.latent])

    def forward(self, x: Tensor | None = None, *, size: int | None = None) -> Tensor:
        """Run the generative program.

        Args:
            x: (n, D); drawn from the prior predictive when None.
            size: rows to draw when x is None; rows of the whole data set when x is a minibatch.

        Returns:
            The observation (*draws, n, D).
        """
        if x is not None:
            self.head.check(x)
        plate = row_plate(x, size, self.data_width, "VAEARD")
        squared = pyro.sample("gamma_squared", self.relevance_prior().to_event(1))
        gamma = pyro.deterministic("gamma", squared.sqrt(), event_dim=1)
        with plate:
            z = pyro.sample("z", dist.Normal(gamma.new_zeros(self.latent), 1.0).to_event(1))
            law = self.head.distribution(self.decoder(z * gamma))
            obs: Tensor = pyro.sample("obs", law, obs=x)
        return obs

    def extra_repr(self) -> str:
        """Widths and the hyperprior."""
        law = f"{self.prior}{self.prior_parameters}"
        return f"latent={self.latent}, data_width={self.data_width}, prior={law}"


@final
class RelevanceGuide(PyroModule):
    r"""\(q(\gamma^2)\prod_i q(z_i \mid x_i)\): a law of the global scales beside an encoder.

    ==================  ===========  =====================================================
    site                shape        support
    ==================  ===========  =====================================================
    ``gamma_squared``   (latent,)    positive; global
    ``z``               (latent,)    real, one for each row, plate ``data``
    ==================  ===========  =====================================================

    Args:
        relevance: q(γ²).
        local: q(z | x).

    References:
        Karaletsos, Rätsch, 2015, Automatic relevance determination for deep generative models.

    Example:
        >>> import torch
        >>> guide = RelevanceGuide(Relevance(2), Encoder(6, 2, [8]))
        >>> guide(torch.zeros(5, 6)).shape
        torch.Size([5, 2])
    """

    def __init__(self, relevance: Relevance, local: Encoder) -> None:
        super().__init__()
        self.relevance, self.local = relevance, local

    def forward(self, x: Tensor | None = None, *, size: int | None = None) -> Tensor:
        """Draw the scales, then the latents of the rows x (n, D)."""
        pyro.sample("gamma_squared", self.relevance.distribution().to_event(1))
        z: Tensor = self.local(x, size=size)
        return z


def vae_ard_pair(
    latent: int,
    data_width: int,
    hidden: Sequence[int] = (200, 200),
    head: Head | None = None,
    *,
    family: str = "log_normal",
    prior: str = "inverse_gamma",
    prior_parameters: tuple[float, float] = (1.0, 1e-3),
    full_covariance: bool = False,
    activation: str = "elu",
) -> Pair:
    """A `VAEARD` and a `RelevanceGuide` whose encoder mirrors the decoder.

    Args:
        latent: the largest number of latents.
        data_width: number of pixels D.
        hidden: widths of the encoder's hidden layers; the decoder has them in reverse order.
        head: the law of the pixels; `BernoulliHead()` when None.
        family: q(γ²): "log_normal", "gamma" or "inverse_gamma".
        prior: p(γ²), see `hyperprior`.
        prior_parameters: its two numbers.
        full_covariance: let the latents of a datum correlate under q. With a linear decoder the diagonal form
            is what makes the latents the principal axes.
        activation: see `mlp`.

    Returns:
        The pair; both take `x` (n, D) and the keyword `size`.

    Raises:
        ValueError: an unknown family or prior, or a width below 1.

    References:
        Karaletsos, Rätsch, 2015, Automatic relevance determination for deep generative models.

    Example:
        >>> model, guide = vae_ard_pair(2, 6, [8], family="gamma")
        >>> guide(model(size=5)).shape
        torch.Size([5, 2])
    """
    law: dict[str, Any] = {"prior": prior, "prior_parameters": prior_parameters}
    model = VAEARD(latent, data_width, tuple(reversed(hidden)), head, activation=activation, **law)
    encoder = Encoder(
        data_width,
        latent,
        hidden,
        full_covariance=full_covariance,
        input_scale=model.head.input_scale,
        activation=activation,
    )
    return Pair(model, RelevanceGuide(Relevance(latent, family), encoder))
