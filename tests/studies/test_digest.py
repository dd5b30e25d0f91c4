"""What is shown of a result: short names of points, some rows of each, columns that tell something."""

from __future__ import annotations

import fake_run
import pandas as pd

from evidentia.studies.harness.reporting.digest import digest, point_names, telling
from evidentia.studies.harness.storage.read_run import read_run

TABLE = pd.DataFrame(
    {
        "point": ["a"] * 3 + ["b"] * 3 + ["c"],
        "prior": ["g"] * 3 + ["n"] * 3 + [None],
        "data": ["tanh"] * 7,
        "model": ["subset_regression(prior=g)"] * 3 + ["subset_regression(prior=n)"] * 3 + [None],
        "split": [None] * 6 + [0],
        "method": [None] * 6 + ["lasso"],
        "structure": ["x", "y", "z", "x", "y", "z", None],
        "log_evidence": [-1.0, -2.0, -3.0, -1.5, -2.5, -3.5, None],
        "kind": ["exact"] * 6 + [None],
        "empty": [None] * 7,
    }
)


def test_every_point_has_rows_and_only_telling_columns_stay():
    shown = digest(TABLE, 5)
    assert shown.index.tolist() == [0, 3, 6]
    assert shown.columns.tolist() == ["prior", "split", "structure", "log_evidence", "kind"]
    assert digest(TABLE, 6).index.tolist() == [0, 1, 3, 4, 6]
    assert len(digest(TABLE, 100)) == 7


def test_points_that_settings_do_not_tell_apart_keep_their_ids():
    twins = TABLE.iloc[:6].drop(columns=["prior", "model"])
    assert digest(twins, 10).columns[0] == "point"
    assert "point" not in digest(TABLE.iloc[:3], 10).columns


def test_more_points_than_rows():
    many = pd.DataFrame(
        {"point": [f"{n}" for n in range(50)], "name": [f"n{n}" for n in range(50)], "value": 1.0}
    )
    assert len(digest(many, 20)) == 20


def test_numbers_among_the_settings_stay():
    table = pd.DataFrame({"point": ["a", "b"], "width": [1, 2], "prior": ["g", "n"], "elbo": [-1.0, -2.0]})
    assert digest(table, 5).columns.tolist() == ["width", "elbo"]
    assert digest(table.drop(columns="point"), 5).columns.tolist() == ["width", "prior", "elbo"]


def test_settings_that_follow_from_shorter_ones_are_not_names():
    assert telling([{"a": "1", "b": "long"}, {"a": "2", "b": "longer"}]) == ["a"]
    assert telling([{"a": "1", "b": "x"}, {"a": "1", "b": "y"}]) == ["b"]
    assert telling([{"a": "1", "b": "x"}, {"a": "1", "b": "y"}, {"a": "2", "b": "x"}]) == ["a", "b"]
    assert telling([{"a": "1"}]) == []
    assert point_names([{"prior": "g"}, {"method": "lasso"}]) == ["prior = g", "method = lasso"]
    assert point_names([]) == []


def test_points_of_a_folder_are_named_and_in_the_order_of_the_table(tmp_path):
    folder = fake_run.write_run(tmp_path / "run")
    table = pd.read_csv(folder / "metrics.csv", dtype={"point": str})
    table.iloc[::-1].to_csv(folder / "metrics.csv", index=False)
    assert [point.label for point in read_run(folder).points] == [
        f"prior = {p}" for p in fake_run.PRIORS[::-1]
    ]
    (folder / "metrics.csv").unlink()
    assert [point.id[-1] for point in read_run(folder).points] == ["0", "1", "2"]
    lone = fake_run.write_run(tmp_path / "lone", priors=("p",))
    assert [point.label for point in read_run(lone).points] == ["000000000000"]
