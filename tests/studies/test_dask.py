"""The cluster: killed workers, points that fail, signals, and results equal to the serial ones."""

import importlib
import json
import os
import signal
import socket
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest
import torch

from evidentia.studies.harness.engine.dask_executor import DaskExecutor, parse_workers
from evidentia.studies.harness.errors import StudyError
from evidentia.studies.harness.storage.manifest import is_done

pytestmark = [pytest.mark.dist, pytest.mark.slow]


@pytest.fixture
def trials(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "toy_plugin"))
    return importlib.import_module("crash_trials")


def light_run(
    tmp_path: Path, behaviours: list[str], workers: int | str = 2, retries: int = 0
) -> tuple[dict, Counter]:
    """Run light tasks; return id -> status, and how often each task started."""
    tasks = importlib.import_module("light_tasks")
    starts = tmp_path / "starts"
    executor = DaskExecutor(workers, lambda task: task, retries=retries, target=tasks.light)
    try:
        for number, behaviour in enumerate(behaviours):
            executor.submit(tasks.Light(f"t{number:02d}", behaviour, str(starts)))
        ended = dict(executor.as_done())
    finally:
        executor.close()
    return ended, Counter(starts.read_text().split())


def test_killed_worker_costs_one_execution(trials: ModuleType, tmp_path: Path) -> None:
    ended, starts = light_run(tmp_path, ["good"] * 5 + ["once"] + ["good"] * 10)
    assert len(ended) == 16
    assert {status.state for status in ended.values()} == {"done"}
    assert sum(starts.values()) <= 17
    assert starts["t05"] == 2


def test_a_point_that_kills_its_workers_fails_alone(trials: ModuleType, tmp_path: Path) -> None:
    ended, starts = light_run(tmp_path, ["good"] * 3 + ["kill"] + ["good"] * 5 + ["raise"] + ["good"] * 10)
    assert len(ended) == 20
    failed = {key: status.error["type"] for key, status in ended.items() if status.state == "failed"}
    assert failed == {"t03": "KilledWorker", "t09": "ValueError"}
    assert "the planted fault" in ended["t09"].error["message"]
    assert starts["t03"] == 4, "three failures are allowed"
    assert starts["t09"] == 1, "a fault of the point is not tried again"
    assert [status.state for status in ended.values()].count("done") == 18


def test_faults_of_the_machinery_are_retried(trials: ModuleType, tmp_path: Path) -> None:
    ended, starts = light_run(tmp_path, ["good", "flaky", "good"], workers=1, retries=1)
    assert {status.state for status in ended.values()} == {"done"}
    assert starts["t01"] == 2


def test_running_scheduler_is_joined_and_left_running(trials: ModuleType, tmp_path: Path) -> None:
    from distributed import LocalCluster

    options = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0", "threads_per_worker": 1}
    with LocalCluster(n_workers=1, **options) as cluster:
        ended, _ = light_run(tmp_path, ["good"] * 3, workers=cluster.scheduler_address)
        assert {status.state for status in ended.values()} == {"done"}
        assert len(cluster.scheduler.workers) == 1


def test_sweep_with_a_killed_worker_equals_the_serial_one(
    trials: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOY_STARTS", str(tmp_path / "starts"))
    monkeypatch.setenv("PYTHONPATH", trials.environ()["PYTHONPATH"])
    sets = ("steps=6", f"behaviours=['good', 'once:{tmp_path / 'marker'}', 'raise']")
    ended = trials.here(tmp_path / "dask", *sets, workers=2)
    assert ended.exit_code == 3
    assert len((tmp_path / "starts").read_text().split()) <= 4
    serial = trials.here(tmp_path / "serial", *sets)
    assert len(serial.result.table) == len(ended.result.table) == 2
    for point in serial.result.table["point"]:
        assert trials.equal(ended.result.state(point), serial.result.state(point))
    assert not list((tmp_path / "dask").glob(".owner*"))
    states = [json.loads(path.read_text())["state"] for path in tmp_path.glob("dask/points/*/status.json")]
    assert sorted(states) == ["done"] * 2 + ["failed"]


@pytest.mark.parametrize("group", [False, True], ids=["driver", "group"])
def test_signal_reaches_the_workers_and_the_run_resumes(
    trials: ModuleType, tmp_path: Path, group: bool
) -> None:
    """SIGTERM to the driver, and SIGINT to the whole group, which is what a terminal sends."""
    out = tmp_path / "run"
    sets = ["--set", "steps=30", "--set", "widths=[1, 2, 3]"]
    process = trials.start(out, *sets, "--workers", "2", TOY_PAUSE="0.2")
    trials.wait_for(lambda: len(list(out.glob("points/*/ckpt/*.json"))) >= 2, process)
    if group:
        os.killpg(process.pid, signal.SIGINT)
    else:
        process.send_signal(signal.SIGTERM)
    printed, errors = process.communicate(timeout=60)
    assert process.returncode == (130 if group else 143), printed + errors
    assert "--resume" in printed
    assert "Traceback" not in errors, "a worker took the signal for itself"
    states = [json.loads(path.read_text())["state"] for path in out.glob("points/*/status.json")]
    assert states == ["stopped"] * 2
    assert trials.here(out, "steps=30", "widths=[1, 2, 3]", resume=True).exit_code == 0
    whole = trials.here(tmp_path / "whole", "steps=30", "widths=[1, 2, 3]")
    for point in whole.result.points:
        path = out / "points" / point.id / "weights.safetensors"
        from safetensors.torch import load_file

        mine, reference = load_file(path), whole.result.state(point)
        assert all(torch.equal(mine[name], reference[name]) for name in reference)


def test_killed_driver_leaves_no_worker_that_disturbs(trials: ModuleType, tmp_path: Path) -> None:
    out = tmp_path / "run"
    sets = ["--set", "steps=30", "--set", "widths=[1, 2]"]
    process = trials.start(out, *sets, "--workers", "2", TOY_PAUSE="0.2")
    trials.wait_for(lambda: len(list(out.glob("points/*/ckpt/*.json"))) >= 2, process)
    process.kill()
    process.communicate()
    assert trials.here(out, "steps=30", "widths=[1, 2]", resume=True).exit_code == 0
    assert is_done(out)


def test_cluster_listens_on_this_machine_only(tmp_path: Path) -> None:
    executor = DaskExecutor(1, lambda task: task)
    try:
        info = executor._client.scheduler_info()
        assert info["address"].startswith("tcp://127.0.0.1:")
        assert all(address.startswith("tcp://127.0.0.1:") for address in info["workers"])
        assert all(worker["nthreads"] == 1 for worker in info["workers"].values())
        # The scheduler opens its port for HTTP in any case; it must be local and serve no page.
        url = f"http://127.0.0.1:{info['services']['dashboard']}"
        assert executor._client.cluster.scheduler.http_server.port
        for page in ("/status", "/workers", "/info/main/workers.html", "/json/counts.json", "/"):
            with pytest.raises(urllib.error.HTTPError, match="404"):
                urllib.request.urlopen(url + page, timeout=5)
        assert executor._client.submit(os.getenv, "OMP_NUM_THREADS").result() == "1"
    finally:
        executor.close()


def test_scheduler_that_does_not_answer_is_bad_input() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(StudyError, match="no scheduler answers") as refusal:
        DaskExecutor(f"tcp://127.0.0.1:{port}", lambda task: task, patience_s=1.0)
    assert refusal.value.exit_code == 2


@pytest.mark.parametrize("text", ["0", "-1", "two", "tcp://", "http://x:1", "5000", "1.5"])
def test_workers_are_checked(text: str) -> None:
    with pytest.raises(StudyError, match="--workers"):
        parse_workers(text)
