"""The end of a run: the table, the claims, the figures, the report, the manifest, and DONE last."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evidentia.studies.harness.engine.point import isolated
from evidentia.studies.harness.engine.problem import build_problem, load_data
from evidentia.studies.harness.errors import StorageError, StudyError
from evidentia.studies.harness.loggers.choose import FILES as LOGS
from evidentia.studies.harness.reporting.claims import ClaimResult, check_claims, claims_exit_code
from evidentia.studies.harness.reporting.findings import search_sentence
from evidentia.studies.harness.reporting.verdict import Check, Verdict
from evidentia.studies.harness.storage import atomic, manifest, results

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from evidentia.studies.harness.declare.points import Point
    from evidentia.studies.harness.declare.result import Result
    from evidentia.studies.harness.declare.study import Study
    from evidentia.studies.harness.storage.run_folder import Status


def finish(
    folder: Path,
    study: Study,
    result: Result,
    failures: Mapping[str, str],
    status: Status,
    command: str,
    notice: Callable[[str], object],
) -> tuple[Verdict, int]:
    """Write what belongs to the run as a whole.

    Args:
        folder: the run folder.
        study: what was asked.
        result: the table of the finished points, with all points.
        failures: id -> reason of the points that did not finish; with any, DONE is not written.
        status: the run's status file.
        command: the command that repeats the run.
        notice: receives warnings for the user.

    Returns:
        The verdict, and the exit code that the claims lead to.
    """
    points = result.points
    write_table(folder, result.table)
    write_posterior(folder, study, points, result.table)
    if failures:
        claims = [
            ClaimResult(
                claim.text, False, math.nan, "ERROR", f"not checked: {len(failures)} unfinished points"
            )
            for claim in study.expect
        ]
    else:
        claims = check_claims(study.expect, result.table)
    write_figures(folder, study, result, notice)
    conclusions = [] if failures else write_conclusions(folder, study, result, notice)
    conclusions = [*searched(study, result.table), *conclusions]
    checks = [each for point in points for each in read_checks(folder / "points" / point.id)]
    lines = [f"{identity}: {reason}" for identity, reason in failures.items()]
    report, settings = str(folder / "report.html"), settings_of_points(points)
    verdict = Verdict(result.table, checks, claims, report, command, lines, conclusions, settings)
    status.set(state="failed" if failures else "done", verdict=verdict.as_dict())
    write_report(folder, notice)
    if not failures:
        manifest.write_manifest(folder, skip=("points", *LOGS))
        manifest.write_done(folder)
    return verdict, claims_exit_code(claims)


def recall(folder: Path, study: Study, result: Result, command: str) -> Verdict:
    """The verdict of a finished run, put together again from its folder; nothing is written."""
    from evidentia.studies.harness.storage.read_run import read_run

    checks = [each for point in result.points for each in read_checks(folder / "points" / point.id)]
    claims = check_claims(study.expect, result.table)
    report = folder / "report.html"
    shown = str(report) if report.is_file() else ""
    conclusions = [*searched(study, result.table), *read_run(folder).conclusions()]
    settings = settings_of_points(result.points)
    return Verdict(result.table, checks, claims, shown, command, (), conclusions, settings)


def settings_of_points(points: Sequence[Point]) -> list[str]:
    """The columns of a result table that hold settings, in their order."""
    return list(dict.fromkeys(name for point in points for name in point.varied))


def searched(study: Study, table: pd.DataFrame) -> list[str]:
    """What a search found, as a sentence; nothing where none was made or no trial has a value."""
    sentence = "" if study.search is None else search_sentence(table, study.search)
    return [sentence] if sentence else []


def write_table(folder: Path, table: pd.DataFrame) -> None:
    """Write `metrics.csv`, one line per row of the result table."""
    atomic.write_bytes(folder / "metrics.csv", results.table_bytes(table))


def best_point(study: Study, points: Sequence[Point], table: pd.DataFrame) -> str | None:
    """Return the id of the only point, or of the one with the largest first metric.

    The first metric is the first of the study's metrics that is a column, else the log evidence, else the
    bound. Of a search it is the point that is best by the search's own metric and direction.
    """
    if len(points) == 1:
        return points[0].id
    columns, sign = (*study.metrics, "log_evidence", "bound"), 1
    if study.search is not None:
        columns, sign = (study.search.metric,), study.search.sign
    for column in columns:
        if column in table.columns:
            scores = table[["point", column]].dropna()
            if len(scores):
                return str(scores["point"].iloc[int((sign * scores[column].astype(float)).argmax())])
    return None


def write_posterior(folder: Path, study: Study, points: Sequence[Point], table: pd.DataFrame) -> None:
    """Copy the draws of the only or best point to `posterior.nc`, where there are any."""
    identity = best_point(study, points, table)
    source = folder / "points" / str(identity) / "draws.nc"
    if identity is not None and source.is_file():
        with atomic.storage("read", source):
            data = source.read_bytes()
        atomic.write_bytes(folder / "posterior.nc", data)


def write_figures(folder: Path, study: Study, result: Result, notice: Callable[[str], object]) -> None:
    """Write the study's figures as `figures/<name>.png`; the same figure gives the same bytes.

    A figure that cannot be drawn is a notice: it must not cost the numbers.
    """
    from evidentia.studies.harness.figures.base import save_figure

    try:
        figures = dict(study.diagnose(result))
    except Exception as error:
        notice(f"no figures: {type(error).__name__}: {error}")
        figures = {}
    drawn = model_figure(folder, result.points, notice)
    figures |= {} if drawn is None else {"model": drawn}
    if not figures:
        return
    from matplotlib import pyplot

    atomic.make_folder(folder / "figures")
    for name, figure in figures.items():
        try:
            save_figure(figure, folder / "figures" / f"{results.safe_name(name, 'figure')}.png")
        except StorageError:
            raise
        except Exception as error:
            notice(f"figure {name!r} is left out: {type(error).__name__}: {error}")
        finally:
            pyplot.close(figure)


def model_figure(folder: Path, points: Sequence[Point], notice: Callable[[str], object]) -> Figure | None:
    """Write the graph of the first model as `model.dot`, and return its drawing, which needs no `dot`."""
    point = next((each for each in points if each.model is not None), None)
    if point is None:
        return None
    try:
        graph = graph_of(point)
        from evidentia.studies.harness.figures.graphs import draw_graph
        from evidentia.studies.harness.figures.model_graph import dot_text

        figure = draw_graph(graph, title=point.model.label if point.model else "")
        text = dot_text(graph)
    except Exception as error:
        notice(f"no graph of the model: {type(error).__name__}: {error}")
        return None
    atomic.write_text(folder / "model.dot", text)
    return figure


def graph_of(point: Point) -> Any:
    """Return the graph of a point's model: of its family where it has one, else of its sites."""
    from evidentia.studies.harness.figures.model_graph import family_graph, model_graph

    with isolated(point.seed):
        data = load_data(point.data)
        model = build_problem(point, data).model
        if hasattr(model, "family"):
            return family_graph(model.family)
        return model_graph(model, *((data.x,) if data.y is None else (data.x, data.y)))


def write_conclusions(
    folder: Path, study: Study, result: Result, notice: Callable[[str], object]
) -> list[str]:
    """Write and return the study's own sentences as `conclusions.json`; a failure is a notice."""
    try:
        sentences = study.conclude(result)
    except Exception as error:
        notice(f"no conclusions: {type(error).__name__}: {error}")
        return []
    if sentences:
        atomic.write_json(folder / "conclusions.json", {"schema": 1, "sentences": sentences})
    return sentences


def write_report(folder: Path, notice: Callable[[str], object]) -> None:
    """Write `report.html` from the folder alone; one that fails is a notice, since the numbers are safe."""
    try:
        from evidentia.studies.harness.reporting.report import build_report

        build_report(folder)
    except StorageError:
        raise
    except Exception as error:
        notice(f"no report: {type(error).__name__}: {error}. `evidentia report {folder}` builds it later")


def read_checks(folder: Path) -> list[Check]:
    """Return the checks that a finished point recorded."""
    if not manifest.is_done(folder):
        return []
    try:
        record: Any = atomic.read_json(folder / "checks.json")
        return [Check.from_dict(each) for each in record["checks"]]
    except (ValueError, KeyError, TypeError) as error:
        raise StudyError(f"{folder / 'checks.json'} is not a list of checks: {error}") from None
