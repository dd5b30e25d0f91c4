"""Whether a run may begin, go on, or be left alone: the rules for a folder that exists already.

A folder with DONE is complete. An unfinished one is continued only with ``--resume`` or ``--restart``.
The settings must be those the folder began with; the one change accepted is growth, new points through
`grid` or `seeds` or more trials of a search.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, final

from pydantic import ValidationError

from evidentia.studies.harness.errors import StudyError, shorten
from evidentia.studies.harness.storage import run_folder
from evidentia.studies.harness.storage.manifest import is_done

if TYPE_CHECKING:
    from evidentia.studies.harness.declare.study import Study
    from evidentia.studies.harness.engine.source import PointSource

GROWING = re.compile(r"(grid|seeds|search\.num_trials)(\..*)?")
# Where the module of a study is found is no setting: it decides no number.
_NOT_SETTINGS = ("module",)
_MISSING = object()


@final
class Opening(NamedTuple):
    """What is to happen to a folder.

    Args:
        action: "new", "continue", "grow" or "complete".
        notices: lines for the user.
    """

    action: str
    notices: tuple[str, ...] = ()


def settings_of(study: Study) -> dict[str, Any]:
    """Return the settings of a study as plain data, as `config.yaml` holds them.

    A study without a search does not mention it, as those of older runs do not.
    """
    settings = study.model_dump(mode="json")
    return settings if study.search is not None else {k: v for k, v in settings.items() if k != "search"}


def flatten(value: Any, path: str = "") -> dict[str, Any]:
    """Return dotted path -> leaf of nested data.

    Example::

        >>> flatten({"a": {"b": [1, 2]}, "c": None})
        {'a.b.0': 1, 'a.b.1': 2, 'c': None}
    """
    if isinstance(value, Mapping) and value:
        items = [(str(key), item) for key, item in value.items()]
    elif isinstance(value, list | tuple) and value:
        items = [(str(index), item) for index, item in enumerate(value)]
    else:
        return {path: value}
    flat: dict[str, Any] = {}
    for key, item in items:
        flat |= flatten(item, f"{path}.{key}" if path else key)
    return flat


def differing(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return dotted path -> (value before, value now) of every setting that differs.

    Example::

        >>> differing({"seed": 0, "model": {"width": 2}}, {"seed": 0, "model": {"width": 4}})
        {'model.width': (2, 4)}
    """
    old, new = flatten(before), flatten(now)
    found: dict[str, tuple[Any, Any]] = {}
    for key in sorted({*old, *new}):
        if key.partition(".")[0] in _NOT_SETTINGS:
            continue
        first, second = old.get(key, _MISSING), new.get(key, _MISSING)
        # 1 == 1.0 == True in Python, but they are different settings.
        if type(first) is not type(second) or first != second:
            found[key] = (
                "absent" if first is _MISSING else first,
                "absent" if second is _MISSING else second,
            )
    return found


def decide(
    folder: Path, study: Study, source: PointSource, *, resume: bool, restart: bool, join: bool = False
) -> Opening:
    """Decide what may happen in ``folder``; nothing is written.

    Args:
        folder: the run folder, existing or not.
        study: the study that is to run there.
        source: where its points come from.
        resume: ``--resume`` was given.
        restart: ``--restart`` was given.
        join: this is a shard; it may join the other shards without ``--resume``.

    Raises:
        StudyError: if the folder may not be used like that; the message names the ways out (exit 2).
    """
    if not (folder / run_folder.CONFIG).is_file():
        text = f"{folder} holds no run yet, so there is nothing to resume; a new run begins"
        return Opening("new", (text,) if resume or restart else ())
    before = run_folder.read_config(folder)
    changes = differing(before, settings_of(study))
    grown = [key for key in changes if GROWING.fullmatch(key)]
    if len(grown) < len(changes) or (grown and not _extends(source, before)):
        pairs = [f"  {key}: {shorten(old)} -> {shorten(new)}" for key, (old, new) in changes.items()]
        lines = "\n".join(pairs)
        raise StudyError(
            f"{folder} holds a run with other settings (recorded -> given):\n{lines}\n"
            "Only growth is taken: new points through grid or seeds, or more trials of a search. Give the "
            "recorded settings or another --out"
        )
    finished = is_done(folder)
    if finished and not grown:
        return Opening("complete")
    joins = join and not (folder / "status.json").is_file()
    if not (resume or restart or joins):
        state = "finished, with fewer points" if finished else "unfinished"
        raise StudyError(
            f"{folder} holds an {state} run. Continue it with --resume, start its unfinished points over "
            "with --restart, or choose another --out"
        )
    return Opening("grow" if grown else "continue")


def check_data(folder: Path, before: Mapping[str, str], now: Mapping[str, str]) -> None:
    """Refuse to continue a run on other data than it began with.

    Args:
        folder: the run folder, for the message.
        before: settings of each data set -> sha256 as recorded.
        now: the same as found now.

    Raises:
        StudyError: if a recorded digest differs (exit 2).
    """
    for settings, found in now.items():
        recorded = before.get(settings, found)
        if recorded != found:
            raise StudyError(
                f"{folder}: the data {settings[:200]} changed since the run began (sha256 {recorded[:12]} "
                f"recorded, {found[:12]} now). Restore the data, or choose another --out"
            )


def _extends(source: PointSource, before: Mapping[str, Any]) -> bool:
    """Return whether ``source`` has every point of the recorded settings."""
    from evidentia.studies.harness.declare.study import Study

    try:
        return source.extends(Study.model_validate(dict(before)))
    except (ValidationError, StudyError):
        return False
