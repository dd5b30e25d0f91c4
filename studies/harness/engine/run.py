"""The driver: validate everything, then run in a folder, or in memory where no folder is asked for."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, final

from evidentia.studies.harness.declare.points import canon, digest
from evidentia.studies.harness.declare.result import Result
from evidentia.studies.harness.engine.command import this_command
from evidentia.studies.harness.engine.folder_run import FolderRun
from evidentia.studies.harness.engine.opening import decide, settings_of
from evidentia.studies.harness.engine.outcome import Context
from evidentia.studies.harness.engine.point import compute
from evidentia.studies.harness.engine.prepare import prepare
from evidentia.studies.harness.engine.source import PointSource, source_of
from evidentia.studies.harness.errors import INTERRUPTED, StudyError
from evidentia.studies.harness.loggers.choose import check_loggers
from evidentia.studies.harness.storage import results, run_folder
from evidentia.studies.harness.storage.locks import Shard
from evidentia.studies.harness.terminal.progress import ProgressEvent, Reporter

if TYPE_CHECKING:
    from evidentia.studies.harness.declare.points import Point
    from evidentia.studies.harness.declare.study import Study
    from evidentia.studies.harness.reporting.verdict import Verdict


@final
class RunResult(NamedTuple):
    """What a run gave: the result, its folder (None in memory), and the exit code of the command."""

    result: Result
    folder: Path | None
    exit_code: int


@final
class _Silent:
    """A reporter that says nothing."""

    def start(self, header: Mapping[str, str], total_points: int) -> None:
        pass

    def update(self, event: ProgressEvent) -> None:
        pass

    def notice(self, message: str) -> None:
        pass

    def finish(self, verdict: Verdict | None) -> None:
        pass


def run_study(
    study: Study,
    *,
    out: Path | None = None,
    runs_root: Path | None = None,
    resume: bool = False,
    restart: bool = False,
    workers: int | str | None = None,
    retries: int = 0,
    shard: Shard | str | None = None,
    yes: bool = False,
    dry_run: bool = False,
    reporter: Reporter | None = None,
    command: Sequence[str] | None = None,
    log: Sequence[str] = (),
) -> RunResult:
    """Run a study.

    Args:
        study: what to run.
        out: the run folder; None for a new one below ``runs_root``.
        runs_root: where new run folders go. With neither, the points are computed in this process and
            nothing is
            written.
        resume: continue an unfinished run, each point from its newest usable checkpoint.
        restart: start unfinished points over; with ``resume`` only those whose checkpoints are all unusable.
        workers: number of worker processes, or ``tcp://host:port`` of a Dask scheduler; None computes here.
        retries: how often the machinery of the workers may fail for one point.
        shard: ``i/n``, to compute only that part of the points; a later run without it merges all parts.
        yes: confirm a very large grid.
        dry_run: validate everything, write nothing.
        reporter: shows progress and the verdict; None is silent.
        command: the command line, for the lines that repeat or continue the run; the process's own by
            default.
        log: names of loggers that watch every training, "tensorboard" or "mlflow".

    Returns:
        Result, folder and exit code: 0, 1 a claim failed, 2 bad input, 3 a point failed, 130 or 143 after a
        signal.

    Raises:
        StudyError: if an input is wrong (exit 2) or the disk refuses (`StorageError`, exit 74). In
            memory, whatever
            a point raises.
    """
    study.confirm(yes or dry_run)
    part = Shard.parse(shard) if isinstance(shard, str) else shard
    loggers = check_loggers(log)
    source = source_of(study, parallel=workers is not None or part is not None)
    points = source.points
    prepared = prepare(study, study.points())
    show = _Silent() if reporter is None else reporter
    if out is None and runs_root is None and not dry_run:
        if workers is not None or part is not None or resume or restart or loggers:
            raise StudyError("workers, shard, resume, restart and log need a folder: give out=")
        return RunResult(_in_memory(study, source, show), None, 0)
    folder = _folder(study, out, runs_root)
    if folder is not None:
        decide(folder, study, source, resume=resume or dry_run, restart=restart, join=part is not None)
    if dry_run or folder is None:
        return RunResult(Result(results.table_of((), {}), points), None, 0)
    if part is not None and part.part >= len(points):
        return _empty_shard(study, points, part, folder, show)
    words = list(command) if command is not None else this_command(study.name, study.module)
    run = FolderRun(study, source, prepared, folder, part, restart, resume, show, words, loggers)
    try:
        return RunResult(*run.go(workers, retries))
    except KeyboardInterrupt:
        run.interrupted()
        return RunResult(Result(results.table_of((), {}), source.points, folder=folder), folder, INTERRUPTED)
    finally:
        run.close()


def _empty_shard(
    study: Study, points: tuple[Point, ...], part: Shard, folder: Path, show: Reporter
) -> RunResult:
    """Say that this part of a sweep has no point; nothing is written."""
    show.start({"study": study.name, "folder": str(folder)}, 0)
    show.notice(
        f"--shard {part.part}/{part.parts} has no point: the study has {len(points)}, so shards from "
        f"{len(points)} on are empty. Nothing to do"
    )
    show.finish(None)
    return RunResult(Result(results.table_of((), {}), points, folder=folder), folder, 0)


def _folder(study: Study, out: Path | None, runs_root: Path | None) -> Path | None:
    if out is not None:
        return run_folder.check_out(Path(out))
    if runs_root is None:
        return None
    fresh = run_folder.new_path(Path(runs_root), study.name, digest(canon(settings_of(study))))
    return run_folder.check_out(fresh, Path(runs_root))


def _in_memory(study: Study, source: PointSource, show: Reporter) -> Result:
    """Compute the points here, one after the other; the first failure is raised."""
    outcomes: dict[str, Any] = {}
    rows: dict[str, list[dict[str, Any]]] = {}
    for point in (each for batch in source.rounds(lambda point: rows[point.id]) for each in batch):
        if point.id in outcomes:  # a search may ask for the same settings again
            continue

        def report(event: ProgressEvent, identity: str = point.id) -> None:
            show.update(event._replace(point=identity))

        context = Context(
            seed=point.seed,
            point=point,
            budget=point.budget,
            device=study.device,
            threads=study.threads,
            checkpoint_every=study.checkpoint_every,
            report=report,
        )
        started = time.monotonic()
        outcomes[point.id] = outcome = compute(point, context)
        seconds = round(time.monotonic() - started, 3)
        rows[point.id] = [
            {"point": point.id, **row, "seconds": row.get("seconds", seconds)} for row in outcome.rows
        ]
    return Result(results.table_of(source.points, rows), source.points, outcomes)
