"""Draws as zarr stores, one group for each group of the InferenceData (extra `zarr`).

The way leads through xarray's DataTree: `InferenceData.to_zarr` of ArviZ 0.23 fails with zarr 3. The stores
have format 2, which every reader knows, and in which text coordinates are no extension.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from evidentia.studies.harness.errors import StudyError
from evidentia.studies.harness.extras import quiet, require
from evidentia.studies.harness.storage.read_run import PointView, RunView

__all__ = ["write_draws"]


def write_draws(run: RunView, points: Sequence[PointView], whole: bool, folder: Path) -> list[str]:
    """Write `points/<id>/draws.zarr` of each point that has draws.

    Raises:
        StudyError: the extra is unusable, no point has draws, or a file of draws is not one (exit 2).

    References:
        none; bookkeeping.
    """
    del whole
    require("zarr", "zarr")
    from evidentia.inference import diagnostics

    sources = [(point.id, path) for point in points if (path := point.draws()) is not None]
    if not sources:
        raise StudyError(
            f"export: no point of {run.folder} has draws (draws.nc), so there is nothing to write"
        )
    for identity, source in sources:
        try:
            with quiet():
                draws = diagnostics.load(source).to_datatree()
        except ValueError as error:
            raise StudyError(f"export: {error}") from None
        with quiet():
            draws.to_zarr(folder / "points" / identity / "draws.zarr", mode="w-", zarr_format=2)
    without = len(points) - len(sources)
    return [f"{without} points have no draws"] if without else []
