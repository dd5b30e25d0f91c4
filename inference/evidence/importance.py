"""Evidence by importance sampling: the guide proposes, its weights are averaged, each datum has its error."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from evidentia.inference.evidence.log_evidence import LogEvidence
from evidentia.inference.evidence.pareto import tail_shape
from evidentia.inference.objectives.bounds import iwae_bound
from evidentia.inference.objectives.leaf_cut import Particles, run_particles
from evidentia.inference.training.fitted import Fit
from evidentia.inference.training.settings import own_generator

__all__ = ["ImportanceEstimate", "estimate", "in_chunks", "lent", "log_evidence", "log_weights"]

Programs = tuple[Callable[..., Any], Callable[..., Any]]


class ImportanceEstimate(NamedTuple):
    r"""What K log-weights say about one log evidence, for each plate element.

    Attributes:
        value: \(L = \log \frac1K \sum_k w_k\), (*plates), nats. Its mean is a lower bound.
        standard_error: \(\mathrm{sd}(w / \bar w) / \sqrt K\), the delta method, (*plates), nats.
        ess: effective sample size \((\sum w)^2 / \sum w^2\), (*plates).
        bias: \(-\hat\chi^2 / 2K\) with \(\hat\chi^2 = K / \mathrm{ess} - 1\), the leading term of
            \(E L - \log p\), (*plates), nats. Not subtracted.

    References:
        Domke and Sheldon, 2018, Importance weighting and variational inference.
    """

    value: Tensor
    standard_error: Tensor
    ess: Tensor
    bias: Tensor


def estimate(log_weight: Tensor) -> ImportanceEstimate:
    r"""Average importance weights in log space: \(\log \frac1K \sum_k \exp(\log w_k)\), with its error.

    Args:
        log_weight: (K, *plates), nats.

    Returns:
        An `ImportanceEstimate` of shapes (*plates). With K = 1 the standard error is unknown: NaN.

    References:
        Burda, Grosse and Salakhutdinov, 2016, Importance weighted autoencoders.

    Example:
        >>> found = estimate(torch.tensor([[0.0], [1.0]]).log())
        >>> round(float(found.value.exp()), 4), float(found.ess)
        (0.5, 1.0)
    """
    count = log_weight.shape[0]
    value = iwae_bound(log_weight)
    # An element whose weights are all zero has ratio 0/0: its estimate is -inf and no error is known.
    ratio = (log_weight - value).exp()
    error = ratio.std(0) / math.sqrt(count)
    ess = ratio.sum(0).square() / ratio.square().sum(0)
    return ImportanceEstimate(value, error, ess, -(count / ess - 1) / (2 * count))


def log_weights(
    pair: Programs | Fit,
    *args: Any,
    num_particles: int = 1000,
    chunk_size: int | None = None,
    seed: int | None = None,
    max_plate_nesting: float = math.inf,
    **kwargs: Any,
) -> Tensor:
    r"""Draw from the guide: \(\log w_{ik} = \log p(x_i, z_{ik}) - \log q(z_{ik} | x_i)\).

    Args:
        pair: model and guide, or a `Fit`, whose parameters are then used.
        args: passed to both, as are further keywords.
        num_particles: draws K.
        chunk_size: draws at a time, to bound the memory; all at once when None.
        seed: seed of torch's generator, which is put back afterwards; None draws from the caller's.
        max_plate_nesting: depth of the programs' plates; found by a run of them when infinite.

    Returns:
        (K, *plates) in nats, one value per element of the plates that all sites share; (K,) where there are
        global latents. A subsampled plate's scale is not in it.

    Raises:
        ValueError: K or the chunk below 1, or the sites of model and guide do not match.
        NotImplementedError: a plate that not all sites share is subsampled.

    References:
        Burda, Grosse and Salakhutdinov, 2016, Importance weighted autoencoders.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> def model(x):
        ...     with pyro.plate("data", len(x)):
        ...         z = pyro.sample("z", dist.Normal(0.0, 1.0))
        ...         pyro.sample("obs", dist.Normal(z, 1.0), obs=x)
        >>> def guide(x):
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("z", dist.Normal(x / 2, 0.5**0.5))
        >>> w = log_weights((model, guide), torch.zeros(3), num_particles=5, seed=0)
        >>> w.shape, bool((w - w[0]).abs().max() < 1e-6)  # the exact posterior: all weights are equal
        (torch.Size([5, 3]), True)
    """
    return _draw(pair, args, kwargs, num_particles, chunk_size, seed, max_plate_nesting)[0]


def log_evidence(
    pair: Programs | Fit,
    *args: Any,
    num_particles: int = 1000,
    chunk_size: int | None = None,
    seed: int | None = None,
    max_plate_nesting: float = math.inf,
    **kwargs: Any,
) -> LogEvidence:
    r"""Estimate log p(x) of a data set by importance sampling from the guide.

    \(\sum_i \log \frac1K \sum_k w_{ik}\), with the errors of the plate elements in quadrature. Where the data
    plate is subsampled, n of N rows, the sum is multiplied by N/n and the error also has the sampling of the
    rows, \(N \sqrt{1 - n/N}\, \mathrm{sd}_i / \sqrt n\).

    Args:
        pair: model and guide, or a `Fit`, whose parameters are then used.
        args: passed to both, as are further keywords.
        num_particles: draws K; at least 2, and 100 or more for a meaningful Pareto k.
        chunk_size: draws at a time, to bound the memory; all at once when None.
        seed: seed of torch's generator, which is put back afterwards; None draws from the caller's.
        max_plate_nesting: depth of the programs' plates; found by a run of them when infinite.

    Returns:
        `LogEvidence` in nats for the whole data set, of kind "lower bound" (in expectation; consistent as K
        grows). Its diagnostics: `num_particles`, `bias` (estimated, not subtracted), `ess` (the smallest),
        `pareto_k` (the largest), and `per_datum`, an `ImportanceEstimate`, with `pareto_k_per_datum`.

    Raises:
        ValueError: fewer than two particles, or as `log_weights`.
        NotImplementedError: as `log_weights`.

    References:
        Burda, Grosse and Salakhutdinov, 2016, Importance weighted autoencoders.
        Domke and Sheldon, 2018, Importance weighting and variational inference.
        Vehtari, Simpson, Gelman, Yao and Gabry, 2024, Pareto smoothed importance sampling.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> def model(x):
        ...     with pyro.plate("data", len(x)):
        ...         z = pyro.sample("z", dist.Normal(0.0, 1.0))
        ...         pyro.sample("obs", dist.Normal(z, 1.0), obs=x)
        >>> def guide(x):
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("z", dist.Normal(x / 2, 1.0))
        >>> x = torch.tensor([0.3, -1.0])
        >>> found = log_evidence((model, guide), x, num_particles=2000, seed=0)
        >>> exact = dist.Normal(0.0, 2**0.5).log_prob(x).sum()
        >>> abs(found.value - float(exact)) < 4 * found.standard_error, found.kind
        (True, 'lower bound')
    """
    if num_particles < 2:
        raise ValueError(
            f"num_particles: an error bar needs at least 2 draws, got {num_particles}. "
            "Fix: num_particles=1000, or log_weights for a single draw"
        )
    weight, scale = _draw(pair, args, kwargs, num_particles, chunk_size, seed, max_plate_nesting)
    found = estimate(weight)
    k = tail_shape(weight.reshape(num_particles, -1)).reshape(found.value.shape)
    variance = scale**2 * float(found.standard_error.square().sum())
    rows = found.value.numel()
    if scale > 1 and rows > 1:
        variance += scale**2 * rows * (1 - 1 / scale) * float(found.value.var())
    diagnostics = {
        "num_particles": num_particles,
        "bias": scale * float(found.bias.sum()),
        "ess": float(found.ess.min()),
        "pareto_k": float(k.max()),
        "per_datum": found,
        "pareto_k_per_datum": k,
    }
    return LogEvidence.checked(
        scale * float(found.value.sum()), math.sqrt(variance), "lower bound", diagnostics
    )


def _draw(
    pair: Programs | Fit,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    num_particles: int,
    chunk_size: int | None,
    seed: int | None,
    max_plate_nesting: float,
) -> tuple[Tensor, float]:
    """Log-weights (K, *plates) and the scale of the shared plates."""
    parts, scale = [], 1.0
    with lent(pair) as programs, own_generator(seed):
        for particles in in_chunks(programs, args, kwargs, num_particles, chunk_size, max_plate_nesting):
            parts.append(particles.log_weight)
            scale = float(particles.plates.scale)
    return torch.cat(parts), scale


def in_chunks(
    programs: Programs,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    num_particles: int,
    chunk_size: int | None,
    max_plate_nesting: float = math.inf,
) -> Iterator[Particles]:
    """Particles of a pair without gradients, some at a time.

    Raises:
        ValueError: fewer than one particle, or an empty chunk.

    References:
        none; bookkeeping.
    """
    if num_particles < 1:
        raise ValueError(f"num_particles: expected a number >= 1, got {num_particles}")
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"chunk_size: expected a number >= 1, got {chunk_size}")
    step = num_particles if chunk_size is None else chunk_size
    for start in range(0, num_particles, step):
        with torch.no_grad():
            particles = run_particles(
                *programs,
                args,
                kwargs,
                num_particles=min(step, num_particles - start),
                max_plate_nesting=max_plate_nesting,
                cut=False,
            )
        yield particles


@contextlib.contextmanager
def lent(pair: Programs | Fit) -> Iterator[Programs]:
    """The programs of a pair with the store's present parameters, or those of a fit with the fit's.

    References:
        none; bookkeeping.
    """
    if isinstance(pair, Fit):
        with pair.scope():
            yield pair.pair
    else:
        yield pair[0], pair[1]
