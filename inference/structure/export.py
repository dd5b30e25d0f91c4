"""Export one structure: a plain Pyro pair without dead operations, ready for retraining, or a torch
module."""

import copy
import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from evidentia.inference.fit import Fit, fit
from evidentia.inference.structure.exported import ExportedGuide, ExportedModel, ExportedModule, KeptWeights
from evidentia.inference.structure.program import Program, compile_structure
from evidentia.inference.structure.prune import kept as kept_entries
from evidentia.inference.structure.stacked.result import NetworkEvidence
from evidentia.models.hyper import Hyper
from evidentia.models.likelihood import Gaussian
from evidentia.models.pair import Pair
from evidentia.models.response import check_tensors
from evidentia.models.structure.errors import FamilyError
from evidentia.models.structure.family import Family
from evidentia.models.structure.model import FamilyModel
from evidentia.models.structure.structure import Structure

Moments = Mapping[str, tuple[Tensor, Tensor]]


@final
@dataclass(frozen=True, eq=False)
class Exported:
    """One structure on its own.

    Attributes:
        pair: model and guide; ``pair.model(x, y)`` is an ordinary Pyro program.
        structure: which structure it is.
        program: what is computed, line by line.
        num_parameters: weights that are left.

    References:
        Liu, Simonyan & Yang, 2019. DARTS: differentiable architecture search.
    """

    pair: Pair
    structure: Structure
    program: Program
    num_parameters: int

    @property
    def genotype(self) -> dict[str, Any]:
        """The structure as a JSON-able dict; ``Structure.from_genotype`` reads it back."""
        return self.structure.genotype()

    def retrain(self, x: Tensor, y: Tensor, **options: Any) -> Fit:
        """Train a copy of the pair on data, starting from the exported guide.

        Args:
            x: inputs ``(n, d)``.
            y: response.
            options: of :func:`evidentia.inference.fit.fit`: ``num_steps``, ``learning_rate``, ``seed``, …

        Returns:
            The fit; ``fit.pair`` is the trained copy, its parameters in the dtype of x.

        Raises:
            ValueError: x or y is no tensor, or has the wrong shape.
        """
        check_tensors("retrain", x=x, y=y)
        model: Any = copy.deepcopy(self.pair.model)
        guide: Any = copy.deepcopy(self.pair.guide)
        model.check(x, y)
        return fit(Pair(model, guide.to(x.dtype)), x, y, **options)

    def to_module(self, fitted: Fit | None = None, dtype: torch.dtype | None = None) -> ExportedModule:
        """The function of the structure at the posterior mean of the weights, as a torch module.

        Args:
            fitted: take the means from this result of :meth:`retrain`; from the exported guide when None.
            dtype: of the parameters; that of the guide (of the data it was trained on) when None.
        """
        guide: Any = self.pair.guide if fitted is None else fitted.pair[1]
        if fitted is None:
            return ExportedModule(self.program, guide.means()).to(dtype)
        with fitted.scope():
            return ExportedModule(self.program, guide.means()).to(dtype)

    def __repr__(self) -> str:
        return f"Exported({self.structure.label!r}, {self.num_parameters} parameters)\n{self.program!r}"


def export(
    model: FamilyModel,
    structure: Any,
    guide: NetworkEvidence | Moments | None = None,
    prune: float | None = None,
) -> Exported:
    """One structure of a family as a plain model/guide pair without dead operations.

    The log-joint of the exported model equals that of ``family.model(structure=…)`` at the same weights and
    prior variances, the hyperprior of the variances that are left included:
    closed operations, operations that cannot reach the output and nodes that nobody reads are gone.
    Prior variances are the guide's, where it has them; a learned noise starts at the guide's value.

    Args:
        model: the family's model.
        structure: label, number, choice per edge, gates of a vertex, or a ``Structure``.
        guide: where the exported guide starts: the ``NetworkEvidence`` that contains the structure, or
            ``{weight: (loc, scale)}``. Without it means are 0 and scales a tenth of the prior's.
        prune: remove the weights whose relative density ``exp(−μ²/2σ²)`` is above this; needs ``guide``.

    Returns:
        An :class:`Exported`.

    Raises:
        FamilyError: no such structure, with close matches.
        ValueError: the guide does not know the structure or a weight, or pruning without a guide.

    References:
        Liu, Simonyan & Yang, 2019. DARTS: differentiable architecture search.
        Graves, 2011. Practical variational inference for neural networks.

    Example:
        >>> from evidentia.models.structure.ops import GLM, Constant
        >>> family = Family(2).edge("x", "f", ops={"constant": Constant(), "line": GLM()})
        >>> exported = export(family.model(likelihood=Gaussian(0.5)), "line")
        >>> exported
        Exported('line', 2 parameters)
        f = line(x)
        >>> exported.to_module()(torch.ones(3, 2)).shape
        torch.Size([3, 1])
    """
    chosen = find_structure(model.family, structure)
    program = compile_structure(model.family, chosen)
    variances = {n: torch.full(s, model.weight_prior.scale**2) for n, s in program.weight_shapes.items()}
    loc = {name: torch.zeros_like(value) for name, value in variances.items()}
    scale = {name: 0.1 * value.sqrt() for name, value in variances.items()}
    likelihood, noise, prior = model.likelihood, (0.0, 0.1), model.weight_prior
    spread = prior.log_variance_moments() if prior.hyper == "sample" else None
    if isinstance(guide, NetworkEvidence):
        row = _row(guide, chosen)
        found: Moments = guide.weights(row)
        split = guide.vector.split(guide.hyper["variance"][row])
        variances = {name: split[name] for name in program.weight_shapes}
        if "noise" in guide.hyper:
            likelihood = Gaussian(Hyper(float(guide.hyper["noise"][row])))
        if guide.guide["loc"].shape[-1] > guide.vector.size:
            noise = (float(guide.guide["loc"][row, -1]), float(guide.guide["scale"][row, -1]))
    else:
        found = guide or {}
    if found:
        loc, scale = _moments(found, program)
    kept = KeptWeights(program.weight_shapes, _pruned(loc, scale, prune, guide is not None))
    latent_noise = hasattr(getattr(likelihood, "scale", None), "log_prob")
    pair = Pair(
        ExportedModel(program, likelihood, variances, prior, kept),
        ExportedGuide(kept, loc, scale, noise if latent_noise else None, spread),
    )
    return Exported(pair, chosen, program, kept.count)


def find_structure(family: Family, which: Any) -> Structure:
    """``family.structure(which)``, with the closest labels in the message when there is none.

    Raises:
        FamilyError: no such structure.

    Example:
        >>> from evidentia.models.structure.ops import GLM, Constant
        >>> family = Family(2).edge("x", "f", ops={"constant": Constant(), "line": GLM()})
        >>> find_structure(family, "lime")
        Traceback (most recent call last):
        evidentia.models.structure.errors.FamilyError: ... Did you mean 'line'?
    """
    try:
        return family.structure(which)
    except FamilyError as error:
        if not isinstance(which, str):
            raise
        names = [op for edge in family.edges for op in edge.ops]
        if len(family.edges) > 1 and family.num_structures <= 4096:
            names = [family.label(gates) for gates in family.vertices()]
        close = difflib.get_close_matches(which, names, n=3, cutoff=0.5)
        if not close:
            raise
        raise FamilyError(f"{error} Did you mean {' or '.join(map(repr, close))}?") from None


def _row(evidence: NetworkEvidence, structure: Structure) -> int:
    same = (evidence.gates.cpu().double() == structure.gates.double()).all(-1).nonzero().flatten()
    if not len(same):
        raise ValueError(
            f"guide: it holds no structure {structure.label!r}; it was computed for "
            f"{list(evidence.labels[:5])} ({len(evidence.labels)} in all). "
            "Call network_evidence with the gates of this structure."
        )
    return int(same[0])


def _moments(found: Moments, program: Program) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    loc, scale = {}, {}
    for name, shape in program.weight_shapes.items():
        if name not in found:
            raise ValueError(
                f"guide: the weight {name!r} of shape {tuple(shape)} is missing; it has {sorted(found)}."
            )
        loc[name], scale[name] = (value.detach().clone() for value in found[name])
        if loc[name].shape != shape or scale[name].shape != shape or not bool((scale[name] > 0).all()):
            raise ValueError(
                f"guide: the weight {name!r} needs a location and a positive scale of shape {tuple(shape)}, "
                f"got {tuple(loc[name].shape)} and {tuple(scale[name].shape)}."
            )
    return loc, scale


def _pruned(
    loc: Mapping[str, Tensor], scale: Mapping[str, Tensor], prune: float | None, trained: bool
) -> dict[str, Tensor]:
    """Flat numbers of the entries that stay, for the weights that lose some."""
    if prune is None:
        return {}
    if not trained:
        raise ValueError("prune: an untrained guide calls every weight uninformative. Give guide=.")
    stay = {name: kept_entries(loc[name], scale[name], prune).flatten() for name in loc}
    return {name: mask.nonzero().flatten() for name, mask in stay.items() if not bool(mask.all())}
