"""One point: build it, run its handler, write its folder. It can run twice without harm.

A point whose folder has DONE is skipped. Results are written atomically, then MANIFEST.json, and DONE
last; whoever sees DONE sees everything.
"""

from __future__ import annotations

import contextlib
import random
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from evidentia.studies.harness.declare.points import digest
from evidentia.studies.harness.declare.registry import inferences, metrics
from evidentia.studies.harness.engine.executor import Status
from evidentia.studies.harness.engine.outcome import Context, Outcome, Stopped
from evidentia.studies.harness.engine.problem import build_problem, import_all, load_data
from evidentia.studies.harness.errors import NUMERICAL, StorageError, StudyError
from evidentia.studies.harness.loggers.choose import open_loggers
from evidentia.studies.harness.storage import atomic, manifest, results, run_folder
from evidentia.studies.harness.storage.checkpoint import CheckpointError, FolderCheckpoints
from evidentia.studies.harness.storage.locks import LOCK, BusyError, hold
from evidentia.studies.harness.terminal.progress import ProgressEvent

if TYPE_CHECKING:
    from evidentia.studies.harness.declare.points import Point

ERROR = "error.txt"


class Task(NamedTuple):
    """All that a process needs to compute one point; it can be sent to another one.

    Args:
        point: what to compute.
        folder: the run folder.
        device: torch device.
        threads: torch threads; with more than one, small tensors get slower, not faster.
        checkpoint_every: steps between two checkpoints.
        restart: "no", "unusable" (start over where no checkpoint is usable) or "all" (start over).
        modules: imported first; they register what the point names.
        data_sha256: what the data must be; None to take them as they are.
        owner: name of the run's owner file; a worker stops when its contents are no longer `token`.
        token: see `owner`.
        wait_s: seconds to wait for the point's lock.
        log: names of the loggers that watch the training.
    """

    point: Point
    folder: Path
    device: str = "cpu"
    threads: int = 1
    checkpoint_every: int = 100
    restart: str = "no"
    modules: tuple[str, ...] = ()
    data_sha256: str | None = None
    owner: str = ".owner"
    token: str = ""
    wait_s: float = 0.0
    log: tuple[str, ...] = ()


@contextlib.contextmanager
def isolated(seed: int, threads: int = 1) -> Iterator[None]:
    """Give the block fresh seeds, a parameter store, threads and double precision; then put all back."""
    import numpy
    import pyro
    import torch

    kept = torch.get_rng_state(), random.getstate(), torch.get_default_dtype(), torch.get_num_threads()
    kept_numpy = numpy.random.get_state()  # noqa: NPY002
    try:
        with pyro.get_param_store().scope(), pyro.validation_enabled(True):
            # Data sets are float64, and so must be what a model creates.
            torch.set_default_dtype(torch.float64)
            torch.set_num_threads(threads)
            pyro.set_rng_seed(seed)
            yield
    finally:
        torch.set_rng_state(kept[0])
        random.setstate(kept[1])
        torch.set_default_dtype(kept[2])
        torch.set_num_threads(kept[3])
        numpy.random.set_state(kept_numpy)  # noqa: NPY002


def compute(point: Point, context: Context, data_sha256: str | None = None) -> Outcome:
    """Run the handler and the metrics of a point in this process; nothing is written.

    Returns:
        The outcome, with the metrics merged into its rows.

    Raises:
        StudyError: if an input is wrong (exit 2).
        Stopped: if ``context.should_stop()`` said so.
    """
    data = load_data(point.data)
    if data_sha256 is not None and data.sha256 != data_sha256:
        raise StudyError(
            f"data {point.data.label}: sha256 {data.sha256[:12]} differs from {data_sha256[:12]}, recorded "
            "when the run began. Restore the data, or choose another --out"
        )
    with isolated(point.seed, context.threads):
        problem = build_problem(point, data)
        outcome: Outcome = inferences.get(point.inference.key)(problem, point.inference.params, context)
        if not outcome.rows:
            outcome.rows.append({})
        for name in point.metrics:
            found = metrics.get(name)(outcome, problem)
            for row in outcome.rows:
                row.update(found)
    outcome.rows[:] = [{key: results.scalar(value) for key, value in row.items()} for row in outcome.rows]
    outcome.extra.setdefault("data_spec", results.data_spec(data))
    return outcome


def run_point(
    task: Task,
    should_stop: Callable[[], bool] = lambda: False,
    report: Callable[[ProgressEvent], object] = lambda event: None,
    notice: Callable[[str], object] = lambda text: None,
) -> Status:
    """Compute one point and write its folder; a failure becomes a status, so that a sweep goes on.

    Args:
        task: the point and where it goes.
        should_stop: asked by the handler after every step.
        report: receives the handler's progress.
        notice: receives warnings for the user.

    Raises:
        StorageError: if the disk refuses (exit 74); that ends the whole run.
    """
    folder = run_folder.point_folder(task.folder, task.point.id)
    if manifest.is_done(folder):
        spoiled = spoiled_by(folder)
        if not spoiled:
            return Status("skipped")
        if task.restart == "no":
            error = StudyError(
                f"point {task.point.id}: {spoiled} changed after the point finished. Restore the files, or "
                "add --restart to compute the point again"
            )
            return Status("failed", describe_error(error), error.exit_code)
        with atomic.storage("remove", folder / manifest.DONE):
            (folder / manifest.DONE).unlink(missing_ok=True)
    atomic.make_folder(folder)
    try:
        with hold(folder / LOCK, f"point {task.point.id} is being computed by another process", task.wait_s):
            if manifest.is_done(folder):
                return Status("skipped")
            return _Attempt(task, folder, report, notice).run(should_stop)
    except BusyError:
        return Status("busy")


def spoiled_by(folder: Path) -> str:
    """Which files of a finished point are missing or changed, as text; "" where all are as they were."""
    try:
        return ", ".join(manifest.differing(folder))
    except StudyError as error:
        return str(error)


class _Attempt:
    """One attempt at a point, with its status file and its checkpoints."""

    def __init__(
        self,
        task: Task,
        folder: Path,
        report: Callable[[ProgressEvent], object],
        notice: Callable[[str], object],
    ) -> None:
        before = run_folder.read_status(folder)
        self.task = task
        self.folder = folder
        self.before_s = float(before.get("seconds") or 0.0)
        self.started = time.monotonic()
        self.report_event = report
        promised = before.get("checkpoint")
        self.status = run_folder.Status(
            folder / "status.json",
            {"point": task.point.id, "checkpoint": promised, "total": None, "seconds": 0.0},
        )
        self.checkpoints = FolderCheckpoints(
            folder / "ckpt",
            digest(task.point.canon),
            notice=lambda text: notice(f"point {task.point.id}: {text}"),
            on_saved=self.saved,
            promised=promised,
        )
        self.notice = notice
        self.loggers = open_loggers(task.log, task.folder, task.point) if task.log else ()

    @property
    def seconds(self) -> float:
        """Seconds of computing, earlier attempts included."""
        return round(self.before_s + time.monotonic() - self.started, 3)

    def saved(self, step: int) -> None:
        """Record a checkpoint, so that its loss is noticed."""
        self.status.set(checkpoint=step, step=step, seconds=self.seconds)

    def report(self, event: ProgressEvent) -> None:
        """Pass progress on and keep the heartbeat."""
        self.status.beat(step=event.step, total=event.total, seconds=self.seconds)
        self.report_event(event._replace(point=self.task.point.id))

    def forget(self) -> None:
        """Drop the checkpoints where the user asked for it."""
        if self.task.restart == "unusable":
            try:
                self.checkpoints.load()
            except CheckpointError:
                self.notice(f"point {self.task.point.id}: starts over, as --restart allows")
            else:
                return
        elif self.task.restart != "all":
            return
        self.checkpoints.clear()
        self.before_s = 0.0
        self.status.record["checkpoint"] = None

    def run(self, should_stop: Callable[[], bool]) -> Status:
        """Compute, write, and say how it ended."""
        task = self.task
        for left in self.folder.glob(f"{atomic.TEMPORARY}*"):  # of a killed attempt: the lock is ours
            with atomic.storage("remove", left):
                left.unlink(missing_ok=True)
        self.forget()
        self.status.set(state="running", step=self.status.record["checkpoint"], seconds=self.before_s)
        context = Context(
            seed=task.point.seed,
            point=task.point,
            budget=task.point.budget,
            device=task.device,
            threads=task.threads,
            checkpoint=self.checkpoints,
            checkpoint_every=task.checkpoint_every,
            should_stop=should_stop,
            report=self.report,
            callbacks=self.loggers,
        )
        try:
            import_all(task.modules)
            with self.gathered_warnings():
                outcome = compute(task.point, context, task.data_sha256)
            if self.loggers and not any(logger.started for logger in self.loggers):
                idle = f"inference {task.point.inference.key!r} takes no steps that --log could write"
                self.notice(f"point {task.point.id}: {idle}")
            results.write_point(self.folder, task.point, outcome, self.seconds)
        except Stopped as stopped:
            self.status.set(state="stopped", step=stopped.step, seconds=self.seconds)
            return Status("stopped")
        except StorageError as error:
            with contextlib.suppress(StorageError):
                self.fail(error)
            raise
        except Exception as error:
            return self.fail(error)
        finally:
            self.close_loggers()
        with atomic.storage("remove", self.folder / ERROR):
            (self.folder / ERROR).unlink(missing_ok=True)
        # The status says done before DONE does: DONE alone counts, and nothing is written after it.
        self.status.set(state="done", seconds=self.seconds)
        manifest.write_manifest(self.folder)
        manifest.write_done(self.folder)
        return Status("done")

    def close_loggers(self) -> None:
        """Close what a failed training left open; a logger that fails here costs no result."""
        for logger in self.loggers:
            try:
                logger.finish(complete=False)
            except StudyError as error:
                self.notice(f"point {self.task.point.id}: {error}")

    @contextlib.contextmanager
    def gathered_warnings(self) -> Iterator[None]:
        """Turn the warnings of libraries into notices, each kind once with its number."""
        with warnings.catch_warnings(record=True) as caught:
            try:
                yield
            finally:
                kinds = Counter((each.category.__name__, str(each.message)[:60]) for each in caught)
                for each in caught:
                    number = kinds.pop((each.category.__name__, str(each.message)[:60]), 0)
                    if number:
                        text = " ".join(str(each.message).split())[:300]
                        times = f" ({number} times)" if number > 1 else ""
                        self.notice(f"point {self.task.point.id}: {each.category.__name__}{times}: {text}")

    def fail(self, error: Exception) -> Status:
        """Record the failure of this point."""
        record = describe_error(error)
        if not isinstance(error, StudyError):
            atomic.write_text(self.folder / ERROR, "".join(traceback.format_exception(error)))
        self.status.set(state="failed", error=record, seconds=self.seconds)
        return Status("failed", record, error.exit_code if isinstance(error, StudyError) else NUMERICAL)


def describe_error(error: BaseException) -> dict[str, str]:
    """Return ``{type, message, site}`` of an error, as status files hold it."""
    site: Any = getattr(error, "site", None)
    if site is None and getattr(error, "sites", None):
        site = ", ".join(map(str, error.sites))  # type: ignore[attr-defined]
    message = str(error) or type(error).__name__
    return {
        "type": type(error).__name__,
        "message": message[:4000],
        "site": "" if site is None else str(site),
    }
