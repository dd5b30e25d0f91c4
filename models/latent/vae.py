"""The variational autoencoder: a decoder network over local latents, and its pair with an encoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, final

import pyro
import pyro.distributions as dist
from pyro.nn import PyroModule
from torch import Tensor

from evidentia.models.latent.encoder import Encoder
from evidentia.models.latent.heads import BernoulliHead, Head
from evidentia.models.nets import mlp
from evidentia.models.pair import Pair
from evidentia.models.rows import row_plate

__all__ = ["VAE", "vae_pair"]


@final
class VAE(PyroModule):
    r"""\(z_i \sim p(z),\; x_i \sim \mathrm{head}(f(z_i))\): \(p(x) = \int p(x|z)\,p(z)\,dz\).

    =======  ===========  =====================================================
    site     shape        support
    =======  ===========  =====================================================
    ``z``    (latent,)    real, one for each row, plate ``data``
    ``obs``  (D,)         the head's, one for each row, plate ``data``
    =======  ===========  =====================================================

    Batches of draws (particles, `Predictive(parallel=True)`) lead: z (*draws, n, latent).

    Args:
        latent: number of latents.
        data_width: number of pixels D.
        hidden: widths of the decoder's hidden layers, first to last.
        head: the law of the pixels; `BernoulliHead()` when None.
        prior: called without arguments, the law of z with event shape (latent,), a module when it has
            parameters of its own; N(0, I) when None.
        activation: see `mlp`.
        dropout: see `mlp`.

    Raises:
        ValueError: a width below 1, or data outside the head's support (also with validation off).

    References:
        Kingma, Welling, 2014, Auto-encoding variational Bayes.
        Rezende, Mohamed, Wierstra, 2014, Stochastic backpropagation and approximate inference in deep
        generative models.

    Example:
        >>> VAE(2, 6, [8])(size=5).shape
        torch.Size([5, 6])
    """

    def __init__(
        self,
        latent: int,
        data_width: int,
        hidden: Sequence[int] = (200, 200),
        head: Head | None = None,
        *,
        prior: Callable[[], Any] | None = None,
        activation: str = "elu",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.latent, self.data_width = latent, data_width
        self.head = BernoulliHead() if head is None else head
        self.prior = prior
        outputs = data_width * self.head.width
        self.decoder = mlp(latent, hidden, outputs, activation=activation, dropout=dropout)

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
        with row_plate(x, size, self.data_width, "VAE"):
            z = pyro.sample("z", self._prior())
            obs: Tensor = pyro.sample("obs", self.head.distribution(self.decoder(z)), obs=x)
        return obs

    def _prior(self) -> Any:
        if self.prior is not None:
            law = self.prior()
            if tuple(law.event_shape) != (self.latent,):
                raise ValueError(
                    f"VAE: expected a prior with event shape ({self.latent},), got {tuple(law.event_shape)}. "
                    "Fix: add .to_event(1)"
                )
            return law
        zero = next(self.decoder.parameters()).new_zeros(self.latent)
        return dist.Normal(zero, 1.0).to_event(1)

    def extra_repr(self) -> str:
        """Widths."""
        return f"latent={self.latent}, data_width={self.data_width}"


def vae_pair(
    latent: int,
    data_width: int,
    hidden: Sequence[int] = (200, 200),
    head: Head | None = None,
    *,
    full_covariance: bool = False,
    activation: str = "elu",
    dropout: float = 0.0,
) -> Pair:
    r"""A `VAE` and an `Encoder` whose network mirrors the decoder.

    \(\mathrm{ELBO} = E_q \log p(x|z) - \mathrm{KL}(q(z|x) \| p(z))
    = \log p(x) - \mathrm{KL}(q(z|x) \| p(z|x))\).

    Args:
        latent: number of latents.
        data_width: number of pixels D.
        hidden: widths of the encoder's hidden layers; the decoder has them in reverse order.
        head: the law of the pixels; `BernoulliHead()` when None.
        full_covariance: let the latents of a datum correlate under q.
        activation: see `mlp`.
        dropout: see `mlp`.

    Returns:
        The pair; both take `x` (n, D) and the keyword `size`.

    Raises:
        ValueError: a width below 1.

    References:
        Kingma, Welling, 2014, Auto-encoding variational Bayes.

    Example:
        >>> model, guide = vae_pair(2, 6, [8])
        >>> x = model(size=5)
        >>> guide(x).shape
        torch.Size([5, 2])
    """
    net: dict[str, Any] = {"activation": activation, "dropout": dropout}
    model = VAE(latent, data_width, tuple(reversed(hidden)), head, **net)
    scale = model.head.input_scale
    form: dict[str, Any] = {"full_covariance": full_covariance, "input_scale": scale}
    return Pair(model, Encoder(data_width, latent, hidden, **form, **net))
