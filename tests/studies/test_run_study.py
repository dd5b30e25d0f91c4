"""The driver: in memory and in a folder, the rules for folders that exist, failures, shards, growth."""

import importlib
import json
import os
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest
import torch

from evidentia.studies.harness.declare.registry import metrics, models
from evidentia.studies.harness.engine.run import RunResult, run_study
from evidentia.studies.harness.errors import NumericalFailure, StudyError
from evidentia.studies.harness.storage.clean import clean
from evidentia.studies.harness.storage.locks import Shard
from evidentia.studies.harness.storage.manifest import differing, is_done
from evidentia.studies.harness.storage.results import read_weights

NOT_RESULTS = {"status.json", "log.jsonl", ".lock"}


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "toy_plugin"))
    return importlib.import_module("crash_toy")


def run(toy: ModuleType, out: Path | None, config: dict | None = None, **options: object) -> RunResult:
    settings = toy.Config(steps=4, widths=(1, 2, 3)).replace(**(config or {}))
    return run_study(toy.study(settings), out=out, **options)  # type: ignore[arg-type]


def listing(folder: Path) -> dict[str, tuple[int, bytes]]:
    files = [path for path in folder.rglob("*") if path.is_file() and path.name not in NOT_RESULTS]
    return {str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


class Recorder:
    """A reporter that keeps everything."""

    def __init__(self) -> None:
        self.notices: list[str] = []
        self.events: list = []
        self.finished: list = []

    def start(self, header: dict, total_points: int) -> None:
        self.header = header

    def update(self, event: object) -> None:
        self.events.append(event)

    def notice(self, message: str) -> None:
        self.notices.append(message)

    def finish(self, verdict: object) -> None:
        self.finished.append(verdict)


def numbers(table: pd.DataFrame) -> pd.DataFrame:
    return table.drop(columns="seconds")


def test_memory_and_folder_give_the_same_numbers(toy: ModuleType, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    in_memory = run(toy, None)
    assert os.listdir(tmp_path) == []
    torch.manual_seed(7)  # what the process drew before must not matter
    in_folder = run(toy, tmp_path / "run")
    pd.testing.assert_frame_equal(numbers(in_memory.result.table), numbers(in_folder.result.table))
    assert list(in_memory.result.table.columns[:2]) == ["point", "width"]
    point = in_memory.result.points[1]
    assert torch.equal(in_memory.result.state(point)["w"], in_folder.result.state(point)["w"])
    pd.testing.assert_frame_equal(
        in_folder.result.table, pd.read_csv(tmp_path / "run" / "metrics.csv", dtype={"point": str})
    )


def test_a_run_leaves_the_generators_and_the_store_alone(toy: ModuleType) -> None:
    import random

    import numpy
    import pyro

    before = torch.get_rng_state(), random.getstate(), numpy.random.get_state()[1].tolist()  # noqa: NPY002
    pyro.param("mine", torch.ones(1))
    run(toy, None)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert numpy.random.get_state()[1].tolist() == before[2]  # noqa: NPY002
    assert list(pyro.get_param_store().keys()) == ["mine"]


def test_finished_folder_is_complete_and_stays_as_it_is(toy: ModuleType, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert run(toy, out).exit_code == 0
    assert differing(out) == []
    for point in (out / "points").iterdir():
        assert is_done(point)
        assert differing(point) == []
    before = listing(out)
    for resume in (True, False):
        recorder = Recorder()
        again = run(toy, out, resume=resume, reporter=recorder)
        assert again.exit_code == 0
        assert "already complete" in recorder.notices[0]
        assert len(again.result.table) == 3
        assert listing(out) == before


def test_layout_of_a_run_folder(toy: ModuleType, tmp_path: Path) -> None:
    ended = run(toy, None, runs_root=tmp_path / "runs")
    assert ended.folder is not None
    assert ended.folder.parent == tmp_path / "runs" / "crash-toy"
    names = {path.name for path in ended.folder.iterdir()}
    wanted = {"config.yaml", "environment.json", "status.json", "log.jsonl", "points", "metrics.csv"}
    assert wanted | {"MANIFEST.json", "DONE", ".lock"} <= names
    assert not [name for name in names if name.startswith((".tmp", ".owner"))]
    point = next((ended.folder / "points").iterdir())
    inside = {path.name for path in point.iterdir()}
    assert {"metrics.csv", "weights.safetensors", "MANIFEST.json", "DONE", "status.json"} <= inside
    for line in (ended.folder / "log.jsonl").read_text().splitlines():
        assert json.loads(line)["event"]
    from safetensors import safe_open

    with safe_open(point / "weights.safetensors", "pt") as file:
        spec = json.loads(file.metadata()["evidentia"])["data"]
    assert spec["x"] == {"shape": [12, 2], "dtype": "float64"}


@pytest.mark.parametrize(
    ("config", "keys"),
    [
        ({"steps": 5}, ["inference.params.steps: 4 -> 5"]),
        ({"rate": 0.1, "seed": 3}, ["inference.params.rate: 0.05 -> 0.1", "seed: 0 -> 3"]),
        ({"every": 9}, ["checkpoint_every: 5 -> 9"]),
        ({"widths": (1, 2, 4)}, ["grid.0.inference.width.2: 3 -> 4"]),
        ({"widths": (1, 2)}, ["grid.0.inference.width.2: 3 -> 'absent'"]),
    ],
)
@pytest.mark.parametrize("done", [True, False])
def test_changed_settings_are_refused_with_both_values(
    toy: ModuleType, tmp_path: Path, config: dict, keys: list[str], done: bool
) -> None:
    out = tmp_path / "run"
    run(toy, out)
    if not done:
        (out / "DONE").unlink()
    before = listing(out)
    for options in ({"resume": True}, {}, {"restart": True}):
        with pytest.raises(StudyError) as refusal:
            run(toy, out, config, **options)
        assert refusal.value.exit_code == 2
        for key in keys:
            assert key in str(refusal.value)
    assert listing(out) == before


def test_growth_keeps_the_old_points(toy: ModuleType, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run(toy, out)
    old = {key: value for key, value in listing(out).items() if key.startswith("points/")}
    with pytest.raises(StudyError, match="fewer points"):
        run(toy, out, {"widths": (1, 2, 3, 4, 5)})
    grown = run(toy, out, {"widths": (1, 2, 3, 4, 5)}, resume=True)
    assert grown.exit_code == 0
    now = listing(out)
    assert all(now[key] == value for key, value in old.items())
    fresh = run(toy, None, {"widths": (1, 2, 3, 4, 5)})
    pd.testing.assert_frame_equal(numbers(grown.result.table), numbers(fresh.result.table))
    assert differing(out) == []
    assert run(toy, out, {"widths": (1, 2, 3, 4, 5)}, resume=True).exit_code == 0


def test_replicates_may_grow(toy: ModuleType, tmp_path: Path) -> None:
    out = tmp_path / "run"
    study = toy.study(toy.Config(steps=2))
    run_study(study, out=out)
    grown = run_study(study.replace(seeds=3), out=out, resume=True)
    assert grown.result.table["replicate"].tolist() == [0, 1, 2]
    with pytest.raises(StudyError, match="seeds"):
        run_study(study.replace(seeds=(1, 2)), out=out, resume=True)


def test_unfinished_run_names_both_ways_out(toy: ModuleType, tmp_path: Path) -> None:
    out = tmp_path / "run"
    ended = run(toy, out, {"behaviours": ("good", "raise")})
    assert ended.exit_code == 3
    assert not is_done(out)
    with pytest.raises(StudyError, match=r"--resume.*--restart.*--out") as refusal:
        run(toy, out, {"behaviours": ("good", "raise")})
    assert refusal.value.exit_code == 2


def test_failed_point_does_not_stop_the_sweep(toy: ModuleType, tmp_path: Path) -> None:
    out = tmp_path / "run"
    recorder = Recorder()
    ended = run(toy, out, {"behaviours": ("raise", "good", "nan")}, reporter=recorder)
    assert ended.exit_code == 3
    assert len(ended.result.table) == 3
    (verdict,) = recorder.finished
    assert len(verdict.failures) == 6
    assert any("the planted fault" in line for line in verdict.failures)
    assert verdict.claims[0].status == "ERROR"
    states = [json.loads(path.read_text()) for path in out.glob("points/*/status.json")]
    assert sorted(each["state"] for each in states) == ["done"] * 3 + ["failed"] * 6
    errors = {each["error"]["type"] for each in states if each["error"]}
    assert errors == {"RuntimeError", "NumericalFailure"}
    assert json.loads((out / "status.json").read_text())["state"] == "failed"
    assert len(list(out.glob("points/*/error.txt"))) == 3
    with pytest.raises(NumericalFailure):
        run(toy, None, {"behaviours": ("nan",)})


def test_failed_claim_is_exit_1(toy: ModuleType, tmp_path: Path) -> None:
    ended = run(toy, tmp_path / "run", {"claim": -1.0})
    assert ended.exit_code == 1
    assert is_done(tmp_path / "run")


def test_dry_run_writes_nothing_and_validates(toy: ModuleType, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert run(toy, out, dry_run=True).exit_code == 0
    assert run(toy, None, dry_run=True, runs_root=tmp_path).exit_code == 0
    assert os.listdir(tmp_path) == []
    run(toy, out)
    with pytest.raises(StudyError, match="steps"):
        run(toy, out, {"steps": 7}, dry_run=True)


def test_inputs_are_checked_before_any_folder_is_made(toy: ModuleType, tmp_path: Path, registries) -> None:
    study = toy.study(toy.Config(steps=2))
    models.add("needs_width", lambda data, width: None)
    faults = {
        "unknown dataset 'crash_dat'.*crash_data": {"data": "crash_dat"},
        "unknown inference": {"inference": "nope"},
        "metrics: unknown metric": {"metrics": ("nope",)},
        "model: unknown model": {"model": "nope"},
        "model.width: model 'needs_width' needs": {"model": "needs_width"},
        "model.widht: .*Did you mean 'width'": {"model": {"key": "needs_width", "params": {"widht": 1}}},
        "model.data: .*leave it out": {"model": {"key": "needs_width", "params": {"data": 1, "width": 1}}},
        "mini-batch has 13": {"inference": {"key": "crash_adam", "params": {"batch_size": 13}}},
    }
    for message, change in faults.items():
        with pytest.raises(StudyError, match=message) as refusal:
            run_study(study.replace(grid=(), **change), out=tmp_path / "run")
        assert refusal.value.exit_code == 2
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_missing_gpu_is_named_with_the_line_that_installs(toy: ModuleType, tmp_path: Path) -> None:
    study = toy.study(toy.Config()).replace(device="cuda")
    with pytest.raises(StudyError, match="pip install torch") as refusal:
        run_study(study, out=tmp_path / "run")
    assert refusal.value.exit_code == 2
    assert os.listdir(tmp_path) == []


def test_missing_extra_is_named_with_the_line_that_installs(
    toy: ModuleType, tmp_path: Path, monkeypatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(StudyError, match=r"pip install 'evidentia\[scale\]'") as refusal:
        run(toy, tmp_path / "run", workers=2)
    assert refusal.value.exit_code == 2


def test_changed_data_are_refused_on_resume(toy: ModuleType, tmp_path: Path, monkeypatch) -> None:
    from evidentia.studies.harness.engine.problem import _load

    out = tmp_path / "run"
    run(toy, out)
    monkeypatch.setenv("TOY_DATA", "1")
    _load.cache_clear()
    with pytest.raises(StudyError, match="changed since the run began"):
        run(toy, out, {"widths": (1, 2, 3, 4)}, resume=True)
    _load.cache_clear()


def test_other_environment_is_a_notice(toy: ModuleType, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run(toy, out, {"behaviours": ("raise",)})
    path = out / "environment.json"
    record = json.loads(path.read_text())
    record["versions"]["torch"] = "1.0"
    path.write_text(json.dumps(record))
    recorder = Recorder()
    run(toy, out, {"behaviours": ("raise",)}, resume=True, reporter=recorder)
    assert any("versions.torch: 1.0 -> " in line for line in recorder.notices)


def test_shards_share_a_folder_and_merge(toy: ModuleType, tmp_path: Path) -> None:
    out = tmp_path / "run"
    recorder = Recorder()
    for part in (1, 0):
        ended = run(toy, out, shard=Shard(part, 2), reporter=recorder)
        assert ended.exit_code == 0
        assert not is_done(out)
    assert any("merge them with: evidentia run crash-toy" in line for line in recorder.notices)
    states = {p.name: json.loads(p.read_text()) for p in out.glob("status.*.json")}
    assert states["status.0-of-2.json"]["points"] == {"total": 2, "done": 2, "failed": 0}
    assert states["status.1-of-2.json"]["points"] == {"total": 1, "done": 1, "failed": 0}
    before = {key: value for key, value in listing(out).items() if key.startswith("points/")}
    merged = run(toy, out, resume=True)
    assert merged.exit_code == 0
    assert is_done(out)
    assert {key: value for key, value in listing(out).items() if key.startswith("points/")} == before
    pd.testing.assert_frame_equal(numbers(merged.result.table), numbers(run(toy, None).result.table))


def test_crash_in_the_middle_of_the_results_is_repaired(toy: ModuleType, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run(toy, out)
    before = {key: value[1] for key, value in listing(out).items() if key.endswith("weights.safetensors")}
    (out / "DONE").unlink()
    point = next((out / "points").iterdir())
    (point / "DONE").unlink()
    (point / "metrics.csv").write_text("half a li")
    (point / ".tmp-1-metrics.csv").write_text("x")
    assert run(toy, out, resume=True).exit_code == 0
    after = {key: value[1] for key, value in listing(out).items() if key.endswith("weights.safetensors")}
    assert before == after
    assert not (point / ".tmp-1-metrics.csv").exists()
    (out / ".tmp-1-metrics.csv").write_text("x")
    assert clean(out, 0.0) == [out / ".tmp-1-metrics.csv"]


def test_weights_are_read_as_safetensors_only(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    torch.save({"w": torch.ones(1)}, path)
    with pytest.raises(StudyError, match="not a whole safetensors file"):
        read_weights(path)


def test_metrics_and_rows_must_be_scalars(toy: ModuleType, registries) -> None:
    metrics.add("vector", lambda outcome, problem: {"v": torch.ones(2)})
    study = toy.study(toy.Config(steps=1)).replace(metrics=("vector",))
    with pytest.raises(StudyError, match="one number or text"):
        run_study(study)


def line_model(data):
    import pyro
    from pyro.distributions import Normal

    def model(x, y=None):
        w = pyro.sample("w", Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            return pyro.sample("obs", Normal(w * x[:, 0], 1.0), obs=y)

    return model


def test_figures_graph_and_report_have_the_same_bytes_each_time(
    toy: ModuleType, tmp_path: Path, registries, monkeypatch
) -> None:
    def plot(table):
        from matplotlib.figure import Figure

        figure = Figure(figsize=(2, 2))
        figure.subplots().plot(table["width"], table["loss"])
        return figure

    models.add("line_model", line_model)
    monkeypatch.setattr(toy, "plot", plot, raising=False)
    study = toy.study(toy.Config(steps=2, widths=(1, 2))).replace(model="line_model")
    made = []
    for name in ("a", "b"):
        recorder = Recorder()
        assert run_study(study, out=tmp_path / name, reporter=recorder).exit_code == 0
        assert recorder.notices == []
        made.append({path.name: path.read_bytes() for path in (tmp_path / name / "figures").iterdir()})
    assert made[0].keys() == {"result.png", "model.png"}
    assert made[0] == made[1]
    dot = [(tmp_path / name / "model.dot").read_text() for name in ("a", "b")]
    assert dot[0] == dot[1]
    assert "obs" in dot[0]
    report = (tmp_path / "a" / "report.html").read_bytes()
    from evidentia.studies.harness.reporting.report import build_report

    build_report(tmp_path / "a")
    assert (tmp_path / "a" / "report.html").read_bytes() == report
    assert differing(tmp_path / "a") == []


def test_figure_that_fails_does_not_cost_the_numbers(toy: ModuleType, tmp_path: Path, monkeypatch) -> None:
    def plot(table):
        raise RuntimeError("no ink")

    monkeypatch.setattr(toy, "plot", plot, raising=False)
    recorder = Recorder()
    ended = run(toy, tmp_path / "run", reporter=recorder)
    assert ended.exit_code == 0
    assert is_done(tmp_path / "run")
    assert any("no ink" in line for line in recorder.notices)


def test_warnings_of_a_point_are_gathered(toy: ModuleType, tmp_path: Path, registries) -> None:
    import warnings

    def noisy(outcome, problem):
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            for number in range(5):
                warnings.warn(f"did not converge {number % 1}", UserWarning, stacklevel=1)
        return {}

    metrics.add("noisy", noisy)
    recorder = Recorder()
    study = toy.study(toy.Config(steps=1)).replace(metrics=("noisy",))
    run_study(study, out=tmp_path / "run", reporter=recorder)
    (line,) = [text for text in recorder.notices if "converge" in text]
    assert "UserWarning (5 times)" in line


def test_a_point_has_the_threads_of_its_study_and_puts_them_back(toy, tmp_path, monkeypatch) -> None:
    seen: list[int] = []

    def count_threads(outcome: object, problem: object) -> dict[str, int]:
        seen.append(torch.get_num_threads())
        return {}

    monkeypatch.setitem(metrics._targets, "count-threads", count_threads)
    before = torch.get_num_threads()
    study = toy.study(toy.Config(steps=2, widths=(1,))).replace(metrics=("count-threads",), threads=2)
    run_study(study, out=tmp_path / "run")
    assert seen == [2]
    assert torch.get_num_threads() == before
    assert json.loads((tmp_path / "run" / "environment.json").read_text())["threads"] == 2


def test_a_finished_point_that_was_changed_is_not_taken(toy, tmp_path) -> None:
    folder = tmp_path / "run"
    first = run(toy, folder)
    point = first.result.points[0]
    place = folder / "points" / point.id
    (folder / "DONE").unlink()
    table = place / "metrics.csv"
    good = table.read_bytes()
    table.write_bytes(good + b"\n")
    again = run(toy, folder, resume=True)
    assert again.exit_code == 2
    assert not is_done(folder)
    repaired = run(toy, folder, resume=True, restart=True)
    assert repaired.exit_code == 0
    pd.testing.assert_frame_equal(numbers(repaired.result.table), numbers(first.result.table))
    table.write_bytes(good + b"\n")
    with pytest.raises(StudyError, match="changed after the point finished"):
        run(toy, folder, resume=True)


def test_a_run_inside_a_run_is_refused(toy, tmp_path) -> None:
    run(toy, tmp_path / "run")
    with pytest.raises(StudyError, match="lies inside the run folder"):
        run(toy, tmp_path / "run" / "points" / "x")


def test_a_complete_run_shows_its_verdict_again(toy, tmp_path) -> None:
    first, again = Recorder(), Recorder()
    run(toy, tmp_path / "run", reporter=first)
    run(toy, tmp_path / "run", reporter=again)
    assert "already complete" in again.notices[0]
    assert again.finished[0].as_dict()["claims"] == first.finished[0].as_dict()["claims"]
    assert len(again.finished[0].table) == len(first.finished[0].table)
