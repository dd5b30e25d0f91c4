"""A small study that is searched: a bowl in two settings and a choice, with noise from the point's seed."""

import os
import time
from typing import ClassVar

import numpy

from evidentia.studies.harness.data.dataset import make_dataset
from evidentia.studies.harness.declare.config import Frozen, StudyConfig
from evidentia.studies.harness.declare.registry import datasets, inferences, register_study
from evidentia.studies.harness.declare.study import Study
from evidentia.studies.harness.engine.outcome import Outcome
from evidentia.studies.harness.errors import NumericalFailure
from evidentia.studies.harness.search.spec import Choice, Float, Int, SearchSpec

SPACE = {
    "inference.rate": Float(low=1e-4, high=1e-1, log=True),
    "inference.width": Int(low=1, high=16),
    "inference.prior": Choice(options=("flat", "sharp")),
}


class Config(StudyConfig):
    """The keys of the toy."""

    tags: ClassVar[tuple[str, ...]] = ("toy",)
    search: SearchSpec = SearchSpec(metric="log_evidence", direction="maximise", num_trials=6, space=SPACE)


class BowlParams(Frozen):
    """Parameters of `search_bowl`."""

    rate: float = 0.01
    width: int = 4
    prior: str = "flat"


@datasets.register("search_data")
def toy_data():
    """Four rows."""
    return make_dataset(numpy.arange(4.0)[:, None], numpy.arange(4.0) ** 2, ["a"])


@inferences.register("search_bowl")
def search_bowl(problem, params, context):
    """A bowl with its top at rate = 0.01, width = 5, prior = "sharp"."""
    if "SEARCH_STARTS" in os.environ:
        with open(os.environ["SEARCH_STARTS"], "a", encoding="utf-8") as stream:
            stream.write(f"{context.point.id}\n")
    time.sleep(float(os.environ.get("SEARCH_PAUSE", "0")))
    given = BowlParams(**params)
    if given.width in [int(each) for each in os.environ.get("SEARCH_FAIL", "").split()]:
        raise NumericalFailure(f"the planted fault at width {given.width}")
    noise = 0.01 * numpy.random.default_rng(context.seed).normal()
    value = -((numpy.log10(given.rate) + 2) ** 2) - 0.1 * (given.width - 5) ** 2 + (given.prior == "sharp")
    rows = [{"row": "good", "log_evidence": value + noise}, {"row": "bad", "log_evidence": value - 1.0}]
    return Outcome(rows=[{**row, "error": -row["log_evidence"], "empty": float("nan")} for row in rows])


search_bowl.parameters = BowlParams


@register_study
def study(config: Config) -> Study:
    """Declare the toy."""
    return Study(
        name="search-toy",
        description="a toy",
        data="search_data",
        inference="search_bowl",
        seed=config.seed,
        search=config.search,
    )
