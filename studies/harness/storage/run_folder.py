"""The folder of a run: where it may lie, whose it is, and the files that change while it runs.

::

    runs/<study>/<stamp>-<id6>/
      config.yaml        resolved settings, with `schema: 1`
      environment.json   versions, machine, threads, command, sha256 of the data
      status.json        {schema, study, state, heartbeat, points {total, done, failed}, error, verdict}
      log.jsonl          one event per line: {time, event, ...}
      points/<id>/       point.json, status.json {state, step, total, checkpoint, heartbeat, seconds, error},
                         metrics.csv, checks.json, weights.safetensors, draws.nc, tables/*.csv,
                         ckpt/ckpt-<step>.safetensors + .json, MANIFEST.json, DONE
      search.log         of a search: its finished trials, one per line
      metrics.csv  posterior.nc  figures/*.png  model.dot  report.html  MANIFEST.json  DONE  .lock

A shard writes `status.<i>-of-<n>.json` and `log.<i>-of-<n>.jsonl` in place of `status.json` and `log.jsonl`.
"""

from __future__ import annotations

import json
import os
import re
import socket
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, final

import yaml

from evidentia.studies.harness.errors import StudyError
from evidentia.studies.harness.storage import atomic
from evidentia.studies.harness.storage.locks import LOCK, Shard

SCHEMA = 1
STATES = ("queued", "running", "done", "failed", "stopped")
CONFIG = "config.yaml"
CONFIG_LIMIT = 16 * 2**20
_ID = re.compile(r"[0-9a-f]{12}")


def now() -> str:
    """Return the time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def new_path(runs_root: Path, study: str, digest: str) -> Path:
    """Return a folder that does not exist yet: ``<root>/<study>/<stamp>-<id6 of the settings>``."""
    while True:
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
        path = runs_root / study / f"{stamp}-{digest[:6]}"
        if not path.exists():
            return path
        time.sleep(0.05)


def check_out(out: Path, runs_root: Path | None = None) -> Path:
    """Return the absolute path of a run folder that may be written to.

    Args:
        out: what was asked for.
        runs_root: where a folder without an explicit ``--out`` must lie, links resolved.

    Raises:
        StudyError: if the path is a link, leads outside, is no folder, or is somebody else's (exit 2).
    """
    text = os.fspath(out)
    if "\0" in text or not text.strip():
        raise StudyError(f"--out: {text[:80]!r} is not a path. Give the name of a new folder")
    if len(text) > 1024 or any(len(part.encode()) > 200 for part in out.parts):
        raise StudyError(f"--out: the path is too long ({len(text)} characters). Give a shorter name")
    if ".." in out.parts:
        raise StudyError(
            f"--out: {text} leads out of the folder it starts in, to {out.resolve()}. "
            "Give the path without '..'"
        )
    path = Path(os.path.abspath(out))
    try:
        if path.is_symlink():
            raise StudyError(
                f"--out: {path} is a link to {path.resolve()}. Give the folder itself, not a link"
            )
        if runs_root is not None and not path.resolve().is_relative_to(runs_root.resolve()):
            raise StudyError(
                f"--out: {path} leads outside {runs_root.resolve()} through a link. Remove the link"
            )
        if path.exists() and not path.is_dir():
            raise StudyError(f"--out: {path} is a file. Give the name of a new folder")
        around = next((parent for parent in path.parents if is_run(parent)), None)
        if around is not None:
            raise StudyError(
                f"--out: {path} lies inside the run folder {around}, which is not its own. "
                "Give a folder outside of it"
            )
        if path.is_dir() and not is_run(path) and not _blank(path):
            raise StudyError(
                f"--out: {path} is not empty and not a run folder (no {CONFIG} of ours). Nothing is written "
                "into it. Give the name of a new folder"
            )
        for inner in ("points", "figures"):
            if (path / inner).is_symlink():
                raise StudyError(f"--out: {path / inner} is a link. Links are not followed; remove it")
    except OSError as error:
        raise StudyError(f"--out: {path} cannot be used: {error.strerror or error}") from error
    return path


def _blank(path: Path) -> bool:
    # A run killed before its settings were written leaves nothing but these.
    return all(each.name.startswith((LOCK, atomic.TEMPORARY)) for each in path.iterdir())


def is_run(path: Path) -> bool:
    """Return whether ``path`` is the folder of a run."""
    try:
        read_config(path)
    except StudyError:
        return False
    return True


def read_config(folder: Path) -> dict[str, Any]:
    """Return the resolved settings of a run, without the schema.

    Raises:
        StudyError: if there is no readable `config.yaml` of ours, or a newer version wrote it (exit 2).
    """
    path = folder / CONFIG
    try:
        text = atomic.read_limited(path, CONFIG_LIMIT).decode("utf-8")
        if "&" in text and any(
            isinstance(each, yaml.AliasEvent) for each in yaml.parse(text, yaml.SafeLoader)
        ):
            raise ValueError(f"{path} has YAML aliases, which no run writes")
        record = yaml.safe_load(text)
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise StudyError(f"{folder} is not a run folder: {reason}. Expected a {CONFIG} in it") from None
    if not isinstance(record, dict) or not isinstance(record.get("schema"), int) or "name" not in record:
        raise StudyError(f"{path} holds no settings of a run: expected the keys 'schema' and 'name'")
    if record["schema"] > SCHEMA:
        raise StudyError(
            f"{path} has schema {record['schema']}; this version reads {SCHEMA}. Update evidentia"
        )
    return {str(key): value for key, value in record.items() if key != "schema"}


def write_config(folder: Path, settings: Mapping[str, Any]) -> None:
    """Write the resolved settings atomically."""
    plain = json.loads(json.dumps({"schema": SCHEMA, **settings}))  # shares nothing, so YAML needs no aliases
    text = yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)
    atomic.write_text(folder / CONFIG, text)


def read_status(folder: Path, name: str = "status.json") -> dict[str, Any]:
    """Return a status record of a run or of a point, or an empty one where none is readable."""
    try:
        record = atomic.read_json(folder / name, limit=64 * 2**20)
    except ValueError:
        return {}
    return record if isinstance(record, dict) else {}


def point_folder(folder: Path, identity: str) -> Path:
    """Return the folder of a point, refusing one that is a link.

    Raises:
        StudyError: if the id is not one, or the path is a link (exit 2).
    """
    if not _ID.fullmatch(identity):
        raise StudyError(f"{identity[:40]!r} is not the id of a point: expected 12 hexadecimal digits")
    path = folder / "points" / identity
    for each in (path.parent, path, path / "ckpt", path / "tables"):
        if each.is_symlink():
            raise StudyError(f"{each} is a link. Links are not followed on writing; remove it")
    return path


@final
class Status:
    """A status file that is rewritten atomically, with a heartbeat.

    Args:
        path: the file.
        record: what it holds at first, besides schema, pid and host.
        every_s: least time between two writes of :meth:`beat`.
    """

    def __init__(self, path: Path, record: Mapping[str, Any], every_s: float = 1.0) -> None:
        self._path = path
        self._every_s = every_s
        self._last = 0.0
        self.record: dict[str, Any] = {
            "schema": SCHEMA,
            "state": "queued",
            "step": None,
            "error": None,
            **record,
            "pid": os.getpid(),
            "host": socket.gethostname(),
        }

    def set(self, **changes: Any) -> None:
        """Change some keys and write the file now."""
        self.record.update(changes)
        self.record["heartbeat"] = now()
        atomic.write_json(self._path, self.record)
        self._last = time.monotonic()

    def beat(self, **changes: Any) -> None:
        """Change some keys and write the file if the last time is long enough ago."""
        self.record.update(changes)
        if time.monotonic() - self._last >= self._every_s:
            self.set()


@final
class Log:
    """`log.jsonl`: one event per line, appended; a line cut off by a crash harms no other line."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self, event: str, **values: Any) -> None:
        """Append one event.

        Raises:
            StorageError: if the disk refuses (exit 74).
        """
        line = json.dumps({"time": now(), "event": event, **values}, ensure_ascii=False, default=str)
        with atomic.storage("append to", self._path), open(self._path, "a", encoding="utf-8") as stream:
            stream.write(line + "\n")


def names(shard: Shard | None) -> tuple[str, str]:
    """Return the names of the status and the log file of a run or of one shard."""
    return (
        ("status.json", "log.jsonl")
        if shard is None
        else (f"status.{shard.name}.json", f"log.{shard.name}.jsonl")
    )
