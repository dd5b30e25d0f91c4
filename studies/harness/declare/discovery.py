"""Discovery: every plain public module of ``evidentia.studies`` is a study; outside packages add theirs."""

import importlib
import pkgutil
import re
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from pydantic import ValidationError

from evidentia.studies.harness.declare.config import StudyConfig
from evidentia.studies.harness.declare.study import NAME, Study
from evidentia.studies.harness.errors import StudyError, did_you_mean, explain, shorten

if TYPE_CHECKING:
    from pandas import DataFrame

PACKAGE = "evidentia.studies"
GROUP = "evidentia.studies"
_NAME = re.compile(NAME)
T = TypeVar("T")


class Source(NamedTuple):
    """Where a study is found; nothing of it is imported yet.

    Attributes:
        name: what the user types.
        module: what is imported on use.
        distribution: the package that adds it, or None for a study of evidentia itself.
    """

    name: str
    module: str
    distribution: str | None = None


class StudyModule(NamedTuple):
    """The parts of an imported study module."""

    source: Source
    question: str
    config: type[StudyConfig]
    study: Callable[..., Study]
    run: Callable[[StudyConfig], "DataFrame"] | None
    module: ModuleType


def discover(plugins: bool = True) -> dict[str, Source]:
    """All studies by name, without importing any of them.

    Plain public modules directly under ``evidentia.studies`` are studies; sub-packages and names with a
    leading underscore are not. The study of the module ``which_one`` is called ``which-one``. With
    ``plugins``, the entry points of the group ``evidentia.studies`` are added; of these only metadata is
    read. A plugin cannot take the name of a study of evidentia.

    Args:
        plugins: look for studies of outside packages too.

    Example:
        >>> all(source.distribution is None for source in discover(plugins=False).values())
        True
    """
    package = importlib.import_module(PACKAGE)
    found: dict[str, Source] = {}
    for info in pkgutil.iter_modules(package.__path__):
        if not info.ispkg and not info.name.startswith("_"):
            name = info.name.replace("_", "-")
            found[name] = Source(name, f"{PACKAGE}.{info.name}")
    if plugins:
        for entry in sorted(entry_points(group=GROUP), key=lambda entry: (entry.name, entry.value)):
            if _NAME.fullmatch(entry.name):
                origin = entry.dist.name if entry.dist is not None else "unknown package"
                found.setdefault(entry.name, Source(entry.name, entry.value, origin))
    return dict(sorted(found.items()))


def find(name: str, plugins: bool = True) -> Source:
    """The source of one study.

    Raises:
        StudyError: there is no study of this name; the message has a close match.
    """
    sources = discover(plugins)
    if name in sources:
        return sources[name]
    folded = name.replace("_", "-")
    if folded in sources:
        return sources[folded]
    hidden = discover(True) if not plugins else {}
    if name in hidden:
        raise StudyError(
            f"study {name!r} comes from the plugin {hidden[name].distribution!r}; drop --no-plugins."
        )
    raise StudyError(
        f"unknown study {shorten(name)}. {did_you_mean(name, sources)} `evidentia list` shows all."
    )


def load(source: Source) -> StudyModule:
    """Import a study module and see that it has the parts a study needs.

    Raises:
        StudyError: the module cannot be imported, lacks ``Config`` or ``study``, or a setting has no default.
    """
    origin = f"plugin {source.distribution!r}" if source.distribution else "module"
    try:
        module = importlib.import_module(source.module.partition(":")[0].strip())
    except StudyError:
        raise
    except (Exception, SystemExit) as error:  # a module that ends the program must not end ours
        reason = f"{type(error).__name__}: {error}"
        raise StudyError(
            f"study {source.name}: {origin} {source.module} cannot be imported: {reason}"
        ) from error
    config, study = getattr(module, "Config", None), getattr(module, "study", None)
    if not (isinstance(config, type) and issubclass(config, StudyConfig)):
        raise StudyError(f"study {source.name}: {module.__name__} needs a class Config(StudyConfig).")
    if not getattr(study, "is_study", False) or not callable(study):
        raise StudyError(
            f"study {source.name}: {module.__name__} needs a function study(config) with @register_study."
        )
    required = [name for name, field in config.model_fields.items() if field.is_required()]
    if required:
        raise StudyError(
            f"study {source.name}: Config.{required[0]} has no default; every setting needs one."
        )
    _attempt(source, "Config()", config)
    return StudyModule(source, question(module), config, study, getattr(module, "run", None), module)


def question(module: ModuleType) -> str:
    """The question a study module asks: the first line of its docstring."""
    return (module.__doc__ or "").strip().partition("\n")[0]


def declare(module: StudyModule, config: StudyConfig) -> Study:
    """The study of a module for one configuration, with the module's question and tags where it has none.

    Raises:
        StudyError: the configuration leads to a study that is not valid.
    """
    name = module.source.name
    study = _attempt(module.source, "study(config)", lambda: module.study(config))
    if study.name != name:
        raise StudyError(
            f"study {name}: it calls itself {study.name!r}; expected the name it is found under."
        )
    missing: Mapping[str, object] = {
        name: value
        for name, value in (("description", module.question), ("tags", module.config.tags))
        if not getattr(study, name)
    }
    return study.replace(**missing) if missing else study


def _attempt(source: Source, what: str, call: Callable[[], T]) -> T:
    """Call code of a study module; a fault of it is one message that names the study."""
    try:
        return call()
    except StudyError:
        raise
    except ValidationError as error:
        raise StudyError(f"study {source.name}: " + explain(error)) from None
    except Exception as error:
        raise StudyError(f"study {source.name}: {what} failed: {type(error).__name__}: {error}") from error
