"""What every handler does around its inference: arguments of the model, precision, provenance."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evidentia.studies.harness.engine.outcome import Context, Problem


@contextlib.contextmanager
def double_precision() -> Iterator[None]:
    """Data sets are float64, so the constants a model writes down must be."""
    import torch

    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def arguments(data: Any, part: str = "") -> tuple[Any, ...]:
    """The arguments of a model: (x, y), or (x,) where nothing is predicted; `part` may be "test_"."""
    x, y = getattr(data, f"{part}x"), getattr(data, f"{part}y")
    return (x,) if y is None else (x, y)


def attributes(problem: Problem, context: Context) -> dict[str, Any]:
    """What every group of a saved InferenceData says about where it comes from."""
    point = context.point
    found: dict[str, Any] = {"seed": context.seed, "data_sha256": getattr(problem.data, "sha256", "")}
    if point is not None:
        found["point"] = point.id
        found |= {name: ref.key for name in ("model", "guide") if (ref := getattr(point, name, None))}
    return found
