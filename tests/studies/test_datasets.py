"""The data sets that come with evidentia, against published and hand-computed numbers."""

import numpy
import oracles
import pytest
import torch

from evidentia.studies.harness.data.dataset import load_dataset, validate_dataset
from evidentia.studies.harness.data.datasets import diabetes, diabetes_wide, digits, tanh
from evidentia.studies.harness.declare.points import Ref
from evidentia.studies.harness.errors import StudyError


def permutation(seed: int) -> torch.Tensor:
    return torch.from_numpy(numpy.random.RandomState(seed).permutation(442))


def standardised(values: torch.Tensor) -> bool:
    mean, spread = values.mean(0), values.std(0, correction=0)
    return bool((mean.abs() < 1e-12).all() and ((spread - 1).abs() < 1e-12).all())


def test_tanh_has_the_published_numbers():
    data = validate_dataset(tanh())
    first, first_y, total, squares = oracles.WORKED_DATA_CHECKS
    assert data.x.shape == (50, 12)
    assert data.names == (*(f"x{index}" for index in range(11)), "one")
    assert float(data.x[0, 0]) == pytest.approx(first, abs=5e-11)
    assert float(data.y[0]) == pytest.approx(first_y, abs=5e-11)
    assert float(data.y.sum()) == pytest.approx(total, abs=5e-11)
    assert float(data.y.square().sum()) == pytest.approx(squares, abs=5e-11)
    assert standardised(data.x[:, :1])
    assert (data.x[:, 11] == 1).all()


def test_tanh_draws_its_other_columns_one_after_the_other():
    """The checks on y cannot tell this from one 50 x 10 draw; the published evidence of f2 can."""
    data, (x, y) = tanh(), oracles.worked_example()
    assert torch.allclose(data.x, x, atol=1e-14)
    assert torch.allclose(data.y, y, atol=1e-14)


def test_diabetes_is_standardised_on_all_rows():
    data = validate_dataset(diabetes())
    assert data.x.shape == (442, 10)
    assert data.names == ("age", "sex", "bmi", "bp", "s1", "s2", "s3", "s4", "s5", "s6")
    assert standardised(data.x)
    assert standardised(data.y[:, None])
    assert data.test_x is None
    solution = torch.linalg.lstsq(data.x, data.y[:, None]).solution
    residual = (data.y[:, None] - data.x @ solution).square().sum()
    assert float(residual) / (442 - 11) == pytest.approx(oracles.DIABETES_NOISE_VARIANCE, abs=5e-6)


def test_wide_diabetes_has_64_columns_none_of_them_a_copy():
    data = diabetes_wide(split=0)
    x = torch.cat([data.x, data.test_x])
    assert x.shape == (442, 64)
    assert standardised(x)
    assert sum(":" in name for name in data.names) == 45
    assert [name for name in data.names if "^" in name] == [
        f"{name}^2" for name in data.names[:10] if name != "sex"
    ]
    assert int(torch.linalg.matrix_rank(x)) == 64
    alike = (x.T @ x / 442).abs().fill_diagonal_(0.0)
    assert float(alike.max()) < 0.96


def test_sex_squared_would_be_a_copy_of_sex():
    sex = diabetes().x[:, 1]
    square = sex.square()
    square = (square - square.mean()) / square.std(correction=0)
    assert len(sex.unique()) == 2
    assert float((square * sex).mean().abs()) == pytest.approx(1.0, abs=1e-12)


def test_a_product_is_the_standardised_product_of_standardised_columns():
    data, plain = diabetes_wide(split=0), diabetes()
    product = plain.x[:, 2] * plain.x[:, 3]
    product = (product - product.mean()) / product.std(correction=0)
    order = permutation(0)
    column = data.names.index("bmi:bp")
    assert torch.allclose(torch.cat([data.x, data.test_x])[:, column], product[order], atol=1e-12)


@pytest.mark.parametrize("split", range(5))
def test_the_splits_are_those_of_the_published_numbers(split: int):
    data = load_dataset(Ref("diabetes_wide", {"split": split}))
    order = permutation(split)
    plain = diabetes()
    assert data.x.shape == (342, 64)
    assert data.test_x.shape == (100, 64)
    assert torch.equal(data.y, plain.y[order[:342]])
    assert torch.equal(data.test_y, plain.y[order[342:]])
    assert torch.allclose(data.test_x[:, :10], plain.x[order[342:]], atol=1e-12)


def test_least_squares_on_wide_diabetes_has_the_published_error():
    errors = []
    for split in range(5):
        data = diabetes_wide(split)
        solution = torch.linalg.lstsq(data.x, data.y[:, None]).solution
        errors.append(float((data.test_x @ solution - data.test_y[:, None]).square().mean()))
    mean, spread = torch.tensor(errors).mean(), torch.tensor(errors).std(correction=0) / 5**0.5
    assert float(mean) == pytest.approx(0.629, abs=6e-4)
    assert float(spread) == pytest.approx(0.027, abs=6e-4)


@pytest.mark.parametrize("split", [True, -1, 1.5, "a", 2**32])
def test_a_split_is_a_seed(split):
    with pytest.raises(StudyError, match=r"data(\.split| diabetes_wide\(split=.*: split): given"):
        load_dataset(Ref("diabetes_wide", {"split": split}))


def test_the_digest_is_that_of_the_content():
    assert diabetes().sha256 == diabetes().sha256
    digests = {data.sha256 for data in (tanh(), diabetes(), diabetes(1), diabetes_wide(0), diabetes_wide(1))}
    assert len(digests) == 5


def test_digits_have_the_published_nats_of_independent_pixels():
    data = validate_dataset(digits())
    assert data.y is None
    assert data.validation_x is not None
    assert data.validation_x.shape == (150, 64)
    assert set(data.x.unique().tolist()) == {0.0, 1.0}
    share = (data.x.sum(0) + 1) / (len(data.x) + 2)
    nats = torch.distributions.Bernoulli(share).log_prob(data.test_x).sum(1)
    assert float(-nats.mean()) == pytest.approx(oracles.DIGITS_INDEPENDENT_NATS, abs=0.01)


def test_grey_digits_are_the_same_images():
    black, grey = digits(), digits(levels=17)
    assert grey.x.max() == 16
    assert torch.equal((grey.test_x >= 8).double(), black.test_x)
    assert len(digits(rows=5).x) == 5


@pytest.mark.parametrize(
    ("params", "message"), [({"levels": 3}, "levels: given 3"), ({"rows": 1}, "rows: given 1")]
)
def test_digits_refuse_wrong_parameters(params, message):
    with pytest.raises(StudyError, match=message):
        load_dataset(Ref("digits", params))


def test_a_data_set_without_a_response_may_have_constant_columns_but_no_missing_value():
    data = digits(rows=4)
    data.validation_x[1, 2] = float("nan")
    with pytest.raises(StudyError, match=r"validation .*pixel_0_2"):
        validate_dataset(data)
