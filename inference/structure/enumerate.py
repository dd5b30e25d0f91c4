"""Posterior over structures by enumeration: exact for conjugate models, bounds or estimates for networks."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from evidentia.inference.evidence.log_evidence import Kind
from evidentia.inference.structure.linear import family_of, linear_problem
from evidentia.inference.structure.posterior import StructurePosterior
from evidentia.inference.structure.scores import Scores, linear_scores
from evidentia.inference.validate import check_conditional_rows, check_data
from evidentia.models.linear.conjugate_regression import ConjugateRegression
from evidentia.models.structure.family import Family

BOUND: Kind = "lower bound"
ESTIMATE: Kind = "consistent estimate"


def enumerate_structures(
    model: Any,
    x: Any,
    y: Any,
    *,
    evidence: Literal["exact", "elbo", "iwae", "importance"] = "exact",
    chunk_size: int | None = None,
    max_structures: int = 2**20,
    conditional: bool = True,
    conditional_rows: int | None = None,
    **options: Any,
) -> StructurePosterior:
    """Score every structure of a family and normalise: P(Γ | y) ∝ p(y | Γ) P(Γ).

    "exact" integrates the weights in closed form. Subsets are scored by an elimination tree whose cost per
    structure does not grow with the number of columns. The others train all structures at once
    (`network_evidence`).

    Args:
        model: SubsetRegression, or the model of a family (see `linear_problem` for what "exact" needs).
        x, y: data.
        evidence: "exact"; "elbo" and "iwae" are lower bounds; "importance" is a consistent estimate.
        chunk_size: structures scored at once.
        max_structures: refuse larger families.
        conditional: offer conditional log evidence and leave-one-out elpd in `table`; for networks that
            trains its rows again on part of the data, and tempered evidences have none.
        conditional_rows: rows conditioned on, in the given order; half of them when None.
        options: passed to `network_evidence`.

    Raises:
        ValueError: too many structures, bad data, or no closed form.

    References:
        Liang, Paulo, Molina, Clyde and Berger, 2008. Mixtures of g priors for Bayesian variable selection.
        Furnival and Wilson, 1974. Regressions by leaps and bounds.

    Example:
        >>> from evidentia.models.regression import NormalPrior, SubsetRegression
        >>> x = torch.tensor([[1.0, 0.0], [-1.0, 1.0], [0.5, -1.0], [2.0, 0.3]], dtype=torch.float64)
        >>> model = SubsetRegression(["a", "b"], NormalPrior(noise_scale=0.5))
        >>> posterior = enumerate_structures(model, x, 2 * x[:, 0])
        >>> posterior.table(top=1)["structure"].item()
        '{a}'
    """
    family = family_of(model)
    if family.num_structures > max_structures:
        raise ValueError(
            f"enumerate_structures: the family has {family.num_structures:.4g} structures, more than "
            f"max_structures={max_structures}; use structure_gibbs, or raise max_structures"
        )
    if evidence not in ("exact", "elbo", "iwae", "importance"):
        raise ValueError(
            "enumerate_structures: evidence must be 'exact', 'elbo', 'iwae' or 'importance', "
            f"got {evidence!r}"
        )
    if evidence != "exact":
        if chunk_size is not None:
            options["chunk_size"] = chunk_size
        return _networks(model, family, x, y, evidence, conditional, conditional_rows, options)
    if options:
        raise ValueError(
            f"enumerate_structures: {sorted(options)} have no meaning for exact evidence; drop them"
        )
    problem = linear_problem(model, x, y)
    check_conditional_rows(conditional_rows, len(problem.y))
    gates = family.vertices()
    value = _exact(problem, family, gates, chunk_size)
    scores = linear_scores(problem, gates, conditional_rows) if conditional else None
    prior = _log_prior(family, gates)
    return StructurePosterior(
        family,
        gates,
        value,
        torch.zeros_like(value),
        "exact",
        prior,
        model=model,
        problem=problem,
        scores=scores,
        data=check_data(x, y),
    )


def _exact(problem: ConjugateRegression, family: Family, gates: Tensor, chunk_size: int | None) -> Tensor:
    (edge,) = family.edges
    if edge.domain.is_cube:  # vertices of one cube are in the order of the tree
        return problem.log_evidence_all()
    return problem.log_evidence(gates, chunk_size)


def _log_prior(family: Family, gates: Tensor) -> Tensor:
    return torch.cat([family.log_prior(part.double()) for part in gates.split(2**16)])


def _networks(
    model: Any,
    family: Family,
    x: Any,
    y: Any,
    evidence: str,
    conditional: bool,
    conditional_rows: int | None,
    options: dict[str, Any],
) -> StructurePosterior:
    from evidentia.inference.structure.networks import network_evidence
    from evidentia.inference.structure.stacked.scores import network_scores

    x, y = check_data(x, y, family.inputs)
    check_conditional_rows(conditional_rows, len(x))
    gates = family.vertices()
    result = network_evidence(model, x, y, gates, **options)
    value, error, kind = {
        "elbo": (result.elbo, result.elbo_se, BOUND),
        "iwae": (result.iwae, result.iwae_se, BOUND),
        "importance": (result.importance, result.importance_se, ESTIMATE),
    }[evidence]
    # structures whose training failed were named in a warning; they have no place in a posterior
    failed = torch.tensor([label in result.failed for label in result.labels])
    keep = torch.isfinite(value) & torch.isfinite(error) & ~failed
    if not bool(keep.any()):
        raise ValueError(
            f"enumerate_structures: no structure has a finite evidence: {', '.join(result.failed[:5])}. "
            "Check the operations for values that are not finite, or lower learning_rate."
        )
    scores = None
    if conditional and result.power == 1 and len(x) >= 4:
        again = {name: value for name, value in options.items() if name not in ("callback", "state", "seed")}
        score = network_scores(
            model, x, y, result, split=conditional_rows, seed=options.get("seed", 0), **again
        )
        kept = keep.nonzero().flatten()

        def scores(rows: Tensor) -> Scores:
            return score(kept[rows])

    gates, value, error = gates[keep], value[keep].double(), error[keep].double()
    prior = _log_prior(family, gates)
    return StructurePosterior(
        family, gates, value, error, kind, prior, model=model, network=result, scores=scores, data=(x, y)
    )
