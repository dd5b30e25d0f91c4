"""What a prior on the structure of one edge must offer."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from evidentia.models.hyper import Hyper
from evidentia.models.structure.domains import Domain, DomainName
from evidentia.models.structure.errors import FamilyError


class StructurePrior(ABC):
    """A prior on the gates ``γ`` of one edge; abstract.

    A prior belongs to one domain. It has two faces: ``sample`` is the Pyro program that draws the gates, and
    ``log_mass`` is the pure mass function on the vertices of the domain. For a relaxed prior the mass of a
    vertex is the probability that rounding gives this vertex (Gumbel-Softmax, relaxed Bernoulli,
    logistic-normal) or the limit for temperature zero (Dirichlet, Beta).

    References:
        Bakhteev, 2020. Bayesian selection of a suboptimal structure of a deep learning model.
    """

    domain: DomainName

    @property
    def hyper(self) -> dict[str, Hyper]:
        """Hyperparameters of the prior, by short name; empty when nothing is learned."""
        return {}

    @abstractmethod
    def check(self, owner: str, num_ops: int) -> None:
        """Raise FamilyError, naming ``owner``, when the prior does not fit ``num_ops`` operations."""

    @abstractmethod
    def vertex_log_mass(self, gates: Tensor) -> Tensor:
        """Log-mass of ``gates (*b, K)``, assumed to be vertices, shape ``(*b)``."""

    @abstractmethod
    def sample(self, edge: str, ops: Sequence[str], like: Tensor) -> Tensor:
        """Draw the gates of ``edge`` inside a Pyro model: site(s) ``gamma/<edge>``, result ``(*b, K)``.

        Batch dimensions are those of Pyro: the last one, when present, is the data dimension and has size 1.
        """

    def log_mass(self, gates: Tensor) -> Tensor:
        """Log-probability in nats of the vertices ``gates (*b, K)``, ``(*b)``; ``-inf`` off the vertices.

        Normalised over the vertices of the domain.
        """
        mass = self.vertex_log_mass(gates)
        return torch.where(Domain(self.domain).is_vertex(gates), mass, mass.new_tensor(-torch.inf))


def positive_temperature(owner: str, temperature: float) -> float:
    """The temperature as a float.

    Raises:
        FamilyError: not a positive finite number.
    """
    value = float(temperature)
    if not 0 < value < float("inf"):
        raise FamilyError(
            f"{owner}: the temperature must be a positive number, got {temperature}. Small values (0.1) "
            "favour one operation, large values mix them; for hard choices use a '_vertex' domain."
        )
    return value


def weights_of(
    owner: str, what: str, value: Any, num_ops: int, like: Tensor | None = None, zero: bool = False
) -> Tensor:
    """Weights ``(K,)``, in double precision unless ``like`` is given; ones when ``value`` is None.

    Raises:
        FamilyError: wrong length, an entry that is negative, not finite, or zero where zero is not allowed,
            or all entries zero.
    """
    if value is None:
        weights = torch.ones(num_ops, dtype=torch.float64)
    else:
        source = value.value if isinstance(value, Hyper) else value
        weights = torch.as_tensor(source, dtype=torch.float64).detach()
    if weights.ndim == 0:
        weights = weights.expand(num_ops)
    if weights.shape != (num_ops,):
        raise FamilyError(
            f"{owner}: {what} has shape {tuple(weights.shape)} for {num_ops} operations. Give one number per "
            f"operation: {what}={[1.0] * min(num_ops, 4)}."
        )
    if not bool((torch.isfinite(weights) & (weights >= 0)).all()):
        raise FamilyError(f"{owner}: {what}={weights.tolist()} must be finite and not negative.")
    if not bool((weights > 0).any()):
        raise FamilyError(
            f"{owner}: {what}={weights.tolist()} puts zero mass on every structure. Make at least one entry "
            "positive."
        )
    if not zero and bool((weights == 0).any()):
        raise FamilyError(
            f"{owner}: {what}={weights.tolist()} must be positive: a relaxed law cannot exclude an "
            "operation. Leave the operation out, or use a '_vertex' domain."
        )
    return weights if like is None else weights.to(dtype=like.dtype, device=like.device)
