"""What the networks of a family came out as: evidences with errors, guides, and who failed."""

import warnings
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from evidentia.inference.structure.stacked.evidence import Bounds
from evidentia.inference.structure.stacked.family_target import WeightVector
from evidentia.inference.structure.stacked.guide import FullCovariance, StackedGuide
from evidentia.inference.structure.stacked.state import State, as_dict
from evidentia.inference.structure.stacked.target import Target
from evidentia.models.structure.model import FamilyModel


class FailedStructures(UserWarning):
    """Some structures have no finite evidence; they are named."""


@final
@dataclass(frozen=True, eq=False)
class NetworkEvidence:
    """Evidence of S structures with error bars, and the guides that gave it.

    Attributes:
        elbo, elbo_se: evidence lower bound and its standard error, nats for the whole data set, ``(S,)``.
        iwae, iwae_se: importance-weighted bound with K particles, mean and error over batches, ``(S,)``.
        importance, importance_se: log of the mean of all importance weights, a consistent estimate, ``(S,)``.
        pareto_k: shape of the weights' tail; above 0.7 distrust ``importance``, ``(S,)``.
        guide: ``loc`` and ``scale`` ``(S, D)`` of the non-centred weights (dead ones at their prior), and
            ``scale_tril`` for a full covariance. A latent ``log noise`` is the last column.
        hyper: ``variance`` ``(S, W)`` of the weight prior and, where learned, ``noise`` ``(S,)``.
        losses: negative ELBO, mean of each window of steps, ``(R, S)``.
        gates: the structures, ``(S, num_gates)``; ``labels`` names them.
        failed: labels of the structures without a finite evidence.
        skipped: steps not taken because a gradient was not finite, ``(S,)``.
        stopped: ``"num_steps"``, ``"tolerance"`` or ``"callback"``.
        state: everything needed to go on, a flat dict of tensors.
        power: power β of the likelihood; the bounds are on ``log ∫ p(y|w)^β p(w) dw``.
        vector: how the weights lie in the vectors of ``guide``.

    References:
        Burda, Grosse & Salakhutdinov, 2016. Importance weighted autoencoders.
    """

    elbo: Tensor
    elbo_se: Tensor
    iwae: Tensor
    iwae_se: Tensor
    importance: Tensor
    importance_se: Tensor
    pareto_k: Tensor
    guide: dict[str, Tensor]
    hyper: dict[str, Tensor]
    losses: Tensor
    gates: Tensor
    labels: tuple[str, ...]
    failed: tuple[str, ...]
    skipped: Tensor
    stopped: str
    state: dict[str, Tensor]
    power: float
    vector: WeightVector

    @property
    def kind(self) -> str:
        """Both bounds, ELBO and IWAE, are lower bounds of the log evidence."""
        return "lower bound"

    def weights(self, row: int) -> dict[str, tuple[Tensor, Tensor]]:
        """Location and scale of the non-centred weights of one structure, by weight name."""
        loc, scale = (self.vector.split(self.guide[name][row]) for name in ("loc", "scale"))
        return {name: (loc[name], scale[name]) for name in loc}


def collect(
    model: FamilyModel,
    target: Target,
    guide: StackedGuide,
    gates: Tensor,
    state: State,
    stopped: str,
    power: float,
    found: Bounds,
) -> NetworkEvidence:
    """The result of trained guides; warns of the structures without a finite evidence, by name.

    Args:
        model: the family's model.
        target: the structures.
        guide: the Gaussian family.
        gates: ``(S, num_gates)``.
        state: where training ended, and ``stopped`` why.
        stopped: see :class:`NetworkEvidence`.
        power: power of the likelihood.
        found: the bounds.
    """
    labels = tuple(_label(model, row) for row in gates)
    finite = found.elbo.isfinite() & found.iwae.isfinite()
    failed = tuple(label for label, fine in zip(labels, finite.tolist(), strict=True) if not fine)
    skipped = state.steps - state.taken
    if failed:
        shown = ", ".join(failed[:5]) + (f" and {len(failed) - 5} more" if len(failed) > 5 else "")
        warnings.warn(
            f"network_evidence: no finite evidence for {len(failed)} of {len(labels)} structures: {shown}. "
            "An operation that is not finite spoils every structure of its edge. Standardise the inputs, or "
            "lower learning_rate or initial_scale.",
            FailedStructures,
            stacklevel=3,
        )
    theta, hyper = state.theta, {"variance": state.variance}
    if target.learn_noise:
        hyper["noise"] = theta[:, -1].exp()
        theta = theta[:, :-1]
    loc, scale = guide.moments(theta, target.active)
    width = target.num_weights
    prior_scale = torch.cat([state.variance.sqrt(), scale[:, width:]], -1)
    moments = {"loc": loc, "scale": torch.where(target.active, scale, prior_scale)}
    if isinstance(guide, FullCovariance):
        moments["scale_tril"] = guide.scale_tril(theta, target.active)
    return NetworkEvidence(
        **found._asdict(), guide=moments, hyper=hyper, losses=state.losses, gates=gates, labels=labels,
        failed=failed, skipped=skipped, stopped=stopped, state=as_dict(state) | {"gates": gates}, power=power,
        vector=WeightVector(model.weight_shapes),
    )  # fmt: skip


def _label(model: FamilyModel, gates: Tensor) -> str:
    if all(
        edge.domain.is_vertex(gates[model.family.check().slices[edge.name]]) for edge in model.family.edges
    ):
        return model.family.label(gates)
    return f"gates {[round(float(gate), 4) for gate in gates]}"
