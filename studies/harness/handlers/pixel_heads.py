"""Grey pixels: the model `headed_vae`, the inference `independent_pixels` and the metric `pixel_law`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from evidentia.studies.harness.engine.outcome import Context, Outcome, Problem
from evidentia.studies.harness.errors import StudyError, did_you_mean

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

    from evidentia.models.pair import Pair
    from evidentia.studies.harness.data.dataset import Dataset

__all__ = ["HEADS", "headed_vae", "independent_pixels", "pixel_law"]

HEADS = {
    "categorical": "categorical",
    "logistic": "logistic",
    "three_logistics": "three logistics",
    "independent": "independent pixels",
}
DRAWN = 2000
"""Images drawn from each model for its frequencies of levels."""
SHOWN = 10
"""Drawn images that are kept."""


def headed_vae(
    data: Dataset, head: str = "categorical", latent: int = 10, hidden: Sequence[int] = (100,)
) -> Pair:
    """An autoencoder of grey pixels with a head by name.

    Args:
        data: images, one row each; ``info["levels"]`` is the number of levels of a pixel.
        head: "categorical", "logistic" or "three_logistics".
        latent: number of latents.
        hidden: widths of the decoder's hidden layers, and of the encoder's in reverse.
    """
    from evidentia.models.latent.encoder import Encoder
    from evidentia.models.latent.heads import CategoricalHead, DiscretisedLogisticHead, Head
    from evidentia.models.latent.vae import VAE
    from evidentia.models.pair import Pair

    levels, width = int(data.info["levels"]), len(data.names)
    if head == "categorical":
        law: Head = CategoricalHead(levels)
    elif head in HEADS and head != "independent":
        law = DiscretisedLogisticHead(levels, 1 if head == "logistic" else 3)
    else:
        raise StudyError(f"model.head: unknown head {head!r}. {did_you_mean(head, HEADS)}")
    model = VAE(latent, width, tuple(hidden), law)
    encoder = Encoder(width, latent, tuple(reversed(hidden)), input_scale=law.input_scale)
    return Pair(model, encoder)


def independent_pixels(problem: Problem, params: Mapping[str, Any], context: Context) -> Outcome:
    """Score held-out images by the training frequencies of each pixel's levels.

    P(x_d = l) = (n_dl + ½) / (n + ½ L): without the ½ a level that a pixel never had would cost everything.

    Args:
        problem: images of integer levels.
        params: none.
        context: its seed draws the samples.

    References:
        Jeffreys, 1946, An invariant form for the prior probability in estimation problems.
    """
    import torch

    data = problem.data
    levels = int(data.info["levels"])
    counts = torch.nn.functional.one_hot(data.x.long(), levels).sum(0).to(data.x.dtype)
    log_mass = ((counts + 0.5) / (len(data.x) + levels / 2)).log()
    pixels = log_mass.T.gather(0, data.test_x.long())
    each = -pixels.sum(1)
    torch.manual_seed(context.seed)
    drawn = torch.distributions.Categorical(logits=log_mass).sample((DRAWN,))
    row = {
        "head": "independent",
        "log_evidence": -float(each.sum()),
        "standard_error": 0.0,
        "kind": "exact",
        "nats": float(each.mean()),
        "nats_se": float(each.std()) / len(each) ** 0.5,
        "parameters": counts.numel() - counts.shape[0],
    }
    tables = _pictures(drawn.to(data.x.dtype), -pixels.mean(0), data)
    return Outcome([row], tables=tables, extra={"pixels": True})


def pixel_law(outcome: Outcome, problem: Problem) -> dict[str, float]:
    """Bits per pixel, and what the model draws beside what was held out.

    Columns ``bits`` and ``bits_se`` (per pixel), and ``level_distance``: total variation distance between the
    frequencies of the levels in images drawn from the model and in the held-out images, all pixels together.
    The tables ``levels``, ``drawn`` and ``map`` hold the frequencies, some images and the cost of each pixel:
    for an autoencoder -E_q log p(x_d | z), which leaves the latents' own cost out.
    """
    import torch
    from pyro import poutine

    row = outcome.rows[0]
    if "pixels" not in outcome.extra:
        fit = outcome.extra["fit"]
        model, guide = fit.pair
        with fit.scope(), torch.no_grad():
            drawn = model(size=DRAWN)
            rows = problem.data.test_x.to(drawn.dtype)
            latents = poutine.trace(guide).get_trace(rows)
            law = poutine.trace(poutine.replay(model, latents)).get_trace(rows).nodes["obs"]["fn"]
            cost = -law.base_dist.log_prob(rows).mean(0)
        outcome.tables |= _pictures(drawn, cost, problem.data)
    levels = outcome.tables["levels"]
    bits = 1 / (problem.data.x.shape[1] * math.log(2))
    return {
        "bits": row["nats"] * bits,
        "bits_se": row["nats_se"] * bits,
        "level_distance": float((levels["drawn"] - levels["held_out"]).abs().sum() / 2),
    }


def _pictures(drawn: Tensor, cost: Tensor, data: Dataset) -> dict[str, pd.DataFrame]:
    """The tables of `pixel_law` from images (n, D) and nats for each pixel (D,)."""
    import pandas as pd

    levels = int(data.info["levels"])
    held_out: Any = data.test_x
    shares = {
        name: (each.flatten().long().bincount(minlength=levels) / each.numel()).numpy()
        for name, each in (("drawn", drawn), ("held_out", held_out))
    }
    names = [f"pixel_{index}" for index in range(drawn.shape[1])]
    return {
        "levels": pd.DataFrame({"level": range(levels), **shares}),
        "drawn": pd.DataFrame(drawn[:SHOWN].numpy(), columns=names),
        "map": pd.DataFrame((cost / math.log(2)).numpy()[None], columns=names),
    }
