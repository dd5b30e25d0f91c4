"""From a family of networks and data to the stacked log-weights of some of its structures."""

import math
from typing import Any, NamedTuple, final

import pyro
import torch
from evidentia.inference.structure.stacked_target import Target
from torch import Size, Tensor


@final
class WeightVector(NamedTuple):
    """The weights of a family laid end to end in one vector.

    Attributes:
        shapes: shape of each weight by name, ``"x->f/one/weight"``.

    Example:
        >>> vector = WeightVector({"x->f/one/weight": torch.Size([2, 1]), "x->f/one/bias": torch.Size([1])})
        >>> {name: tuple(part.shape) for name, part in vector.split(torch.zeros(5, vector.size)).items()}
        {'x->f/one/weight': (5, 2, 1), 'x->f/one/bias': (5, 1)}
    """

    shapes: dict[str, Size]

    @property
    def size(self) -> int:
        """Number of scalars in all weights together."""
        return sum(math.prod(shape) for shape in self.shapes.values())

    def split(self, flat: Tensor) -> dict[str, Tensor]:
        """Weights ``(*b, *shape)`` by name from a vector ``(*b, size)`` (views)."""
        sizes = [math.prod(shape) for shape in self.shapes.values()]
        parts = flat[..., : self.size].split(sizes, -1)
        named = zip(self.shapes.items(), parts, strict=True)
        return {name: part.reshape(*flat.shape[:-1], *shape) for (name, shape), part in named}

    def join(self, weights: dict[str, Tensor]) -> Tensor:
        """The inverse of :meth:`split`."""
        parts = [
            weights[name].flatten(weights[name].ndim - len(shape))
            if len(shape)
            else weights[name].unsqueeze(-1)
            for name, shape in self.shapes.items()
        ]
        return torch.cat(parts, -1)

    def owners(self, gate_names: tuple[str, ...]) -> Tensor:
        """Number of the gate that each scalar belongs to, ``(size,)``."""
        number = {name: index for index, name in enumerate(gate_names)}
        owner = [number[name.rsplit("/", 1)[0]] for name in self.shapes]
        counts = [math.prod(shape) for shape in self.shapes.values()]
        return torch.repeat_interleave(torch.tensor(owner, dtype=torch.long), torch.tensor(counts))


def live_gates(family: Any, gates: Tensor) -> Tensor:
    """Which operations influence the output: open, and on an open path to the sink.

    Args:
        family: a :class:`~evidentia.models.structure.family.Family`.
        gates: ``(S, num_gates)``.

    Returns:
        ``(S, num_gates)`` boolean.
    """
    is_open = gates != 0
    reaches: dict[str, Tensor] = {family.edges[-1].target: torch.ones(len(gates), dtype=torch.bool)}
    number = {name: index for index, name in enumerate(family.gate_names)}
    live = torch.zeros_like(is_open)
    # The edges are in topological order of their sources, so walking back meets every target before its source.
    for edge in sorted(family.edges, key=lambda e: -family.order.index(e.target)):
        columns = [number[f"{edge.name}/{op}"] for op in edge.ops]
        live[:, columns] = is_open[:, columns] & reaches[edge.target].unsqueeze(-1)
        through = live[:, columns].any(-1)
        reaches[edge.source] = reaches.get(edge.source, torch.zeros_like(through)) | through
    return live


def family_target(model: Any, x: Tensor, y: Tensor, gates: Tensor, *, learn_noise: bool) -> Target:
    """The stacked target of some structures of a family model.

    Args:
        model: a :class:`~evidentia.models.structure.model.FamilyModel`.
        x: inputs ``(n, d)``.
        y: response.
        gates: structures, ``(S, num_gates)``.
        learn_noise: train the noise as a hyperparameter of each structure.

    Returns:
        A :class:`~evidentia.inference.structure.stacked_target.Target`. A noise scale with a prior becomes
        its last latent, on the log scale.
    """
    family = model.family
    vector = WeightVector(dict(family.weight_shapes))
    active = live_gates(family, gates).to(x.device)[:, vector.owners(family.gate_names).to(x.device)]
    prior = getattr(model.likelihood, "scale", None)
    noise_is_latent = hasattr(prior, "log_prob")
    if noise_is_latent:
        active = torch.cat([active, active.new_ones(len(active), 1)], -1)

    def log_likelihood(latents: Tensor, log_noise: Tensor | None, rows: Tensor) -> Tensor:
        batch = latents.shape[:-1]
        noise = None if log_noise is None else log_noise.exp().expand(batch)
        # Distributions are built inside; one bad structure must not stop the others at a validity check.
        with pyro.validation_enabled(False):
            terms = model.log_likelihood(x, y, gates[rows].expand(*batch, -1), vector.split(latents), noise)
        return terms.sum(-1)

    def log_noise_prior(log_noise: Tensor) -> Tensor:
        return prior.log_prob(log_noise.exp()) + log_noise  # type: ignore[union-attr]

    return Target(log_likelihood, active, log_noise_prior if noise_is_latent else None, learn_noise)
