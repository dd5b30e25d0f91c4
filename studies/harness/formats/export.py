"""A finished run in a format of another program, in a new folder that is there whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, final

from evidentia.studies.harness.errors import StudyError, did_you_mean
from evidentia.studies.harness.formats.graph_source import write_graph
from evidentia.studies.harness.formats.parquet import write_tables
from evidentia.studies.harness.formats.zarr import write_draws
from evidentia.studies.harness.storage import atomic
from evidentia.studies.harness.storage.manifest import MANIFEST, differing
from evidentia.studies.harness.storage.read_run import PointView, RunView, read_run
from evidentia.studies.harness.storage.run_folder import check_out

__all__ = ["FORMATS", "Exported", "export_run"]

Writer = Callable[[RunView, Sequence[PointView], bool, Path], list[str]]

FORMATS: Mapping[str, Writer] = {"graphviz": write_graph, "parquet": write_tables, "zarr": write_draws}
"""Format -> its writer: run, finished points, whether the run as a whole is asked for, empty folder."""


@final
class Exported(NamedTuple):
    """What was written: the files or stores, and what the user should know."""

    paths: tuple[Path, ...]
    notices: tuple[str, ...]


def export_run(folder: Path, to: str, out: Path, point: str | None = None) -> Exported:
    """Write a run, or one of its points, in another format.

    The layout is that of the run folder::

        parquet    metrics.parquet  points/<id>/metrics.parquet  points/<id>/<table>.parquet
        zarr       points/<id>/draws.zarr
        graphviz   model.gv, and model.svg where the `dot` program is installed

    Args:
        folder: the run folder.
        to: a key of `FORMATS`; each needs the extra of its name.
        out: a folder that does not exist yet.
        point: id of one point, or enough of its beginning; None for the whole run.

    Raises:
        StudyError: the format or the point is unknown, its extra is unusable, the target exists, there is
            nothing to write, or a file changed after it was finished (exit 2).
        StorageError: the disk refuses; nothing is left behind (exit 74).
    """
    if to not in FORMATS:
        raise StudyError(f"--to: unknown format {to[:80]!r}. {did_you_mean(to, FORMATS)}")
    run = read_run(Path(folder))
    chosen = run.points if point is None else (_find(run, point),)
    if os.path.lexists(out):
        raise StudyError(f"--out: {out} exists; nothing is overwritten. Give the name of a new folder")
    target = check_out(Path(out))
    ready = [each for each in chosen if each.done]
    if not ready:
        raise StudyError(f"export: {folder} has no finished point. Finish the run with --resume first")
    refuse_changed(run, ready)
    notices = [f"{len(chosen) - len(ready)} unfinished points left out"] if len(ready) < len(chosen) else []
    with _new_folder(target) as temporary:
        notices += FORMATS[to](run, ready, point is None, temporary)
        written = sorted(path.relative_to(temporary) for path in _leaves(temporary))
    return Exported(tuple(target / path for path in written), tuple(notices))


def _find(run: RunView, point: str) -> PointView:
    found = [each for each in run.points if point and each.id.startswith(point)]
    if len(found) == 1:
        return found[0]
    ids = [each.id for each in run.points]
    if found:
        raise StudyError(f"POINT: {point!r} begins {len(found)} points: {', '.join(e.id for e in found[:5])}")
    raise StudyError(f"POINT: {run.folder} has no point {point[:80]!r}. {did_you_mean(point, ids)}")


def refuse_changed(run: RunView, points: Sequence[PointView]) -> None:
    """Refuse files that are not as they were when the run or the point finished."""
    places = {run.folder: differing(run.folder) if (run.folder / MANIFEST).is_file() else []}
    places |= {point.folder: point.changed() for point in points}
    for place, changed in places.items():
        if changed:
            raise StudyError(
                f"export: {place}: {', '.join(changed)} changed after it was finished. Restore the file, or "
                "compute it again"
            )


@contextlib.contextmanager
def _new_folder(target: Path) -> Iterator[Path]:
    """A hidden folder beside the target that takes its name when the block is through, or vanishes."""
    atomic.make_folder(target.parent, parents=True)
    temporary = target.with_name(f"{atomic.TEMPORARY}{os.getpid()}-{target.name}")
    try:
        with atomic.storage("write", target):
            temporary.mkdir()
            yield temporary
            os.rename(temporary, target)
            atomic.sync_folder(target.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _leaves(folder: Path) -> Iterator[Path]:
    """Files, and zarr stores as one each."""
    for path in folder.iterdir():
        if path.is_dir() and path.suffix != ".zarr":
            yield from _leaves(path)
        else:
            yield path
