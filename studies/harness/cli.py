"""The command ``evidentia``: each command reads its options, calls one function and prints the result."""

import contextlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from evidentia.studies.harness.errors import StudyError
from evidentia.studies.harness.terminal.arguments import (
    Json,
    NoPlugins,
    RunFolder,
    Seed,
    Set,
    Smoke,
    StudyName,
    path,
    resolve,
)
from evidentia.studies.harness.terminal.arguments import workers as read_workers
from evidentia.studies.harness.terminal.faults import Counted, call

RUNS = Path("runs")

app = typer.Typer(
    help="Which structure do the data support, and how sure are we?",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.command("list")
def list_studies(
    tag: Annotated[str | None, typer.Option(help="only studies with this tag")] = None,
    as_json: Json = False,
    no_plugins: NoPlugins = False,
) -> None:
    """List the studies: name, question, number of points, expected minutes."""
    from evidentia.studies.harness.terminal import listing

    rows, notices = listing.study_rows(not no_plugins, tag)
    for notice in notices:
        _warn(notice)
    if as_json:
        _say(listing.document([row._asdict() for row in rows]))
        return
    table = [
        (
            row.name,
            row.points,
            row.minutes,
            row.question or (f"(plugin {row.distribution})" if row.distribution else None),
        )
        for row in rows
    ]
    _say(listing.text_table(("name", "points", "minutes", "question"), table))


@app.command()
def show(
    study: StudyName,
    overrides: Set = None,
    smoke: Smoke = False,
    seed: Seed = None,
    as_json: Json = False,
    no_plugins: NoPlugins = False,
) -> None:
    """Show the resolved settings with type, default and bound, and the parts of the model as text."""
    from evidentia.studies.harness.terminal import listing

    module, config, declared = resolve(study, overrides, smoke, seed, no_plugins)
    rows = list(listing.settings(config))
    if as_json:
        _say(
            listing.document(
                {
                    "study": declared.name,
                    "question": module.question,
                    "distribution": module.source.distribution,
                    "points": declared.count(),
                    "settings": [row._asdict() for row in rows],
                    "resolved": declared.model_dump(mode="json"),
                }
            )
        )
        return
    origin = f" (plugin {module.source.distribution})" if module.source.distribution else ""
    _say(f"{declared.name}{origin}: {module.question}\n")
    _say(listing.text_table(("key", "value", "type", "default", "bound", "meaning"), rows) + "\n")
    _say("\n".join([*listing.graph(declared), listing.points_text(declared)]))
    try:
        if lines := listing.sites(declared):
            _say("\n" + lines)
    except Exception as error:  # the settings are worth showing also where the model cannot be built
        reason = str(error).partition("\n")[0]
        _warn(f"no graph of the model: {reason}")


@app.command()
def run(
    study: StudyName,
    overrides: Set = None,
    seed: Seed = None,
    smoke: Smoke = False,
    out: Annotated[
        str | None, typer.Option(help="folder of the run; runs/<study>/<stamp>-<id> if not given")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="go on with the unfinished run in --out")] = False,
    restart: Annotated[
        bool, typer.Option("--restart", help="start points over whose checkpoints are unusable")
    ] = False,
    workers: Annotated[str | None, typer.Option(help="number of processes, or tcp://host:port")] = None,
    retries: Annotated[
        int, typer.Option(min=0, max=100, help="for faults of the machinery, not of numbers")
    ] = 0,
    shard: Annotated[str | None, typer.Option(metavar="I/N", help="only part I of N, counted from 0")] = None,
    log: Annotated[
        list[str] | None,
        typer.Option(
            "--log", metavar="LOGGER", help="also write the training to tensorboard or mlflow; repeatable"
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="confirm a very large grid")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="validate, print points and cost, write nothing")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="only the verdict")] = False,
    as_json: Json = False,
    no_plugins: NoPlugins = False,
) -> None:
    """Run a study; exit 0, or 1 if a claim failed, 2 bad input, 3 numbers failed, 74 disk, 130/143 signal."""
    if quiet and as_json:
        raise StudyError("--quiet and --json exclude each other. Give one of them.")
    if (resume or restart) and out is None:
        raise StudyError("--resume and --restart continue a run: say which, with --out FOLDER.")
    crew, folder = read_workers(workers), None if out is None else path(out, "--out")
    module, _, declared = resolve(study, overrides, smoke, seed, no_plugins)
    declared.confirm(yes)

    from evidentia.studies.harness.engine.run import run_study
    from evidentia.studies.harness.terminal.progress import make_reporter

    reporter = make_reporter(sys.stdout, sys.stderr, quiet=quiet, as_json=as_json)
    done = run_study(
        declared,
        out=folder,
        runs_root=RUNS,
        resume=resume,
        restart=restart,
        workers=crew,
        retries=retries,
        shard=shard,
        yes=yes,
        dry_run=dry_run,
        reporter=reporter,
        log=log or (),
    )
    if dry_run:
        _print_plan(module, declared, as_json)
    raise typer.Exit(done.exit_code)


@app.command()
def report(
    folder: RunFolder,
    open_: Annotated[bool, typer.Option("--open", help="show it in the browser")] = False,
) -> None:
    """Build report.html again from the folder of a run alone; the same bytes each time."""
    place = path(folder, "RUN")
    from evidentia.studies.harness.reporting.report import build_report

    page = str(build_report(place))
    _say(page)
    if open_:
        typer.launch(page)


@app.command()
def compare(
    runs: Annotated[list[str], typer.Argument(help="folders of runs", show_default=False)],
    csv: Annotated[bool, typer.Option("--csv", help="comma-separated values")] = False,
) -> None:
    """Compare models by log evidence, with standard errors and LOO beside it; one table per data set."""
    places = [path(each, "RUN") for each in runs]
    from evidentia.studies.harness.reporting.compare_groups import compare_runs

    _say(compare_runs(places, csv=csv).rstrip("\n"))


@app.command()
def export(
    folder: RunFolder,
    to: Annotated[
        str, typer.Option("--to", metavar="FORMAT", help="parquet, zarr or graphviz", show_default=False)
    ],
    out: Annotated[str, typer.Option(help="a new folder", show_default=False)],
    point: Annotated[str | None, typer.Argument(help="id of one point, or its beginning")] = None,
) -> None:
    """Write a run for other programs: tables as Parquet, draws as zarr, the model's graph as DOT source."""
    place, target = path(folder, "RUN"), path(out, "--out")
    from evidentia.studies.harness.formats.export import export_run

    written = export_run(place, to, target, point)
    for notice in written.notices:
        _warn(notice)
    _say("\n".join(map(str, written.paths)))


@app.command()
def status(folder: RunFolder) -> None:
    """Show the state of every point of a run."""
    place = path(folder, "RUN")
    from evidentia.studies.harness.reporting.status import status_table

    _say(status_table(place))


@app.command()
def clean(
    older_than: Annotated[
        str, typer.Option("--older-than", metavar="AGE", help="30s, 10m, 12h, 7d or 2w", show_default=False)
    ],
    root: Annotated[str, typer.Argument(help="folder of a run, or of all runs")] = str(RUNS),
) -> None:
    """Remove temporary files that killed runs left behind."""
    from evidentia.studies.harness.storage.clean import clean as remove
    from evidentia.studies.harness.storage.clean import parse_age

    age, place = parse_age(older_than), path(root, "ROOT")
    removed = remove(place, age) if place.exists() or place != RUNS else []
    for each in removed:
        _say(str(each))
    _say(f"{len(removed)} temporary file{'s' * (len(removed) != 1)} removed")


@app.command()
def doctor() -> None:
    """Show versions, threads, optional packages, the dot binary and free disk space."""
    from evidentia.studies.harness.reporting.doctor import doctor_report

    _say(doctor_report())


def _print_plan(module: Any, study: Any, as_json: bool) -> None:
    from evidentia.studies.harness.terminal import listing

    planned = listing.plan(module, study)
    if as_json:
        _say(listing.document(planned))
        return
    _say(f"{study.name}: {listing.points_text(study)}, nothing written")
    _say(f"expected minutes of the full study: {module.config.minutes:g}")
    if study.search is not None:
        _say("\n".join(listing.search_lines(study.search)))
        return
    columns = list(planned["first"][0])
    _say(listing.text_table(columns, [[row.get(name) for name in columns] for row in planned["first"]]))
    if planned["points"] > len(planned["first"]):
        _say(f"… and {planned['points'] - len(planned['first']):,} more")


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")


def _warn(text: str) -> None:
    sys.stderr.write(f"notice: {text}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; every fault is one message on stderr.

    With ``--json`` a fault is also the one document on stdout: ``{"error": message, "exit_code": code}``.

    Args:
        arguments: words after ``evidentia``; the process's own where None.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    stdout = Counted(sys.stdout)
    with contextlib.redirect_stdout(stdout):
        code, message = call(app, words or ["--help"])
        if message is not None:
            if "--json" in words and not stdout.used:
                _say(json.dumps({"error": message, "exit_code": code}, ensure_ascii=False))
            sys.stdout.flush()
            sys.stderr.write(f"error: {message}\n")
    return code


if __name__ == "__main__":
    raise SystemExit(main())
