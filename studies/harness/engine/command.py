"""The command that repeats a run, and the one that continues it."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from evidentia.studies.harness.storage.environment import redact


def this_command(study: str, module: str | None = None, argv: Sequence[str] | None = None) -> list[str]:
    """Return the command of this process if it is one of ours, else one that runs the study by its name.

    Example::

        >>> this_command("toy", argv=["/usr/bin/evidentia", "run", "toy", "--set", "a=1"])
        ['evidentia', 'run', 'toy', '--set', 'a=1']
        >>> this_command("toy", argv=["notebook.py"])
        ['evidentia', 'run', 'toy']
    """
    words = list(sys.argv if argv is None else argv)
    program = Path(words[0]).name if words else ""
    if program in ("evidentia", "evidentia.exe"):
        return ["evidentia", *words[1:]]
    if words and words[0].endswith("harness/cli.py"):
        return ["python", "-m", "evidentia.studies.harness.cli", *words[1:]]
    if module is not None and words and words[0].endswith(f"{module.rpartition('.')[2]}.py"):
        return ["python", "-m", module, *words[1:]]
    return ["evidentia", "run", study]


def repeating(command: Sequence[str]) -> str:
    """Return the command that repeats a run in a new folder, as one line for a shell; secrets are redacted.

    Example::

        >>> repeating(["evidentia", "run", "toy", "--out", "a b", "--resume", "--set", "x=[1, 2]"])
        "evidentia run toy --set 'x=[1, 2]'"
    """
    return shlex.join(redact(_stripped(command)))


def continuing(command: Sequence[str], folder: Path) -> str:
    """Return the command that continues an unfinished run.

    Example::

        >>> continuing(["evidentia", "run", "toy"], Path("runs/toy/a"))
        'evidentia run toy --out runs/toy/a --resume'
    """
    return shlex.join(redact([*_stripped(command), "--out", str(folder), "--resume"]))


def merging(command: Sequence[str], folder: Path) -> str:
    """Return the command that puts the shards of a folder together.

    Example::

        >>> merging(["evidentia", "run", "toy", "--shard", "0/2"], Path("a"))
        'evidentia run toy --out a --resume'
    """
    return continuing(_without(command, ("--shard",)), folder)


def _stripped(command: Sequence[str]) -> list[str]:
    return [word for word in _without(command, ("--out",)) if word not in ("--resume", "--restart")]


def _without(command: Sequence[str], options: tuple[str, ...]) -> list[str]:
    """Return the words without some options and their values."""
    kept: list[str] = []
    words = iter(command)
    for word in words:
        if word in options:
            next(words, None)
        elif not word.startswith(tuple(f"{name}=" for name in options)):
            kept.append(word)
    return kept
