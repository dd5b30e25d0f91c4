"""The declaration of one edge: everything about it is checked before it joins the graph."""

from collections.abc import Collection, Mapping

import torch

from evidentia.models.structure.base_op import Op
from evidentia.models.structure.custom_ops import as_op
from evidentia.models.structure.domains import Domain
from evidentia.models.structure.errors import FamilyError
from evidentia.models.structure.graph import INPUT, Edge
from evidentia.models.structure.priors import StructurePrior, default_prior

_FORBIDDEN = "/,;{}"


def declare_edge(
    source: str,
    target: str,
    ops: Mapping[str, Op | torch.nn.Module],
    domain: str,
    prior: StructurePrior | None,
    existing: Collection[str],
) -> Edge:
    """A checked edge.

    Args:
        source: node that is read.
        target: node that is fed.
        ops: operations by name.
        domain: name of the domain of the gates.
        prior: prior on the gates; the default of the domain when None.
        existing: names of the edges declared before.

    Raises:
        FamilyError: a bad or repeated name, no or unknown operations, an unknown domain, a prior that does
            not fit.

    References:
        Bakhteev, 2020. Bayesian selection of a suboptimal structure of a deep learning model.
    """
    name = f"{source}->{target}"
    owner = f"edge {name!r}"
    for node in (source, target):
        if not isinstance(node, str) or not node or "->" in node or any(c in node for c in _FORBIDDEN + ":"):
            raise FamilyError(
                f"{owner}: node names are non-empty texts without any of '->', ':', {_FORBIDDEN!r}."
            )
    if name in existing:
        raise FamilyError(f"{owner}: declared twice. Put all its operations into one call of edge().")
    if target == INPUT or source == target:
        raise FamilyError(
            f"{owner}: would make a cycle: an edge may not lead into the input or into its source."
        )
    if not isinstance(ops, Mapping) or not ops:
        raise FamilyError(f'{owner}: ops is empty. Give at least one operation: ops={{"linear": GLM()}}.')
    for label in ops:
        if not isinstance(label, str) or not label or any(c in label for c in _FORBIDDEN):
            raise FamilyError(
                f"{owner}: operation name {label!r} must be a non-empty text without any of {_FORBIDDEN!r}."
            )
    where = Domain(domain, owner)
    checked = {label: as_op(f"{owner}, operation {label!r}", value) for label, value in ops.items()}
    prior = default_prior(where) if prior is None else prior
    _check_prior(owner, prior, where, len(checked))
    return Edge(source, target, checked, where, prior)


def _check_prior(owner: str, prior: object, domain: Domain, num_ops: int) -> None:
    if not isinstance(prior, StructurePrior):
        raise FamilyError(
            f"{owner}: prior must be a structure prior such as GumbelSoftmax(temperature=0.2) from "
            f"evidentia.models.structure.priors, got {type(prior).__name__}."
        )
    if prior.domain != domain.name:
        raise FamilyError(
            f"{owner}: the prior {prior!r} belongs to the domain {prior.domain!r}, but the edge has the "
            f"domain {domain.name!r}. Declare domain={prior.domain!r}, or use e.g. {default_prior(domain)!r}."
        )
    prior.check(owner, num_ops)
