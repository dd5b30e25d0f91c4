"""Everything that can be checked before a folder is created: names, data, device."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple, final

from evidentia.studies.harness.data.dataset import check_rows
from evidentia.studies.harness.declare.points import canon
from evidentia.studies.harness.engine.problem import check_names, load_data, modules_of
from evidentia.studies.harness.errors import StudyError

if TYPE_CHECKING:
    from evidentia.studies.harness.declare.points import Point
    from evidentia.studies.harness.declare.study import Study


@final
class Prepared(NamedTuple):
    """What the checks found.

    Args:
        data: canonical settings of each data set -> sha256 of its contents.
        modules: the modules whose import registers what the points name.
    """

    data: dict[str, str]
    modules: tuple[str, ...]


def prepare(study: Study, points: Iterable[Point]) -> Prepared:
    """Check the names, the data and the device of every point; nothing is written.

    Raises:
        StudyError: if anything a user gave is wrong (exit 2).
    """
    check_device(study.device)
    data: dict[str, str] = {}
    modules: set[str] = set()
    seen: set[str] = set()
    for point in points:
        named = canon([point.data, point.model, point.guide, point.inference, point.metrics])
        if named in seen:
            continue
        seen.add(named)
        check_names(point)
        modules |= modules_of(point)
        loaded = load_data(point.data)
        data[canon(point.data)] = loaded.sha256
        batch = point.inference.params.get("batch_size")
        if isinstance(batch, int) and not isinstance(batch, bool):
            why = f"a mini-batch has {batch}; lower inference.batch_size"
            check_rows(f"data {point.data.label}", len(loaded.x), batch, why)
    return Prepared(data, tuple(sorted(modules)))


def check_device(device: str) -> None:
    """Check that torch can use ``device``.

    Raises:
        StudyError: if it cannot, with the way to get there (exit 2).
    """
    if device == "cpu":
        return
    import torch

    have = torch.cuda.device_count() if torch.cuda.is_available() else 0
    index = int(device.partition(":")[2] or 0)
    if index >= have:
        raise StudyError(
            f"device: given {device!r}, but torch {torch.__version__} sees {have} GPUs. Use device=cpu, or "
            "install a build of torch for this GPU: "
            "pip install torch --index-url https://download.pytorch.org/whl/cu128"
        )
