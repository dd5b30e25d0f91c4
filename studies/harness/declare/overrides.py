"""Dotted overrides of a configuration: ``--set a.b=value``, read as plain YAML data."""

import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel

from evidentia.studies.harness.declare.config import StudyConfig, revalidate
from evidentia.studies.harness.errors import StudyError, did_you_mean, shorten

MAX_OVERRIDE_LENGTH = 10_000
MAX_OVERRIDE_DEPTH = 16
_KEY = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", re.ASCII)
_MISREAD = {
    "tag:yaml.org,2002:int": re.compile(r".*:.*|[-+]?0[0-9_]+"),
    "tag:yaml.org,2002:float": re.compile(r".*:.*"),
}


def parse_override(text: str) -> tuple[str, Any]:
    """Split ``a.b=value`` and read the value as plain YAML data.

    Tags, anchors, aliases, repeated keys and deep nesting are refused, and a value has at most
    ``MAX_OVERRIDE_LENGTH`` characters.

    Returns:
        The dotted key and the value.

    Raises:
        StudyError: the text cannot be read.

    Example:
        >>> parse_override("optimiser.rates=[0.1, 0.01]")
        ('optimiser.rates', [0.1, 0.01])
        >>> parse_override("steps")
        Traceback (most recent call last):
        evidentia.studies.harness.errors.StudyError: --set 'steps': expected key=value, ...
    """
    key, equals, value = text.partition("=")
    key = key.strip()
    if not equals:
        example = key if _KEY.fullmatch(key) else "steps"
        raise StudyError(f"--set {shorten(text)}: expected key=value, for example --set {example}=3.")
    if not _KEY.fullmatch(key):
        raise StudyError(
            f"--set {shorten(text)}: {shorten(key)} is no key; expected a dotted name such as a.b."
        )
    return key, _parse_value(key, value)


def _parse_value(key: str, text: str) -> Any:
    where = f"--set {key}"
    if len(text) > MAX_OVERRIDE_LENGTH:
        raise StudyError(
            f"{where}: the value has {len(text)} characters, at most {MAX_OVERRIDE_LENGTH} are read. "
            "Put large inputs into a file."
        )
    try:
        depth = 0
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_OVERRIDE_DEPTH:
                raise StudyError(f"{where}: nested more than {MAX_OVERRIDE_DEPTH} levels deep.")
            if isinstance(event, yaml.NodeEvent) and event.anchor is not None:
                raise StudyError(
                    f"{where}: YAML anchors and aliases (&, *) are refused; write the value out."
                )
            if isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent) and event.tag is not None:
                raise StudyError(f"{where}: the YAML tag {shorten(event.tag)} is refused; give plain data.")
        _refuse_surprises(where, yaml.compose(text, Loader=yaml.SafeLoader))
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        if isinstance(error, StudyError):
            raise
        reason = getattr(error, "problem", None) or str(error).partition("\n")[0]
        raise StudyError(f"{where}: {shorten(text)} is not readable as YAML: {reason}.") from None


def _refuse_surprises(where: str, node: yaml.Node | None) -> None:
    """Refuse what YAML 1.1 reads otherwise than it looks: 1:30 is 90, 010 is 8, a repeated key wins."""
    children: list[yaml.Node] = []
    if isinstance(node, yaml.ScalarNode):
        if node.tag in _MISREAD and _MISREAD[node.tag].fullmatch(node.value):
            raise StudyError(
                f"{where}: {shorten(node.value)} is no plain number; write it in decimal, or quote a text."
            )
    elif isinstance(node, yaml.MappingNode):
        names = [name.value for name, _ in node.value if isinstance(name, yaml.ScalarNode)]
        twice = next((name for index, name in enumerate(names) if name in names[:index]), None)
        if twice is not None:
            raise StudyError(f"{where}: the key {shorten(twice)} is given twice.")
        children = [value for _, value in node.value]
    elif isinstance(node, yaml.SequenceNode):
        children = node.value
    for child in children:
        _refuse_surprises(where, child)


C = TypeVar("C", bound=StudyConfig)


def apply_overrides(config: C, overrides: Iterable[str]) -> C:
    """Apply ``--set`` texts to a configuration and validate the result.

    Args:
        config: where to start.
        overrides: texts ``a.b=value``.

    Returns:
        A new configuration.

    Raises:
        StudyError: unknown or repeated key, wrong type, out of range; names the dotted path.

    Example:
        >>> class Config(StudyConfig):
        ...     rate: float = 0.1
        >>> apply_overrides(Config(), ["rate=1e-3"]) == apply_overrides(Config(), ["rate=0.001"])
        True
        >>> apply_overrides(Config(), ["rat=1"])
        Traceback (most recent call last):
        evidentia.studies.harness.errors.StudyError: unknown key 'rat'. Did you mean 'rate'?
    """
    parsed: dict[str, Any] = {}
    for text in overrides:
        key, value = parse_override(text)
        clash = next(
            (old for old in parsed if f"{old}.".startswith(f"{key}.") or f"{key}.".startswith(f"{old}.")),
            None,
        )
        if clash is not None:
            raise StudyError(f"--set {key}: {clash!r} is set in the same command. Give one of them.")
        parsed[key] = value
    values = config.model_dump()
    for key, value in parsed.items():
        _place(config, values, key, value)
    changed = revalidate(type(config), values)
    for key, value in parsed.items():
        _refuse_conversion(key, value, _lookup(changed, key))
    return changed


def _place(config: BaseModel, values: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    model: Any = config
    for depth, part in enumerate(parents):
        _check_key(model, part, key)
        model = model.get(part) if isinstance(model, Mapping) else getattr(model, part)
        if not isinstance(model, BaseModel | Mapping):
            raise StudyError(f"unknown key {key!r}: {'.'.join(parents[: depth + 1])!r} has no keys below it.")
        values = values[part]
    _check_key(model, last, key)
    values[last] = value


def _check_key(model: Any, part: str, key: str) -> None:
    if isinstance(model, BaseModel) and part not in type(model).model_fields:
        raise StudyError(f"unknown key {key!r}. {did_you_mean(part, type(model).model_fields)}")


def _lookup(config: Any, key: str) -> Any:
    for part in key.split("."):
        config = config[part] if isinstance(config, Mapping) else getattr(config, part)
    return config


def _refuse_conversion(key: str, given: Any, taken: Any) -> None:
    """Refuse what pydantic would convert though YAML probably misread it: ``yes`` for the number 1."""
    if isinstance(given, bool) and not isinstance(taken, bool):
        raise StudyError(
            f"{key}: given {given} (YAML reads yes, no, on, off so), expected {type(taken).__name__}."
        )
    if isinstance(given, list) and isinstance(taken, list | tuple):
        for index, (one, other) in enumerate(zip(given, taken, strict=False)):
            _refuse_conversion(f"{key}.{index}", one, other)
    if isinstance(given, dict) and isinstance(taken, Mapping | BaseModel):
        for name, one in given.items():
            part = taken[name] if isinstance(taken, Mapping) else getattr(taken, str(name))
            _refuse_conversion(f"{key}.{name}", one, part)
