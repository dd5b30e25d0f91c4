"""What a study declares: data, model, guide, inference, grid, budget and claims, as data only."""

import importlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, final

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from evidentia.studies.harness.declare.config import Frozen, FrozenDict, Params, freeze
from evidentia.studies.harness.declare.points import Budget, Key, Point, Ref, count, expand, resolve
from evidentia.studies.harness.declare.result import Result as Result
from evidentia.studies.harness.errors import StudyError
from evidentia.studies.harness.search.spec import SearchSpec

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_UNCONFIRMED = 10_000
NAME = r"^[a-z0-9][a-z0-9_-]{0,63}$"

Scalar = bool | int | float | str


@final
class Claim(Frozen):
    """A statement about the result table that is checked at the end of a run and printed PASS or FAIL.

    The rows with ``where`` are selected and their ``metric`` is reduced; with ``than``, the same reduction
    over the rows it selects is subtracted. What is left is compared with ``value`` (0 where there is only
    ``than``), the ``tolerance`` in favour:
    ``reduce(metric[where]) − reduce(metric[than]) op value ± tolerance``.

    Example:
        >>> Claim(text="one wins", metric="log_evidence", where={"structure": "one"}, op=">=", value=3).op
        '>='
    """

    text: str = Field(min_length=1, max_length=500)
    metric: str
    where: Params = FrozenDict()
    reduce: Literal["all", "mean", "min", "max"] = "all"
    op: Literal["<", "<=", "==", "!=", ">=", ">"]
    value: Scalar | None = None
    than: Params | None = None
    tolerance: float = Field(default=0.0, ge=0)

    @model_validator(mode="after")
    def _a_right_side(self) -> Self:
        if self.value is None and self.than is None:
            raise ValueError("give a value, or the rows to compare with as than, or both")
        return self


def _blocks(value: Any) -> Any:
    """A single mapping is a grid of one block."""
    return (value,) if isinstance(value, Mapping) else value


def _axes(block: Any) -> Any:
    if not isinstance(block, Mapping):
        raise ValueError("a block of the grid maps dotted paths to lists of values")
    axes = {}
    for path, values in block.items():
        if isinstance(values, str | Mapping) or not isinstance(values, Sequence):
            raise ValueError(f"axis {path!r}: expected a list of values")
        if len(values) == 0:
            raise ValueError(f"axis {path!r} is empty; give at least one value, or leave the axis out")
        axes[path] = freeze(tuple(values))
    return FrozenDict(axes)


Block = Annotated[dict[str, tuple[Any, ...]], BeforeValidator(_axes), AfterValidator(FrozenDict)]


@final
class Study(Frozen):
    """One question as data: names, numbers and registry keys, so that it has a stable digest.

    ``grid`` is a tuple of blocks, each a mapping from a dotted path (``"model.width"``,
    ``"inference.num_steps"``, ``"data"``) to its values; the points are the union of the blocks' products,
    times ``seeds`` (a number n stands for the replicates 0, …, n-1). With ``search`` the points are asked for
    one by one instead, each after the one before has ended.

    Example:
        >>> grid = {"inference.power": (1, 2)}
        >>> study = Study(name="toy", data="tanh", inference="enumerate", grid=grid, seeds=3)
        >>> study.count(), next(study.points()).varied
        (6, {'power': 1, 'replicate': 0})
    """

    name: Annotated[str, Field(pattern=NAME)]
    description: str = Field(default="", max_length=2000)
    tags: tuple[Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 _.-]{0,39}$")], ...] = ()
    data: Ref
    model: Ref | None = None
    guide: Ref | None = None
    inference: Ref
    metrics: tuple[Key, ...] = ()
    seed: int = Field(default=0, ge=0, lt=2**63)
    seeds: (
        Annotated[int, Field(ge=1, le=10**7)]
        | Annotated[tuple[Annotated[int, Field(ge=0, lt=2**63)], ...], Field(min_length=1)]
    ) = 1
    grid: Annotated[tuple[Block, ...], BeforeValidator(_blocks)] = ()
    search: SearchSpec | None = None
    budget: Budget = Budget()
    expect: tuple[Claim, ...] = ()
    threads: int = Field(default=1, ge=1, le=1024, description="of one point; small tensors want one")
    device: str = Field(default="cpu", pattern=r"^(cpu|cuda(:\d{1,3})?)$")
    checkpoint_every: int = Field(default=100, ge=1)
    module: str | None = Field(
        default=None, description="where plot and diagnose are found; set by register_study"
    )

    @field_validator("seeds", mode="before")
    @classmethod
    def _no_flags(cls, value: Any) -> Any:
        if isinstance(value, bool):
            raise ValueError("expected a number of replicates or a list of their seeds")
        return value

    @model_validator(mode="after")
    def _paths_exist(self) -> Self:
        for block in self.grid:
            resolve(self, {path: values[0] for path, values in block.items()})
        return self

    @model_validator(mode="after")
    def _grid_or_search(self) -> Self:
        if self.search is not None and (self.grid or len(self.replicates) > 1):
            other = "grid" if self.grid else "seeds"
            raise ValueError(
                f"search and {other} exclude each other, since a search chooses its points itself; "
                f"leave out one of them"
            )
        return self

    @property
    def replicates(self) -> Sequence[int]:
        """The replicate of each repetition."""
        return range(self.seeds) if isinstance(self.seeds, int) else self.seeds

    def count(self) -> int:
        """Number of points or trials before duplicates are removed; nothing is expanded."""
        return count(self) if self.search is None else self.search.num_trials

    def points(self) -> Iterator[Point]:
        """The points, lazily, each id once; of a search, the edges of its space, which stand for all of it.

        Raises:
            StudyError: a setting is invalid, or two different points have one id.
        """
        if self.search is None:
            return expand(self)
        from evidentia.studies.harness.search.cells import edges

        return edges(self)

    def confirm(self, yes: bool = False, limit: int = MAX_UNCONFIRMED) -> None:
        """Refuse a run that is larger than anyone starts by accident.

        Raises:
            StudyError: there are more than ``limit`` points and ``yes`` is False.
        """
        if not yes and self.count() > limit:
            raise StudyError(
                f"{self.name}: the grid has {self.count():,} points, more than {limit:,}. "
                "Run with --yes to confirm, or make an axis of the grid shorter."
            )

    def run(self, out: Path | None = None, **options: Any) -> Result:
        """Compute all points; with ``out=None`` in this process and without any file.

        Args:
            out: folder to keep the run in.
            options: as ``evidentia.studies.harness.engine.run.run_study`` takes them.

        Raises:
            StudyError: an input is invalid, a computation fails, or the disk refuses.
        """
        from evidentia.studies.harness.engine.run import run_study

        return run_study(self, out=out, **options).result

    def conclude(self, result: Result) -> list[str]:
        """What the result says, in sentences: those of the module's ``conclude``, or none."""
        module = importlib.import_module(self.module) if self.module else None
        conclude = getattr(module, "conclude", None)
        return [str(sentence) for sentence in conclude(result)] if callable(conclude) else []

    def diagnose(self, result: Result) -> dict[str, "Figure"]:
        """All figures of the study: the module's ``diagnose``, else its ``plot`` as ``"result"``."""
        module = importlib.import_module(self.module) if self.module else None
        if callable(diagnose := getattr(module, "diagnose", None)):
            return dict(diagnose(result))
        if callable(plot := getattr(module, "plot", None)):
            return {"result": plot(result.table)}
        return {}
