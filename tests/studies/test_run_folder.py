"""Run folders: where they may lie, whose they are, who holds them, and what is recorded."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from evidentia.studies.harness.engine import command
from evidentia.studies.harness.engine.signals import StopSignals
from evidentia.studies.harness.errors import StorageError, StudyError
from evidentia.studies.harness.storage import environment, manifest, run_folder
from evidentia.studies.harness.storage.clean import clean, parse_age
from evidentia.studies.harness.storage.locks import LOCK, BusyError, Shard, hold, hold_run

pytestmark = pytest.mark.no_torch


@pytest.mark.parametrize("text", [" ", "a\0b", "x" * 300, "a/" * 600, "../x", "a/../../x"])
def test_bad_paths_are_refused(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StudyError, match="--out") as refusal:
        run_folder.check_out(Path(text))
    assert refusal.value.exit_code == 2
    assert os.listdir(tmp_path) == []


def test_links_are_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(StudyError, match="is a link"):
        run_folder.check_out(tmp_path / "link")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    with pytest.raises(StudyError, match="is a link"):
        run_folder.check_out(tmp_path / "dangling")
    runs = tmp_path / "runs"
    runs.mkdir()
    (runs / "toy").symlink_to(tmp_path / "real")
    with pytest.raises(StudyError, match="outside"):
        run_folder.check_out(runs / "toy" / "new", runs)
    (tmp_path / "real" / "points").symlink_to(runs)
    run_folder.write_config(tmp_path / "real", {"name": "toy"})
    with pytest.raises(StudyError, match="Links are not followed"):
        run_folder.check_out(tmp_path / "real")


def test_folder_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(StudyError, match="not a run folder"):
        run_folder.check_out(tmp_path)
    with pytest.raises(StudyError, match="is a file"):
        run_folder.check_out(tmp_path / "thesis.tex")
    (tmp_path / "config.yaml").write_text("a: 1\n")
    with pytest.raises(StudyError, match="not a run folder"):
        run_folder.check_out(tmp_path)
    with pytest.raises(StudyError, match="not a run folder"):
        run_folder.check_out(Path("/etc"))


def test_folder_of_a_run_that_died_at_once_may_be_used(tmp_path: Path) -> None:
    (tmp_path / ".lock").touch()
    (tmp_path / ".tmp-12-config.yaml").touch()
    assert run_folder.check_out(tmp_path) == tmp_path


@pytest.mark.parametrize(
    "text",
    [
        "schema: 2\nname: toy\n",
        "!!python/object/apply:os.system ['touch marker']\n",
        "schema: 1\n",
        "[1",
        "a: &a [1]\nb: [*a, *a]\n",
    ],
)
def test_config_that_is_not_ours_is_refused(
    tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(StudyError):
        run_folder.read_config(tmp_path)
    assert not (tmp_path / "marker").exists()


def test_config_round_trip(tmp_path: Path) -> None:
    settings = {"name": "toy", "rate": 1e-3, "text": "no", "date": "2024-01-01", "deep": {"a": [1, None]}}
    run_folder.write_config(tmp_path, settings)
    assert run_folder.read_config(tmp_path) == settings
    assert "schema: 1" in (tmp_path / "config.yaml").read_text()


@pytest.mark.parametrize("identity", ["../../x", "abc", "g" * 12, "0" * 12 + "\n"])
def test_point_ids_are_ids(tmp_path: Path, identity: str) -> None:
    with pytest.raises(StudyError, match="not the id"):
        run_folder.point_folder(tmp_path, identity)


def test_new_folders_do_not_collide(tmp_path: Path) -> None:
    first = run_folder.new_path(tmp_path, "toy", "abcdef0123")
    first.mkdir(parents=True)
    second = run_folder.new_path(tmp_path, "toy", "abcdef0123")
    assert first != second
    assert first.name.endswith("-abcdef")
    assert first.parent == tmp_path / "toy"


def test_lock_is_exclusive_and_dies_with_its_owner(tmp_path: Path) -> None:
    with hold_run(tmp_path, None):
        with pytest.raises(BusyError, match="busy") as refusal, hold_run(tmp_path, None):
            pass
        assert refusal.value.exit_code == 2
    script = (
        "import sys, time\nfrom pathlib import Path\n"
        "from evidentia.studies.harness.storage.locks import hold\n"
        "with hold(Path(sys.argv[1]), 'busy'):\n    print('held', flush=True)\n    time.sleep(60)\n"
    )
    lock = tmp_path / LOCK
    with subprocess.Popen([sys.executable, "-c", script, str(lock)], stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        owner.stdout.readline()
        with pytest.raises(BusyError), hold(lock, "busy"):
            pass
        owner.kill()
        owner.wait()
    with hold(lock, "busy"):
        pass
    with pytest.raises(StorageError), hold(tmp_path / "gone" / "x", "busy"):
        pass


def test_shards_work_side_by_side_and_never_beside_an_ordinary_run(tmp_path: Path) -> None:
    with hold_run(tmp_path, Shard(0, 2)) as first:
        first.close()
        with hold_run(tmp_path, Shard(1, 2)) as second:
            second.close()
            with pytest.raises(BusyError, match="0-of-2"), hold_run(tmp_path, None):
                pass
        with pytest.raises(BusyError, match="shard 0/2"), hold_run(tmp_path, Shard(0, 2)):
            pass
    with hold_run(tmp_path, None), pytest.raises(BusyError), hold_run(tmp_path, Shard(0, 2)):
        pass


@pytest.mark.parametrize("text", ["2/2", "-1/2", "1", "a/b", "0/0", "1/2/3", "1.0/2", "0/" + "9" * 30, ""])
def test_shard_is_checked(text: str) -> None:
    with pytest.raises(StudyError, match="--shard"):
        Shard.parse(text)


def test_every_point_belongs_to_one_shard() -> None:
    for position in range(20):
        assert sum(Shard(part, 3).owns(position) for part in range(3)) == 1


def test_status_keeps_a_heartbeat_and_is_rewritten_at_a_low_rate(tmp_path: Path) -> None:
    status = run_folder.Status(tmp_path / "status.json", {"point": "x"}, every_s=100.0)
    status.set(state="running")
    before = (tmp_path / "status.json").read_bytes()
    status.beat(step=3)
    assert (tmp_path / "status.json").read_bytes() == before
    status.set(state="done")
    record = run_folder.read_status(tmp_path)
    assert (record["state"], record["step"], record["schema"]) == ("done", 3, 1)
    assert record["heartbeat"].endswith("+00:00")


def test_secrets_stay_out_of_the_record(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    words = ["run", "toy", "--set", "api_key=hunter2", "--token", "hunter2", "--password=hunter2"]
    record = environment.describe([*words, "tcp://u:hunter2@h:1"], {"d": "0"})
    assert "hunter2" not in json.dumps(record)
    assert record["variables"]["OMP_NUM_THREADS"] == "1"
    assert {"versions", "git", "cpu", "cpu_capability", "threads", "dtype", "torch_config"} <= set(record)


def test_environment_names_what_differs() -> None:
    before = {"versions": {"torch": "1", "numpy": "2"}, "threads": 1, "data": {"a": "1"}}
    now = {"versions": {"torch": "3", "numpy": "2"}, "threads": 2, "data": {"a": "2"}}
    assert environment.differences(before, now) == ["versions.torch: 1 -> 3", "threads: 1 -> 2"]
    assert environment.differences(now, now) == []


def test_commands_that_repeat_and_continue() -> None:
    words = ["evidentia", "run", "toy", "--out=a", "--set", "x=1", "--restart", "--set", "token=abc"]
    assert command.repeating(words) == "evidentia run toy --set x=1 --set 'token=***'"
    assert command.continuing(words, Path("b c")).endswith("--out 'b c' --resume")
    assert command.this_command("toy", "pkg.toy", ["/x/toy.py", "--smoke"]) == [
        "python", "-m", "pkg.toy", "--smoke",
    ]  # fmt: skip


def test_manifest_covers_what_no_longer_changes(tmp_path: Path) -> None:
    for name in ("metrics.csv", "status.json", "log.jsonl", ".lock", ".tmp-1-x"):
        (tmp_path / name).write_text(name)
    (tmp_path / "points").mkdir()
    (tmp_path / "points" / "x.csv").write_text("")
    manifest.write_manifest(tmp_path, skip=("points",))
    assert list(manifest.read_manifest(tmp_path)) == ["metrics.csv"]
    assert manifest.differing(tmp_path) == []
    (tmp_path / "metrics.csv").unlink()
    assert manifest.differing(tmp_path) == ["metrics.csv"]
    assert not manifest.is_done(tmp_path)


@pytest.mark.parametrize("text", ['{"schema": 2, "files": {}}', "[]", '{"schema": 1}', "x"])
def test_manifest_of_others_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "MANIFEST.json").write_text(text)
    with pytest.raises(StudyError):
        manifest.read_manifest(tmp_path)


def test_clean_removes_old_temporary_files_of_runs_only(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "toy" / "a"
    (run / "points" / "p").mkdir(parents=True)
    run_folder.write_config(run, {"name": "toy"})
    old = run / "points" / "p" / ".tmp-12-draws.nc"
    kept = [run / ".tmp-13-new", run / "points" / ".tmpfile", run / "metrics.csv", tmp_path / ".tmp-1-x"]
    link = run / ".tmp-14-link"
    for path in (old, *kept):
        path.write_text("")
    link.symlink_to(tmp_path / ".tmp-1-x")
    for path in (old, kept[1], kept[2], kept[3]):
        os.utime(path, (time.time() - 9999, time.time() - 9999))
    assert clean(tmp_path, 3600.0) == [old]
    assert all(path.exists() for path in kept)
    assert link.is_symlink()
    with pytest.raises(StudyError):
        clean(tmp_path / "absent", 1.0)


def test_ages() -> None:
    assert [parse_age(text) for text in ("30", "30s", "2m", "1h", "7d")] == [30, 30, 120, 3600, 604800]
    for text in ("", "d", "-1d", "1y", "1e9d"):
        with pytest.raises(StudyError, match="--older-than"):
            parse_age(text)


def test_signals_set_a_flag_and_the_handlers_come_back() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    first: list[str] = []
    with StopSignals(first.append) as stop:
        assert (bool(stop), stop.exit_code) == (False, 0)
        os.kill(os.getpid(), signal.SIGINT)
        assert (bool(stop), stop.exit_code, first) == (True, 130, ["SIGINT"])
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.exit_code == 130
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
