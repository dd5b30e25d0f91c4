"""Pictures of an autoencoder as tables: images drawn from it, and what each latent changes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from evidentia.inference.fit import Fit

STEPS = (-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0)


def samples(result: Fit, count: int = 40, seed: int = 0) -> pd.DataFrame:
    """Mean images of latents drawn from the prior: one row per image, one column per pixel."""
    import pandas as pd
    import torch

    with result.scope(), torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        pixels = _mean(_observed(result.pair[0], count))
    return pd.DataFrame(pixels.numpy(), columns=_pixels(pixels.shape[-1]))


def traversals(result: Fit, latents: Sequence[int]) -> pd.DataFrame:
    """Mean images with one latent moved from -3 to 3, or from 0 to 1 where it is a bit; the others at zero.

    Columns ``latent`` and ``step``, then one for each pixel.
    """
    import pandas as pd
    import torch
    from pyro import poutine

    with result.scope(), torch.no_grad():
        model = result.pair[0]
        site: Any = poutine.trace(model).get_trace(size=1).nodes["z"]
        like, steps = site["value"], (0.0, 1.0) if site["fn"].support.is_discrete else STEPS
        places = torch.zeros(len(latents), len(steps), like.shape[-1], dtype=like.dtype)
        for row, latent in enumerate(latents):
            places[row, :, latent] = torch.tensor(steps, dtype=like.dtype)
        flat = places.flatten(0, 1)
        pixels = _mean(_observed(poutine.condition(model, {"z": flat}), len(flat)))
    index = pd.DataFrame([(latent, step) for latent in latents for step in steps], columns=["latent", "step"])
    return pd.concat([index, pd.DataFrame(pixels.numpy(), columns=_pixels(pixels.shape[-1]))], axis=1)


def _observed(model: Any, rows: int) -> Any:
    """The law of the observation in a run of the model without data."""
    from pyro import poutine

    return poutine.trace(model).get_trace(size=rows).nodes["obs"]["fn"]


def _mean(law: Any) -> Any:
    """The mean of each pixel; summed over the levels where the law has no mean of its own."""
    import torch

    pixel = law.base_dist
    top = getattr(pixel.support, "upper_bound", None)
    if top is None:
        return law.mean
    levels = torch.arange(int(top) + 1.0).reshape(-1, *(1 for _ in law.batch_shape + law.event_shape))
    return (pixel.log_prob(levels).exp() * levels).sum(0)


def _pixels(count: int) -> list[str]:
    return [f"pixel_{index}" for index in range(count)]


def images(table: pd.DataFrame) -> NDArray[np.float64]:
    """The pixel columns of such a table as square images, (rows, side, side)."""
    values = table[[name for name in table if str(name).startswith("pixel_")]].to_numpy(dtype=float)
    side = round(values.shape[1] ** 0.5)
    return values.reshape(len(values), side, side)
