"""Which groups a result gives, whatever kind of result it is."""

from __future__ import annotations

from typing import Any, TypeAlias

import pyro

from evidentia.inference.evidence.importance_draws import ImportanceDraws
from evidentia.inference.idata.draws import Draws
from evidentia.inference.idata.groups import draws_groups, fit_groups
from evidentia.inference.idata.importance_groups import importance_groups
from evidentia.inference.idata.parts import MANDATORY, Groups, Request
from evidentia.inference.structure.posterior import StructurePosterior
from evidentia.inference.training.fitted import Fit

__all__ = ["Result", "check_mandatory", "model_of", "result_groups"]

Result: TypeAlias = Fit | Draws | ImportanceDraws | StructurePosterior


def model_of(result: Result) -> Any:
    """The model that a result came from.

    Raises:
        ValueError: the result does not know it.

    References:
        none; bookkeeping.
    """
    model = result.pair[0] if isinstance(result, Fit) else getattr(result, "model", None)
    if model is None:
        raise ValueError("to_idata: pass the model that the draws came from")
    return model


def result_groups(result: Result, request: Request, seed: int) -> Groups:
    """The groups of any result; draws from torch's generator.

    Raises:
        ValueError: an object that is no result, or what the groups of its kind raise.

    References:
        Kumar, Carroll, Hartikainen, Martin, 2019, ArviZ a unified library for exploratory analysis.
    """
    if isinstance(result, Fit):
        return fit_groups(result, request)
    if isinstance(result, Draws):
        return draws_groups(result, request)
    if isinstance(result, ImportanceDraws):
        return importance_groups(result, request)
    if isinstance(result, StructurePosterior):
        from evidentia.inference.idata.structure_groups import structure_groups

        with pyro.get_param_store().scope():
            return structure_groups(result, request, seed)
    raise ValueError(
        "to_idata: expected a Fit, Draws, ImportanceDraws or a StructurePosterior, got "
        f"{type(result).__name__}"
    )


def check_mandatory(groups: Groups) -> None:
    """Refuse groups of which a mandatory one is missing without a reason, or empty.

    A posterior may be empty: all its latents may be local ones that were left out.

    Raises:
        ValueError: naming the groups.

    References:
        none; bookkeeping.

    Example:
        >>> try:
        ...     check_mandatory(Groups())
        ... except ValueError as error:
        ...     print(str(error)[:58])
        to_idata: the mandatory groups ['posterior', 'sample_stats
    """
    missing = [name for name in MANDATORY if name not in groups.groups and name not in groups.attrs]
    empty = [name for name, group in groups.groups.items() if not group.variables and name in MANDATORY]
    if missing or [name for name in empty if name != "posterior"]:
        raise ValueError(f"to_idata: the mandatory groups {missing or empty} would be missing or empty")
