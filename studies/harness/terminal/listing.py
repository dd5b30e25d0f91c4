"""What `evidentia list`, `evidentia show` and a dry run print: rows about studies, settings and points."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from evidentia.studies.harness.declare.discovery import Source, StudyModule, declare, discover, load
from evidentia.studies.harness.declare.points import Ref, canon
from evidentia.studies.harness.declare.study import Study
from evidentia.studies.harness.errors import StudyError, did_you_mean, shorten
from evidentia.studies.harness.search.spec import SearchSpec

SHOWN_POINTS = 20
_BOUNDS = {"ge": ">= {}", "gt": "> {}", "le": "<= {}", "lt": "< {}", "min_length": "length >= {}"} | {
    "max_length": "length <= {}",
    "pattern": "matches {}",
    "multiple_of": "multiple of {}",
}


class StudyRow(NamedTuple):
    """One study in a list. Of a plugin only metadata is known, so that its fields are None."""

    name: str
    question: str | None
    points: int | None
    minutes: float | None
    tags: tuple[str, ...]
    distribution: str | None


class Setting(NamedTuple):
    """One key of a configuration."""

    key: str
    value: Any
    type: str
    default: Any
    bound: str
    description: str


def study_rows(plugins: bool = True, tag: str | None = None) -> tuple[list[StudyRow], list[str]]:
    """The studies there are, and a notice for each that cannot be loaded.

    Args:
        plugins: include those of outside packages (metadata only; none has a known tag).
        tag: only studies with this tag.
    """
    rows, notices = [], []
    for source in discover(plugins).values():
        try:
            row = _row(source)
        except StudyError as error:
            notices.append(str(error))
            row = StudyRow(source.name, None, None, None, (), None)
        rows.append(row)
    if tag is None:
        return rows, notices
    tagged = [row for row in rows if tag in row.tags]
    if not tagged:
        known = {each for row in rows for each in row.tags}
        notices.append(f"no study has the tag {shorten(tag)}. {did_you_mean(tag, known)}")
    return tagged, notices


def _row(source: Source) -> StudyRow:
    if source.distribution is not None:
        return StudyRow(source.name, None, None, None, (), source.distribution)
    module = load(source)
    study = declare(module, module.config())
    return StudyRow(source.name, module.question, study.count(), module.config.minutes, study.tags, None)


def settings(config: BaseModel, prefix: str = "") -> Iterator[Setting]:
    """Each key of a configuration with its value, type, default and bound; nested models by dotted keys.

    Example:
        >>> from evidentia.studies.harness.declare.config import StudyConfig
        >>> [(row.key, row.value, row.type, row.bound) for row in settings(StudyConfig(seed=3))]
        [('seed', 3, 'int', '>= 0, < 9223372036854775808')]
    """
    for name, field in type(config).model_fields.items():
        value = getattr(config, name)
        if isinstance(value, BaseModel):
            yield from settings(value, f"{prefix}{name}.")
            continue
        default = field.get_default(call_default_factory=True)
        yield Setting(
            prefix + name, value, _type(field.annotation), default, _bound(field), field.description or ""
        )


def _type(annotation: Any) -> str:
    """A type as a user writes it, without what only a program needs."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type(arguments[0])
    if origin in (Union, UnionType):
        return " | ".join(map(_type, arguments))
    if origin is Literal:
        return " | ".join(map(repr, arguments))
    if annotation is Ellipsis or annotation is NoneType:
        return "..." if annotation is Ellipsis else "null"
    name = getattr(annotation, "__name__", str(annotation).removeprefix("typing."))
    return f"{name}[{', '.join(map(_type, arguments))}]" if arguments else name


def _bound(field: FieldInfo) -> str:
    own = _limits(field.metadata)
    inner = [limit for argument in get_args(field.annotation) for limit in _inner_limits(argument)]
    return ", ".join([*own, *(f"each {limit}" for limit in inner)])


def _inner_limits(annotation: Any) -> list[str]:
    if get_origin(annotation) is not Annotated:
        return []
    found: list[Any] = []
    for entry in get_args(annotation)[1:]:
        found += entry.metadata if isinstance(entry, FieldInfo) else [entry]
    return _limits(found)


def _limits(constraints: Iterable[Any]) -> list[str]:
    found = []
    for constraint in constraints:
        for name, form in _BOUNDS.items():
            limit = getattr(constraint, name, None)
            if limit is not None:
                found.append(form.format(limit))
    return found


def graph(study: Study) -> list[str]:
    """The parts of a study as text, an arrow from each to what it feeds; axes of the grid below.

    Example:
        >>> graph(Study(name="toy", data="tanh", model="line", inference="svi", grid={"model.width": (1, 2)}))
        ['data tanh -> model line -> inference svi', 'axis model.width: 1, 2']
    """
    parts: Sequence[tuple[str, Ref | None]] = (
        ("data", study.data),
        ("model", study.model),
        ("guide", study.guide),
        ("inference", study.inference),
    )
    lines = [" -> ".join(f"{name} {ref.label}" for name, ref in parts if ref is not None)]
    for block in study.grid:
        lines += [f"axis {path}: {_abridge(values)}" for path, values in block.items()]
    if study.search is not None:
        lines += search_lines(study.search)
    if len(study.replicates) > 1:
        lines.append(f"axis replicate: {_abridge(study.replicates)}")
    if study.metrics:
        lines.append(f"metrics {', '.join(study.metrics)}")
    return lines + [f"expects {claim.text}" for claim in study.expect]


def search_lines(spec: SearchSpec) -> list[str]:
    """What a search looks for and where, one line for each axis of its space.

    Example:
        >>> space = {"model.width": {"kind": "int", "low": 1, "high": 8}}
        >>> search_lines(SearchSpec(metric="elbo", direction="maximise", space=space))
        ['search maximise elbo', 'axis model.width: 1 to 8']
    """
    axes = [f"axis {path}: {axis.text}" for path, axis in spec.space.items()]
    return [f"search {spec.direction} {spec.metric}", *axes]


def points_text(study: Study) -> str:
    """The number of points, or of trials, in words.

    Example:
        >>> points_text(Study(name="toy", data="tanh", inference="svi"))
        '1 point'
    """
    number = study.count()
    noun = "point" if study.search is None else "trial"
    return f"{number:,} {noun}{'s' * (number != 1)}"


def sites(study: Study) -> str:
    """The sites of the model of the study's first point, one line each; empty where it has no model.

    Raises:
        StudyError: the data or the model of the point cannot be built.
        ValueError: the model fails on the data.
    """
    from evidentia.studies.harness.engine.problem import build_problem, load_data
    from evidentia.studies.harness.figures.model_graph import graph_text, model_graph
    from evidentia.studies.harness.handlers.arguments import arguments

    point = next(study.points())
    if point.model is None:
        return ""
    problem = build_problem(point, load_data(point.data))
    return graph_text(model_graph(problem.model, *arguments(problem.data)))


def _abridge(values: Sequence[Any], limit: int = 8) -> str:
    shown = ", ".join(_short(value) for value in values[:limit])
    return f"{shown}, … ({len(values)} values)" if len(values) > limit else shown


def _short(value: Any) -> str:
    if isinstance(value, Mapping) and "key" in value:
        return Ref(**value).label
    return value if isinstance(value, str) else canon(value)


def plan(module: StudyModule, study: Study) -> dict[str, Any]:
    """What a run would do: the number of points, the cost, and the first points; of a search, its space."""
    points = list(islice(study.points(), SHOWN_POINTS)) if study.search is None else []
    return {
        "study": study.name,
        "points": study.count(),
        "minutes_full": module.config.minutes,
        "seed": study.seed,
        "search": None if study.search is None else study.search.model_dump(mode="json"),
        "first": [{"id": point.id, "seed": point.seed, **point.varied} for point in points],
    }


def text_table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Aligned columns; None is shown as a dash.

    Example:
        >>> print(text_table(["name", "n"], [["a", 1], ["bc", None]]))
        name  n
        a     1
        bc    -
    """
    cells = [list(header), *([_cell(value) for value in row] for row in rows)]
    widths = [max(len(row[index]) for row in cells) for index in range(len(header))]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    )


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    text = str(value)
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def document(value: Any) -> str:
    """One JSON document, for ``--json``."""
    return json.dumps(value, ensure_ascii=False, indent=2, default=str)
