"""The trials of a search: settings asked of a seeded sampler, values told to it.

The sampler of trial t is made anew from the study's seed and t, and sees the finished trials before it:

    settings_t = TPE(SeedSequence([seed, t]); (settings_1, value_1), …, (settings_{t-1}, value_{t-1})),

so what is asked next follows from the journal alone, and an interrupted search asks as an uninterrupted one.

References:
    Bergstra, Bardenet, Bengio and Kégl, 2011. Algorithms for hyper-parameter optimization.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from evidentia.studies.harness.declare.points import canon
from evidentia.studies.harness.errors import StudyError, did_you_mean, shorten
from evidentia.studies.harness.search.journal import Journal
from evidentia.studies.harness.search.optuna_access import load_optuna, quiet
from evidentia.studies.harness.search.spec import Choice, Int, SearchSpec

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial, Trial

RANDOM = 10
"""Trials that are drawn from the space before the sampler begins to learn."""


def sampler(seed: int, number: int) -> BaseSampler:
    """The sampler of one trial.

    Args:
        seed: seed of the study.
        number: trials before it.
    """
    from numpy.random import SeedSequence

    word = int(SeedSequence([seed, number]).generate_state(1)[0])
    with quiet() as optuna:
        made: BaseSampler = optuna.samplers.TPESampler(
            seed=word, n_startup_trials=RANDOM, multivariate=True, constant_liar=False
        )
    return made


def distributions(spec: SearchSpec) -> dict[str, BaseDistribution]:
    """The space as the sampler knows it; an option of a choice goes by its canonical JSON."""
    known = load_optuna().distributions
    made: dict[str, BaseDistribution] = {}
    for path, axis in spec.space.items():
        if isinstance(axis, Choice):
            made[path] = known.CategoricalDistribution(tuple(canon(option) for option in axis.options))
        else:
            kind = known.IntDistribution if isinstance(axis, Int) else known.FloatDistribution
            made[path] = kind(axis.low, axis.high, log=axis.log)
    return made


def score(rows: Sequence[Mapping[str, Any]], spec: SearchSpec, where: str) -> float | None:
    """The value of a point: the best of its rows; None where no row has a finite number.

    Args:
        rows: rows of the point's result table, with None in empty cells.
        spec: says which column, and which direction.
        where: what the rows belong to, for the message.

    Raises:
        StudyError: the metric is no column, or holds words (exit 2).

    Example:
        >>> space = {"inference.rate": {"kind": "float", "low": 0, "high": 1}}
        >>> spec = SearchSpec(metric="error", direction="minimise", space=space)
        >>> score([{"error": 3.0}, {"error": 2.0}, {"error": None}], spec, "point a")
        2.0
    """
    columns = {name for row in rows for name in row} - {"point", "seconds"}
    if spec.metric not in columns:
        raise StudyError(
            f"search.metric: {where} has no column {spec.metric!r}. {did_you_mean(spec.metric, columns)}"
        )
    values = [row[spec.metric] for row in rows if row.get(spec.metric) is not None]
    wrong = next((each for each in values if isinstance(each, str | bool)), None)
    if wrong is not None:
        raise StudyError(
            f"search.metric: {where} has {shorten(wrong)} in column {spec.metric!r}, expected numbers"
        )
    finite = [float(each) for each in values if math.isfinite(each)]
    return max(finite, key=lambda value: spec.sign * value) if finite else None


@final
class Trials:
    """Asks and tells; each trial told is also written to the journal, where there is one.

    Args:
        spec: the search.
        seed: seed of the study.
    """

    def __init__(self, spec: SearchSpec, seed: int) -> None:
        self.spec, self.seed = spec, seed
        self.distributions = distributions(spec)
        self.options = {
            path: {canon(option): option for option in axis.options}
            for path, axis in spec.space.items()
            if isinstance(axis, Choice)
        }
        self.journal: Journal | None = None
        self.asked: Trial | None = None
        self.told = 0
        with quiet() as optuna:
            self._study = optuna.create_study(direction="maximize" if spec.sign > 0 else "minimize")

    def recall(self, folder: Path, repair: bool) -> list[dict[str, Any]]:
        """Take over the trials that a folder's journal holds, and go on writing it.

        Returns:
            The values of each trial, in order.

        Raises:
            StudyError: the journal is damaged or belongs to another search (exit 2).
        """
        self.journal = Journal(folder, self.spec.sign)
        found = self.journal.read(repair)
        for number, trial in enumerate(found):
            if trial.distributions != self.distributions or len(found) > self.spec.num_trials:
                raise StudyError(
                    f"{self.journal.path}: trial {number} is of another search. Restore the file"
                )
            if trial.value is not None and not math.isfinite(trial.value):
                raise StudyError(
                    f"{self.journal.path}: trial {number} has the value {trial.value}. Restore the file"
                )
        with quiet():
            self._study.add_trials(found)
        self.told = len(found)
        return [self._values(trial.params) for trial in found]

    def ask(self) -> dict[str, Any]:
        """The settings to try next: for each path of the space, its value."""
        with quiet():
            self._study.sampler = sampler(self.seed, self.told)
            self.asked = self._study.ask(self.distributions)
        return self._values(self.asked.params)

    def tell(self, value: float | None) -> None:
        """Give the value of what was asked for last; None where it failed.

        Raises:
            StorageError: the disk refuses (exit 74).
        """
        with quiet() as optuna:
            failed = optuna.trial.TrialState.FAIL if value is None else None
            trial: FrozenTrial = self._study.tell(self.asked, value, state=failed)
        if self.journal is not None:
            self.journal.append(trial)
        self.told += 1

    def _values(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """The parameters of a trial in the order of the space, options in place of their names."""
        return {
            path: self.options[path][params[path]] if path in self.options else params[path]
            for path in self.spec.space
        }
