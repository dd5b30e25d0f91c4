"""`report.html`: one self-contained page, made from the run folder alone, with the same bytes each time.

Nothing is loaded from elsewhere and nothing runs: images are inlined, every text is escaped, and a content
policy in the page forbids scripts. Times and heartbeats are left out, so only new results change a report.
"""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from evidentia.studies.harness.declare.config import revalidate
from evidentia.studies.harness.errors import StudyError, shorten
from evidentia.studies.harness.reporting.claims import ClaimResult, check_claims, describe
from evidentia.studies.harness.reporting.findings import (
    evidence_sentence,
    search_sentence,
    sentences,
    winners_sentence,
)
from evidentia.studies.harness.reporting.report_images import figure_view
from evidentia.studies.harness.reporting.report_tables import (
    checks_view,
    inclusion_views,
    metrics_views,
    sections,
    table_views,
)
from evidentia.studies.harness.reporting.status import planned_points
from evidentia.studies.harness.reporting.verdict import worst_checks
from evidentia.studies.harness.search.spec import SearchSpec
from evidentia.studies.harness.storage import atomic
from evidentia.studies.harness.storage.read_run import PointView, RunView, read_run, words
from evidentia.studies.harness.terminal.present import label

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["build_report", "render_report"]

REPORT = "report.html"
POINTS = 24
NARRATED = 6
"""More points than this are counted in the verdict and not told one by one."""
TOLD = ("name", "description", "expect")
"""Settings that the page shows elsewhere."""
ENVIRONMENT = ("python", "machine", "cpu", "cpu_capability", "threads", "dtype", "device")


def build_report(folder: Path) -> Path:
    """Build `report.html` of a run folder from what lies in it, and return its path.

    Raises:
        StudyError: the folder is no run folder, or a file in it is not what its name says (exit 2).
        StorageError: the disk refuses (exit 74).
    """
    path = Path(folder) / REPORT
    atomic.write_text(path, render_report(read_run(Path(folder))))
    return path


def render_report(run: RunView) -> str:
    """The page as text.

    Raises:
        StudyError: a file of the run is not what its name says (exit 2).
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["minus"] = minus
    return environment.get_template(REPORT).render(page(run)).strip() + "\n"


def page(run: RunView) -> dict[str, Any]:
    """Everything the template shows."""
    table = run.table()
    points = run.points
    checks = [(point, check) for point in points for check in point.checks()]
    tables = {point.id: point.tables() for point in points[:POINTS]}
    combined, told = inclusion_views(points, tables)
    description = str(run.config.get("description") or "").strip()
    question, _, background = description.partition("\n")
    return {
        "name": str(run.config["name"]),
        "question": question,
        "background": background.strip(),
        "findings": list(findings(run, table, tables)),
        "unfinished": [
            (point.label, point.state, error_of(point)) for point in points if point.state != "done"
        ],
        "num_points": max(len(points), planned_points(run)),
        "num_done": sum(point.done for point in points),
        "claims": claims_of(run, table),
        "metrics": list(metrics_views(table, {name for point in points for name in point.varied})),
        "figures": [figure_view(path) for path in run.figures()],
        "run_tables": [
            view for name, each in run.tables().items() for view in table_views(name, each, "tables")
        ],
        "inclusion": combined,
        "sections": list(sections(points, tables, told)),
        "hidden_points": max(len(points) - POINTS, 0),
        "attention": [item.sentence(count) for item, count in worst_checks(each for _, each in checks)],
        "num_failed": sum(not check.passed for _, check in checks),
        "checks": checks_view(checks),
        "num_checks": len(checks),
        "settings": list(flatten({k: v for k, v in run.config.items() if k not in TOLD})),
        "environment": environment_rows(run.environment),
        "data": data_rows(run.environment),
        "command": command_of(run),
        "run_id": run.folder.name,
    }


def findings(
    run: RunView, table: pd.DataFrame | None, tables: Mapping[str, Mapping[str, pd.DataFrame]]
) -> Iterator[tuple[str, list[str]]]:
    """What the evidence supports: (where, sentences); the study's own words where it has them."""
    search = run.config.get("search")
    best = "" if search is None or table is None else search_sentence(table, read_search(run, search))
    if best:
        yield ("", [best])
    own = run.conclusions()
    if own:
        yield ("", own)
        return
    told = False
    stories = [(point.label, tables.get(point.id, {})) for point in run.points]
    stories = [(where, each) for where, each in stories if any(True for _ in sentences(each))]
    if len(stories) > NARRATED:
        told = True
        yield ("", [winners_sentence([each for _, each in stories])])
    else:
        for where, each in stories:
            told = True
            yield (where if len(run.points) > 1 else "", list(sentences(each)))
    run_lines = list(sentences(run.tables()))
    if run_lines:
        told = True
        yield ("", run_lines)
    if not told and search is None and table is not None and len(table):
        line = evidence_sentence(table, row_names(table, run.points))
        if line:
            yield ("", [line])


def read_search(run: RunView, record: Any) -> SearchSpec:
    """The search that the settings of a run declare.

    Raises:
        StudyError: the settings hold something else (exit 2).
    """
    if not isinstance(record, Mapping):
        raise StudyError(f"{run.folder}: search: given {shorten(record)}, expected a mapping")
    return revalidate(SearchSpec, record, f"{run.folder}: search")


def row_names(table: pd.DataFrame, points: Sequence[PointView]) -> list[str]:
    """A name for each row of the result table: its structure, else the label of its point."""
    labels = {point.id: point.label for point in points}
    names = []
    for number, row in enumerate(table.to_dict("records"), 1):
        point = labels.get(str(row.get("point")), f"row {number}")
        structure = row.get("structure")
        if not isinstance(structure, str):
            names.append(point)
        else:
            names.append(f"{structure} ({point})" if len(labels) > 1 else structure)
    return names


def claims_of(run: RunView, table: pd.DataFrame | None) -> list[ClaimResult]:
    """The study's claims held against the table again; nothing is taken from the status file."""
    import pandas as pd

    missing = max(len(run.points), planned_points(run)) - sum(point.done for point in run.points)
    defaults: dict[str, Any] = {
        "where": {},
        "reduce": "all",
        "value": None,
        "than": None,
        "tolerance": 0.0,
        "text": "",
    }
    declared = run.config.get("expect") or ()
    claims = [
        SimpleNamespace(**{"metric": "", "op": "", **defaults, **claim})
        for claim in declared
        if isinstance(claim, Mapping)
    ]
    if missing and claims:
        why = f"not checked: {missing} unfinished point{'s' if missing > 1 else ''}"
        return [ClaimResult(claim.text or describe(claim), False, math.nan, "ERROR", why) for claim in claims]
    return check_claims(claims, pd.DataFrame() if table is None else table)


def error_of(point: PointView) -> str:
    """The error of a point, as its status file tells it."""
    error = point.status.get("error")
    return str(error.get("message", "")) if isinstance(error, Mapping) else ""


def flatten(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Dotted path and value of every setting; what is empty is left out."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from flatten(inner, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list) and any(isinstance(inner, Mapping) for inner in value):
        for number, inner in enumerate(value):
            yield from flatten(inner, f"{path}[{number}]")
    elif value not in (None, "", [], {}):
        yield (path, "; ".join(map(str, value)) if isinstance(value, list) else str(value))


def environment_rows(environment: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Versions, machine and source of the run."""
    rows = [(label(key), str(environment[key])) for key in ENVIRONMENT if environment.get(key) is not None]
    versions = environment.get("versions")
    if isinstance(versions, Mapping):
        rows += [(str(name), str(version)) for name, version in versions.items() if version]
    git = environment.get("git")
    if isinstance(git, Mapping) and git.get("commit"):
        rows.append(("source", f"{git['commit']}{' with uncommitted changes' if git.get('dirty') else ''}"))
    return rows


def data_rows(environment: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Data set -> sha256."""
    data = environment.get("data")
    if not isinstance(data, Mapping):
        return []
    return [(data_name(str(name)), str(sha)) for name, sha in data.items()]


def data_name(settings: str) -> str:
    """The canonical settings of a data set in words."""
    try:
        return words(json.loads(settings))
    except ValueError:
        return settings


def command_of(run: RunView) -> str:
    """The command that repeats the run."""
    verdict = run.status.get("verdict")
    if isinstance(verdict, Mapping) and verdict.get("command"):
        return str(verdict["command"])
    command = run.environment.get("command")
    if isinstance(command, list) and command:
        return shlex.join(map(str, command))
    return f"evidentia run {run.config['name']}"


def minus(text: str) -> str:
    """A number with a true minus sign."""
    return re.sub(r"(?<![\w.])-(?=\d|inf)", "−", text)
