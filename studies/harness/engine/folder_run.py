"""A run in a folder: take the lock, open the folder, hand out the points, finish or say how to continue."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, final

from evidentia.studies.harness.declare.points import canon
from evidentia.studies.harness.declare.result import Result
from evidentia.studies.harness.engine.command import continuing, merging, repeating
from evidentia.studies.harness.engine.executor import Executor, SerialExecutor, Status
from evidentia.studies.harness.engine.opening import Opening, check_data, decide, settings_of
from evidentia.studies.harness.engine.point import Task, describe_error, run_point, spoiled_by
from evidentia.studies.harness.engine.prepare import Prepared
from evidentia.studies.harness.engine.signals import StopSignals
from evidentia.studies.harness.engine.sweep import Sweep
from evidentia.studies.harness.errors import BAD_INPUT, NUMERICAL, StorageError, StudyError
from evidentia.studies.harness.storage import atomic, environment, manifest, results, run_folder
from evidentia.studies.harness.storage.locks import Shard, hold_run
from evidentia.studies.harness.terminal.progress import ProgressEvent, Reporter

if TYPE_CHECKING:
    from evidentia.studies.harness.declare.points import Point
    from evidentia.studies.harness.declare.study import Study
    from evidentia.studies.harness.engine.source import PointSource


NO_RESTART = (
    "--restart starts unfinished points over (with --resume, only those whose checkpoints are unusable); a "
    "finished point stays. To compute the whole study again, give another --out, or none"
)


class Ended(NamedTuple):
    """How a run ended: its result, its folder, and the exit code of the command."""

    result: Result
    folder: Path
    exit_code: int


@final
class FolderRun:
    """One run in one folder."""

    def __init__(
        self,
        study: Study,
        source: PointSource,
        prepared: Prepared,
        folder: Path,
        shard: Shard | None,
        restart: bool,
        resume: bool,
        show: Reporter,
        command: list[str],
        loggers: tuple[str, ...] = (),
    ) -> None:
        status, log = run_folder.names(shard)
        self.study, self.source, self.prepared, self.folder = study, source, prepared, folder
        self.shard, self.resume, self.restart = shard, resume, restart
        self.show, self.command, self.loggers = show, command, loggers
        self.status = run_folder.Status(
            folder / status, {"study": study.name, "run": folder.name, "verdict": None}
        )
        self.log = run_folder.Log(folder / log)
        self.owner = folder / (".owner" if shard is None else f".owner-{shard.name}")
        self.token = secrets.token_hex(16)
        self.sweep = Sweep(folder, source, shard, show, self.notice, self.ended)
        self.opened = False
        self.shown = False

    def go(self, workers: int | str | None, retries: int) -> Ended:
        """Take the folder, compute what is missing, finish."""
        if manifest.is_done(self.folder) and self.decision().action == "complete":
            return self.complete()
        atomic.make_folder(self.folder, parents=True)
        with hold_run(self.folder, self.shard) as opening:
            decision = self.decision()
            if decision.action == "complete":
                return self.complete()
            self.open(decision)
            opening.close()
            with StopSignals(self.disown) as stop:
                self.compute(stop, workers, retries)
            return self.end(stop)

    def decision(self) -> Opening:
        """Apply the rules to the folder as it is now."""
        join = self.shard is not None
        return decide(
            self.folder, self.study, self.source, resume=self.resume, restart=self.restart, join=join
        )

    def notice(self, text: str) -> None:
        """Tell the user, and keep it."""
        self.show.notice(text)
        if self.opened:
            self.log.write("notice", text=text)

    def complete(self) -> Ended:
        """Leave a finished folder exactly as it is."""
        self.source.recall(self.folder, finished=True)
        for point in self.source.points:
            spoiled = spoiled_by(run_folder.point_folder(self.folder, point.id))
            if spoiled:
                raise StudyError(
                    f"{self.folder}: point {point.id}: {spoiled} changed after the point finished. Restore "
                    "the files, or run again into another --out"
                )
        from evidentia.studies.harness.engine.finish import recall

        result = Result(results.collect(self.folder, self.source.points), self.source.points, {}, self.folder)
        self.show.start({"study": self.study.name, "folder": str(self.folder)}, 0)
        self.show.notice(f"{self.folder} is already complete; nothing was changed")
        if self.restart:
            self.show.notice(NO_RESTART)
        self.show.finish(recall(self.folder, self.study, result, repeating(self.command)))
        return Ended(result, self.folder, 0)

    def open(self, decision: Opening) -> None:
        """Write or check settings and environment; make the folder say that it is running."""
        self.source.recall(self.folder, finished=False)
        now = environment.describe(
            self.command, self.prepared.data, self.study.device, self.study.threads, self.source.packages
        )
        environment_file = self.folder / "environment.json"
        before = run_folder.read_status(self.folder, "environment.json")
        if decision.action != "new":
            check_data(self.folder, before.get("data") or {}, self.prepared.data)
        if decision.action == "grow":
            with atomic.storage("remove", self.folder / manifest.DONE):
                (self.folder / manifest.DONE).unlink(missing_ok=True)
                (self.folder / manifest.MANIFEST).unlink(missing_ok=True)
        if decision.action in ("new", "grow"):
            run_folder.write_config(self.folder, settings_of(self.study))
        atomic.make_folder(self.folder / "points")
        if not before:
            atomic.write_json(environment_file, now)
        elif decision.action == "grow":
            atomic.write_json(environment_file, {**before, "data": {**before.get("data", {}), **now["data"]}})
        atomic.write_text(self.owner, self.token)
        self.opened = True
        total = self.sweep.total
        header = {
            "study": self.study.name,
            "run": self.folder.name,
            "folder": str(self.folder),
            "device": self.study.device,
            "seed": str(self.study.seed),
            "points": str(total),
        }
        self.show.start(header, total)
        self.shown = True
        event = "started" if decision.action == "new" else "resumed"
        self.log.write(event, action=decision.action, command=now["command"], pid=os.getpid())
        for text in decision.notices:
            self.notice(text)
        for line in environment.differences(before, now) if before else []:
            self.notice(f"the environment differs from the recorded one, so bytes may differ: {line}")
        self.beat(state="running", error=None, verdict=None)

    def beat(self, **changes: Any) -> None:
        """Write the run's status with the number of points in each state."""
        done = sum(manifest.is_done(self.folder / "points" / point.id) for point in self.sweep.mine)
        counts = {"total": self.sweep.total, "done": done, "failed": len(self.sweep.failures)}
        self.status.set(points=counts, **changes)

    def disown(self, signal_name: str = "") -> None:
        """Let go of the owner file, so that every worker stops after its step."""
        del signal_name
        with contextlib.suppress(OSError):
            self.owner.unlink()

    def task(self, point: Point) -> Task:
        """Return what a process needs to compute ``point``."""
        restart = "no" if not self.restart else "unusable" if self.resume else "all"
        return Task(
            point=point,
            folder=self.folder,
            device=self.study.device,
            threads=self.study.threads,
            checkpoint_every=self.study.checkpoint_every,
            restart=restart,
            modules=self.prepared.modules,
            data_sha256=self.prepared.data[canon(point.data)],
            owner=self.owner.name,
            token=self.token,
            # Only this run may write here, so who still holds a point is a worker that has yet to stop.
            wait_s=30.0 if self.shard is None else 0.0,
            log=self.loggers,
        )

    def executor(self, stop: StopSignals, workers: int | str | None, retries: int) -> Executor:
        """Return the executor that was asked for."""
        if workers is not None:
            from evidentia.studies.harness.engine.dask_executor import DaskExecutor, parse_workers

            if "__main__" in self.prepared.modules:
                raise StudyError(
                    "--workers: something the study names is registered in the script itself, which no "
                    "worker can import. Move it into a module"
                )
            return DaskExecutor(parse_workers(workers) or 1, self.task, retries, lambda: bool(stop))

        def here(point: Point) -> Status:
            task = self.task(point)._replace(modules=())
            return run_point(task, lambda: bool(stop), self.update, self.notice)

        return SerialExecutor(here, lambda: bool(stop))

    def update(self, event: ProgressEvent) -> None:
        """Pass progress on and keep the run's heartbeat."""
        self.show.update(event)
        self.status.beat(step=event.step)

    def compute(self, stop: StopSignals, workers: int | str | None, retries: int) -> None:
        """Hand out the points that are not done, and record how each ends."""
        executor = self.executor(stop, workers, retries)
        try:
            self.sweep.run(executor)
        except StudyError as error:
            with contextlib.suppress(StorageError):
                self.status.set(state="failed", error=describe_error(error))
            raise
        finally:
            self.disown()
            executor.close()

    def ended(self, identity: str, status: Status) -> None:
        """Keep how one point ended."""
        self.log.write("point", id=identity, state=status.state, error=status.error)
        self.beat(state="running")

    def end(self, stop: StopSignals) -> Ended:
        """Finish, or say how to continue."""
        failed, places = self.sweep.failures, {p.id: self.folder / "points" / p.id for p in self.sweep.mine}
        undone = [p for p in self.sweep.mine if p.id in failed or not manifest.is_done(places[p.id])]
        result = Result(results.collect(self.folder, self.source.points), self.source.points, {}, self.folder)
        code = NUMERICAL if self.sweep.codes - {BAD_INPUT} else max(self.sweep.codes, default=0)
        waiting = self.source.waiting
        if stop and (undone or waiting):
            self.stopped(signal.Signals(stop.number or 0).name, len(undone) + waiting)
            return Ended(result, self.folder, stop.exit_code)
        if self.shard is not None:
            self.beat(state="failed" if self.sweep.failures else "done")
            for identity, reason in self.sweep.failures.items():
                self.notice(f"point {identity} failed: {reason}")
            merge = merging(self.command, self.folder)
            self.notice(f"this shard is finished; when all {self.shard.parts} are, merge them with: {merge}")
            return Ended(result, self.folder, code)
        from evidentia.studies.harness.engine.finish import finish

        failures = {p.id: self.sweep.failures.get(p.id, "not computed") for p in undone}
        self.beat(state="running")
        repeat = repeating(self.command)
        verdict, claims = finish(self.folder, self.study, result, failures, self.status, repeat, self.notice)
        self.show.finish(verdict)
        self.shown = False
        return Ended(result, self.folder, code or (NUMERICAL if failures else claims))

    def stopped(self, cause: str, undone: int) -> None:
        """Record that the run was stopped, and say how to continue."""
        self.beat(state="stopped")
        self.log.write("stopped", cause=cause)
        total = self.sweep.total
        self.notice(
            f"stopped by {cause}; {undone} of {total} points are unfinished. Continue with: "
            f"{continuing(self.command, self.folder)}"
        )

    def interrupted(self) -> None:
        """Say how to continue after a second SIGINT; the last checkpoint stands."""
        if self.opened:
            with contextlib.suppress(StorageError):
                self.status.set(state="stopped")
        self.show.notice(f"interrupted at once. Continue with: {continuing(self.command, self.folder)}")

    def close(self) -> None:
        """Close the display, however the run ended."""
        if self.shown:
            self.shown = False
            self.show.finish(None)
