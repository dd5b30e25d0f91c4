"""Tasks for trials of the cluster that import nothing heavy."""

import os
import signal
import time
from typing import NamedTuple

from evidentia.studies.harness.engine.executor import Status


class Light(NamedTuple):
    """A task: what it does, and the file that gets a line whenever it starts."""

    id: str
    behaviour: str
    starts: str


def light(task: Light) -> Status:
    """Note the start, then do what the trial asks for."""
    with open(task.starts, "a", encoding="utf-8") as stream:
        stream.write(f"{task.id}\n")
    time.sleep(0.1)
    first = open(task.starts, encoding="utf-8").read().count(f"{task.id}\n") == 1  # noqa: SIM115
    if task.behaviour == "kill" or (task.behaviour == "once" and first):
        os.kill(os.getpid(), signal.SIGKILL)
    if task.behaviour == "flaky" and first:
        raise ConnectionError("a fault of the machinery")
    if task.behaviour == "raise":
        raise ValueError("the planted fault")
    return Status("done")
