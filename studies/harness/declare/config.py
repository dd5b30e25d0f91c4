"""Configurations: frozen pydantic models that validate every change."""

import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Never, Self, TypeVar, final

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from evidentia.studies.harness.errors import StudyError, explain, shorten

M = TypeVar("M", bound=BaseModel)


class Frozen(BaseModel):
    """Base of everything declared: no unknown keys, no change after construction, finite numbers only.

    Example:
        >>> class Box(Frozen):
        ...     width: float = 1.0
        >>> Box(width="1e-3").replace(width=2)
        Box(width=2.0)
        >>> Box().replace(widht=2)
        Traceback (most recent call last):
        evidentia.studies.harness.errors.StudyError: unknown key 'widht'. Did you mean 'width'?
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True, protected_namespaces=()
    )

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed, validated as a whole (``model_copy`` would not validate).

        Raises:
            StudyError: a key is unknown, or a value has the wrong type or range.
        """
        return revalidate(
            type(self), {name: getattr(self, name) for name in type(self).model_fields} | changes
        )


class StudyConfig(Frozen):
    """The user's keys of one study. Subclass it as ``Config``; every field has a default.

    ``tags`` and ``minutes`` (expected minutes of a full run on two cores) are class variables that
    ``evidentia list`` shows; they are no settings.

    Example:
        >>> class Config(StudyConfig):
        ...     steps: int = Field(default=2000, ge=1)
        ...     def smoke(self) -> "Config":
        ...         return self.replace(steps=3)
        >>> Config(seed=7).smoke()
        Config(seed=7, steps=3)
    """

    tags: ClassVar[tuple[str, ...]] = ()
    minutes: ClassVar[float] = 1.0

    seed: int = Field(
        default=0, ge=0, lt=2**63, description="every random number of the study follows from it"
    )

    def smoke(self) -> Self:
        """The same question in seconds instead of minutes; studies override this with :meth:`replace`."""
        return self


def revalidate(kind: type[M], values: Mapping[str, Any], prefix: str = "") -> M:
    """``kind.model_validate(values)``, with a fault reported as one :class:`StudyError`.

    Raises:
        StudyError: names each faulty key by its dotted path, what was given and what was expected.
    """
    try:
        return kind.model_validate(dict(values))
    except ValidationError as error:
        raise StudyError(explain(error, dict(_keys(kind)), prefix)) from None


def _keys(kind: type[BaseModel], path: str = "") -> Iterator[tuple[str, list[str]]]:
    yield path, list(kind.model_fields)
    for name, field in kind.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _keys(field.annotation, f"{path}.{name}" if path else name)


@final
class FrozenDict(dict[str, Any]):
    """A mapping that cannot be changed, for values inside frozen models; it pickles and serialises as a dict.

    Example:
        >>> FrozenDict(rate=0.1)["rate"] = 0.2
        Traceback (most recent call last):
        TypeError: settings are frozen; use replace()
    """

    def _refuse(self, *args: object, **kwargs: object) -> Never:
        raise TypeError("settings are frozen; use replace()")

    __setitem__ = __delitem__ = __ior__ = clear = pop = popitem = setdefault = update = _refuse

    def __reduce__(self) -> tuple[type["FrozenDict"], tuple[dict[str, Any]]]:
        """Rebuild from a plain dict, since item assignment is refused."""
        return FrozenDict, (dict(self),)

    def __hash__(self) -> int:  # type: ignore[override]
        """Equal mappings hash equally."""
        return hash(frozenset(self.items()))


def freeze(value: Any) -> Any:
    """Turn free-form data into data that cannot change: lists into tuples, mappings into :class:`FrozenDict`.

    Args:
        value: strings, numbers, booleans, None, and lists, tuples, mappings and models of such.

    Raises:
        ValueError: anything else is met (a tensor, a function, NaN): declared values are data only.

    Example:
        >>> freeze({"rates": [0.1, 0.01]})
        {'rates': (0.1, 0.01)}
    """
    if isinstance(value, BaseModel):
        return freeze({name: getattr(value, name) for name in type(value).model_fields})
    if isinstance(value, Mapping):
        if not all(isinstance(name, str) for name in value):
            raise ValueError(f"the keys of a mapping are strings, given {shorten(dict(value))}")
        return FrozenDict({name: freeze(item) for name, item in value.items()})
    if isinstance(value, list | tuple):
        return tuple(freeze(item) for item in value)
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"numbers are finite, given {value}")
    if value is None or isinstance(value, str | bool | int | float):
        return float(value) if isinstance(value, float) else value
    raise ValueError(
        f"expected plain data, given {type(value).__name__} {shorten(value)}; "
        "reach functions and tensors by their registry key"
    )


Data = Annotated[Any, BeforeValidator(freeze)]
Params = Annotated[dict[str, Any], BeforeValidator(freeze), AfterValidator(FrozenDict)]
