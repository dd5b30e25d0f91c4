"""CPU time of `evidentia list` beside the CPU time of importing Pyro alone."""

import resource
import subprocess
import sys
from collections.abc import Iterator
from statistics import median

from benchmarks.ratio import Ratio


def cpu_seconds(*command: str) -> float:
    """Return the CPU seconds (user and system) of one child process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, capture_output=True)  # noqa: S603
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def ratios(repeats: int = 5) -> Iterator[Ratio]:
    """Yield the one ratio; the promise is a third."""
    listing = (sys.executable, "-m", "evidentia.studies.harness.cli", "list")
    importing = (sys.executable, "-c", "import pyro")
    pairs = [(cpu_seconds(*listing), cpu_seconds(*importing)) for _ in range(repeats)]
    yield Ratio(
        "CPU time of `evidentia list`",
        "evidentia list",
        "import pyro",
        median(ours for ours, _ in pairs),
        median(theirs for _, theirs in pairs),
        min(theirs / ours for ours, theirs in pairs),
        target=3,
    )
