"""Run every benchmark of this folder, or those named, and print the ratios.

Usage: python -m benchmarks [NAME ...]. A benchmark is a module with `ratios() -> Iterator[Ratio]`.
"""

import importlib
import os
import pkgutil
import platform
import sys

import torch

import benchmarks


def main(names: list[str]) -> int:
    """Print the ratios of the named benchmarks (all by default); 1 if a target is missed."""
    found = [info.name for info in pkgutil.iter_modules(benchmarks.__path__)]
    known = [name for name in found if name not in {"__main__", "ratio"}]
    unknown = set(names) - set(known)
    if unknown:
        print(f"no benchmark {sorted(unknown)}; there are {known}", file=sys.stderr)
        return 2
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, {platform.machine()}, {os.cpu_count()} cores, 1 thread")
    missed = 0
    for name in names or known:
        for ratio in importlib.import_module(f"benchmarks.{name}").ratios():
            print(ratio, flush=True)
            missed += ratio.value < ratio.target
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
