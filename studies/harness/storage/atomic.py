"""Writing a file so that a reader sees either all of it or nothing of it.

``write_bytes`` writes a hidden temporary file in the same folder, flushes it to the disk, renames it over the
target and flushes the folder. A fault of the disk becomes a `StorageError` (exit 74) that names the file; the
temporary file is removed first.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from evidentia.studies.harness.errors import StorageError

TEMPORARY = ".tmp-"
"""How the name of every temporary file starts; `clean` looks for nothing else."""


@contextlib.contextmanager
def storage(action: str, path: Path) -> Iterator[None]:
    """Turn an OSError inside the block into a `StorageError` naming ``action`` and ``path``."""
    try:
        yield
    except OSError as error:
        raise storage_error(action, path, error) from error


def storage_error(action: str, path: Path, error: OSError) -> StorageError:
    """Return the `StorageError` (exit 74) for a failed ``action`` on ``path``."""
    reason = error.strerror or str(error) or type(error).__name__
    return StorageError(
        f"cannot {action} {path}: {reason}. Expected a folder that exists, is writable and has free space. "
        "Free some space or restore the folder; then run the same command with --resume"
    )


def sync_folder(folder: Path) -> None:
    """Flush the folder's own entry to the disk, where the system can."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _temporary(path: Path) -> Path:
    # The process id keeps two writers apart; the suffix is kept because some writers choose a format by it.
    return path.with_name(f"{TEMPORARY}{os.getpid()}-{path.name}")


def write_with(path: Path, writer: Callable[[Path], object]) -> None:
    """Let ``writer(temporary)`` make the file, then move it to ``path`` atomically.

    For libraries that write to a path of their own; everything else goes through :func:`write_bytes`.

    Raises:
        StorageError: if the disk refuses (exit 74); no temporary file is left.
    """
    temporary = _temporary(path)
    try:
        with storage("write", path):
            writer(temporary)
            with open(temporary, "rb+") as stream:
                os.fsync(stream.fileno())
            os.replace(temporary, path)
            sync_folder(path.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def write_bytes(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path`` atomically and durably.

    Args:
        path: the file; its folder must exist.
        data: the whole contents.

    Raises:
        StorageError: if the disk refuses (exit 74); no temporary file is left, an older file stays as it was.

    Example::

        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> write_bytes(folder / "a.txt", b"all or nothing")
        >>> sorted(p.name for p in folder.iterdir())
        ['a.txt']
    """
    write_with(path, lambda temporary: temporary.write_bytes(data))


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8 with its newlines as they are; see :func:`write_bytes`."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: Any, *, compact: bool = False) -> None:
    """Write ``value`` as strict JSON (sorted keys, no NaN); see :func:`write_bytes`.

    Raises:
        ValueError: if ``value`` holds NaN or an infinity.
        TypeError: if ``value`` holds something JSON cannot.
        StorageError: if the disk refuses (exit 74).
    """
    layout: dict[str, Any] = {"separators": (",", ":")} if compact else {"indent": 1}
    write_text(path, json.dumps(value, sort_keys=True, allow_nan=False, ensure_ascii=False, **layout) + "\n")


def make_folder(path: Path, parents: bool = False) -> None:
    """Create ``path``; an existing real folder is fine.

    Without ``parents`` a folder that was deleted during a run does not come back half empty.

    Raises:
        StorageError: if it cannot be created (exit 74).
    """
    with storage("create the folder", path):
        path.mkdir(parents=parents, exist_ok=True)
        sync_folder(path.parent)


def read_limited(path: Path, limit: int) -> bytes:
    """Return the contents of ``path``, refusing a file of more than ``limit`` bytes.

    Raises:
        ValueError: if the file is larger, is not a regular file, or cannot be read.
    """
    try:
        if not path.is_file():
            raise ValueError(f"{path} is not a regular file")
        size = path.stat().st_size
        if size > limit:
            raise ValueError(f"{path} has {size} bytes; at most {limit} are read")
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}") from error


def read_json(path: Path, limit: int = 64 * 2**20) -> Any:
    """Return the JSON value in ``path``.

    Raises:
        ValueError: if the file is too large, unreadable, or not JSON.
    """
    try:
        return json.loads(read_limited(path, limit).decode("utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
