"""The models that compare is given, read from run folders or single points that nobody changed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, final

from evidentia.studies.harness.errors import StudyError
from evidentia.studies.harness.reporting.predictive import Pointwise, read_pointwise
from evidentia.studies.harness.storage.read_run import PointView, RunView, read_run, words

__all__ = ["Entry", "is_point", "read_entries"]


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
    dataset: str = ""
    """Registry key and parameters of the data set, for people; the hash decides."""


def read_entries(folder: Path, several: bool) -> list[Entry]:
    """The finished models of a run folder, or of one of its points."""
    single = is_point(folder)
    run = read_run(folder.parent.parent if single else folder)
    points = [point for point in run.points if point.done and (not single or point.id == folder.name)]
    if not points:
        raise StudyError(f"compare: {folder} has no finished point. Finish the run with --resume first")
    named = len(points) > 1 or single
    return [
        entry
        for point in points
        for entry in point_entries(run, point, _name(run, point, named, several), several or len(points) > 1)
    ]


def is_point(folder: Path) -> bool:
    """Whether a folder is one point of a run, runs/…/points/<id>."""
    return folder.parent.name == "points" and (folder.parent.parent / "config.yaml").is_file()


def _name(run: RunView, point: PointView, named: bool, several: bool) -> str:
    if not named:
        return run.name
    return f"{run.name}: {point.label}" if several else point.label


def point_entries(run: RunView, point: PointView, name: str, collapse: bool) -> list[Entry]:
    """One entry per row of the point's metrics, or one for the whole family of structures.

    LOO comes from the draws of the point where there are any.
    """
    changed = point.changed()
    if changed:
        raise StudyError(
            f"compare: {point.folder}: {', '.join(changed)} changed after the point finished. "
            "Compute the point again, or restore the file"
        )
    metrics = point.metrics()
    if metrics is None or not len(metrics):
        raise StudyError(f"compare: {point.folder} has no rows in metrics.csv")
    rows: list[dict[str, Any]] = [
        {str(key): value for key, value in row.items()} for row in metrics.to_dict("records")
    ]
    whole = family_evidence(rows) if collapse and len(rows) > 1 else None
    if whole is not None:
        rows = [{"seconds": rows[0].get("seconds"), **whole}]
    path = point.draws() if len(rows) == 1 else None
    pointwise = None if path is None else read_pointwise(path)
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
                dataset=_dataset(point),
            )
        )
    return entries


def family_evidence(rows: Sequence[Mapping[Any, Any]]) -> dict[str, Any] | None:
    """Log evidence of a family from any structure of it, by `log p(y) = l_k + a_k − log P_k`.

    The most probable structure is taken, since its P_k has the smallest relative error. With errors s_j of
    the log evidences, `SE = √(Σ_j P_j² s_j²)`; with exact ones and P_k from draws, `SE = SE(P_k) / P_k`.

    Returns:
        None where the rows are no posterior over structures, or their kinds are mixed.

    References:
        Marginal likelihood from the Gibbs output (Chib, 1995).

    Example:
        >>> rows = [{"log_evidence": -1.0, "log_prior": math.log(0.5), "probability": 0.75, "kind": "exact"},
        ...         {"log_evidence": -2.0, "log_prior": math.log(0.5), "probability": 0.25, "kind": "exact"}]
        >>> round(family_evidence(rows)["log_evidence"], 4) == round(-1 + math.log(0.5 / 0.75), 4)
        True
    """
    best = max(rows, key=lambda row: _number(row, "probability", default=-1.0))
    probability = _number(best, "probability")
    value = _number(best, "log_evidence") + _number(best, "log_prior") - math.log(probability or math.nan)
    kinds = {str(row.get("kind", "")) for row in rows}
    if math.isnan(value) or len(kinds) != 1:
        return None
    kind = kinds.pop()
    spread = math.hypot(
        *(_number(r, "probability", default=0.0) * _number(r, "standard_error", default=0.0) for r in rows)
    )
    if spread == 0:
        spread = _number(best, "probability_se", default=0.0) / probability
        kind = "consistent estimate" if spread > 0 and kind == "exact" else kind
    return {"log_evidence": value, "standard_error": spread, "kind": kind}


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
    from evidentia.studies.harness.declare.points import canon

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


def _dataset(point: PointView) -> str:
    settings = point.record.get("settings", point.record)
    data = settings.get("data") if isinstance(settings, Mapping) else None
    return words(data) if isinstance(data, Mapping) and "key" in data else ""
