"""Small data sets for estimators of the evidence: eight schools, correlated columns, few numbers, tumours."""

from typing import Any

from evidentia.studies.harness.data.dataset import Dataset, make_dataset, standardise

EFFECTS = (28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0)
EFFECT_SCALES = (15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0)


def eight_schools() -> Dataset:
    """Effects of coaching in eight schools, and their standard errors as the only input.

    References:
        Rubin, 1981. Estimation in parallel randomized experiments.
    """
    import numpy

    return make_dataset(numpy.array(EFFECT_SCALES)[:, None], numpy.array(EFFECTS), ["scale"])


def correlated_rows(columns: int = 8, rows: int = 100) -> Dataset:
    """Rows of columns that share a common part, correlation one half, and y = x w + ε.

    Args:
        columns: number of inputs; w is 1, -1/2, 1/3, -1/4, …
        rows: number of rows.
    """
    import numpy

    state = numpy.random.RandomState(columns)
    x = (state.randn(rows, columns) + state.randn(rows, 1)) / 2**0.5
    w = (-1.0) ** numpy.arange(columns) / (1.0 + numpy.arange(columns))
    return make_dataset(x, x @ w + state.randn(rows), [f"x{index}" for index in range(columns)])


def few_numbers(values: tuple[float, ...] = (2.0, 2.0)) -> Dataset:
    """A single column of numbers.

    Args:
        values: the numbers, two at least.
    """
    import numpy

    return make_dataset(numpy.array(values, dtype=float)[:, None], None, ["y"])


def breast_cancer(columns: int = 23, rows: int = 569) -> Dataset:
    """Measurements of cell nuclei, standardised (ddof 0), and whether the tumour was benign.

    Args:
        columns: the first so many of the 30 measurements.
        rows: the first so many of the 569 patients.

    References:
        Street, Wolberg and Mangasarian, 1993. Nuclear feature extraction for breast tumor diagnosis.
    """
    import numpy
    from sklearn.datasets import load_breast_cancer

    bunch: Any = load_breast_cancer()
    names = [str(name) for name in bunch.feature_names[:columns]]
    x = standardise(numpy.asarray(bunch.data[:rows, :columns], dtype=float), names)
    return make_dataset(x, numpy.asarray(bunch.target[:rows], dtype=float), names, info={"target": "benign"})
