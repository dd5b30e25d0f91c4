"""What this installation can do: versions, threads, optional packages or why not, `dot`, free disk space."""

from __future__ import annotations

import importlib
import os
import platform
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import NamedTuple, final

from evidentia.studies.harness.extras import quiet
from evidentia.studies.harness.storage.environment import PACKAGES

__all__ = ["Finding", "diagnose", "doctor_report", "extras"]

NOT_LOOKED_AT = ("dev", "docs")
"""Extras for working on the library itself."""
LOW_GIB = 1.0
MARKS: Mapping[bool | None, str] = {True: "✓", False: "!", None: "–"}
VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "MKL_CBWR", "ATEN_CPU_CAPABILITY", "CUDA_VISIBLE_DEVICES")


@final
class Finding(NamedTuple):
    """One line: its section, what was looked at, what was found, and whether it is as it should be.

    `good` is None for what is absent and need not be there.
    """

    section: str
    name: str
    text: str
    good: bool | None = True


def doctor_report(folder: Path | None = None) -> str:
    """All findings as text. Never raises for a broken installation: it is what the command is for.

    Args:
        folder: where runs would be written; the working directory if not given.
    """
    findings = list(diagnose(folder))
    width = max(len(finding.name) for finding in findings)
    lines: list[str] = []
    section = ""
    for finding in findings:
        if finding.section != section:
            section = finding.section
            lines += ["", section] if lines else [section]
        lines.append(f"  {MARKS[finding.good]} {finding.name:<{width}}  {finding.text}")
    return "\n".join(lines)


def diagnose(folder: Path | None = None) -> Iterator[Finding]:
    """The findings, one by one."""
    yield Finding("versions", "python", platform.python_version(), sys.version_info >= (3, 11))
    for package in PACKAGES:
        version = version_of(package)
        if version is None:
            yield Finding("versions", package, "not installed: pip install evidentia", False)
        else:
            yield Finding("versions", package, version)
    yield from machine()
    for extra, modules in extras().items():
        yield usable(extra, modules)
    dot = shutil.which("dot")
    yield Finding("tools", "dot", dot or "not found; graphs are drawn without it", True if dot else None)
    yield disk(Path.cwd() if folder is None else folder)


def extras() -> dict[str, tuple[str, ...]]:
    """Optional extra -> modules it brings, as the installed package declares them."""
    try:
        declared = metadata.requires("evidentia") or []
    except metadata.PackageNotFoundError:
        return {}
    found: dict[str, tuple[str, ...]] = {}
    for requirement in declared:
        match = re.match(r"([\w.-]+).*extra == [\"']([\w-]+)[\"']", requirement)
        if match and match.group(2) not in NOT_LOOKED_AT:
            name, extra = match.groups()
            found[extra] = (*found.get(extra, ()), name.replace("-", "_"))
    return found


def machine() -> Iterator[Finding]:
    """Threads, processor features and accelerators, as torch sees them."""
    cores = os.cpu_count() or 0
    try:
        import torch

        yield Finding("machine", "threads", f"{torch.get_num_threads()} of {cores} cores")
        yield Finding("machine", "cpu capability", torch.backends.cpu.get_cpu_capability())
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        names = ", ".join(torch.cuda.get_device_name(i) for i in range(count))
        yield Finding("machine", "cuda", names or "none; device=cpu")
    except Exception as error:  # a broken torch is a finding
        yield Finding("machine", "torch", f"unusable: {reason(error)}", False)
    for name in VARIABLES:
        if name in os.environ:
            yield Finding("machine", name, os.environ[name])


def usable(extra: str, modules: tuple[str, ...]) -> Finding:
    """Whether an optional package can be imported, or why not.

    Example:
        >>> usable("nothing", ("no_such_module",)).text
        'not installed: pip install "evidentia[nothing]"'
    """
    found = []
    for name in modules:
        try:
            with quiet():
                importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name == name:
                return Finding("extras", extra, f'not installed: pip install "evidentia[{extra}]"', None)
            return Finding("extras", extra, f"unusable: {reason(error)}", False)
        except Exception as error:  # whatever it raises on import is the answer
            return Finding("extras", extra, f"unusable: {reason(error)}", False)
        found.append(f"{name} {version_of(name) or ''}".strip())
    return Finding("extras", extra, ", ".join(found))


def disk(folder: Path) -> Finding:
    """Free space where runs would be written."""
    try:
        free = shutil.disk_usage(folder).free / 2**30
    except OSError as error:
        return Finding("disk", str(folder), f"unusable: {reason(error)}", False)
    if not os.access(folder, os.W_OK):
        return Finding("disk", str(folder), "read-only: give another folder with --out", False)
    low = "" if free >= LOW_GIB else "; a run may end with exit 74"
    return Finding("disk", str(folder), f"{free:.1f} GiB free{low}", free >= LOW_GIB)


def version_of(package: str) -> str | None:
    """The installed version, None if there is none."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def reason(error: BaseException) -> str:
    """An error in one line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
