"""The list of a folder's finished files with their sha256: written just before DONE, checked by readers.

Files that change after the end (`status.json`, `log.jsonl`, locks) are not in it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from evidentia.studies.harness.errors import StudyError
from evidentia.studies.harness.storage import atomic

SCHEMA = 1
MANIFEST = "MANIFEST.json"
DONE = "DONE"
_CHANGING = ("status", "log.")


def sha256(path: Path) -> str:
    """Return the sha256 of a file as hex digits."""
    digest = hashlib.sha256()
    with atomic.storage("read", path), open(path, "rb") as stream:
        while block := stream.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def covered(folder: Path, skip: Iterable[str] = ()) -> Iterator[Path]:
    """Yield the files of ``folder`` that no longer change, sorted by their path.

    Hidden files, MANIFEST.json, DONE, status and log files, links and the top-level names in ``skip`` are
    left out.
    """
    left_out = {MANIFEST, DONE, *skip}
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        changing = parts[-1].startswith(_CHANGING) or parts[-1] in (MANIFEST, DONE)
        hidden = any(part.startswith(".") for part in parts)
        if parts[0] in left_out or changing or hidden or path.is_symlink():
            continue
        if path.is_file():
            yield path


def write_manifest(folder: Path, skip: Iterable[str] = ()) -> Path:
    """Write MANIFEST.json of ``folder`` atomically and return its path.

    Args:
        folder: the finished folder.
        skip: top-level names left out, for example ``points`` (each point has its own manifest).

    Raises:
        StorageError: if a file cannot be read or the manifest not be written (exit 74).

    Example::

        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> atomic.write_text(folder / "metrics.csv", "a\\n1\\n")
        >>> write_manifest(folder).name, differing(folder)
        ('MANIFEST.json', [])
        >>> atomic.write_text(folder / "metrics.csv", "a\\n2\\n")
        >>> differing(folder)
        ['metrics.csv']
    """
    files = {path.relative_to(folder).as_posix(): sha256(path) for path in covered(folder, skip)}
    target = folder / MANIFEST
    atomic.write_json(target, {"schema": SCHEMA, "files": files})
    return target


def write_done(folder: Path) -> None:
    """Write the empty-handed mark DONE, last of all."""
    atomic.write_text(folder / DONE, "done\n")


def is_done(folder: Path) -> bool:
    """Return whether ``folder`` is finished; without DONE it is not, whatever else lies there."""
    return (folder / DONE).is_file()


def read_manifest(folder: Path) -> dict[str, str]:
    """Return ``{relative path: sha256}`` of a finished folder.

    Raises:
        StudyError: if there is no manifest, or it is not one of ours, or a newer version wrote it (exit 2).
    """
    path = folder / MANIFEST
    try:
        record: Any = atomic.read_json(path)
    except ValueError as error:
        raise StudyError(f"{error}. Expected the manifest of a finished folder") from None
    if not isinstance(record, dict) or not isinstance(record.get("schema"), int):
        raise StudyError(f"{path} is not a manifest: expected an object with 'schema' and 'files'")
    if record["schema"] > SCHEMA:
        raise StudyError(
            f"{path} has schema {record['schema']}; this version reads {SCHEMA}. Update evidentia"
        )
    files = record.get("files")
    if not isinstance(files, dict) or not all(isinstance(value, str) for value in files.values()):
        raise StudyError(f"{path} is not a manifest: expected an object with 'schema' and 'files'")
    return dict(files)


def differing(folder: Path) -> list[str]:
    """Return the files of the manifest that are missing or whose bytes differ, sorted."""
    bad = []
    for name, digest in read_manifest(folder).items():
        path = folder / name
        inside = path.resolve().is_relative_to(folder.resolve())
        if not inside or not path.is_file() or sha256(path) != digest:
            bad.append(name)
    return sorted(bad)
