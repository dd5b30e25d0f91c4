"""A search that is killed or stopped half way: resumed, it ends with the trials of an uninterrupted one."""

import importlib
import json
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest

from evidentia.studies.harness.engine.run import run_study
from evidentia.studies.harness.search.journal import JOURNAL
from evidentia.studies.harness.storage.manifest import differing, is_done

pytestmark = [pytest.mark.dist, pytest.mark.slow]

DRIVER = """
import sys
import search_toy
from pathlib import Path
from evidentia.studies.harness.engine.run import run_study
from evidentia.studies.harness.terminal.progress import PlainReporter
study = search_toy.study(search_toy.Config(search=search_toy.Config().search.replace(num_trials=13)))
command = ["evidentia", "run", "search-toy"]
show = PlainReporter(sys.stdout)
sys.exit(run_study(study, out=Path(sys.argv[1]), reporter=show, command=command).exit_code)
"""


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "toy_plugin"))
    return importlib.import_module("search_toy")


def journal(out: Path) -> list[tuple]:
    lines = (out / JOURNAL).read_text().splitlines() if (out / JOURNAL).exists() else []
    records = [json.loads(line) for line in lines]
    return [(each["state"], each["value"], each["params"]) for each in records if each["op_code"] == 4]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -9), (signal.SIGTERM, 143)])
def test_a_search_broken_off_ends_with_the_same_trials(
    toy: ModuleType, tmp_path: Path, number: int, code: int
) -> None:
    trials = importlib.import_module("crash_trials")
    study = toy.study(toy.Config(search=toy.Config().search.replace(num_trials=13)))
    whole = run_study(study, out=tmp_path / "whole")
    out = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(out)],
        env=trials.environ(SEARCH_PAUSE="0.15"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    trials.wait_for(lambda: len(journal(out)) >= 11, process)  # the sampler has begun to learn
    process.send_signal(number)
    printed, errors = process.communicate(timeout=30)
    assert process.returncode == code, printed + errors
    assert "Traceback" not in errors
    broken = journal(out)
    assert 11 <= len(broken) < 13
    assert not is_done(out)
    if number == signal.SIGTERM:
        assert f"evidentia run search-toy --out {out} --resume" in printed
        assert json.loads((out / "status.json").read_text())["state"] == "stopped"
    resumed = run_study(study, out=out, resume=True)
    assert resumed.exit_code == 0
    assert journal(out)[: len(broken)] == broken
    assert journal(out) == journal(tmp_path / "whole")
    same = [name for name in whole.result.table.columns if name != "seconds"]
    pd.testing.assert_frame_equal(resumed.result.table[same], whole.result.table[same])
    assert differing(out) == []
