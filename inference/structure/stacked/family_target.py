"""From a family of networks and data to the stacked log-weights of some of its structures."""

import math
from collections.abc import Mapping
from typing import NamedTuple, final

import torch
from torch import Size, Tensor

from evidentia.inference.structure.stacked.target import LogLikelihood, Target
from evidentia.models.hyper import Hyper
from evidentia.models.structure.evaluate import live_ops
from evidentia.models.structure.model import FamilyModel


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

    shapes: Mapping[str, Size]

    @property
    def size(self) -> int:
        """Number of scalars in all weights together."""
        return sum(math.prod(shape) for shape in self.shapes.values())

    def split(self, flat: Tensor) -> dict[str, Tensor]:
        """Weights ``(*b, *shape)`` by name from a vector ``(*b, size)`` (views)."""
        sizes = [math.prod(shape) for shape in self.shapes.values()]
        parts = flat[..., : self.size].split(sizes, -1)
        named = zip(self.shapes.items(), parts, strict=True)
        return {name: part.reshape((*flat.shape[:-1], *shape)) for (name, shape), part in named}

    def owners(self, gate_names: tuple[str, ...]) -> Tensor:
        """Number of the gate that each scalar belongs to, ``(size,)``."""
        number = {name: index for index, name in enumerate(gate_names)}
        owner = [number[name.rsplit("/", 1)[0]] for name in self.shapes]
        counts = [math.prod(shape) for shape in self.shapes.values()]
        return torch.repeat_interleave(torch.tensor(owner, dtype=torch.long), torch.tensor(counts))


def family_target(model: FamilyModel, x: Tensor, y: Tensor, gates: Tensor, *, learn_noise: bool) -> Target:
    """The stacked target of some structures of a family model.

    Args:
        model: the family's model; its structure must not be fixed to another one.
        x: inputs ``(n, d)``.
        y: response.
        gates: structures, ``(S, num_gates)``.
        learn_noise: train the noise as a hyperparameter of each structure.

    Returns:
        The target. A noise scale with a prior becomes its last latent, on the log scale.

    References:
        Bakhteev, 2020. Bayesian selection of a suboptimal structure of a deep learning model.

    Example:
        >>> from evidentia.models.likelihood import Gaussian
        >>> from evidentia.models.structure.family import Family
        >>> from evidentia.models.structure.ops import GLM, Constant
        >>> family = Family(2).edge("x", "f", ops={"constant": Constant(), "line": GLM()})
        >>> model = family.model(likelihood=Gaussian(0.5))
        >>> family_target(model, torch.ones(3, 2), torch.ones(3), family.vertices(), learn_noise=False).active
        tensor([[ True, False, False],
                [False,  True,  True]])
    """
    vector = WeightVector(model.weight_shapes)
    live = live_ops(model.family.check(), gates)
    active = live[:, vector.owners(model.family.gate_names).to(live.device)]
    scale = getattr(model.likelihood, "scale", None)
    prior = scale if hasattr(scale, "log_prob") else None
    if prior is not None:
        active = torch.cat([active, active.new_ones(len(active), 1)], -1)

    def summed(guard: bool) -> LogLikelihood:
        pointwise = pointwise_log_likelihood(model, x, y, gates, guard=guard)
        return lambda latents, log_noise, rows: pointwise(latents, log_noise, rows).sum(-1)

    def log_noise_prior(log_noise: Tensor) -> Tensor:
        # + log noise: the Jacobian of the exponential.
        return torch.as_tensor(prior.log_prob(log_noise.exp())) + log_noise  # type: ignore[union-attr]

    density = None if prior is None else log_noise_prior
    return Target(summed(False), active, density, learn_noise, guarded=summed(True))


def pointwise_log_likelihood(
    model: FamilyModel, x: Tensor, y: Tensor, gates: Tensor, *, guard: bool = True
) -> LogLikelihood:
    """``log p(y_i | u)`` per datum, ``(latents (*draws, S', D), log_noise, rows (S',)) -> (*draws, S', n)``.

    Args:
        model: the family's model.
        x: inputs ``(n, d)``.
        y: response.
        gates: structures, ``(S, num_gates)``.
        guard: keep an operation that is not finite away from the structures without it.

    References:
        Bakhteev, 2020. Bayesian selection of a suboptimal structure of a deep learning model.
    """
    vector = WeightVector(model.weight_shapes)
    scale = getattr(model.likelihood, "scale", None)
    fixed = x.new_tensor(float(scale.value)) if isinstance(scale, Hyper) else None

    def log_likelihood(latents: Tensor, log_noise: Tensor | None, rows: Tensor) -> Tensor:
        batch = latents.shape[:-1]
        noise = fixed if log_noise is None else log_noise.exp().expand(batch)
        own = gates[rows].expand(*batch, -1)
        return model.log_likelihood(x, y, own, vector.split(latents), noise, guard=guard)

    return log_likelihood
