"""The state of every point of a run, as its folder shows it: done, silent since when, failed and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, final

from evidentia.studies.harness.storage.manifest import is_done
from evidentia.studies.harness.storage.read_run import PointView, RunView, read_run
from evidentia.studies.harness.storage.run_folder import read_status
from evidentia.studies.harness.terminal.present import Shown, text_table

__all__ = ["PointState", "age_text", "point_states", "status_table"]

SILENT_S = 120.0
"""A running point that has not written its status for so long has probably lost its process."""
SHOWN = 60


@final
class PointState(NamedTuple):
    """One line of the status: `age_s` are the seconds since the last heartbeat, None without one."""

    point: str
    label: str
    state: str
    step: int | None
    total: int | None
    age_s: float | None
    seconds: float | None
    error: str

    @property
    def silent(self) -> bool:
        """Whether it claims to run but has stopped writing."""
        return self.state == "running" and (self.age_s is None or self.age_s > SILENT_S)


def status_table(folder: Path, now: datetime | None = None) -> str:
    """The state of a run and of every point, as text; points that are not done come first.

    Args:
        folder: the run folder.
        now: the time to count heartbeats from; now if not given.

    Raises:
        StudyError: it is no run folder (exit 2).
    """
    run, moment = read_run(Path(folder)), now or datetime.now(UTC)
    states = point_states(run, moment)
    counts = Counter(state.state for state in states)
    lines = [f"{run.name}: {overall(run)}", *shard_lines(run, moment)]
    planned = planned_points(run)
    known = ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))
    waiting = max(planned - len(states), 0)
    number = max(planned, len(states))
    total = f"{number} point{'' if number == 1 else 's'}"
    lines.append(f"{total}: {', '.join(filter(None, (known, f'{waiting} waiting' if waiting else '')))}")
    shown = sorted(states, key=lambda state: state.state == "done")[:SHOWN]
    if shown:
        lines += ["", text_table(as_table(shown))]
    if len(states) > len(shown):
        lines.append(f"  … and {len(states) - len(shown)} more")
    silent = [state.point for state in states if state.silent]
    if silent:
        lines.append(
            f"\n! no heartbeat from {', '.join(silent[:5])} for more than {age_text(SILENT_S)}: "
            "if its process is gone, run the same command with --resume"
        )
    return "\n".join(lines)


def overall(run: RunView) -> str:
    """The state of the run as a whole, with its error; done only with the mark DONE."""
    state = str(run.status.get("state", "unknown"))
    if is_done(run.folder):
        state = "done"
    elif state == "done":
        state = "unfinished"
    error = error_text(run.status)
    return f"{state} – {error}" if error else state


def planned_points(run: RunView) -> int:
    """How many points the run has, as far as its status tells; 0 if it does not."""
    points = run.status.get("points")
    total = points.get("total") if isinstance(points, Mapping) else None
    return total if isinstance(total, int) else 0


def shard_lines(run: RunView, now: datetime) -> Iterator[str]:
    """One line for each shard of a run that is computed in parts."""
    for path in sorted(run.folder.glob("status.*-of-*.json")):
        record = read_status(run.folder, path.name)
        age = heartbeat_age(record, now)
        silent = "" if age is None else f", heartbeat {age_text(age)} ago"
        error = error_text(record)
        name = path.name.removeprefix("status.").removesuffix(".json").replace("-of-", "/")
        yield f"shard {name}: {record.get('state', 'unknown')}{silent}{' – ' + error if error else ''}"


def point_states(run: RunView, now: datetime) -> list[PointState]:
    """The state of each point that has a folder."""
    return [point_state(point, now) for point in run.points]


def point_state(point: PointView, now: datetime) -> PointState:
    """The state of one point."""
    status = point.status
    step, total, seconds = status.get("step"), status.get("total"), status.get("seconds")
    return PointState(
        point.id,
        "" if point.label == point.id else point.label,
        point.state,
        step if isinstance(step, int) else None,
        total if isinstance(total, int) else None,
        heartbeat_age(status, now),
        float(seconds) if isinstance(seconds, int | float) else None,
        "" if point.done else error_text(status),
    )


def heartbeat_age(status: Mapping[str, Any], now: datetime) -> float | None:
    """Seconds since the last heartbeat, None if there is none that can be read."""
    try:
        beat = datetime.fromisoformat(str(status.get("heartbeat")))
    except ValueError:
        return None
    beat = beat if beat.tzinfo else beat.replace(tzinfo=UTC)
    return max((now - beat).total_seconds(), 0.0)


def error_text(status: Mapping[str, Any]) -> str:
    """The error of a status record in one line."""
    error = status.get("error")
    if not isinstance(error, Mapping):
        return ""
    site = f" at {error['site']}" if error.get("site") else ""
    lines = str(error.get("message", "")).splitlines() or [""]
    return f"{error.get('type', 'error')}{site}: {lines[0]}"


def age_text(seconds: float) -> str:
    """A length of time in one unit.

    Example:
        >>> [age_text(s) for s in (5, 600, 7200, 200000)]
        ['5 s', '10 min', '2 h', '2 d']
    """
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{int(seconds // size)} {unit}"
    return f"{int(seconds)} s"


def as_table(states: list[PointState]) -> Shown:
    """The states as rows of text; columns that nothing fills are left out."""
    headers = ("point", "setting", "state", "step", "heartbeat", "time (s)", "error")
    rows = [
        (
            state.point,
            state.label,
            state.state,
            "" if state.step is None else f"{state.step}{'' if state.total is None else f'/{state.total}'}",
            "" if state.age_s is None or state.state == "done" else f"{age_text(state.age_s)} ago",
            "" if state.seconds is None else f"{state.seconds:.1f}",
            state.error,
        )
        for state in states
    ]
    kept = [i for i in range(len(headers)) if any(row[i] for row in rows)]
    numeric = (False, False, False, True, True, True, False)
    return Shown(
        tuple(headers[i] for i in kept),
        tuple(tuple(row[i] for i in kept) for row in rows),
        tuple(numeric[i] for i in kept),
    )
