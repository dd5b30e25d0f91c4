"""Before results are compared: whether they saw the same observations, and which warnings say nothing new."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

__all__ = ["check_same_data", "known_warnings"]


def check_same_data(idatas: Mapping[str, Any]) -> None:
    """Refuse a comparison of results on different observations.

    Args:
        idatas: InferenceData by name, each with `observed_data`.

    Raises:
        ValueError: fewer than two results, or naming the first that observes something else.

    References:
        none; bookkeeping.
    """
    if len(idatas) < 2:
        raise ValueError("compare: expected at least two results")
    (first, reference), *others = idatas.items()
    for name, other in others:
        for variable, value in reference.observed_data.data_vars.items():
            if variable not in other.observed_data:
                raise ValueError(f"compare: '{name}' does not observe '{variable}', which '{first}' does")
            theirs = other.observed_data[variable]
            if value.shape != theirs.shape:
                raise ValueError(
                    f"compare: '{first}' has observations {value.shape}, but '{name}' has {theirs.shape}"
                )
            if not np.array_equal(value.values, theirs.values):
                raise ValueError(f"compare: '{first}' and '{name}' have different data in '{variable}'")


@contextmanager
def known_warnings() -> Iterator[None]:
    """ArviZ warns about large k-hats, which a check reports here, and calls pandas in a way that is going.

    References:
        none; bookkeeping.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Estimated shape parameter of Pareto", category=UserWarning)
        warnings.filterwarnings("ignore", message="The inplace keyword in DataFrame")
        yield
