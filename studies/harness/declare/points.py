"""Points: the resolved settings of a study, their identity, their seed, and the lazy expansion of a grid."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from itertools import product
from math import prod
from typing import TYPE_CHECKING, Annotated, Any, final

from pydantic import Field, model_validator

from evidentia.studies.harness.declare.config import Frozen, FrozenDict, Params, freeze, revalidate
from evidentia.studies.harness.errors import StudyError, did_you_mean

if TYPE_CHECKING:
    from evidentia.studies.harness.declare.study import Study

ID_LENGTH = 12
Key = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_.-]{0,63}$")]


def canon(value: Any) -> str:
    """Canonical JSON: keys sorted, no spaces, UTF-8, neither NaN nor infinity.

    Args:
        value: data, or a frozen model.

    Raises:
        ValueError: the value is no plain data, or holds a number that is not finite.

    Example:
        >>> canon({"b": 1e-3, "a": (1, None)})
        '{"a":[1,null],"b":0.001}'
    """
    return json.dumps(
        freeze(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


def digest(text: str) -> str:
    """The sha256 of a text, 64 hex digits; the id of a point is its beginning.

    Example:
        >>> digest("{}")[:12]
        '44136fa355b3'
    """
    return hashlib.sha256(text.encode()).hexdigest()


@final
class Ref(Frozen):
    """A registry key with parameters: how data, models, guides and inferences are named in a study.

    Example:
        >>> Ref("diabetes_wide", {"split": 3})
        Ref(key='diabetes_wide', params={'split': 3})
    """

    key: Key
    params: Params = FrozenDict()

    def __init__(self, key: Any = None, params: Mapping[str, Any] = FrozenDict(), **unknown: Any) -> None:
        super().__init__(**{"key": key, "params": params, **unknown})

    @model_validator(mode="before")
    @classmethod
    def _from_key(cls, value: Any) -> Any:
        return {"key": value} if isinstance(value, str) else value

    @property
    def kind(self) -> str:
        """The key, under the name it has where a Ref says which inference to run."""
        return self.key

    @property
    def label(self) -> str:
        """The key and the parameters as one short text, for a cell of a table."""
        inside = ", ".join(f"{name}={value}" for name, value in self.params.items())
        return f"{self.key}({inside})" if inside else self.key


@final
class Budget(Frozen):
    """When a fit must end: a number of steps, a wall-clock time in seconds, or neither.

    A stop by ``max_seconds`` gives up bitwise reproducibility.
    """

    max_steps: int | None = Field(default=None, ge=1)
    max_seconds: float | None = Field(default=None, gt=0)


@final
class Point(Frozen):
    """One fully resolved setting of a study: the unit of work.

    The id is the beginning of the sha256 of the canonical JSON of everything that changes the numbers:
    ``id = sha256(canon)[:12]``, ``seed = SeedSequence([study_seed, int(id, 16)])``. So neither depends on the
    order of the points or on the worker, and a grown grid keeps the ids of its old points.

    Example:
        >>> point = Point(data=Ref("tanh"), inference=Ref("enumerate"))
        >>> point.canon[:43]
        '{"budget":{"max_seconds":null,"max_steps":n'
        >>> len(point.id), point.seed == point.replace(varied={"x": 1}).seed
        (12, True)
    """

    data: Ref
    model: Ref | None = None
    guide: Ref | None = None
    inference: Ref
    metrics: tuple[Key, ...] = ()
    budget: Budget = Budget()
    replicate: int = Field(default=0, ge=0, lt=2**63)
    study_seed: int = Field(default=0, ge=0, lt=2**63, description="not part of the id")
    varied: Params = Field(
        FrozenDict(), description="column -> value on the axes of the grid; not part of the id"
    )

    @cached_property
    def canon(self) -> str:
        """Canonical JSON of the settings that change the numbers."""
        return canon(
            {name: getattr(self, name) for name in type(self).model_fields if name not in _NOT_IDENTITY}
        )

    @property
    def id(self) -> str:
        """The first twelve hex digits of the sha256 of :attr:`canon`."""
        return digest(self.canon)[:ID_LENGTH]

    @cached_property
    def seed(self) -> int:
        """One 32-bit word that follows from the study's seed and the id."""
        from numpy.random import SeedSequence

        return int(SeedSequence([self.study_seed, int(self.id, 16)]).generate_state(1)[0])


_NOT_IDENTITY = ("study_seed", "varied")
ROOTS = ("data", "model", "guide", "inference", "metrics", "budget")


def count(study: "Study") -> int:
    """Number of points before duplicates are removed, without building any."""
    cells = sum(prod(len(values) for values in block.values()) for block in study.grid or ({},))
    return cells * len(study.replicates)


def expand(study: "Study", fingerprint: Callable[[str], str] = digest) -> Iterator[Point]:
    """The points of a study, lazily: for each block of the grid the product of its axes and the replicates.

    Args:
        study: what to expand.
        fingerprint: the hash that makes ids.

    Yields:
        Points, each id once.

    Raises:
        StudyError: a setting is invalid, or two different settings have the same id.
    """
    seen: dict[str, bytes] = {}
    paths = list(dict.fromkeys(path for block in study.grid for path in block))
    for block in study.grid or (FrozenDict(),):
        for values in product(*block.values()):
            settings = resolve(study, dict(zip(block, values, strict=True)))
            for replicate in study.replicates:
                point = revalidate(
                    Point, settings | {"replicate": replicate, "study_seed": study.seed}, study.name
                )
                identity, full = (
                    fingerprint(point.canon)[:ID_LENGTH],
                    hashlib.sha256(point.canon.encode()).digest(),
                )
                if identity in seen:
                    if seen[identity] != full:
                        raise StudyError(
                            f"{study.name}: two different points have the id {identity}; "
                            "change any setting of one of them, for example its budget."
                        )
                    continue
                seen[identity] = full
                varied = cells_of(point, paths)
                if len(study.replicates) > 1:
                    varied["replicate"] = replicate
                yield point.model_copy(update={"varied": FrozenDict(varied)})


def resolve(study: "Study", cell: Mapping[str, Any], what: str = "grid path") -> dict[str, Any]:
    """The settings of one cell of the grid as plain data, not yet validated.

    A path below a Ref reaches its parameters: ``inference.num_steps`` is ``inference.params.num_steps``.
    """
    settings: dict[str, Any] = {name: _thaw(freeze(getattr(study, name))) for name in ROOTS}
    for path in sorted(cell, key=lambda path: path.count(".")):
        *parents, last = full_path(path, what)
        target: Any = settings
        for depth, part in enumerate(parents):
            target = target.setdefault(part, {}) if isinstance(target, dict) else None
            if isinstance(target, str):
                target = None
            if not isinstance(target, dict):
                raise StudyError(f"{what} {path!r}: {'.'.join(parents[: depth + 1])!r} has no keys below it.")
        value = _thaw(cell[path])
        target[last] = {"key": value, "params": {}} if not parents and isinstance(value, str) else value
    return settings


def full_path(path: str, what: str = "grid path") -> list[str]:
    """Split a dotted path of a grid or a search and complete the short form that leaves out ``params``.

    Raises:
        StudyError: the first part is no part of a point.

    Example:
        >>> full_path("inference.num_steps")
        ['inference', 'params', 'num_steps']
    """
    root, *rest = path.split(".")
    if root not in ROOTS:
        raise StudyError(f"{what} {path!r}: unknown part {root!r}. {did_you_mean(root, ROOTS)}")
    if root in ("data", "model", "guide", "inference") and rest and rest[0] not in ("key", "params"):
        rest = ["params", *rest]
    return [root, *rest]


def look_up(point: Point, path: str) -> Any:
    """The value a point has at a grid path; None where it has none."""
    value: Any = point
    for part in full_path(path):
        value = value.get(part) if isinstance(value, Mapping) else getattr(value, part, None)
    return value


def _thaw(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _thaw(item) for name, item in value.items()}
    return value


def cells_of(point: Point, paths: list[str]) -> dict[str, Any]:
    """Column -> value of a point on the axes that vary it, for its lines in the result table."""
    columns = columns_of(paths)
    return {columns[path]: _cell(point, path, paths) for path in paths}


def _cell(point: Point, path: str, paths: list[str]) -> Any:
    """A grid value as a cell of a table: a Ref by its label, other composite values as canonical JSON.

    Parameters with an axis of their own have their own column, so the label leaves them out.
    """
    value = look_up(point, path)
    if isinstance(value, Ref):
        own = {".".join(full_path(other)[2:]) for other in paths if full_path(other)[:2] == [path, "params"]}
        return Ref(value.key, {name: item for name, item in value.params.items() if name not in own}).label
    return value if value is None or isinstance(value, str | int | float) else canon(value)


def columns_of(paths: list[str]) -> dict[str, str]:
    """A column name for each grid path: its last part where that is unique, the whole path otherwise."""
    short = [path.rpartition(".")[2] for path in paths]
    return {path: last if short.count(last) == 1 else path for path, last in zip(paths, short, strict=True)}
