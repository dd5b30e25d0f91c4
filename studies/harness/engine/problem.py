"""From the names in a study to things: the data, the model, the guide, the handler.

A builder of a model or a guide is called with the parameters of its Ref. If it has an argument ``data``
it gets the data set, and a guide's builder that has an argument ``model`` gets the model.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from evidentia.studies.harness.declare.config import revalidate
from evidentia.studies.harness.declare.points import Ref, canon
from evidentia.studies.harness.declare.registry import Registry, guides, inferences, metrics, models
from evidentia.studies.harness.engine.outcome import Problem
from evidentia.studies.harness.errors import StudyError, did_you_mean

if TYPE_CHECKING:
    from evidentia.studies.harness.data.dataset import Dataset
    from evidentia.studies.harness.declare.points import Point

SUPPLIED = ("data", "model")


def import_all(modules: Iterable[str]) -> None:
    """Import the modules that register what a study names; a fresh worker process needs it."""
    for name in modules:
        importlib.import_module(name)


def load_data(ref: Ref) -> Dataset:
    """Return the validated data set of ``ref``; the last few are kept in memory.

    Raises:
        StudyError: if the key or the data are not usable (exit 2).
    """
    return _load(canon(ref))


@lru_cache(maxsize=4)
def _load(text: str) -> Dataset:
    from evidentia.studies.harness.data.dataset import load_dataset

    return load_dataset(Ref.model_validate_json(text))


def check_builder(registry: Registry, ref: Ref, path: str) -> None:
    """Check that ``ref`` names a builder and that its parameters fit, without calling it.

    Raises:
        StudyError: unknown key, unknown parameter, or a parameter without a value (exit 2).
    """
    try:
        function = registry.get(ref.key)
    except StudyError as error:
        raise StudyError(f"{path}: {error}") from None
    named, open_ended = _parameters(function)
    for name in ref.params:
        if name in SUPPLIED and name in named:
            raise StudyError(
                f"{path}.{name}: {registry.what} {ref.key!r} gets {name!r} from the study; leave it out"
            )
        if name not in named and not open_ended:
            known = [each for each in named if each not in SUPPLIED]
            raise StudyError(
                f"{path}.{name}: {ref.key!r} takes no such parameter. {did_you_mean(name, known)}"
            )
    for name, parameter in named.items():
        if parameter.default is parameter.empty and name not in ref.params and name not in SUPPLIED:
            raise StudyError(f"{path}.{name}: {registry.what} {ref.key!r} needs a value here")


def _parameters(function: Any) -> tuple[dict[str, inspect.Parameter], bool]:
    parameters = inspect.signature(function).parameters.values()
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    named = {each.name: each for each in parameters if each.kind in kinds}
    return named, any(each.kind is each.VAR_KEYWORD for each in parameters)


def build(registry: Registry, ref: Ref, path: str, supplied: Mapping[str, Any]) -> Any:
    """Call the builder that ``ref`` names; it gets those of ``supplied`` that it has arguments for.

    Raises:
        StudyError: if the key or a parameter is wrong (exit 2).
    """
    check_builder(registry, ref, path)
    function = registry.get(ref.key)
    named, _ = _parameters(function)
    return function(**{name: value for name, value in supplied.items() if name in named}, **ref.params)


def build_problem(point: Point, data: Dataset) -> Problem:
    """Build model and guide of a point; what a model's builder returns as a `Pair` is taken apart.

    Raises:
        StudyError: if a key or a parameter is wrong (exit 2).
    """
    from evidentia.models.pair import Pair

    if point.model is None:
        return Problem(data)
    model = build(models, point.model, "model", {"data": data})
    if isinstance(model, Pair):
        return Problem(data, model.model, model.guide, model)
    if point.guide is None:
        return Problem(data, model)
    guide = build(guides, point.guide, "guide", {"data": data, "model": model})
    return Problem(data, model, guide, Pair(model, guide))


def check_names(point: Point) -> None:
    """Check every name in a point against the registries, without building anything.

    Raises:
        StudyError: unknown key or parameter, with its dotted path and a close match (exit 2).
    """
    if point.model is not None:
        check_builder(models, point.model, "model")
    if point.guide is not None:
        check_builder(guides, point.guide, "guide")
    try:
        handler = inferences.get(point.inference.key)
    except StudyError as error:
        raise StudyError(f"inference: {error}") from None
    # A handler that declares its parameters has them checked here, and not after an hour of other points.
    if declared := getattr(handler, "parameters", None):
        revalidate(declared, point.inference.params, "inference")
    for name in point.metrics:
        try:
            metrics.get(name)
        except StudyError as error:
            raise StudyError(f"metrics: {error}") from None


def modules_of(point: Point) -> set[str]:
    """Return the modules whose import registers what ``point`` names."""
    from evidentia.studies.harness.declare.registry import datasets

    named = [(datasets, point.data.key), (inferences, point.inference.key)]
    named += [(metrics, key) for key in point.metrics]
    named += [(models, point.model.key)] if point.model else []
    named += [(guides, point.guide.key)] if point.guide else []
    return {registry.get(key).__module__ for registry, key in named}
