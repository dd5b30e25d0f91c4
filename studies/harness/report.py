"""`report.html`: one self-contained page, made from the run folder alone, with the same bytes each time.

Nothing is loaded from elsewhere and nothing runs: images are inlined, every text is escaped, and a content
policy in the page forbids scripts. Times and heartbeats are left out, so only new results change a report.
"""

from __future__ import annotations

import html
import json
import math
import re
import shlex
import struct
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple, final

from evidentia.studies.harness import atomic
from evidentia.studies.harness.claims import ClaimResult, check_claims, describe
from evidentia.studies.harness.findings import (
    evidence_sentence,
    is_inclusion,
    is_structures,
    sentences,
    winners_sentence,
)
from evidentia.studies.harness.present import Shown, label, show_table
from evidentia.studies.harness.read_run import PointView, RunView, read_image, read_run, words
from evidentia.studies.harness.status import planned_points
from evidentia.studies.harness.verdict import RULES, Check, failed_checks

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["build_report", "render_report"]

REPORT = "report.html"
TOP, METRIC_ROWS, POINTS = 10, 40, 24
NARRATED = 6
"""More points than this are counted in the verdict and not told one by one."""
INCH, DENSE = 110, 1.45
"""CSS pixels for an inch of a figure, so that its text has the page's size; pixels for each else."""
SHOWN_FIRST = (
    "structure",
    "op",
    "probability",
    "probability_se",
    "log_evidence",
    "standard_error",
    "kind",
    "num_parameters",
    "elpd_loo",
    "elpd_loo_se",
)
TOLD = ("name", "description", "expect")
"""Settings that the page shows elsewhere."""
ENVIRONMENT = ("python", "machine", "cpu", "cpu_capability", "threads", "dtype", "device")


@final
class TableView(NamedTuple):
    """A table of the page with its caption."""

    caption: str
    shown: Shown
    source: str


@final
class FigureView(NamedTuple):
    """A figure of the page, inlined."""

    uri: str
    caption: str
    width: int | None
    """In CSS pixels; None leaves it to the image."""


@final
class Section(NamedTuple):
    """The tables of one point."""

    title: str
    tables: Sequence[TableView]


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
    combined = inclusion_view(points, tables)
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
        "metrics": metrics_view(table, points),
        "figures": [figure_view(path) for path in run.figures()],
        "run_tables": [
            view for name, each in run.tables().items() for view in table_views(name, each, "tables")
        ],
        "inclusion": combined,
        "sections": list(sections(points, tables, skip_inclusion=combined is not None)),
        "hidden_points": max(len(points) - POINTS, 0),
        "attention": [(point.label, check) for point, check in checks if check in failed_checks([check])],
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
    """What the evidence supports: (where, sentences)."""
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
    if not told and table is not None and len(table):
        line = evidence_sentence(table, row_names(table, run.points))
        if line:
            yield ("", [line])


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


def metrics_view(table: pd.DataFrame | None, points: Sequence[PointView]) -> TableView | None:
    """The result table, without the ids where the rows can be told apart by their settings."""
    if table is None or not len(table):
        return None
    kept = table.dropna(axis="columns", how="all")
    named = any(point.varied for point in points) or "structure" in kept.columns or len(kept) == 1
    if named and "point" in kept.columns:
        kept = kept.drop(columns="point")
    return TableView(
        rows_note("One row for each result", kept, METRIC_ROWS), show_table(kept, METRIC_ROWS), "metrics.csv"
    )


def sections(
    points: Sequence[PointView], tables: Mapping[str, Mapping[str, pd.DataFrame]], skip_inclusion: bool
) -> Iterator[Section]:
    """The tables of each point that has some; inclusion is left out where it is shown side by side."""
    for point in points:
        views = [
            view
            for name, table in sorted(tables.get(point.id, {}).items(), key=_rank)
            if not (skip_inclusion and is_inclusion(table))
            for view in table_views(name, table, f"points/{point.id}/tables")
        ]
        if views:
            yield Section(point.label if len(points) > 1 else "", views)


def _rank(item: tuple[str, pd.DataFrame]) -> int:
    return 0 if is_structures(item[1]) else (1 if is_inclusion(item[1]) else 2)


def inclusion_view(
    points: Sequence[PointView], tables: Mapping[str, Mapping[str, pd.DataFrame]]
) -> TableView | None:
    """Inclusion probabilities of a few points side by side, if they speak of the same operations."""
    found = [
        (point, table)
        for point in points
        for table in tables.get(point.id, {}).values()
        if is_inclusion(table)
    ]
    if not 2 <= len(found) <= NARRATED or len({tuple(table["op"]) for _, table in found}) > 1:
        return None
    columns: dict[str, list[str]] = {"op": [str(op) for op in found[0][1]["op"]]}
    for point, table in found:
        shown = show_table(table[[c for c in ("probability", "standard_error") if c in table.columns]])
        only = [str(value) for value in point.varied.values()]
        heading = only[0] if len(only) == 1 else point.label
        columns[heading if heading not in columns else point.id] = [row[0] for row in shown.rows]
    numeric = (False, *[True] * (len(columns) - 1))
    rows = tuple(zip(*columns.values(), strict=True))
    return TableView(
        "Posterior inclusion probability", Shown(tuple(columns), rows, numeric), "points/*/tables"
    )


def table_views(name: str, table: pd.DataFrame, place: str) -> Iterator[TableView]:
    """The top of one table, most probable rows first where it has probabilities."""
    if not len(table):
        return
    title = label(name).capitalize()
    if is_structures(table):
        table = table.sort_values("probability", ascending=False, kind="stable")
    top = len(table) if is_inclusion(table) and len(table) <= 64 else TOP
    kept = table.dropna(axis="columns", how="all")
    if is_structures(table) or is_inclusion(table):
        kept = kept[[column for column in SHOWN_FIRST if column in kept.columns]]
    yield TableView(rows_note(title, kept, top), show_table(kept, top), f"{place}/{name}.csv")


def rows_note(title: str, table: pd.DataFrame, top: int) -> str:
    """The title, saying how much of the table is shown."""
    return title if len(table) <= top else f"{title}: the first {top} of {len(table):,} rows"


def figure_view(path: Path) -> FigureView:
    """One figure inlined, with the caption it carries or else its name."""
    data = read_image(path)
    kind = "image/png" if path.suffix == ".png" else "image/svg+xml"
    caption = png_text(data) if path.suffix == ".png" else svg_text(data)
    width = png_width(data) if path.suffix == ".png" else None
    return FigureView(
        f"data:{kind};base64,{b64encode(data).decode('ascii')}",
        caption or path.stem.replace("_", " ").replace("-", " ").capitalize(),
        width,
    )


def png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Kind and body of each chunk of a PNG file; stops where the file is cut off."""
    place = 8 if data.startswith(b"\x89PNG\r\n\x1a\n") else len(data)
    while place + 12 <= len(data):
        (length,) = struct.unpack(">I", data[place : place + 4])
        yield data[place + 4 : place + 8], data[place + 8 : place + 8 + length]
        place += 12 + length


def png_width(data: bytes) -> int | None:
    """Width on the page in CSS pixels, from the size in inches where the file has one."""
    pixels, per_metre = 0, 0
    for kind, body in png_chunks(data):
        if kind == b"IHDR" and len(body) >= 4:
            (pixels,) = struct.unpack(">I", body[:4])
        if kind == b"pHYs" and len(body) == 9 and body[8] == 1:
            (per_metre,) = struct.unpack(">I", body[:4])
    if not pixels:
        return None
    return round(pixels / (per_metre * 0.0254) * INCH) if per_metre else round(pixels / DENSE)


def png_text(data: bytes, key: bytes = b"Description") -> str:
    """The text stored under a key in a PNG file, empty if there is none."""
    for kind, body in png_chunks(data):
        if kind == b"tEXt" and body.startswith(key + b"\0"):
            return body[len(key) + 1 :].decode("latin-1").strip()
        # iTXt: keyword, NUL, two flags (uncompressed: 0 0), language, NUL, translated keyword, NUL, text
        if kind == b"iTXt" and body.startswith(key + b"\0\0\0"):
            return body[len(key) + 3 :].split(b"\0", 2)[-1].decode("utf-8", "replace").strip()
    return ""


def svg_text(data: bytes) -> str:
    """The description stored in an SVG file, empty if there is none."""
    found = re.search(rb"<dc:description>(.*?)</dc:description>", data, re.DOTALL)
    return html.unescape(found.group(1).decode("utf-8", "replace")).strip() if found else ""


def checks_view(checks: Sequence[tuple[PointView, Check]], limit: int = 60) -> TableView | None:
    """All checks, those that did not pass first."""
    import pandas as pd

    if not checks:
        return None
    several = len({point.id for point, _ in checks}) > 1
    rows = [
        {
            "result": "pass" if check.passed else "attention",
            "check": RULES[check.name].title if check.name in RULES else label(check.name),
            "value": check.value if check.value == check.value else "not computable",
            "asks for attention if": limit_of(check),
            "where": ", ".join(filter(None, (point.label if several else "", check.site))),
            "what to do": check.remedy,
        }
        for point, check in sorted(checks, key=lambda pair: pair[1].passed)
    ]
    table = pd.DataFrame(rows).astype({"value": object})
    return TableView(
        rows_note("Checks and their limits", table, limit), show_table(table, limit), "points/*/checks.json"
    )


def limit_of(check: Check) -> str:
    """When a check asks for attention, as a relation and a threshold."""
    return f"{RULES[check.name].relation} {check.threshold}" if check.name in RULES else str(check.threshold)


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
