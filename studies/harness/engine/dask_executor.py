"""Points on worker processes, here or on other machines, through Dask (the optional extra ``scale``).

Workers are processes with one thread each, the cluster listens on 127.0.0.1 only, and has no dashboard.
Results travel by disk; a worker returns a status only. One task per worker is in flight, so that a point
that kills its worker casts suspicion on no neighbour, and each future is released as soon as it is read.
``retries`` covers faults of the machinery; a point that fails by its own fault comes back as a status and
is never tried again.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, final

from evidentia.studies.harness.engine.executor import Status
from evidentia.studies.harness.engine.point import Task, run_point
from evidentia.studies.harness.errors import NUMERICAL, StorageError, StudyError

if TYPE_CHECKING:
    from evidentia.studies.harness.declare.points import Point

ALLOWED_FAILURES = 3
_THREADS = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
_SETTINGS = {
    "distributed.scheduler.allowed-failures": ALLOWED_FAILURES,
    "distributed.scheduler.worker-saturation": 1.0,
    "distributed.nanny.pre-spawn-environ": _THREADS,
    "distributed.worker.daemon": True,
    "distributed.worker.preload": ["evidentia.studies.harness.engine.dask_worker"],
    "distributed.scheduler.http.routes": [],
    "distributed.worker.http.routes": [],
    "distributed.diagnostics.nvml": False,
}


def work(task: Task) -> Status:
    """Compute one point in a worker; it stops when the run's owner file no longer names its driver."""
    owner = task.folder / task.owner

    def should_stop() -> bool:
        try:
            return owner.read_text(encoding="utf-8") != task.token
        except OSError:
            return True

    notices: list[str] = []
    status = run_point(task, should_stop, notice=notices.append)
    return status._replace(notices=tuple(notices))


def parse_workers(text: str | int | None) -> int | str | None:
    """Return a number of processes, the address of a running scheduler, or None for no workers.

    Raises:
        StudyError: for anything else (exit 2).

    Example::

        >>> parse_workers("2"), parse_workers("tcp://10.0.0.1:8786"), parse_workers(None)
        (2, 'tcp://10.0.0.1:8786', None)
    """
    if text is None:
        return None
    given = str(text).strip()
    if given.isdecimal() and 1 <= int(given[:6]) <= 4096 and len(given) <= 4:
        return int(given)
    if given.startswith(("tcp://", "tls://")) and len(given) > 6:
        return given
    raise StudyError(f"--workers: expected a number from 1 to 4096 or tcp://host:port, given {given[:80]!r}")


@final
class DaskExecutor:
    """Points on Dask workers.

    Args:
        workers: number of local processes, or the address of a scheduler that runs already.
        make_task: turns a point into what a worker needs.
        retries: how often the machinery may fail for one point.
        stop: asked before each point is handed out; when true, no more are.
        target: the function a worker runs.
        patience_s: seconds to wait for a scheduler that is said to run.

    Raises:
        StudyError: if the extra is not installed or the scheduler does not answer (exit 2).
    """

    def __init__(
        self,
        workers: int | str,
        make_task: Callable[[Point], Any],
        retries: int = 0,
        stop: Callable[[], bool] = lambda: False,
        target: Callable[[Any], Status] = work,
        patience_s: float = 20.0,
    ) -> None:
        try:
            import dask
            from distributed import Client, LocalCluster
        except ImportError as error:
            raise StudyError(
                f"--workers: the extra 'scale' is unusable: {error}. "
                "Install it: pip install 'evidentia[scale]'"
            ) from None
        self._make_task = make_task
        self._retries = retries
        self._stop = stop
        self._target = target
        self._queue: deque[Point] = deque()
        self._stack = contextlib.ExitStack()
        self._stack.enter_context(dask.config.set(_SETTINGS))
        try:
            if isinstance(workers, int):
                cluster = LocalCluster(
                    n_workers=workers,
                    threads_per_worker=1,
                    processes=True,
                    host="127.0.0.1",
                    dashboard_address="127.0.0.1:0",
                    scheduler_kwargs={"dashboard": False},
                    silence_logs="ERROR",
                )
                self._stack.callback(cluster.close, timeout=10)
                self._client = Client(cluster)
            else:
                self._client = Client(workers, timeout=patience_s)
        except (OSError, TimeoutError, ValueError) as error:
            self._stack.close()
            raise StudyError(f"--workers {workers}: no scheduler answers there ({error})") from None
        self._stack.callback(self._client.close, timeout=10)

    def submit(self, point: Point) -> str:
        """Take a point and return its id."""
        self._queue.append(point)
        return point.id

    def as_done(self) -> Iterator[tuple[str, Status]]:
        """Hand points out, one per living worker, and yield each as it ends.

        Raises:
            StorageError: if a worker's disk refuses (exit 74).
        """
        from distributed import as_completed

        flying: dict[Any, str] = {}
        waiting = as_completed()
        self._fill(waiting, flying)
        while flying:
            if not self._ready(waiting):
                return
            future = next(waiting)
            identity = flying.pop(future.key)
            status = self._status(future)
            future.release()
            del future
            yield identity, status
            self._fill(waiting, flying)

    def close(self) -> None:
        """End the client, and the cluster if it is ours."""
        self._queue.clear()
        self._stack.close()

    def _fill(self, waiting: Any, flying: dict[Any, str]) -> None:
        if not self._queue or self._stop():
            return
        alive = max(1, self._alive())
        while self._queue and len(flying) < alive:
            point = self._queue.popleft()
            future = self._client.submit(
                self._target,
                self._make_task(point),
                key=f"point-{point.id}",
                retries=self._retries,
            )
            flying[future.key] = point.id
            waiting.add(future)

    def _ready(self, waiting: Any) -> bool:
        """Wait for a future; false if the run stops and no worker is left that could end one."""
        while not waiting.has_ready():
            time.sleep(0.05)
            if self._stop() and not self._alive():
                return False
        return True

    def _alive(self) -> int:
        return len(self._client.scheduler_info(n_workers=-1)["workers"])

    def _status(self, future: Any) -> Status:
        error = future.exception()
        if error is None:
            status: Status = future.result()
            return status
        if isinstance(error, StorageError):
            raise error
        kind = type(error).__name__
        message = str(error) or kind
        if kind == "KilledWorker":
            message = (
                f"its worker died {ALLOWED_FAILURES + 1} times while computing it (out of memory or a crash)"
            )
        code = error.exit_code if isinstance(error, StudyError) else NUMERICAL
        return Status("failed", {"type": kind, "message": message, "site": ""}, code)
