"""An autoencoder with binary latents: few enough of them can be summed over, so that everything is known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from evidentia.models.latent.heads import BernoulliHead, Head
from evidentia.models.nets import mlp
from evidentia.models.pair import Pair
from evidentia.models.rows import row_plate

__all__ = ["BitEncoder", "DiscreteVAE", "bit_states", "discrete_vae_pair"]

_MOST_BITS = 20
_CHUNK = 8192


def bit_states(width: int, *, dtype: torch.dtype | None = None) -> Tensor:
    r"""All \(2^L\) vectors of L bits, the first bit slowest: (2^L, L).

    Args:
        width: number of bits L.
        dtype: of the result; torch's default when None.

    Raises:
        ValueError: fewer than 1 bit, or more than 20.

    References:
        none; bookkeeping.

    Example:
        >>> bit_states(2).tolist()
        [[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]
    """
    if not 1 <= width <= _MOST_BITS:
        raise ValueError(
            f"width: expected 1 to {_MOST_BITS} bits, got {width}. Fix: log_evidence by importance sampling"
        )
    shifts = torch.arange(width - 1, -1, -1)
    bits = (torch.arange(2**width)[:, None] >> shifts) & 1
    return bits.to(torch.get_default_dtype() if dtype is None else dtype)


@final
class DiscreteVAE(PyroModule):
    r"""\(z_{ij} \sim \mathrm{Bernoulli}(\sigma(b_j)),\; x_i \sim \mathrm{head}(f(z_i))\), b learned.

    =======  ===========  =====================================================
    site     shape        support
    =======  ===========  =====================================================
    ``z``    (latent,)    0 or 1, one for each row, plate ``data``
    ``obs``  (D,)         the head's, one for each row, plate ``data``
    =======  ===========  =====================================================

    The decoder also takes values between 0 and 1, which relaxed and straight-through estimators need.

    Args:
        latent: number of latents L.
        data_width: number of pixels D.
        hidden: widths of the decoder's hidden layers, first to last; () is a sigmoid belief network.
        head: the law of the pixels; `BernoulliHead()` when None.
        activation: see `mlp`.

    Raises:
        ValueError: a width below 1, or data outside the head's support (also with validation off).

    References:
        Mnih and Gregor, 2014, Neural variational inference and learning in belief networks.

    Example:
        >>> model = DiscreteVAE(3, 6, [8])
        >>> x = model(size=5)
        >>> model.log_joint(x).logsumexp(0).shape  # the exact log evidence of each row
        torch.Size([5])
    """

    def __init__(
        self,
        latent: int,
        data_width: int,
        hidden: Sequence[int] = (100,),
        head: Head | None = None,
        *,
        activation: str = "elu",
    ) -> None:
        super().__init__()
        self.latent, self.data_width = latent, data_width
        self.head = BernoulliHead() if head is None else head
        self.decoder = mlp(latent, hidden, data_width * self.head.width, activation=activation)
        self.prior_logits = nn.Parameter(torch.zeros(latent))

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
        with row_plate(x, size, self.data_width, "DiscreteVAE"):
            z = pyro.sample("z", dist.Bernoulli(logits=self.prior_logits).to_event(1))
            obs: Tensor = pyro.sample("obs", self.head.distribution(self.decoder(z)), obs=x)
        return obs

    def log_joint(self, x: Tensor) -> Tensor:
        r"""\(\log p(x_i, z)\) of every state z in the order of `bit_states`: (2^L, n), nats.

        Its `logsumexp(0)` is the exact log evidence of each row, its `softmax(0)` the exact posterior.

        Args:
            x: (n, D).

        Raises:
            ValueError: more than 20 latents, or data outside the head's support.
        """
        self.head.check(x)
        states = bit_states(self.latent, dtype=self.prior_logits.dtype)
        prior = dist.Bernoulli(logits=self.prior_logits, validate_args=False).to_event(1).log_prob(states)
        parts = [self._log_likelihood(x, chunk) for chunk in states.split(_CHUNK)]
        return torch.cat(parts) + prior[:, None]

    def _log_likelihood(self, x: Tensor, states: Tensor) -> Tensor:
        output = self.decoder(states)
        if isinstance(self.head, BernoulliHead):  # one matrix product in place of an (S, n, D) array
            return output @ x.to(output.dtype).T - nn.functional.softplus(output).sum(-1, keepdim=True)
        rows: Tensor = self.head.distribution(output[:, None], validate_args=False).log_prob(x)
        return rows

    def extra_repr(self) -> str:
        """Widths."""
        return f"latent={self.latent}, data_width={self.data_width}"


@final
class BitEncoder(PyroModule):
    r"""\(q(z | x) = \prod_j \mathrm{Bernoulli}(\sigma(\theta_j(x)))\): the guide of a `DiscreteVAE`.

    ======  ============  =======================================
    site    shape         support
    ======  ============  =======================================
    ``z``   (latent,)     0 or 1, one for each row, plate ``data``
    ======  ============  =======================================

    Args:
        data_width: number of columns D of a datum.
        latent: number of latents.
        hidden: widths of the hidden layers.
        input_scale: the data are divided by it before they enter the network.
        activation: see `mlp`.

    Raises:
        ValueError: a width below 1, or an input scale that is not positive.

    References:
        Mnih and Gregor, 2014, Neural variational inference and learning in belief networks.

    Example:
        >>> BitEncoder(4, 2, [8]).logits(torch.zeros(5, 4)).shape
        torch.Size([5, 2])
    """

    def __init__(
        self,
        data_width: int,
        latent: int,
        hidden: Sequence[int] = (100,),
        *,
        input_scale: float = 1.0,
        activation: str = "elu",
    ) -> None:
        super().__init__()
        if not input_scale > 0:
            raise ValueError(f"BitEncoder: expected a positive input_scale, got {input_scale}. Fix: 1.0")
        self.data_width, self.latent, self.input_scale = data_width, latent, input_scale
        self.encoder = mlp(data_width, hidden, latent, activation=activation)

    def logits(self, x: Tensor) -> Tensor:
        """θ(x): (*batch, D) to (*batch, latent), log odds."""
        output: Tensor = self.encoder(x.to(next(self.encoder.parameters()).dtype) / self.input_scale)
        return output

    def forward(self, x: Tensor | None = None, *, size: int | None = None) -> Tensor:
        """Draw the latents of the rows x (n, D); `size` rows in all when x is a minibatch."""
        if x is None:
            raise ValueError(
                "BitEncoder: expected data x, got None; an amortised guide has no latents without data. "
                "Fix: draw from the model instead, model(size=...)"
            )
        with row_plate(x, size, self.data_width, "BitEncoder"):
            z: Tensor = pyro.sample("z", dist.Bernoulli(logits=self.logits(x)).to_event(1))
        return z

    def extra_repr(self) -> str:
        """Widths."""
        return f"data_width={self.data_width}, latent={self.latent}"


def discrete_vae_pair(
    latent: int,
    data_width: int,
    hidden: Sequence[int] = (100,),
    head: Head | None = None,
    *,
    activation: str = "elu",
) -> Pair:
    r"""A `DiscreteVAE` and a `BitEncoder` whose network mirrors the decoder; train it by `DiscreteELBO`.

    \(\mathrm{ELBO} = E_q \log p(x, z) - E_q \log q(z | x) = \log p(x) - \mathrm{KL}(q(z|x) \| p(z|x))\).

    Args:
        latent: number of latents.
        data_width: number of pixels D.
        hidden: widths of the encoder's hidden layers; the decoder has them in reverse order.
        head: the law of the pixels; `BernoulliHead()` when None.
        activation: see `mlp`.

    Returns:
        The pair; both take `x` (n, D) and the keyword `size`.

    Raises:
        ValueError: a width below 1.

    References:
        Mnih and Gregor, 2014, Neural variational inference and learning in belief networks.

    Example:
        >>> model, guide = discrete_vae_pair(2, 6, [8])
        >>> guide(model(size=5)).shape
        torch.Size([5, 2])
    """
    layers: Sequence[int] = tuple(reversed(hidden))
    model = DiscreteVAE(latent, data_width, layers, head, activation=activation)
    form: dict[str, Any] = {"input_scale": model.head.input_scale, "activation": activation}
    return Pair(model, BitEncoder(data_width, latent, hidden, **form))
