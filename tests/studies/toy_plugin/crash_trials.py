"""What the crash trials share: starting the driver, waiting for a checkpoint, comparing results."""

import os
import subprocess
import sys
import time
from pathlib import Path

import crash_toy
import torch
from safetensors.torch import load_file

from evidentia.studies.harness.declare.overrides import apply_overrides
from evidentia.studies.harness.engine.run import RunResult, run_study

HERE = Path(__file__).parent
DRIVER = HERE / "crash_driver.py"


def environ(**variables: str) -> dict[str, str]:
    """Return the environment of a driver: one thread, the toy on the path."""
    paths = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths, **variables}


def start(out: Path, *words: str, **variables: str) -> subprocess.Popen[str]:
    """Start the driver in a process (and a process group) of its own."""
    return subprocess.Popen(
        [sys.executable, str(DRIVER), "--out", str(out), *words],
        env=environ(**variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def run(out: Path, *words: str, **variables: str) -> tuple[int, str]:
    """Run the driver to its end; return the exit code and everything it printed."""
    process = start(out, *words, **variables)
    printed, errors = process.communicate(timeout=100)
    return process.returncode, printed + errors


def here(out: Path, *overrides: str, **options: object) -> RunResult:
    """Run the toy in this process."""
    study = crash_toy.study(apply_overrides(crash_toy.Config(), overrides))
    return run_study(study, out=out, command=["evidentia", "run", "crash-toy"], **options)  # type: ignore[arg-type]


def wait_for(what, process: subprocess.Popen[str], seconds: float = 60.0) -> None:
    """Wait until ``what()`` is true, and fail if the process ends before."""
    limit = time.monotonic() + seconds
    while not what():
        if process.poll() is not None:
            raise AssertionError(f"the run ended too early: {process.communicate()}")
        if time.monotonic() > limit:
            process.kill()
            raise AssertionError("waited too long")
        time.sleep(0.01)


def checkpoints(out: Path) -> list[int]:
    """Return the steps of the checkpoints in a run folder, oldest first."""
    return sorted(int(path.stem.removeprefix("ckpt-")) for path in out.glob("points/*/ckpt/ckpt-*.json"))


def weights(out: Path) -> dict[str, torch.Tensor]:
    """Return the weights of the only point of a run."""
    (path,) = out.glob("points/*/weights.safetensors")
    return load_file(path)


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Return whether two sets of weights are bitwise equal."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def temporary(out: Path) -> list[Path]:
    """Return the temporary files in a folder."""
    return [path for path in out.rglob("*") if path.name.startswith(".tmp-")]
