"""Compare where the points have different data: a table for each data set, and what is still refused."""

from __future__ import annotations

import io
import json
from pathlib import Path

import fake_run
import numpy as np
import pandas as pd
import pytest

from evidentia.studies.harness.errors import StudyError
from evidentia.studies.harness.reporting.compare_groups import compare_runs, comparisons

OTHER = "ee" * 32
WIDE = {"key": "diabetes_wide", "params": {"split": 1}}


def mixed(folder: Path, others: int = 2, priors: int = 4, rows: int = 342) -> Path:
    """A run whose last points have another data set; `priors` points in all."""
    fake_run.write_run(folder, priors=tuple(f"p{n}" for n in range(priors)))
    for number in range(priors - others, priors):
        path = folder / "points" / f"{number:012x}" / "point.json"
        record = json.loads(path.read_text()) | {"data_sha256": OTHER, "settings": {"data": WIDE}}
        record["data"]["y"]["shape"] = [rows]
        fake_run.write_json(path, record)
    return folder


def test_each_data_set_has_a_table_of_its_own(tmp_path):
    run = mixed(tmp_path / "run")
    found, alone = comparisons([run])
    assert not alone
    assert [group.comparison.table["model"].tolist() for group in found] == [
        ["prior = p1", "prior = p0"],
        ["prior = p3", "prior = p2"],
    ]
    for group in found:  # a mixture of both tables would give other probabilities
        np.testing.assert_allclose(
            group.comparison.table["probability"], [1 / (1 + np.exp(-1)), 1 / (1 + np.exp(1))], rtol=1e-9
        )
    text = compare_runs([run])
    assert "data: diabetes (sha256 9f9f9f9f9f9f, 442 observations)" in text
    assert "data: diabetes_wide(split=1) (sha256 eeeeeeeeeeee, 342 observations)" in text


def test_csv_stays_one_document_that_tells_the_data_apart(tmp_path):
    table = pd.read_csv(io.StringIO(compare_runs([mixed(tmp_path / "run")], csv=True)))
    assert table.columns[0] == "model"
    assert table.groupby("data_sha256")["model"].count().to_dict() == {fake_run.SHA: 2, OTHER: 2}
    assert table["data"].str.startswith("diabetes_wide(split=1)").sum() == 2


def test_the_only_model_of_its_data_is_named_and_not_compared(tmp_path):
    run = mixed(tmp_path / "run", others=1, priors=3)
    (group,), (single,) = comparisons([run])
    assert len(group.comparison.table) == 2
    assert single.name == "prior = p2"
    assert "not compared, the only model of its data: prior = p2, of diabetes_wide" in compare_runs([run])


def test_one_hash_with_two_numbers_of_rows_makes_two_tables(tmp_path):
    run = fake_run.write_run(tmp_path / "run", priors=("a", "b", "c", "d"))
    for number in (2, 3):
        path = run / "points" / f"{number:012x}" / "point.json"
        record = json.loads(path.read_text())
        record["data"]["y"]["shape"] = [50]
        fake_run.write_json(path, record)
    assert [len(group.comparison.table) for group in comparisons([run])[0]] == [2, 2]


def test_no_two_models_of_one_data_set_are_refused(tmp_path):
    with pytest.raises(StudyError, match=r"p0 has sha256 9f9f.* 442 .*p1 has eeee.* 342 obs") as caught:
        compare_runs([mixed(tmp_path / "run", others=1, priors=2)])
    assert caught.value.exit_code == 2


def test_named_points_of_different_data_are_refused(tmp_path):
    points = sorted((mixed(tmp_path / "run") / "points").iterdir())
    assert len(comparisons(points[2:])[0]) == 1
    with pytest.raises(StudyError, match=r"different data.* p0 has sha256 9f9f.* p2 has eeee") as caught:
        compare_runs(points)  # two of each: there would be two tables, had they been found in a run
    assert caught.value.exit_code == 2


def test_runs_that_share_no_data_are_refused_however_many_points_each_has(tmp_path):
    left, right = fake_run.write_run(tmp_path / "left"), mixed(tmp_path / "right", others=3, priors=3)
    with pytest.raises(StudyError, match=r"left: .* has sha256 9f9f.*right: .* has eeee"):
        compare_runs([left, right])
    other = mixed(tmp_path / "other", others=3, priors=3, rows=341)
    with pytest.raises(StudyError, match=r"different numbers.*right: .* has 342.*other: .* has 341"):
        compare_runs([right, other])


def test_runs_that_share_one_of_two_data_sets_are_compared_on_each(tmp_path):
    left, right = mixed(tmp_path / "left"), fake_run.write_run(tmp_path / "right")
    found, _ = comparisons([left, right])
    assert [len(group.comparison.table) for group in found] == [5, 2]
