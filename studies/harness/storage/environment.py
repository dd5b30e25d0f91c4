"""What a run was computed with: versions, machine, threads, command, data. Written to `environment.json`.

Environment variables are taken from an allow-list only, and the command line is redacted: a key, token or
password never reaches the folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

SCHEMA = 1
ALLOWED = (
    "ATEN_CPU_CAPABILITY",
    "CUBLAS_WORKSPACE_CONFIG",
    "CUDA_VISIBLE_DEVICES",
    "MKL_CBWR",
    "MKL_NUM_THREADS",
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "PYTHONHASHSEED",
    "SLURM_ARRAY_TASK_COUNT",
    "SLURM_ARRAY_TASK_ID",
    "SLURM_JOB_ID",
)
PACKAGES = (
    "evidentia",
    "torch",
    "pyro-ppl",
    "arviz",
    "numpy",
    "scipy",
    "pandas",
    "scikit-learn",
    "safetensors",
)
COMPARED = (
    "versions",
    "python",
    "machine",
    "cpu",
    "cpu_capability",
    "threads",
    "dtype",
    "torch_config",
    "variables",
)
"""What must be equal for the same bytes to come out."""

_SENSITIVE = r"(?:key|token|passw(?:or)?d|passwd|secret|credential|auth)"
_SECRET_NAME = re.compile(rf"[\w.-]*{_SENSITIVE}[\w.-]*", re.IGNORECASE)
_URL_LOGIN = re.compile(r"(\w+://)[^/\s@]+@")


def redact(arguments: Sequence[str]) -> list[str]:
    """Return a command line with the values of secrets replaced by ``***``.

    Example::

        >>> redact(["run", "toy", "--set", "api_token=abc", "--password", "x", "tcp://me:pw@host:1"])
        ['run', 'toy', '--set', 'api_token=***', '--password', '***', 'tcp://***@host:1']
    """
    clean: list[str] = []
    hide_next = False
    for argument in arguments:
        name, equals, _ = argument.partition("=")
        if hide_next and not argument.startswith("--"):
            clean.append("***")
            hide_next = False
            continue
        secret = _SECRET_NAME.fullmatch(name.lstrip("-")) is not None
        hide_next = secret and not equals and argument.startswith("-")
        if secret and equals:
            clean.append(f"{name}=***")
        else:
            clean.append(_URL_LOGIN.sub(r"\1***@", argument))
    return clean


def _git() -> dict[str, Any]:
    # The sources' own repository, if they lie in one; an installed wheel has none.
    folder = Path(__file__).resolve().parent

    def ask(*words: str) -> str | None:
        command = ["git", "-C", str(folder), *words]
        try:
            done = subprocess.run(  # noqa: S603 - fixed words, no shell
                command, capture_output=True, text=True, timeout=10, check=True
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip()

    tracked = ask("ls-files", "--error-unmatch", Path(__file__).name)
    if tracked is None:
        return {"commit": None, "dirty": None}
    changes = ask("status", "--porcelain", "--untracked-files=no")
    return {"commit": ask("rev-parse", "HEAD"), "dirty": None if changes is None else bool(changes)}


def _cpu_model() -> str:
    with contextlib.suppress(OSError):  # only Linux has this file
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _versions(optional: Iterable[str] = ()) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for name in (*PACKAGES, *optional):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def describe(
    command: Sequence[str],
    data: Mapping[str, str],
    device: str = "cpu",
    threads: int = 1,
    optional: Iterable[str] = (),
) -> dict[str, Any]:
    """Return the record that is kept as `environment.json`.

    Args:
        command: the command that started the run; it is redacted here.
        data: canonical settings of each data set -> sha256 of its contents.
        device: torch device of the run.
        threads: torch threads of each point.
        optional: optional packages that the run's numbers depend on.
    """
    import torch

    config = torch.__config__.show()
    return {
        "schema": SCHEMA,
        "versions": _versions(optional),
        "python": platform.python_version(),
        "machine": platform.platform(),
        "cpu": _cpu_model(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "torch_config": {"sha256": hashlib.sha256(config.encode()).hexdigest(), "text": config},
        "threads": threads,
        "dtype": "float64",
        "device": device,
        "git": _git(),
        "command": redact(command),
        "executable": Path(sys.executable).name,
        "variables": {name: os.environ[name] for name in ALLOWED if name in os.environ},
        "data": dict(data),
    }


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return one line for each thing that decides the bytes and differs, with both values.

    Example::

        >>> differences({"threads": 1, "dtype": "float32"}, {"threads": 2, "dtype": "float32"})
        ['threads: 1 -> 2']
    """
    lines = []
    for key in COMPARED:
        old, new = before.get(key), now.get(key)
        if old == new:
            continue
        if key == "torch_config":
            lines.append("torch_config: another build of torch")
        elif isinstance(old, Mapping) and isinstance(new, Mapping):
            names = sorted({*old, *new})
            lines += [f"{key}.{n}: {old.get(n)} -> {new.get(n)}" for n in names if old.get(n) != new.get(n)]
        else:
            lines.append(f"{key}: {old} -> {new}")
    return lines
