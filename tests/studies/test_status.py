"""Status: the state of every point, how long it has been silent, and its error."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import fake_run
import pytest

from evidentia.studies.harness.errors import StudyError
from evidentia.studies.harness.reporting.status import age_text, point_states, status_table
from evidentia.studies.harness.storage.read_run import read_run

NOW = datetime(2026, 1, 1, 2, 0, 0, tzinfo=UTC)
LAST = f"points/{2:012x}/status.json"


def test_a_finished_run(tmp_path):
    run = fake_run.write_run(tmp_path / "run")
    (run / "DONE").write_text("done\n")
    text = status_table(run, NOW)
    assert text.splitlines()[0] == "structure-diabetes/run: done"
    assert "3 points: 3 done" in text
    assert "prior = g-prior, uniform" in text
    assert "ago" not in text  # the heartbeat of what is done says nothing


def test_a_failed_point_comes_first_with_its_error(tmp_path):
    run = fake_run.write_run(tmp_path / "run", done=False)
    text = status_table(run, NOW)
    assert "structure-diabetes/run: failed" in text
    assert "3 points: 2 done, 1 failed" in text
    rows = [line for line in text.splitlines() if line.startswith("  0000")]
    assert "failed  70/400" in rows[0]
    assert "2 h ago" in rows[0]
    assert rows[0].endswith("NumericalFailure at w: loss is not finite at step 71")


def test_a_running_point_that_has_fallen_silent(tmp_path):
    run = fake_run.write_run(tmp_path / "run", done=False)
    fake_run.write_json(run / LAST, {"state": "running", "step": 3, "heartbeat": "2026-01-01T01:59:30+00:00"})
    assert "30 s ago" in status_table(run, NOW)
    assert "!" not in status_table(run, NOW)
    fake_run.write_json(run / LAST, {"state": "running", "step": 3, "heartbeat": "2026-01-01T01:00:00+00:00"})
    assert "! no heartbeat from 000000000002 for more than 2 min" in status_table(run, NOW)
    (run / LAST).write_text("{")
    assert "1 queued" in status_table(run, NOW)


def test_done_needs_its_mark(tmp_path):
    run = fake_run.write_run(tmp_path / "run")
    (run / "points" / f"{0:012x}" / "DONE").unlink()
    states = {state.point: state.state for state in point_states(read_run(run), NOW)}
    assert sorted(states.values()) == ["done", "done", "unfinished"]
    assert "structure-diabetes/run: unfinished" in status_table(run, NOW)


def test_points_that_wait_and_shards(tmp_path):
    run = fake_run.write_run(tmp_path / "run")
    status = {
        "state": "running",
        "points": {"total": 10, "done": 3},
        "heartbeat": "2026-01-01T01:59:59+00:00",
    }
    fake_run.write_json(run / "status.json", status)
    fake_run.write_json(
        run / "status.1-of-4.json", status | {"error": {"type": "StorageError", "message": "full"}}
    )
    text = status_table(run, NOW)
    assert "10 points: 3 done, 7 waiting" in text
    assert "shard 1/4: running, heartbeat 1 s ago – StorageError: full" in text


def test_many_points_are_cut_and_counted(tmp_path):
    run = fake_run.write_run(tmp_path / "run", priors=("p",))
    for number in range(1, 80):
        (run / "points" / f"{number:012x}").mkdir()
    text = status_table(run, NOW)
    assert "80 points: 1 done, 79 queued" in text
    assert "… and 20 more" in text


def test_what_is_no_run_is_refused():
    with pytest.raises(StudyError, match="not a run folder"):
        status_table(Path("/etc"))


def test_ages():
    assert [age_text(s) for s in (0, 59, 60, 3600, 86400)] == ["0 s", "59 s", "1 min", "1 h", "1 d"]
