"""What Dask loads into each worker: it leaves signals to the driver.

A terminal sends SIGINT to every process of the group. The driver alone decides what it means: it lets go
of the run's owner file, and each worker finishes its step and writes a checkpoint.
"""

from __future__ import annotations

import signal
import threading
from typing import Any


def dask_setup(worker: Any) -> None:
    """Ignore SIGINT in this worker process; called by Dask when the worker starts."""
    del worker
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
