"""Options that ask for nothing say so: a shard without a point, --restart on a finished run."""

import json
from pathlib import Path

import pytest

from evidentia.studies.harness.cli import main


@pytest.fixture(autouse=True)
def _toy(toy: str) -> None:
    """The toy of three points, in an empty working directory."""


def test_a_shard_beyond_the_points_says_so_and_writes_nothing(capsys):
    assert main(["run", "toy", "--out", "run", "--shard", "5/8"]) == 0
    out = capsys.readouterr().out
    assert "notice: --shard 5/8 has no point: the study has 3" in out
    assert not Path("run").exists()
    assert main(["run", "toy", "--out", "run", "--shard", "2/8", "--quiet"]) == 0  # the last one with a point
    assert len(list(Path("run/points").iterdir())) == 1


def test_json_of_an_empty_shard_is_still_one_document(capsys):
    assert main(["run", "toy", "--out", "run", "--shard", "7/8", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["verdict"] is None


def test_restart_alone_on_a_finished_run_says_what_it_does_and_the_way_out(capsys):
    assert main(["run", "toy", "--out", "run"]) == 0
    before = {path: path.stat().st_mtime_ns for path in Path("run").rglob("*")}
    capsys.readouterr()
    assert main(["run", "toy", "--out", "run", "--restart"]) == 0
    out = capsys.readouterr().out
    assert "already complete" in out
    assert "a finished point stays" in out
    assert "give another --out" in out
    assert {path: path.stat().st_mtime_ns for path in Path("run").rglob("*")} == before
    assert main(["run", "toy", "--out", "run"]) == 0
    assert "--restart" not in capsys.readouterr().out
