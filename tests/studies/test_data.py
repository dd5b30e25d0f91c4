"""Checks on data before any folder is created, and the user's own table."""

import io
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evidentia.studies.harness.data import table_file
from evidentia.studies.harness.data.dataset import (
    Dataset,
    check_rows,
    load_dataset,
    make_dataset,
    standardise,
    validate_dataset,
)
from evidentia.studies.harness.declare.points import Ref
from evidentia.studies.harness.errors import StudyError


def sample(rows: int = 8, **info: Any) -> Dataset:
    random = numpy.random.default_rng(0)
    x = random.normal(size=(rows, 3))
    return make_dataset(x, x.sum(1) + random.normal(size=rows), ["a", "b", "c"], info=info)


def spoil(value: float, *places: tuple[int, int]) -> Dataset:
    data = sample()
    for row, column in places:
        data.x[row, column] = value
    return data


@pytest.mark.parametrize(
    ("value", "places", "message"),
    [
        (
            float("nan"),
            [(2, 1)],
            r"data: 1 value is missing or infinite; the first is nan in row 3, column 'b'",
        ),
        (float("inf"), [(2, 1), (1, 2)], r"data: 2 values are missing .* inf in row 2, column 'c'"),
        (float("-inf"), [(0, 0)], r"-inf in row 1, column 'a'. Remove these rows or fill the values in"),
    ],
)
def test_missing_values_are_counted_and_placed(value, places, message):
    with pytest.raises(StudyError, match=message) as caught:
        validate_dataset(spoil(value, *places))
    assert caught.value.exit_code == 2


def test_the_target_and_the_held_out_rows_are_checked_too():
    data = sample(target="price")
    data.y[4] = float("nan")
    with pytest.raises(StudyError, match="nan in row 5, column 'price'"):
        validate_dataset(data)
    held_out = sample()._replace(test_x=torch.full((2, 3), torch.inf), test_y=torch.zeros(2))
    with pytest.raises(StudyError, match="test 6 values"):
        validate_dataset(held_out)


def test_too_few_rows_name_the_minimum_and_the_reason():
    with pytest.raises(StudyError, match="data: 1 row, at least 2 needed: a spread cannot be estimated"):
        validate_dataset(sample(rows=1))
    with pytest.raises(StudyError, match="8 rows, at least 16 needed: a mini-batch has 16"):
        validate_dataset(sample(), batch_size=16)
    empty = sample()._replace(test_x=torch.zeros(0, 3), test_y=torch.zeros(0))
    with pytest.raises(StudyError, match="test fold: 0 rows, at least 1 needed"):
        validate_dataset(empty)
    check_rows("data", 2, 2, "")
    assert validate_dataset(sample(), batch_size=8).x.shape == (8, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"names": ("a", "b")}, r"x has shape \(8, 3\), expected \(rows, 2\)"),
        ({"names": ("a", "b", "a")}, "two columns are called 'a'"),
        ({"y": torch.zeros(7)}, r"y has shape \(7,\), expected \(8,\)"),
        ({"y": torch.zeros(8, 1)}, r"y has shape \(8, 1\)"),
        ({"y": torch.ones(8)}, r"the target is constant \(1\)"),
        ({"x": torch.zeros(8)}, r"x has shape \(8,\)"),
    ],
)
def test_shapes_and_names_must_agree(change: dict[str, Any], message: str):
    with pytest.raises(StudyError, match=message):
        validate_dataset(sample()._replace(**change))


def test_a_constant_column_is_named_unless_it_is_the_intercept():
    data = sample()
    data.x[:, 1] = 1e6
    with pytest.raises(StudyError, match=r"column 'b' is constant \(1e\+06\).*Leave it out, or name it"):
        validate_dataset(data)
    validate_dataset(data._replace(info={"intercept": "b"}))
    with pytest.raises(StudyError, match="column 'b' is constant"):
        validate_dataset(data._replace(info={"intercept": "a"}))


@pytest.mark.parametrize(("shift", "scale"), [(0.0, 1.0), (0.0, -1.0), (3.0, 2.0)])
def test_two_columns_that_no_data_can_tell_apart_are_named(shift: float, scale: float):
    data = sample()
    data.x[:, 2] = shift + scale * data.x[:, 0]
    with pytest.raises(StudyError, match="columns 'a' and 'c' are equal up to shift and scale"):
        validate_dataset(data)
    data.x[0, 2] += 1e-3
    validate_dataset(data)


def test_a_small_spread_is_no_constant():
    data = sample()
    data.x[:, 1] *= 1e-9
    validate_dataset(data)


def test_the_digest_changes_with_every_part():
    x, y = numpy.eye(3), numpy.arange(3.0)
    base = make_dataset(x, y, ["a", "b", "c"])
    others = [
        make_dataset(x + 1e-15, y, ["a", "b", "c"]),
        make_dataset(x, y[::-1], ["a", "b", "c"]),
        make_dataset(x, None, ["a", "b", "c"]),
        make_dataset(x, y, ["a", "b", "d"]),
        make_dataset(x, y, ["a", "b", "c"], test_x=x, test_y=y),
    ]
    assert len({base.sha256, *(other.sha256 for other in others)}) == 6
    assert base.sha256 == make_dataset(numpy.asfortranarray(x), y.astype(int), ("a", "b", "c")).sha256


def test_a_dataset_does_not_share_memory_with_what_it_was_made_of():
    x = numpy.eye(3)
    data = make_dataset(x, None, ["a", "b", "c"])
    x[0, 0] = 7
    assert float(data.x[0, 0]) == 1.0


def test_standardise_refuses_a_constant_column():
    with pytest.raises(StudyError, match="column 'b' is constant and cannot be standardised"):
        standardise(numpy.array([[1.0, 2.0], [2.0, 2.0]]), ["a", "b"])


def test_an_unknown_loader_or_parameter_gets_a_close_match():
    with pytest.raises(StudyError, match=r"data: unknown dataset 'diabets'. Did you mean 'diabetes'"):
        load_dataset(Ref("diabets"))
    with pytest.raises(
        StudyError, match=r"data\.splt: 'diabetes' takes no such parameter. Did you mean 'split'"
    ):
        load_dataset(Ref("diabetes", {"splt": 1}))


TABLE = "a,b,y\n" + "\n".join(f"{i},{i * i % 7},{3 * i + i % 2}" for i in range(1, 11)) + "\n"


def write(folder: Path, text: str | bytes, name: str = "table.csv") -> str:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return str(path)


def test_a_table_is_read_and_standardised(tmp_path: Path):
    path = write(tmp_path, "\ufeff" + TABLE.replace("\n", "\r\n"))
    data = load_dataset(Ref("csv", {"path": path, "target": "y"}))
    assert data.names == ("a", "b")
    assert data.x.mean(0).abs().max() < 1e-12
    raw = load_dataset(Ref("csv", {"path": path, "target": "y", "scale": False, "columns": ("b",)}))
    assert raw.x[:3, 0].tolist() == [1, 4, 2]
    assert raw.y[:2].tolist() == [4, 6]


def test_a_table_is_split_by_seed(tmp_path: Path):
    params = {"path": write(tmp_path, TABLE), "target": "y", "test_fraction": 0.3}
    first, same, other = (load_dataset(Ref("csv", params | {"split": split})) for split in (1, 1, 2))
    assert (len(first.x), len(first.test_x)) == (7, 3)
    assert first.sha256 == same.sha256 != other.sha256


def test_a_column_that_is_not_asked_for_need_not_be_a_number(tmp_path: Path):
    path = write(tmp_path, "name,a,y\nanna,1,2\n,2,3\neve,4,9\n")
    data = load_dataset(Ref("csv", {"path": path, "target": "y", "columns": ("a",)}))
    assert data.x.shape == (3, 1)


BAD_TABLES = [
    ("", "the file is empty"),
    ("\n", "the first line is empty"),
    ("a,y\n", "a header but no rows"),
    ("a,y\n\n\n", "a header but no rows"),
    ("a,y\n1,2\n", "1 row, at least 2 needed"),
    ("1,2\n3,4\n5,6\n", "the first line holds numbers"),
    ("a,,y\n1,2,3\n", "column 2 has no name"),
    ("a,a,y\n1,2,3\n", "two columns are called 'a'"),
    ("a,y\n1,2\n3\n", "line 3: 1 fields, the header has 2"),
    ("a,y\n1,2,\n", "line 2: 3 fields, the header has 2"),
    ("a,y\n1,2\nred,3\n", "line 3, column 'a': 'red' is no number. Encode the column"),
    ("a,y\n1,2\n1_0,3\n", "'1_0' is no number"),
    ("a,y\n1,2\n2,1\n,3\n", r"1 missing or infinite value; .* nan in row 3 \(line 4\), column 'a'"),
    ("a,y\n\n1,NA\n2,nan\n3,4\n", r"2 missing or infinite values; .* row 1 \(line 3\), column 'y'"),
    ("a,y\n1,2\ninf,3\n", r"inf in row 2 \(line 3\), column 'a'"),
    ("a,y\n1,2\n1e999,3\n", "inf in row 2"),
    ("a,y\n1,2\n1,3\n", "column 'a' is constant"),
    ("a,y\n1,2\n2,2\n", "column 'y' is constant"),
    ("a,b,y\n1,2,3\n2,4,5\n3,6,1\n", "columns 'a' and 'b' are equal up to shift and scale"),
    ("a,z\n1,2\n2,3\n", r"has no column 'y'\. Known: a, z"),
    ("y\n1\n2\n", "expected predictors besides the target"),
    ('a,y\n"1,2\n', "not readable as CSV"),
    (b"a,y\n\xff\xfe,2\n", "not UTF-8"),
    (b"a,y\n1\0,2\n3,4\n", "no number|not readable as CSV"),
]


@pytest.mark.parametrize(("text", "message"), BAD_TABLES)
def test_a_table_that_cannot_be_used_is_refused(text, message: str, tmp_path: Path):
    with pytest.raises(StudyError, match=message) as caught:
        load_dataset(Ref("csv", {"path": write(tmp_path, text), "target": "y"}))
    assert caught.value.exit_code == 2
    if not message.startswith("col"):
        assert "table.csv" in str(caught.value)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"test_fraction": 1.0}, "test_fraction is 1.0, expected a number from 0"),
        ({"test_fraction": 0.01}, "leaves an empty fold"),
        ({"test_fraction": 0.99}, "leaves an empty fold"),
        ({"test_fraction": True}, r"data\.test_fraction: given True, expected number"),
        ({"scale": "yes"}, r"data\.scale: given 'yes', expected boolean"),
        ({"split": -1}, "split is -1"),
        ({"columns": ("a", "c")}, "has no column 'c'"),
        ({"columns": ("a", "y")}, "expected predictors besides the target 'y'"),
        ({"columns": ()}, "expected predictors besides the target 'y'"),
        ({"path": 3}, r"data\.path: given 3, expected string"),
        ({"path": ""}, "data path: given ''"),
        ({"path": "table.txt"}, "expected a .csv or an .npz file"),
        ({"path": "missing.csv"}, "there is no such file"),
        ({"path": "a\0.csv"}, "cannot be opened"),
        ({"path": "x" * 300 + ".csv"}, "cannot be opened"),
        ({"path": "folder.csv"}, "this is a folder or a device"),
        ({"path": "pipe.csv"}, "this is a folder or a device"),
        ({"path": "large.csv"}, "bytes, at most 67,108,864 are read"),
        ({"target": "yy"}, "has no column 'yy'"),
    ],
)
def test_the_file_and_the_fold_are_checked(params, message: str, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.csv").mkdir()
    os.mkfifo(tmp_path / "pipe.csv")
    with (tmp_path / "large.csv").open("wb") as stream:
        stream.truncate(table_file.MAX_BYTES + 1)
    write(tmp_path, TABLE)
    with pytest.raises(StudyError, match=message):
        load_dataset(Ref("csv", {"path": "table.csv", "target": "y"} | params))


def write_npz(folder: Path, **arrays: Any) -> str:
    path = folder / "table.npz"
    numpy.savez(path, **arrays)
    return str(path)


def test_an_archive_of_arrays_is_read(tmp_path: Path):
    x = numpy.random.default_rng(0).normal(size=(6, 2))
    path = write_npz(tmp_path, x=x, flag=numpy.arange(6) % 2 == 0, y=x.sum(1))
    data = load_dataset(Ref("csv", {"path": path, "target": "y", "scale": False}))
    assert data.names == ("x.0", "x.1", "flag")
    assert numpy.allclose(data.x[:, :2], x)


class Planted:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (os.system, (f"touch {self.path}",))


def test_an_archive_with_objects_runs_nothing(tmp_path: Path):
    marker = tmp_path / "planted"
    hostile = numpy.array([Planted(marker), 1], dtype=object)
    path = write_npz(tmp_path, a=hostile, y=numpy.arange(2.0))
    with pytest.raises(StudyError, match="not a readable npz archive of plain numbers"):
        load_dataset(Ref("csv", {"path": path, "target": "y"}))
    assert not marker.exists()


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"a": ["x", "y"], "y": [1.0, 2.0]}, r"array 'a' has type <U1 and shape \(2,\)"),
        ({"a": [1.0, 2.0, 3.0], "y": [1.0, 2.0]}, r"arrays of \[2, 3\] rows"),
        ({"a": [], "y": []}, r"arrays of \[0\] rows"),
        ({"a": numpy.zeros((2, 1, 1)), "y": [1.0, 2.0]}, r"shape \(2, 1, 1\)"),
        ({"a": 1.0, "y": [1.0, 2.0]}, r"shape \(\)"),
        ({"a": [1j, 2], "y": [1.0, 2.0]}, "has type complex128"),
        ({}, r"arrays of \[\] rows"),
    ],
)
def test_an_archive_of_something_else_is_refused(arrays, message: str, tmp_path: Path):
    path = write_npz(tmp_path, **arrays)
    with pytest.raises(StudyError, match=message):
        load_dataset(Ref("csv", {"path": path, "target": "y"}))


@pytest.mark.parametrize("content", [b"garbage", b"PK\x03\x04", b"\x93NUMPY", b"\x80\x04N."])
def test_a_file_that_is_no_archive_is_refused(content: bytes, tmp_path: Path):
    path = write(tmp_path, content, "table.npz")
    with pytest.raises(StudyError, match="not a readable npz archive"):
        load_dataset(Ref("csv", {"path": path, "target": "y"}))


def test_a_truncated_archive_is_refused(tmp_path: Path):
    path = Path(write_npz(tmp_path, a=numpy.arange(50.0), y=numpy.arange(50.0)))
    content = path.read_bytes()
    for size in range(1, len(content), 37):
        path.write_bytes(content[:size])
        with pytest.raises(StudyError, match=r"table\.npz"):
            load_dataset(Ref("csv", {"path": str(path), "target": "y"}))


def test_an_archive_that_unpacks_to_too_much_is_refused_unread(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(table_file, "MAX_BYTES", 10_000)
    stream = io.BytesIO()
    numpy.save(stream, numpy.zeros(10**5))
    path = tmp_path / "table.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", stream.getvalue())
    assert path.stat().st_size < 10_000
    with pytest.raises(StudyError, match="800,128 bytes after unpacking"):
        load_dataset(Ref("csv", {"path": str(path), "target": "y"}))


@settings(deadline=None, max_examples=30, derandomize=True)
@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(tmp_path_factory, content: bytes):
    folder = tmp_path_factory.mktemp("bytes")
    for name in ("t.csv", "t.npz"):
        path = write(folder, content, name)
        with pytest.raises(StudyError):
            load_dataset(Ref("csv", {"path": path, "target": "y"}))
