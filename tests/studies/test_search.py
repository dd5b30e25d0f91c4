"""A search: seeded trials, a journal that can be reopened, refusals, and what a run makes of them."""

import importlib
import json
import logging
import os
import pickle
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy
import pandas as pd
import pytest
import yaml

from evidentia.studies.harness import Choice, Float, Int, SearchSpec, Study
from evidentia.studies.harness.engine.finish import best_point
from evidentia.studies.harness.engine.opening import settings_of
from evidentia.studies.harness.engine.run import RunResult, run_study
from evidentia.studies.harness.errors import StudyError
from evidentia.studies.harness.reporting.report import build_report
from evidentia.studies.harness.search import trials
from evidentia.studies.harness.search.journal import JOURNAL
from evidentia.studies.harness.search.trials import Trials
from evidentia.studies.harness.storage.manifest import differing, is_done, read_manifest

NUMBERS = ["point", "rate", "width", "prior", "row", "log_evidence", "error"]


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "toy_plugin"))
    monkeypatch.setattr(trials, "RANDOM", 3)  # so that few trials are enough to see the sampler learn
    return importlib.import_module("search_toy")


def searched(toy: ModuleType, seed: int = 0, **changes: Any) -> Study:
    config = toy.Config(seed=seed)
    return toy.study(config.replace(search=config.search.replace(**changes)))


def run(
    toy: ModuleType, out: Path | None, seed: int = 0, change: dict | None = None, **options: Any
) -> RunResult:
    return run_study(searched(toy, seed, **(change or {})), out=out, **options)


def told(out: Path) -> list[tuple]:
    """State, value and parameters of each trial in a journal."""
    lines = [json.loads(line) for line in (out / JOURNAL).read_text().splitlines()]
    lines = [each for each in lines if each["op_code"] == 4]
    return [(each.get("state", 0), each.get("value"), each.get("params")) for each in lines]


def asked(spec: SearchSpec, seed: int, number: int, sign: float = 1.0) -> list[dict]:
    """Ask and tell in memory, the value a bowl in the width."""
    them, found = Trials(spec, seed), []
    for _ in range(number):
        found.append(them.ask())
        them.tell(-sign * abs(found[-1]["inference.width"] - 5))
    return found


def test_a_seed_gives_the_same_trials_and_another_seed_others(toy: ModuleType, tmp_path: Path) -> None:
    first, again = run(toy, tmp_path / "a"), run(toy, tmp_path / "b")
    assert first.exit_code == 0
    assert told(tmp_path / "a") == told(tmp_path / "b")
    pd.testing.assert_frame_equal(first.result.table[NUMBERS], again.result.table[NUMBERS])
    memory = run(toy, None).result
    pd.testing.assert_frame_equal(first.result.table[NUMBERS], memory.table[NUMBERS])
    assert [point.id for point in memory.points] == [point.id for point in first.result.points]
    other = run(toy, None, seed=1).result
    assert not {point.id for point in other.points} & {point.id for point in memory.points}


def test_the_trials_lie_in_the_space_and_are_points_like_others(toy: ModuleType, tmp_path: Path) -> None:
    result = run(toy, tmp_path / "run").result
    table = result.table.drop_duplicates("point")
    assert len(table) == len(result.points) == 6
    assert table["rate"].between(1e-4, 1e-1).all()
    assert table["width"].isin(range(1, 17)).all()
    assert set(table["prior"]) == {"flat", "sharp"}
    assert table["rate"].nunique() == 6
    for point in result.points:
        record = json.loads((tmp_path / "run" / "points" / point.id / "point.json").read_text())
        assert record["settings"]["inference"]["params"] == dict(point.inference.params)
        assert record["id"] == point.id
    assert differing(tmp_path / "run") == []
    assert JOURNAL in read_manifest(tmp_path / "run")


def test_the_next_trial_follows_from_seed_values_and_direction(toy: ModuleType) -> None:
    spec = toy.Config().search
    number = trials.RANDOM + 4
    one, same, other = asked(spec, 0, number), asked(spec, 0, number), asked(spec, 1, number)
    assert one == same
    assert all(here != there for here, there in zip(one, other, strict=True))
    # The first trials are drawn without looking; later ones follow the values that were told.
    upside_down = asked(spec, 0, number, sign=-1.0)
    assert upside_down[: trials.RANDOM] == one[: trials.RANDOM]
    assert upside_down[trials.RANDOM :] != one[trials.RANDOM :]
    least = spec.replace(direction="minimise")
    assert asked(least, 0, number, sign=-1.0) == one
    assert asked(least, 0, number) == upside_down


def test_the_sampler_finds_the_top_more_often_than_chance(toy: ModuleType) -> None:
    widths = [each["inference.width"] for each in asked(toy.Config().search, 0, 130)][trials.RANDOM :]
    expected, deviation = len(widths) * 3 / 16, (len(widths) * 3 / 16 * 13 / 16) ** 0.5
    assert sum(abs(width - 5) <= 1 for width in widths) > expected + 4.5 * deviation


@pytest.mark.parametrize("half", [2, 5])
def test_a_reopened_journal_goes_on_as_if_nothing_had_been(
    toy: ModuleType, tmp_path: Path, half: int
) -> None:
    """Growth by ``num_trials`` reopens the journal; old points and the trials after them are the same."""
    whole, out = tmp_path / "whole", tmp_path / "run"
    expected = run(toy, whole, change={"num_trials": 7})
    run(toy, out, change={"num_trials": half})
    before = {path: path.read_bytes() for path in out.glob("points/*/*")}
    with pytest.raises(StudyError, match="fewer points"):
        run(toy, out, change={"num_trials": 7})
    grown = run(toy, out, change={"num_trials": 7}, resume=True)
    assert grown.exit_code == 0
    assert told(out) == told(whole)
    pd.testing.assert_frame_equal(grown.result.table[NUMBERS], expected.result.table[NUMBERS])
    assert all(path.read_bytes() == data for path, data in before.items())
    assert differing(out) == []
    with pytest.raises(StudyError, match=r"search.num_trials: 7 -> 6"):
        run(toy, out, change={"num_trials": 6}, resume=True)


def cut(out: Path, lines: int, tail: bytes = b"") -> None:
    """Leave a run as a crash after some lines of its journal would."""
    for name in ("DONE", "MANIFEST.json"):
        (out / name).unlink(missing_ok=True)
    kept = (out / JOURNAL).read_bytes().splitlines(keepends=True)
    (out / JOURNAL).write_bytes(b"".join(kept[:lines]) + tail)


@pytest.mark.parametrize("tail", [b"", b'{"op_code":4,"worker_id":"83d8', b"\x80\x04junk"])
@pytest.mark.parametrize("lines", [0, 1, 5])
def test_a_torn_journal_is_cut_and_the_trial_asked_again(
    toy: ModuleType, tmp_path: Path, lines: int, tail: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    run(toy, out, change={"num_trials": 6})
    before, table = told(out), (out / "metrics.csv").read_bytes()
    cut(out, lines, tail)
    monkeypatch.setenv("SEARCH_STARTS", str(tmp_path / "starts"))
    assert run(toy, out, change={"num_trials": 6}, resume=True).exit_code == 0
    assert told(out) == before
    assert (out / "metrics.csv").read_bytes() == table
    assert not (tmp_path / "starts").exists(), "the points were finished"


def test_a_trial_left_running_is_not_counted(toy: ModuleType, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run(toy, out, change={"num_trials": 6})
    before = told(out)
    cut(out, 4)
    from evidentia.studies.harness.search.journal import Journal
    from evidentia.studies.harness.search.optuna_access import quiet

    with quiet() as optuna:
        study = Journal(out, 1)._open(optuna)
        study.ask({"inference.width": optuna.distributions.IntDistribution(1, 16)})
    assert run(toy, out, change={"num_trials": 6}, resume=True).exit_code == 0
    assert [each for each in told(out) if each[0] != 0] == before


class Bomb:
    """What runs when a pickle is read."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return os.system, (f"touch {self.marker}",)


GARBAGE = {
    "pickle": b"\x80\x04\x95\x00.\n",
    "list": b"[]\n",
    "number": b"3\n",
    "text": b"hello\n",
    "no operation": b"{}\n",
    "unknown operation": b'{"op_code": 99}\n',
    "flag for an operation": b'{"op_code": true}\n',
    "half an operation": b'{"op_code": 4}\n',
    "no such study": b'{"op_code":4,"worker_id":"w","study_id":7,"datetime_start":null}\n',
    "wrong type": b'{"op_code":4,"worker_id":"w","study_id":0,"state":"x","datetime_start":3}\n',
    "deep": b'{"op_code":' + b"[" * 100_000 + b"\n",
    "empty line": b"\n",
}


@pytest.mark.parametrize("name", list(GARBAGE))
def test_a_garbled_journal_is_refused(toy: ModuleType, tmp_path: Path, name: str) -> None:
    out = tmp_path / "run"
    run(toy, out, change={"num_trials": 3})
    cut(out, 3, GARBAGE[name])
    data = (out / JOURNAL).read_bytes()
    with pytest.raises(StudyError, match=JOURNAL) as refusal:
        run(toy, out, change={"num_trials": 3}, resume=True)
    assert refusal.value.exit_code == 2
    assert (out / JOURNAL).read_bytes() == data
    (out / JOURNAL).unlink()
    assert run(toy, out, change={"num_trials": 3}, resume=True).exit_code == 0


def test_a_journal_of_another_kind_is_refused(toy: ModuleType, tmp_path: Path, monkeypatch) -> None:
    out, marker = tmp_path / "run", tmp_path / "marker"
    run(toy, out, change={"num_trials": 3})
    good = (out / JOURNAL).read_bytes()
    cut(out, 4)
    foreign = {
        "is of another search": good.replace(b"0.0001", b"0.0002"),
        "that would minimize": good.replace(b'"directions":[2]', b'"directions":[1]'),
        "not the journal of a search": good.replace(b'"study_name":"search"', b'"study_name":"other"'),
        "has the value": good.replace(b'"value":', b'"value":NaN,"was":', 1),
        "expected a JSON object": pickle.dumps(Bomb(marker)) + b"\n",
    }
    for message, data in foreign.items():
        (out / JOURNAL).write_bytes(data)
        with pytest.raises(StudyError, match=message):
            run(toy, out, change={"num_trials": 3}, resume=True)
    assert not marker.exists()
    (out / JOURNAL).write_bytes(good)
    monkeypatch.setattr("evidentia.studies.harness.search.journal.LIMIT", 100)
    with pytest.raises(StudyError, match="at most 100 are read"):
        run(toy, out, change={"num_trials": 3}, resume=True)
    (out / JOURNAL).unlink()
    (out / JOURNAL).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StudyError, match="is a link"):
        run(toy, out, change={"num_trials": 3}, resume=True)


def test_a_complete_search_is_left_alone(toy: ModuleType, tmp_path: Path) -> None:
    out = tmp_path / "run"
    first = run(toy, out)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    again = run(toy, out)
    assert again.exit_code == 0
    pd.testing.assert_frame_equal(first.result.table[NUMBERS], again.result.table[NUMBERS])
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    (out / JOURNAL).unlink()
    with pytest.raises(StudyError, match="0 of 6 trials"):
        run(toy, out)


def test_the_same_settings_are_one_point(toy: ModuleType, tmp_path: Path) -> None:
    space = {"inference.prior": Choice(options=("flat", "sharp"))}
    change = {"space": space, "num_trials": 5}
    ended = run(toy, tmp_path / "run", change=change)
    assert ended.exit_code == 0
    assert is_done(tmp_path / "run")
    assert len(ended.result.points) == 2
    found = told(tmp_path / "run")
    assert len(found) == 5
    assert len({value for _, value, _ in found}) == 2
    status = json.loads((tmp_path / "run" / "status.json").read_text())
    assert status["points"] == {"total": 2, "done": 2, "failed": 0}
    assert "settings tried" in (tmp_path / "run" / "report.html").read_text()
    assert run(toy, tmp_path / "run", change=change, resume=True).exit_code == 0
    memory = run(toy, None, change=change).result
    pd.testing.assert_frame_equal(memory.table[["point", "error"]], ended.result.table[["point", "error"]])


def test_a_failed_point_is_told_and_the_search_goes_on(toy: ModuleType, tmp_path: Path, monkeypatch) -> None:
    out = tmp_path / "run"
    monkeypatch.setenv("SEARCH_FAIL", "2 15")
    ended = run(toy, out)
    assert ended.exit_code == 3
    assert not is_done(out)
    found = told(out)
    assert len(found) == 6
    failed = [params for state, value, params in found if state == 3]
    assert failed
    assert {params["inference.width"] for params in failed} <= {2.0, 15.0}
    assert all(value is None for state, value, _ in found if state == 3)
    # Broken off and resumed, the same points fail and the same trials follow.
    cut(out, 5)
    assert run(toy, out, resume=True).exit_code == 3
    assert told(out) == found
    # Where the fault is gone the points are computed; what was asked stays asked.
    monkeypatch.delenv("SEARCH_FAIL")
    repaired = run(toy, out, resume=True)
    assert repaired.exit_code == 0
    assert told(out) == found
    assert len(repaired.result.points) == repaired.result.table["point"].nunique()


def test_a_value_that_is_not_finite_counts_as_failed(toy: ModuleType, tmp_path: Path) -> None:
    change = {"metric": "empty", "num_trials": 3}
    assert run(toy, tmp_path / "run", change=change).exit_code == 0
    assert [state for state, _, _ in told(tmp_path / "run")] == [3, 3, 3]
    assert "settings tried" not in (tmp_path / "run" / "report.html").read_text()


def test_the_value_is_read_back_exactly_and_is_the_best_row(toy: ModuleType, tmp_path: Path) -> None:
    up = run(toy, tmp_path / "up").result.table.groupby("point", sort=False)["log_evidence"].max()
    assert [value for _, value, _ in told(tmp_path / "up")] == up.tolist()
    change = {"metric": "error", "direction": "minimise"}
    down = run(toy, tmp_path / "down", change=change).result.table.groupby("point", sort=False)["error"].min()
    assert [value for _, value, _ in told(tmp_path / "down")] == down.tolist() == (-up).tolist()


@pytest.mark.parametrize(("metric", "direction"), [("log_evidence", "maximise"), ("error", "minimise")])
def test_the_best_point_follows_metric_and_direction(
    toy: ModuleType, tmp_path: Path, metric: str, direction: str
) -> None:
    study = searched(toy, metric=metric, direction=direction)
    out = tmp_path / "run"
    result = run_study(study, out=out).result
    rows = result.table.sort_values("log_evidence", ascending=False)
    assert best_point(study, result.points, result.table) == rows["point"].iloc[0]
    worst = study.replace(
        search=study.search.replace(direction={"maximise": "minimise"}.get(direction, "maximise"))
    )
    assert best_point(worst, result.points, result.table) == rows["point"].iloc[-1]
    page = (out / "report.html").read_text()
    most = "highest log evidence" if direction == "maximise" else "lowest error"
    assert "best of 6 settings tried" in page
    assert most in page
    assert f"width = {rows['width'].iloc[0]}, prior = {rows['prior'].iloc[0]}" in page
    verdict = json.loads((out / "status.json").read_text())["verdict"]
    assert most in verdict["conclusions"][0]
    build_report(out)
    assert (out / "report.html").read_text() == page


RATE = {"kind": "float", "low": 1e-4, "high": 0.1}


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({}, "at least 1 item"),
        ({"infrence.rate": RATE}, "search path 'infrence.rate'.*Did you mean 'inference'"),
        ({"inference.rtae": RATE}, "unknown key 'inference.rtae'. Did you mean 'rate'"),
        ({"budget.max_stepz": RATE}, "search.*max_stepz"),
        ({"data.rows": {"kind": "int", "low": 1, "high": 2}}, "cannot be compared"),
        ({"metrics": {"kind": "choice", "options": [[]]}}, "cannot be compared"),
        ({"inference.rate": RATE, "inference.params.rate": RATE}, "are one setting"),
        ({"inference.rate": {**RATE, "low": 1}}, "low is 1.0, above high 0.1"),
        ({"inference.rate": {**RATE, "low": 0, "log": True}}, "log=True needs low > 0"),
        ({"inference.rate": {**RATE, "low": float("nan")}}, "finite"),
        ({"inference.rate": {**RATE, "low": "x"}}, "given 'x', expected number"),
        ({"inference.rate": {**RATE, "setp": 1}}, "setp"),
        ({"inference.rate": {"low": 0, "high": 1}}, "kind: float, int or choice"),
        ({"inference.rate": {**RATE, "kind": "real"}}, "kind: float, int or choice"),
        ({"inference.rate": [0, 1]}, "kind: float, int or choice"),
        ({"inference.width": {"kind": "int", "low": 0.5, "high": 3}}, "integer"),
        ({"inference.width": {"kind": "int", "low": -1, "high": 3, "log": True}}, "log=True needs low > 0"),
        ({"inference.width": {"kind": "int", "low": 0, "high": 2**60}}, "less than or equal"),
        ({"inference.width": RATE}, "inference.width: given 0.0001"),
        (
            {"inference.width": {"kind": "float", "low": 1, "high": 16}},
            "inference.width: given .*, expected integer",
        ),
        ({"inference.prior": {"kind": "choice", "options": []}}, "at least 1 item"),
        ({"inference.prior": {"kind": "choice", "options": ["a", "a"]}}, "given twice"),
        ({"inference.prior": {"kind": "choice", "options": "ab"}}, "tuple"),
        (
            {"inference.prior": {"kind": "choice", "options": ["a", 3]}},
            "inference.prior: given 3, expected string",
        ),
        ({"inference.rate.deep": RATE, "inference.rate": RATE}, "has no keys below it"),
    ],
)
def test_a_bad_space_is_refused_before_any_folder_is_made(
    toy: ModuleType, tmp_path: Path, space: dict, message: str
) -> None:
    with pytest.raises(StudyError, match=message) as refusal:
        run(toy, tmp_path / "run", change={"space": space})
    assert refusal.value.exit_code == 2
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_trials": 0}, "greater than or equal to 1"),
        ({"num_trials": 10**9}, "less than or equal"),
        ({"direction": "up"}, "'maximise' or 'minimise'"),
        ({"metric": "seconds"}, "no search by them can be repeated"),
        ({"metric": "log_evidnce"}, "no column 'log_evidnce'. Did you mean 'log_evidence'"),
        ({"metric": "row"}, "'good' in column 'row', expected numbers"),
        ({"metric": ""}, "at least 1 character"),
        ({"trials": 3}, "unknown key 'trials'. Did you mean 'num_trials'"),
    ],
)
def test_a_bad_search_is_refused(toy: ModuleType, tmp_path: Path, change: dict, message: str) -> None:
    with pytest.raises(StudyError, match=message) as refusal:
        run(toy, tmp_path / "run", change=change)
    assert refusal.value.exit_code == 2
    if (tmp_path / "run").exists():
        assert json.loads((tmp_path / "run" / "status.json").read_text())["state"] == "failed"
        assert (tmp_path / "run" / "points").is_dir()


def test_a_search_is_alone_and_in_one_process(toy: ModuleType, tmp_path: Path) -> None:
    study = searched(toy)
    for change in ({"grid": {"inference.width": (1, 2)}}, {"seeds": 2}, {"seeds": (1, 2)}):
        with pytest.raises(StudyError, match="exclude each other"):
            study.replace(**change)
    for options in ({"workers": 2}, {"shard": "0/2"}):
        with pytest.raises(StudyError, match="runs in one process"):
            run_study(study, out=tmp_path / "run", **options)
    assert os.listdir(tmp_path) == []
    replicate = run_study(searched(toy, num_trials=2).replace(seeds=(7,))).result
    assert [point.replicate for point in replicate.points] == [7, 7]


def test_a_missing_extra_is_named_with_the_line_that_installs(
    toy: ModuleType, tmp_path: Path, monkeypatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(StudyError, match=r"extra search is not installed: pip install 'evidentia\[search\]'"):
        run(toy, tmp_path / "run")
    assert os.listdir(tmp_path) == []
    assert searched(toy).count() == 6


def test_optuna_is_silent_and_leaves_no_trace(toy: ModuleType, capfd: pytest.CaptureFixture) -> None:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.INFO)
    before = numpy.random.get_state()[1].tolist()  # noqa: NPY002
    run(toy, None)
    assert numpy.random.get_state()[1].tolist() == before  # noqa: NPY002
    assert optuna.logging.get_verbosity() == logging.INFO
    assert capfd.readouterr() == ("", "")


def test_a_search_is_plain_data(toy: ModuleType) -> None:
    study = searched(toy)
    record = yaml.safe_load(yaml.safe_dump(json.loads(json.dumps(settings_of(study)))))
    assert Study.model_validate(record) == study
    assert hash(study.search) == hash(searched(toy).search)
    assert [type(axis) for axis in study.search.space.values()] == [Float, Int, Choice]
    assert "search" not in settings_of(study.replace(search=None))
    assert study.replace(search=None).count() == 1
    edges = [dict(point.inference.params) for point in study.points()]
    assert len(edges) == 5
    assert {each["prior"] for each in edges} == {"flat", "sharp"}


def test_options_may_be_registry_keys_with_parameters(toy: ModuleType) -> None:
    options = ({"key": "search_bowl", "params": {"width": 5}}, "search_bowl")
    space = {"inference": Choice(options=options), "inference.rate": Float(low=0.01, high=0.02)}
    table = run(toy, None, change={"space": space, "num_trials": 6}).result.table
    assert set(table["inference"]) == {"search_bowl(width=5)", "search_bowl"}


def test_the_command_shows_runs_and_resumes_a_search(add_plugin, tmp_path, monkeypatch, capsys) -> None:
    from evidentia.studies.harness.cli import main

    source = (Path(__file__).parent / "toy_plugin" / "search_toy.py").read_text()
    add_plugin("search-toy", "search_toy_plugin", source.replace('"search_', '"other_'))
    monkeypatch.chdir(tmp_path)
    assert main(["show", "search-toy"]) == 0
    shown = capsys.readouterr().out
    assert "search maximise log_evidence" in shown
    assert "axis inference.rate: 0.0001 to 0.1, log" in shown
    assert "6 trials" in shown
    assert main(["run", "search-toy", "--dry-run", "--set", "search.num_trials=5"]) == 0
    assert "5 trials, nothing written" in capsys.readouterr().out
    assert main(["show", "search-toy", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["resolved"]["search"]["num_trials"] == 6
    words = ["run", "search-toy", "--out", "there", "--set"]
    assert main([*words, "search.num_trials=4"]) == 0
    assert "best of 4 settings tried" in capsys.readouterr().out
    assert main([*words, "search.num_trials=6", "--resume"]) == 0
    assert main([*words, "search.num_trials=5", "--resume"]) == 2
    assert main(["run", "search-toy", "--set", "search.num_trails=5"]) == 2
    assert "Did you mean 'num_trials'" in capsys.readouterr().err
    space = "search.space={inference.rate: {kind: float, low: 0.1, high: 0.2}}"
    assert main(["run", "search-toy", "--set", space, "--set", "search.num_trials=2"]) == 0
    assert main(["run", "search-toy", "--workers", "2"]) == 2
    assert main(["status", "there"]) == 0
