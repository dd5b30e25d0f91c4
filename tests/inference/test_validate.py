"""Messages of the data checks: what, where, and the fix."""

import math

import numpy as np
import pytest
import torch

from evidentia.inference.validate import check_data, check_design


def test_good_data_come_back_as_double_precision():
    x, y = check_data(np.arange(6, dtype=np.float32).reshape(3, 2), [1, 2, 3], ["a", "b"])
    assert (x.dtype, y.dtype, x.shape, y.shape) == (torch.float64, torch.float64, (3, 2), (3,))
    assert check_data([1.0, 2.0])[0].shape == (2, 1)


@pytest.mark.parametrize(
    ("x", "y", "names", "message"),
    [
        (
            [[1.0, math.nan], [math.inf, 2.0]],
            [0, 1],
            "ab",
            "x: 2 values of 4 are NaN or infinite, .* row 0, column 'b'",
        ),
        (
            [[1.0], [2.0]],
            [0.0, math.nan],
            None,
            "y: 1 value of 2 is NaN or infinite, the first in row 1; drop",
        ),
        (torch.zeros(0, 2), torch.zeros(0), None, "x: no rows"),
        ([[1.0], [2.0]], [1.0, 2.0, 3.0], None, "y: 3 rows, but x has 2"),
        (torch.zeros(2, 2, 2), torch.zeros(2), None, r"x: expected shape \(rows, columns\)"),
        ([[1.0]], torch.zeros(1, 1, 1), None, "y: expected shape"),
        ([[1.0, 2.0]], [1.0], "abc", "2 columns but 3 names"),
        ([["one"]], [1.0], None, "x: cannot be read as numbers"),
        (torch.zeros(1, 1, dtype=torch.complex64), [1.0], None, "complex"),
    ],
)
def test_bad_data_are_named(x, y, names, message):
    with pytest.raises(ValueError, match=message):
        check_data(x, y, None if names is None else list(names))


def design(*columns):
    torch.manual_seed(0)
    base = torch.randn(8, 3, dtype=torch.float64)
    return torch.stack([c(base) for c in columns], 1)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ([lambda b: b[:, 0], lambda b: 0 * b[:, 0] + 3], "constant column 'b': drop it, or use NormalPrior"),
        (
            [lambda b: b[:, 0], lambda b: b[:, 1], lambda b: 1 - 2 * b[:, 0]],
            "'c' repeats 'a' up to a linear map",
        ),
        ([lambda b: b[:, 0], lambda b: b[:, 1], lambda b: b[:, 0] + b[:, 1]], "'c' is a linear combination"),
    ],
)
def test_collinear_designs_are_refused_by_name(columns, message):
    with pytest.raises(ValueError, match=message):
        check_design(design(*columns), "abc")


def test_more_columns_than_degrees_of_freedom():
    with pytest.raises(ValueError, match="3 columns but only 2 degrees of freedom in 3 rows"):
        check_design(torch.randn(3, 3), "abc")


def test_a_shifted_column_is_no_duplicate_without_intercept():
    columns = design(lambda b: b[:, 0], lambda b: b[:, 0] + 5)
    check_design(columns, "ab", intercept=False)
    with pytest.raises(ValueError, match="repeats"):
        check_design(columns, "ab")


def test_strongly_correlated_columns_pass():
    check_design(design(lambda b: b[:, 0], lambda b: b[:, 0] + 1e-3 * b[:, 1]), "ab")
