"""What a search declares: the space, the metric, its direction and the number of trials, as data only."""

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, final

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator

from evidentia.studies.harness.declare.config import Data, Frozen, FrozenDict
from evidentia.studies.harness.declare.points import canon, full_path
from evidentia.studies.harness.errors import shorten

MAX_TRIALS = 10_000
SEARCHED = ("model", "guide", "inference", "budget")
_EXACT = 2**53  # the sampler counts in double precision


class _Range(Frozen):
    """What the two kinds of range share."""

    low: Any
    high: Any
    log: bool = Field(default=False, description="sample the logarithm evenly")

    @model_validator(mode="after")
    def _in_order(self) -> Any:
        if self.low > self.high:
            raise ValueError(f"low is {self.low}, above high {self.high}; exchange them")
        if self.log and self.low <= 0:
            raise ValueError(f"log=True needs low > 0, given {self.low}")
        return self

    @property
    def text(self) -> str:
        """The range in words."""
        return f"{self.low} to {self.high}{', log' if self.log else ''}"


@final
class Float(_Range):
    """A real number between two bounds.

    Example:
        >>> Float(low=1e-4, high=1e-1, log=True).text
        '0.0001 to 0.1, log'
    """

    kind: Literal["float"] = "float"
    low: float
    high: float

    @property
    def samples(self) -> tuple[float, ...]:
        """The bounds and a value between them that is no round number."""
        if self.log:
            return self.low, math.exp(0.6 * math.log(self.low) + 0.4 * math.log(self.high)), self.high
        return self.low, 0.618 * self.low + 0.382 * self.high, self.high


@final
class Int(_Range):
    """A whole number between two bounds, both of them included.

    Example:
        >>> Int(low=1, high=16).samples
        (1, 16)
    """

    kind: Literal["int"] = "int"
    low: int = Field(ge=-_EXACT, le=_EXACT)
    high: int = Field(ge=-_EXACT, le=_EXACT)

    @property
    def samples(self) -> tuple[int, ...]:
        """The bounds."""
        return self.low, self.high


@final
class Choice(Frozen):
    """One of some values without an order: names, numbers, registry keys with parameters.

    Example:
        >>> Choice(options=("normal", {"key": "laplace", "params": {"scale": 2}})).text
        'normal | {"key":"laplace","params":{"scale":2}}'
    """

    kind: Literal["choice"] = "choice"
    options: tuple[Data, ...] = Field(min_length=1, max_length=1000)

    @model_validator(mode="after")
    def _each_once(self) -> Any:
        names = [canon(option) for option in self.options]
        twice = next((name for index, name in enumerate(names) if name in names[:index]), None)
        if twice is not None:
            raise ValueError(f"the option {shorten(twice)} is given twice")
        return self

    @property
    def samples(self) -> tuple[Any, ...]:
        """All options."""
        return self.options

    @property
    def text(self) -> str:
        """The options in words."""
        return " | ".join(each if isinstance(each, str) else canon(each) for each in self.options)


def _kind(axis: Any) -> Any:
    return axis.get("kind") if isinstance(axis, Mapping) else getattr(axis, "kind", None)


Axis = Annotated[
    Annotated[Float, Tag("float")] | Annotated[Int, Tag("int")] | Annotated[Choice, Tag("choice")],
    Discriminator(
        _kind, custom_error_type="axis", custom_error_message="a mapping with kind: float, int or choice"
    ),
]


def _paths(space: dict[str, Any]) -> FrozenDict:
    """Refuse paths that lead nowhere, one setting under two paths, and what must stay as it is."""
    known: dict[tuple[str, ...], str] = {}
    for path in space:
        parts = tuple(full_path(path, "search path"))
        if parts[0] not in SEARCHED:
            raise ValueError(
                f"search path {path!r}: values on different {parts[0]} cannot be compared, so a search keeps "
                f"{parts[0]} as it is. Put {parts[0]} into a grid, or search {', '.join(SEARCHED)}"
            )
        if parts in known:
            raise ValueError(f"search paths {known[parts]!r} and {path!r} are one setting; give one of them")
        known[parts] = path
    return FrozenDict(space)


@final
class SearchSpec(Frozen):
    """Which settings to try, and by which column of the result table they are judged.

    Trial after trial is asked of Optuna's tree-structured Parzen estimator, which learns from the trials
    before. Of a point with several rows the best value of ``metric`` counts.

    References:
        Bergstra, Bardenet, Bengio and Kégl, 2011. Algorithms for hyper-parameter optimization.
        Akiba, Sano, Yanase, Ohta and Koyama, 2019. Optuna: a next-generation hyperparameter optimization
        framework.

    Example:
        >>> space = {"inference.learning_rate": {"kind": "float", "low": 1e-4, "high": 0.1, "log": True}}
        >>> spec = SearchSpec(metric="log_evidence", direction="maximise", space=space)
        >>> spec.space["inference.learning_rate"] == Float(low=1e-4, high=0.1, log=True), spec.num_trials
        (True, 20)
    """

    metric: str = Field(min_length=1, max_length=200, description="a column of the result table")
    direction: Literal["maximise", "minimise"]
    num_trials: int = Field(default=20, ge=1, le=MAX_TRIALS)
    space: Annotated[dict[str, Axis], Field(min_length=1), AfterValidator(_paths)]

    @model_validator(mode="after")
    def _reproducible(self) -> Any:
        if self.metric == "seconds":
            raise ValueError("metric: seconds differ from run to run, so no search by them can be repeated")
        return self

    @property
    def sign(self) -> int:
        """1 if more of the metric is better, -1 if less is."""
        return 1 if self.direction == "maximise" else -1
