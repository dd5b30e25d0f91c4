"""Where an amortised bound loses: the gap of its family (approximation) and of its encoder (amortisation)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

from evidentia.inference.evidence.importance import estimate, lent, log_weights
from evidentia.inference.evidence.local_guide import local_guide
from evidentia.inference.fit import fit
from evidentia.inference.objectives.particle import ParticleELBO
from evidentia.inference.training.fitted import Fit
from evidentia.inference.training.settings import own_generator

__all__ = ["GapEstimate", "Gaps", "decompose", "gaps"]


class GapEstimate(NamedTuple):
    """One gap: a value for each datum with its standard error, (n,), nats.

    References:
        none; bookkeeping.
    """

    per_datum: Tensor
    standard_error: Tensor

    @property
    def mean(self) -> float:
        """Mean over the data, nats per datum."""
        return float(self.per_datum.mean())

    @property
    def mean_error(self) -> float:
        """Monte-Carlo standard error of `mean`; the spread between data is not in it."""
        return float(self.standard_error.square().sum().sqrt() / len(self.per_datum))


class Gaps(NamedTuple):
    r"""\(\log p(x) - \mathrm{ELBO}(q)\) and its two parts.

    Attributes:
        total: log p(x) - ELBO(q) = KL(q ‖ posterior).
        approximation: KL(q* ‖ posterior), q* the best member of the family for the datum.
        amortisation: KL(q ‖ posterior) - KL(q* ‖ posterior). In general this is *not* KL(q ‖ q*).
        log_evidence: log p(x) for each datum, (n,), nats.

    References:
        Cremer, Li and Duvenaud, 2018, Inference suboptimality in variational autoencoders.
    """

    total: GapEstimate
    approximation: GapEstimate
    amortisation: GapEstimate
    log_evidence: GapEstimate

    def __str__(self) -> str:
        parts = [
            f"{name} {gap.mean:.3f} ± {gap.mean_error:.3f}"
            for name, gap in (
                ("total", self.total),
                ("approximation", self.approximation),
                ("amortisation", self.amortisation),
            )
        ]
        return ", ".join(parts) + " nats per datum"


def decompose(log_evidence: GapEstimate, amortised: GapEstimate, best: GapEstimate) -> Gaps:
    """The gaps from the evidence and the ELBOs of q and of q*, each (n,) in nats.

    References:
        Cremer, Li and Duvenaud, 2018, Inference suboptimality in variational autoencoders.

    Example:
        >>> exact = lambda value: GapEstimate(torch.tensor([value]), torch.zeros(1))
        >>> found = decompose(exact(-1.0), exact(-4.0), exact(-2.0))
        >>> found.total.mean, found.approximation.mean, found.amortisation.mean
        (3.0, 1.0, 2.0)
    """
    return Gaps(
        _minus(log_evidence, amortised),
        _minus(log_evidence, best),
        _minus(best, amortised),
        log_evidence,
    )


def _minus(first: GapEstimate, second: GapEstimate) -> GapEstimate:
    error = (first.standard_error.square() + second.standard_error.square()).sqrt()
    return GapEstimate(first.per_datum - second.per_datum, error)


def gaps(
    pair: tuple[Callable[..., Any], Callable[..., Any]] | Fit,
    *args: Any,
    num_particles: int = 1000,
    chunk_size: int | None = None,
    num_steps: int = 500,
    learning_rate: float = 0.02,
    training_particles: int = 8,
    seed: int | None = None,
    **kwargs: Any,
) -> Gaps:
    r"""Split \(\log p(x) - \mathrm{ELBO}(q)\) for each datum into approximation and amortisation gap.

    The model is held fixed while q* is trained for each datum, from where the encoder points
    (see `local_guide`). The evidence is an importance-weighted bound with q* as the proposal, so the total
    and the approximation gap are too small by its bias, about χ²/(2K); the amortisation gap is free of it.
    If q* was not trained to the end, part of the approximation gap is really amortisation gap.

    Args:
        pair: model and amortised guide, or a `Fit`, whose parameters are then used; put modules with dropout
            in evaluation mode first.
        args: the data, passed to both, as are further keywords.
        num_particles: draws K for the evidence and for the bounds.
        chunk_size: draws at a time, to bound the memory.
        num_steps: steps of the training of q*; its learning rate falls to a hundredth.
        learning_rate: of q* at the first step.
        training_particles: particles of the bound that q* is trained with.
        seed: seed of torch's generator, which is put back afterwards; None draws from the caller's.

    Returns:
        `Gaps`, in nats for each datum.

    Raises:
        NotImplementedError: a guide whose family cannot be set free; see `local_guide`.
        ValueError: a setting out of range.

    References:
        Cremer, Li and Duvenaud, 2018, Inference suboptimality in variational autoencoders.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> def model(x):
        ...     with pyro.plate("data", len(x)):
        ...         z = pyro.sample("z", dist.Normal(0.0, 1.0))
        ...         pyro.sample("obs", dist.Normal(z, 1.0), obs=x)
        >>> def guide(x):  # the posterior is N(x/2, variance 1/2): the family is right, the encoder is not
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("z", dist.Normal(0 * x, 0.5**0.5))
        >>> x = torch.tensor([2.0, 4.0])
        >>> found = gaps((model, guide), x, num_particles=20_000, learning_rate=0.1, seed=0)
        >>> bool((found.approximation.per_datum.abs() < 0.02).all())
        True
        >>> [round(value, 1) for value in found.amortisation.per_datum.tolist()]  # (x/2)² / (2 · 1/2)
        [1.0, 4.0]
    """
    drawing: dict[str, Any] = {"num_particles": num_particles, "chunk_size": chunk_size}
    with lent(pair) as (model, guide), own_generator(seed):
        amortised = log_weights((model, guide), *args, **drawing, **kwargs)
        free = local_guide(guide, *args, **kwargs)
        with _held_fixed(model, args, kwargs) as fixed:
            best = fit(
                (fixed, lambda *_, **__: free()),
                *args,
                objective=ParticleELBO("elbo", "stl", num_particles=training_particles),
                num_steps=num_steps,
                learning_rate=learning_rate,
                schedule=lambda step: 0.01 ** (step / num_steps),
                **kwargs,
            )
            weights = log_weights(best, *args, **drawing, **kwargs)
    evidence = estimate(weights)
    return decompose(GapEstimate(evidence.value, evidence.standard_error), _elbo(amortised), _elbo(weights))


def _elbo(log_weight: Tensor) -> GapEstimate:
    return GapEstimate(log_weight.mean(0), log_weight.std(0) / math.sqrt(log_weight.shape[0]))


class _Answer(Messenger):
    """Answers `pyro.param` with given values, which no training then sees as parameters."""

    def __init__(self, values: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.values = values

    def _pyro_param(self, msg: Any) -> None:
        if msg["name"] in self.values:
            msg["value"], msg["done"] = self.values[msg["name"]], True


@contextmanager
def _held_fixed(
    model: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Iterator[Callable[..., Any]]:
    """The model with its present parameters as constants."""
    with torch.no_grad(), poutine.trace(param_only=True) as capture:
        model(*args, **kwargs)
    values: dict[str, Any] = {name: site["value"] for name, site in capture.trace.nodes.items()}
    module = model if isinstance(model, nn.Module) else nn.Module()
    trained = [leaf for leaf in module.parameters() if leaf.requires_grad]
    training = [part for part in module.modules() if part.training]

    def fixed(*args: Any, **kwargs: Any) -> Any:
        with _Answer(values):
            return model(*args, **kwargs)

    try:
        for part in training:
            part.training = False
        for leaf in trained:
            leaf.requires_grad_(False)
        yield fixed
    finally:
        for leaf in trained:
            leaf.requires_grad_(True)
        for part in training:
            part.training = True
