"""The graph of the model as DOT source, and as a picture where the `dot` program is (extra `graphviz`)."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from evidentia.studies.harness.errors import StudyError
from evidentia.studies.harness.extras import require
from evidentia.studies.harness.storage import atomic
from evidentia.studies.harness.storage.read_run import PointView, RunView

__all__ = ["write_graph"]

LIMIT = 16 * 2**20


def write_graph(run: RunView, points: Sequence[PointView], whole: bool, folder: Path) -> list[str]:
    """Write `model.gv`, and `model.svg` if `dot` is installed.

    The graph is the one the run has drawn. That of another point would need its model, and no program that a
    run folder names is ever run.

    Raises:
        StudyError: the extra is unusable, a single point was asked for, or the run has no graph (exit 2).

    References:
        none; bookkeeping.
    """
    del points
    graphviz = require("graphviz", "graphviz")
    if not whole:
        raise StudyError("export: the graph belongs to the run as a whole. Leave POINT out")
    try:
        text = atomic.read_limited(run.folder / "model.dot", LIMIT).decode("utf-8")
    except ValueError as error:
        raise StudyError(f"export: the run has no graph of its model: {error}") from None
    source = graphviz.Source(text)
    (folder / "model.gv").write_text(source.source, encoding="utf-8")
    if shutil.which("dot") is None:
        return ["no picture: the program dot is not installed; any viewer of DOT files shows model.gv"]
    try:
        (folder / "model.svg").write_bytes(source.pipe(format="svg"))
    except (graphviz.ExecutableNotFound, graphviz.CalledProcessError) as error:
        return [f"no picture: dot failed: {str(error).partition(chr(10))[0]}"]
    return []
