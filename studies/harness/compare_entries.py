"""The models that compare is given, read from run folders or single points that nobody changed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, final

from evidentia.studies.harness.errors import StudyError
from evidentia.studies.harness.predictive import Pointwise, read_pointwise
from evidentia.studies.harness.read_run import PointView, RunView, read_run

__all__ = ["Entry", "read_entries"]


@final
class Entry(NamedTuple):
    """One model of one run, as compare sees it. Evidence in nats for the whole data set."""

    name: str
    data: str
    log_evidence: float = math.nan
    standard_error: float = 0.0
    kind: str = ""
    log_prior: float = math.nan
    seconds: float = math.nan
    elpd_loo: float = math.nan
    elpd_loo_se: float = math.nan
    observations: int | None = None
    dims: tuple[str, ...] | None = None
    pointwise: Pointwise | None = None


def read_entries(folder: Path, several: bool) -> list[Entry]:
    """The finished models of a run folder, or of one of its points."""
    single = folder.parent.name == "points" and (folder.parent.parent / "config.yaml").is_file()
    run = read_run(folder.parent.parent if single else folder)
    points = [point for point in run.points if point.done and (not single or point.id == folder.name)]
    if not points:
        raise StudyError(f"compare: {folder} has no finished point. Finish the run with --resume first")
    named = len(points) > 1 or single
    return [
        entry for point in points for entry in point_entries(run, point, _name(run, point, named, several))
    ]


def _name(run: RunView, point: PointView, named: bool, several: bool) -> str:
    if not named:
        return run.name
    return f"{run.name}: {point.label}" if several else point.label


def point_entries(run: RunView, point: PointView, name: str) -> list[Entry]:
    """One entry per row of the point's metrics; LOO from its draws where there are any."""
    changed = point.changed()
    if changed:
        raise StudyError(
            f"compare: {point.folder}: {', '.join(changed)} changed after the point finished. "
            "Compute the point again, or restore the file"
        )
    metrics = point.metrics()
    if metrics is None or not len(metrics):
        raise StudyError(f"compare: {point.folder} has no rows in metrics.csv")
    path = point.draws() if len(metrics) == 1 else None
    pointwise = None if path is None else read_pointwise(path)
    rows = metrics.to_dict("records")
    entries = []
    for row in rows:
        label = f"{name}: {row['structure']}" if len(rows) > 1 and "structure" in row else name
        observations = None if pointwise is None else math.prod(pointwise.shape)
        entries.append(
            Entry(
                name=label,
                data=data_hash(run, point),
                log_evidence=_number(row, "log_evidence"),
                standard_error=max(_number(row, "standard_error", "log_evidence_se", default=0.0), 0.0),
                kind=str(row.get("kind", "")),
                log_prior=_number(row, "log_prior"),
                seconds=_number(row, "seconds"),
                elpd_loo=_number(row, "elpd_loo"),
                elpd_loo_se=_number(row, "elpd_loo_se"),
                observations=observations or _whole(row, point.record),
                dims=None if pointwise is None else pointwise.dims,
                pointwise=pointwise,
            )
        )
    return entries


def _number(row: Mapping[Any, Any], *names: str, default: float = math.nan) -> float:
    for name in names:
        try:
            value = float(row[name])
        except (KeyError, TypeError, ValueError):
            continue
        if not math.isnan(value):
            return value
    return default


def _whole(row: Mapping[Any, Any], record: Mapping[str, Any]) -> int | None:
    """Number of observations: as the row says, else the rows of the data that the point was fitted to."""
    value = _number(row, "num_observations")
    if not math.isnan(value):
        return int(value)
    data = record.get("data")
    part = data.get("y", data.get("x")) if isinstance(data, Mapping) else None
    shape = part.get("shape") if isinstance(part, Mapping) else None
    return int(shape[0]) if isinstance(shape, list) and shape and isinstance(shape[0], int) else None


def data_hash(run: RunView, point: PointView) -> str:
    """Sha256 of the data a point was fitted to, empty if the folder does not say."""
    from evidentia.studies.harness.points import canon

    own = point.record.get("data_sha256")
    if isinstance(own, str):
        return own
    known = run.environment.get("data")
    if not isinstance(known, Mapping) or not known:
        return ""
    settings = point.record.get("settings", point.record)
    data = settings.get("data") if isinstance(settings, Mapping) else None
    if data is not None and canon(data) in known:
        return str(known[canon(data)])
    return str(next(iter(known.values()))) if len(set(known.values())) == 1 else ""
