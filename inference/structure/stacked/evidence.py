"""Evidence bounds from log importance weights: ELBO, IWAE, plain importance sampling, each with its error."""

import hashlib
import math
from typing import NamedTuple

import torch
from torch import Tensor

from evidentia.inference.evidence.pareto import tail_shape
from evidentia.inference.structure.stacked.guide import StackedGuide, deal
from evidentia.inference.structure.stacked.state import State
from evidentia.inference.structure.stacked.target import Target, log_weight
from evidentia.inference.structure.stacked.training import Schedule


class Bounds(NamedTuple):
    """Estimates per structure, in nats for the whole data set, ``(S,)`` each.

    ``elbo`` and ``iwae`` estimate lower bounds of the log evidence without bias; ``importance`` is the log of
    the mean of all weights, a consistent estimate. ``pareto_k`` is the shape of the weights' upper tail:
    above 0.7 the importance estimate and its error are not to be trusted.

    References:
        Vehtari, Simpson, Gelman, Yao & Gabry, 2024. Pareto smoothed importance sampling.
    """

    elbo: Tensor
    elbo_se: Tensor
    iwae: Tensor
    iwae_se: Tensor
    importance: Tensor
    importance_se: Tensor
    pareto_k: Tensor


def bounds(log_weight: Tensor) -> Bounds:
    """Evidence bounds from independent batches of log-weights.

    ``elbo = mean log w``, ``iwae = mean_b log mean_k w_bk``, ``importance = log mean_{bk} w_bk``. The errors
    are those of means over draws, of a mean over batches, and of the delta method.

    Args:
        log_weight: ``(B, K, S)``, B ≥ 2 batches of K draws.

    Returns:
        :class:`Bounds`, each entry ``(S,)``, in nats.

    References:
        Burda, Grosse & Salakhutdinov, 2016. Importance weighted autoencoders.

    Example:
        >>> result = bounds(torch.full((4, 5, 1), -2.0))
        >>> float(result.elbo), float(result.iwae), float(result.iwae_se)
        (-2.0, -2.0, 0.0)
    """
    batches, particles, _ = log_weight.shape
    total = batches * particles
    per_batch = torch.logsumexp(log_weight, 1) - math.log(particles)
    flat = log_weight.flatten(0, 1)
    importance = torch.logsumexp(flat, 0) - math.log(total)
    ratio = (flat - importance).exp()
    return Bounds(
        elbo=flat.mean(0),
        elbo_se=flat.std(0) / math.sqrt(total),
        iwae=per_batch.mean(0),
        iwae_se=per_batch.std(0) / math.sqrt(batches),
        importance=importance,
        importance_se=ratio.std(0) / math.sqrt(total),
        pareto_k=tail_shape(flat),
    )


def estimate(
    target: Target,
    guide: StackedGuide,
    state: State,
    schedule: Schedule,
    particles: int,
    batches: int,
    seed: int,
) -> Bounds:
    """Evidence bounds of trained guides from ``batches`` independent batches of ``particles`` draws.

    Args:
        target: the structures.
        guide: the Gaussian family.
        state: trained state.
        schedule: its ``power`` and ``chunk_size`` are used.
        particles: draws per batch.
        batches: number of batches.
        seed: of the draws, which all structures share.

    Returns:
        :class:`Bounds`, the same whatever ``chunk_size``.

    References:
        Burda, Grosse & Salakhutdinov, 2016. Importance weighted autoencoders.
    """
    dim = target.active.shape[-1]
    budget = schedule.chunk_size * max(schedule.num_particles, 8)
    pieces = []
    for rows in torch.arange(len(state.theta), device=state.theta.device).split(schedule.chunk_size):
        generator = torch.Generator().manual_seed(seed)
        theta, variance = state.theta[rows], state.variance[rows]
        block = max(1, budget // len(rows))
        weights = []
        for _ in range(batches):
            raw = torch.randn(particles, dim, generator=generator, dtype=theta.dtype).to(theta.device)
            for part in raw.split(block):
                noise = deal(part, target.active[rows])
                with torch.no_grad():
                    value = log_weight(target, guide, theta, noise, variance, rows, schedule.power)
                    if target.guarded is not None and not bool(value.isfinite().all()):
                        target = target.careful()
                        value = log_weight(target, guide, theta, noise, variance, rows, schedule.power)
                weights.append(value)
        pieces.append(bounds(torch.cat(weights).reshape(batches, particles, len(rows))))
    return Bounds(*(torch.cat(field) for field in zip(*pieces, strict=True)))


def derive_seed(seed: int, purpose: str) -> int:
    """A 63-bit seed for one purpose.

    Example:
        >>> derive_seed(0, "evidence") != derive_seed(0, "training")
        True
    """
    return int.from_bytes(hashlib.sha256(f"{seed}/{purpose}".encode()).digest()[:8], "big") >> 1
