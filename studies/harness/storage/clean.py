"""Removing temporary files that a killed process left behind, and nothing else."""

from __future__ import annotations

import os
import re
import stat
import time
from pathlib import Path

from evidentia.studies.harness.errors import StudyError
from evidentia.studies.harness.storage import atomic
from evidentia.studies.harness.storage.run_folder import is_run

_TEMPORARY = re.compile(re.escape(atomic.TEMPORARY) + r"\d+-.+")
_AGE = re.compile(r"(\d{1,9})\s*([smhdw]?)")
_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def parse_age(text: str) -> float:
    """Return an age in seconds from ``30s``, ``10m``, ``12h``, ``7d``, ``2w`` or plain seconds.

    Raises:
        StudyError: for anything else (exit 2).

    Example::

        >>> parse_age("7d")
        604800.0
    """
    match = _AGE.fullmatch(text.strip())
    if match is None:
        raise StudyError(
            f"--older-than: expected a number with s, m, h, d or w, e.g. 7d; given {text[:40]!r}"
        )
    return float(int(match[1]) * _UNITS[match[2]])


def clean(root: Path, older_than_s: float) -> list[Path]:
    """Remove the temporary files below ``root`` that are older than ``older_than_s`` seconds.

    Only regular files named as :mod:`atomic` names them, inside run folders, are touched; links are not
    followed.

    Returns:
        The removed files, sorted.

    Raises:
        StudyError: if ``root`` is not a folder (exit 2).
        StorageError: if a file cannot be removed (exit 74).
    """
    if not root.is_dir():
        raise StudyError(f"clean: {root} is not a folder. Give a run folder or the folder of all runs")
    removed: list[Path] = []
    oldest = time.time() - older_than_s
    inside: dict[str, bool] = {}
    for place, folders, files in os.walk(root, followlinks=False):
        folder = Path(place)
        inside[place] = inside.get(str(folder.parent), False) or _run_or_opening(folder)
        folders.sort()
        for name in sorted(files):
            if not inside[place] or not _TEMPORARY.fullmatch(name):
                continue
            path = folder / name
            with atomic.storage("remove", path):
                facts = path.lstat()
                if stat.S_ISREG(facts.st_mode) and facts.st_mtime <= oldest:
                    path.unlink()
                    removed.append(path)
    return removed


def _run_or_opening(folder: Path) -> bool:
    # A run killed while it wrote its settings has a lock and no settings.
    return is_run(folder) or (folder / ".lock").is_file()
