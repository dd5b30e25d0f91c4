"""Crashes, signals, full disks, spoiled checkpoints: a resumed run equals an uninterrupted one bitwise."""

import hashlib
import importlib
import json
import os
import pickle
import signal
import time
from pathlib import Path
from types import ModuleType

import pytest

from evidentia.studies.harness.errors import StorageError, StudyError
from evidentia.studies.harness.storage.manifest import differing, is_done

pytestmark = [pytest.mark.dist, pytest.mark.slow]
STEPS = "steps=40"


@pytest.fixture
def trials(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "toy_plugin"))
    return importlib.import_module("crash_trials")


@pytest.fixture
def reference(trials: ModuleType, tmp_path: Path) -> dict:
    """The weights and losses of an uninterrupted run."""
    assert trials.here(tmp_path / "reference", STEPS).exit_code == 0
    return trials.weights(tmp_path / "reference")


def killed(trials: ModuleType, out: Path) -> None:
    """Kill a run without warning once it has two checkpoints."""
    process = trials.start(out, "--set", STEPS, TOY_PAUSE="0.02")
    trials.wait_for(lambda: len(trials.checkpoints(out)) >= 2, process)
    process.kill()
    process.communicate()
    assert not is_done(next((out / "points").iterdir()))
    assert trials.checkpoints(out)[-1] < 40


def test_killed_run_resumes_to_the_same_bytes(trials: ModuleType, tmp_path: Path, reference: dict) -> None:
    out = tmp_path / "run"
    killed(trials, out)
    code, printed = trials.run(out, "--set", STEPS, "--resume")
    assert code == 0, printed
    assert trials.equal(trials.weights(out), reference)
    assert len(reference["losses"]) == 40
    assert differing(out) == []


@pytest.mark.parametrize("part", ["optimiser", "rng"])
def test_resume_without_a_part_of_the_state_differs(
    trials: ModuleType, tmp_path: Path, reference: dict, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mutants of the trial above: without either part it must fail, so it can see a loss of state."""
    out = tmp_path / "run"
    monkeypatch.setenv("TOY_FAIL_AT", "23")
    assert trials.here(out, STEPS).exit_code == 3
    monkeypatch.delenv("TOY_FAIL_AT")
    monkeypatch.setenv("TOY_DROP", part)
    assert trials.here(out, STEPS, resume=True).exit_code == 0
    assert not trials.equal(trials.weights(out), reference)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signal_stops_after_the_step_and_says_how_to_continue(
    trials: ModuleType, tmp_path: Path, reference: dict, number: int, code: int
) -> None:
    out = tmp_path / "run"
    process = trials.start(out, "--set", STEPS, TOY_PAUSE="0.05")
    trials.wait_for(lambda: trials.checkpoints(out), process)
    process.send_signal(number)
    printed, errors = process.communicate(timeout=30)
    assert process.returncode == code, errors
    assert f"evidentia run crash-toy --out {out} --resume" in printed
    status = json.loads((out / "status.json").read_text())
    (point,) = (out / "points").iterdir()
    stopped = json.loads((point / "status.json").read_text())
    assert status["state"] == stopped["state"] == "stopped"
    assert trials.checkpoints(out)[-1] == stopped["step"] < 40
    assert trials.here(out, STEPS, resume=True).exit_code == 0
    assert trials.equal(trials.weights(out), reference)


def test_second_interrupt_stops_at_once(trials: ModuleType, tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = trials.start(out, "--set", STEPS, TOY_PAUSE="60")
    trials.wait_for(lambda: list(out.glob("points/*/status.json")), process)
    time.sleep(1.0)
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    assert process.poll() is None, "the first interrupt must wait for the step"
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    printed, errors = process.communicate(timeout=20)
    assert process.returncode == 130, errors
    assert time.monotonic() - began < 5
    assert "--resume" in printed
    assert "Traceback" not in errors


def test_busy_folder_is_refused_until_its_owner_is_dead(trials: ModuleType, tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = trials.start(out, "--set", STEPS, TOY_PAUSE="0.5")
    trials.wait_for(lambda: list(out.glob("points/*/status.json")), process)
    for resume in (False, True):
        with pytest.raises(StudyError, match=r"busy|unfinished") as refusal:
            trials.here(out, STEPS, resume=resume)
        assert refusal.value.exit_code == 2
    with pytest.raises(StudyError, match="is busy"):
        trials.here(out, STEPS, resume=True, shard="0/2")
    process.kill()
    process.communicate()
    assert trials.here(out, STEPS, resume=True).exit_code == 0


def half_way(trials: ModuleType, out: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Leave a run that failed at step 23, and return its checkpoint headers, newest first."""
    monkeypatch.setenv("TOY_FAIL_AT", "23")
    assert trials.here(out, STEPS).exit_code == 3
    monkeypatch.delenv("TOY_FAIL_AT")
    headers = [next(out.glob(f"points/*/ckpt/ckpt-{step}.json")) for step in (20, 15)]
    assert trials.checkpoints(out) == [15, 20]
    return headers


def test_shards_that_start_together_share_a_folder(trials: ModuleType, tmp_path: Path) -> None:
    out = tmp_path / "run"
    sets = ["--set", "steps=6", "--set", "widths=[1, 2, 3, 4, 5]"]
    shards = [trials.start(out, *sets, "--shard", f"{part}/3", TOY_PAUSE="0.05") for part in range(3)]
    for shard in shards:
        printed, errors = shard.communicate(timeout=60)
        assert shard.returncode == 0, printed + errors
    assert not is_done(out)
    assert len(list(out.glob("points/*/DONE"))) == 5
    merged = trials.here(out, "steps=6", "widths=[1, 2, 3, 4, 5]", resume=True)
    whole = trials.here(tmp_path / "whole", "steps=6", "widths=[1, 2, 3, 4, 5]")
    for point in whole.result.points:
        assert trials.equal(merged.result.state(point), whole.result.state(point))


class Lines(list):
    """A reporter that keeps its notices."""

    def start(self, header, total_points):
        pass

    def update(self, event):
        pass

    def notice(self, message):
        self.append(message)

    def finish(self, verdict):
        pass


def test_flipped_byte_falls_back_to_the_older_checkpoint(
    trials: ModuleType, tmp_path: Path, reference: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    newest, _ = half_way(trials, out, monkeypatch)
    tensors = newest.with_suffix(".safetensors")
    data = bytearray(tensors.read_bytes())
    data[-1] ^= 1
    tensors.write_bytes(bytes(data))
    lines = Lines()
    assert trials.here(out, STEPS, resume=True, reporter=lines).exit_code == 0
    assert any("ckpt-20" in line and "checksum mismatch" in line for line in lines)
    assert trials.equal(trials.weights(out), reference)


def test_truncated_checkpoints_are_refused_unless_restarted(
    trials: ModuleType, tmp_path: Path, reference: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    for header in half_way(trials, out, monkeypatch):
        tensors = header.with_suffix(".safetensors")
        tensors.write_bytes(tensors.read_bytes()[:100])
    lines = Lines()
    assert trials.here(out, STEPS, resume=True, reporter=lines).exit_code == 2
    assert sum("unusable" in line for line in lines) == 2
    assert trials.checkpoints(out) == [15, 20], "nothing was overwritten"
    assert trials.here(out, STEPS, resume=True, restart=True).exit_code == 0
    assert trials.equal(trials.weights(out), reference)


def test_lost_checkpoints_do_not_start_over_silently(
    trials: ModuleType, tmp_path: Path, reference: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    for header in half_way(trials, out, monkeypatch):
        header.unlink()
    assert trials.here(out, STEPS, resume=True).exit_code == 2
    assert trials.here(out, STEPS, restart=True).exit_code == 0
    assert trials.equal(trials.weights(out), reference)


class Bomb:
    """What runs when a pickle is read."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


def test_planted_pickle_with_a_matching_checksum_does_not_run(
    trials: ModuleType, tmp_path: Path, reference: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    newest, _ = half_way(trials, out, monkeypatch)
    marker = tmp_path / "marker"
    data = pickle.dumps(Bomb(marker))
    newest.with_suffix(".safetensors").write_bytes(data)
    header = json.loads(newest.read_text())
    newest.write_text(json.dumps({**header, "sha256": hashlib.sha256(data).hexdigest()}))
    lines = Lines()
    assert trials.here(out, STEPS, resume=True, reporter=lines).exit_code == 0
    assert any("not a whole safetensors file" in line for line in lines)
    assert trials.equal(trials.weights(out), reference)
    assert not marker.exists()


def test_full_disk_leaves_whole_files_and_resumes(
    trials: ModuleType, tmp_path: Path, reference: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    newest, _ = half_way(trials, tmp_path / "sizes", monkeypatch)
    limit = newest.with_suffix(".safetensors").stat().st_size - 1
    code, printed = trials.run(out, "--set", STEPS, "--file-limit", str(limit))
    assert code == 74, printed
    assert "Traceback" not in printed
    assert "--resume" in printed
    assert trials.temporary(out) == []
    assert trials.checkpoints(out) == [10, 15]
    assert trials.here(out, STEPS, resume=True).exit_code == 0
    assert trials.equal(trials.weights(out), reference)


def test_folder_deleted_during_the_run_is_a_fault_of_the_disk(
    trials: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    monkeypatch.setenv("TOY_DELETE", str(out))
    with pytest.raises(StorageError) as fault:
        trials.here(out, STEPS)
    assert fault.value.exit_code == 74
    assert not out.exists(), "a deleted folder does not come back half empty"


def test_folder_that_cannot_be_made_is_a_fault_of_the_disk(trials: ModuleType) -> None:
    with pytest.raises(StorageError, match="/proc"):
        trials.here(Path("/proc/evidentia-run"), STEPS)
