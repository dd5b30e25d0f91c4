"""The models `vae`, `vae_ard`, `discrete_vae`: autoencoders whose head follows the levels of the pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evidentia.models.pair import Pair
    from evidentia.studies.harness.data.dataset import Dataset


def vae(
    data: Dataset,
    latent: int = 10,
    hidden: Sequence[int] = (200,),
    encoder_hidden: Sequence[int] | None = None,
    full_covariance: bool = False,
) -> Pair:
    """A variational autoencoder and its encoder.

    Args:
        data: images, one row each; ``info["levels"]`` is the number of levels of a pixel.
        latent: number of latents.
        hidden: widths of the decoder's hidden layers.
        encoder_hidden: widths of the encoder's; those of the decoder in reverse order when None.
        full_covariance: let the latents of an image correlate under the encoder's law.
    """
    from evidentia.models.latent.encoder import Encoder
    from evidentia.models.latent.vae import VAE
    from evidentia.models.pair import Pair

    width, head = len(data.names), _head(data)
    model = VAE(latent, width, tuple(hidden), head)
    layers = tuple(reversed(hidden)) if encoder_hidden is None else tuple(encoder_hidden)
    guide = Encoder(
        width, latent, layers, full_covariance=full_covariance, input_scale=model.head.input_scale
    )
    return Pair(model, guide)


def vae_ard(
    data: Dataset,
    latent: int = 20,
    hidden: Sequence[int] = (200,),
    family: str = "log_normal",
    prior_parameters: Sequence[float] = (1.0, 1e-3),
    noise: float | None = None,
) -> Pair:
    """An autoencoder with a global scale for each latent, and its guide.

    Args:
        data: images or rows.
        latent: the largest number of latents.
        hidden: widths of the encoder's hidden layers; () for a linear decoder.
        family: law of the squared scales under the guide.
        prior_parameters: of the inverse-gamma prior of the squared scales.
        noise: standard deviation of Gaussian pixels; the head follows the levels when None.
    """
    from evidentia.models.latent.heads import GaussianHead
    from evidentia.models.latent.vae_ard import vae_ard_pair

    head: Any = _head(data) if noise is None else GaussianHead(noise)
    first, second = prior_parameters
    return vae_ard_pair(
        latent, len(data.names), tuple(hidden), head, family=family, prior_parameters=(first, second)
    )


def discrete_vae(data: Dataset, latent: int = 16, hidden: Sequence[int] = (100,)) -> Pair:
    """An autoencoder with binary latents and its encoder.

    Args:
        data: images, one row each; ``info["levels"]`` is the number of levels of a pixel.
        latent: number of latents; up to 20 can be summed over.
        hidden: widths of the encoder's hidden layers.
    """
    from evidentia.models.latent.discrete_vae import discrete_vae_pair

    return discrete_vae_pair(latent, len(data.names), tuple(hidden), _head(data))


def _head(data: Dataset) -> Any:
    """Bernoulli for two levels, categorical for more."""
    from evidentia.models.latent.heads import BernoulliHead, CategoricalHead

    levels = int(data.info.get("levels", 2))
    return BernoulliHead() if levels == 2 else CategoricalHead(levels)
