"""The command line: what each command prints and returns; errors are one message on stderr."""

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from evidentia.studies.harness import cli
from evidentia.studies.harness.errors import NumericalFailure, StorageError, StudyError
from evidentia.studies.harness.terminal.faults import DEBUG

pytestmark = pytest.mark.no_torch

COMMANDS = ("list", "show", "run", "report", "compare", "status", "clean", "doctor")


def call(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = cli.main(list(words))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def refused(capsys: pytest.CaptureFixture[str], *words: str, code: int = 2) -> str:
    """The message of a command that fails: one on stderr, nothing on stdout, no traceback."""
    got, out, err = call(capsys, *words)
    assert (got, out) == (code, "")
    assert err.startswith("error: ")
    assert err.count("error:") == 1
    assert "Traceback" not in err
    return err


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A stand-in for the run engine that records its call."""
    seen = SimpleNamespace(exit_code=0, error=None, calls=[])

    def run_study(study: Any, **options: Any) -> SimpleNamespace:
        seen.calls.append((study, options))
        if seen.error is not None:
            raise seen.error
        return SimpleNamespace(exit_code=seen.exit_code, result=None, folder=None)

    module = ModuleType("evidentia.studies.harness.engine.run")
    module.run_study = run_study
    monkeypatch.setitem(sys.modules, module.__name__, module)
    import evidentia.studies.harness

    monkeypatch.setattr(evidentia.studies.harness, "run", module, raising=False)
    return seen


@pytest.mark.parametrize("words", [(), ("--help",), *((name, "--help") for name in COMMANDS)])
def test_help_is_shown(words, capsys):
    code, out, err = call(capsys, *words)
    assert (code, err) == (0, "")
    assert "Usage: evidentia" in out
    if not words:
        assert all(name in out for name in COMMANDS)


def test_list_shows_name_question_points_minutes(builtin_toy, capsys):
    code, out, _ = call(capsys, "list")
    assert code == 0
    row = next(line for line in out.splitlines() if line.startswith("toy "))
    assert row.split()[:3] == ["toy", "3", "0.1"]
    assert "Does the mean of a column move" in row


def test_list_can_be_one_document_and_filtered_by_tag(builtin_toy, capsys):
    code, out, _ = call(capsys, "list", "--json", "--tag", "toy")
    (row,) = json.loads(out)
    assert code == 0
    assert (row["name"], row["points"], row["tags"], row["distribution"]) == ("toy", 3, ["toy"], None)
    assert json.loads(call(capsys, "list", "--json", "--tag", "nothing")[1]) == []


def test_list_shows_the_distribution_of_a_plugin(toy, capsys):
    assert "(plugin toy-package)" in call(capsys, "list")[1]
    assert "toy" not in call(capsys, "list", "--no-plugins")[1].split()
    assert "toy_study" not in sys.modules


def test_show_prints_the_resolved_settings(toy, capsys):
    code, out, _ = call(capsys, "show", "toy", "--set", "optimiser.rate=0.5", "--seed", "7")
    assert code == 0
    rows = {line.split()[0]: line.split() for line in out.splitlines() if line.strip()}
    assert rows["optimiser.rate"][1:5] == ["0.5", "float", "0.1", ">"]
    assert rows["seed"][1] == "7"
    assert "data toy_line(rows=20, bad=False) -> inference toy_shift" in out
    document = json.loads(call(capsys, "show", "toy", "--smoke", "--json")[1])
    assert document["points"] == 2
    assert document["resolved"]["data"] == {"key": "toy_line", "params": {"rows": 5, "bad": False}}


def test_show_draws_the_model_as_text(add_plugin, capsys):
    add_plugin(
        "drawn",
        "drawn_study",
        "'''Is it drawn?'''\n"
        "from evidentia.studies.harness.declare.config import StudyConfig as Config\n"
        "from evidentia.studies.harness.declare.registry import models, register_study\n"
        "from evidentia.studies.harness.declare.study import Study\n"
        "def build():\n"
        "    import pyro, pyro.distributions as dist\n"
        "    def model(x, y=None):\n"
        "        mean = pyro.sample('mean', dist.Normal(0.0, 1.0))\n"
        "        with pyro.plate('data', len(x)):\n"
        "            pyro.sample('obs', dist.Normal(mean, 1.0), obs=y)\n"
        "    return model\n"
        "models.add('drawn_model', 'drawn_study:build')\n"
        "@register_study\n"
        "def study(config): return Study(name='drawn', data='tanh', model='drawn_model', inference='svi')\n",
    )
    code, out, err = call(capsys, "show", "drawn")
    assert (code, err) == (0, "")
    assert "mean ~ Normal" in out
    assert "[plate data]" in out


def test_run_hands_its_options_to_the_engine(toy, engine, capsys, tmp_path):
    words = [
        "run",
        "toy",
        "--set",
        "rows=7",
        "--seed",
        "3",
        "--out",
        str(tmp_path / "d"),
        "--resume",
        "--yes",
    ]
    code, _, err = call(capsys, *words, "--workers", "2", "--retries", "1", "--shard", "1/4", "--quiet")
    assert (code, err) == (0, "")
    ((study, options),) = engine.calls
    assert (study.data.params["rows"], study.seed, study.name) == (7, 3, "toy")
    assert study.description.startswith("Does the mean")
    assert options["out"] == tmp_path / "d"
    assert options["runs_root"] == Path("runs")
    assert (options["resume"], options["restart"], options["yes"], options["dry_run"]) == (
        True,
        False,
        True,
        False,
    )
    assert (options["workers"], options["retries"], options["shard"]) == (2, 1, "1/4")
    assert type(options["reporter"]).__name__ == "QuietReporter"
    call(capsys, "run", "toy", "--json", "--workers", "tcp://host:8786")
    assert engine.calls[1][1]["workers"] == "tcp://host:8786"
    assert type(engine.calls[1][1]["reporter"]).__name__ == "JsonReporter"


def test_an_explicit_setting_beats_smoke(toy, engine, capsys):
    call(capsys, "run", "toy", "--smoke", "--set", "rows=9")
    ((study, _),) = engine.calls
    assert (study.data.params["rows"], study.count()) == (9, 2)


@pytest.mark.parametrize("code", [0, 1, 3, 130, 143])
def test_the_exit_code_is_that_of_the_run(code, toy, engine, capsys):
    engine.exit_code = code
    assert call(capsys, "run", "toy")[0] == code


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (StudyError("bad"), 2),
        (NumericalFailure("not finite"), 3),
        (StorageError("disk"), 74),
        (OSError(28, "No space left on device", "x/y"), 74),
        (RuntimeError("shape"), 3),
    ],
)
def test_every_fault_has_its_code_and_one_message(error, code, toy, engine, capsys, monkeypatch):
    monkeypatch.delenv(DEBUG, raising=False)
    engine.error = error
    message = refused(capsys, "run", "toy", code=code)
    assert str(getattr(error, "strerror", None) or error) in message


def test_an_interrupt_outside_the_engine_is_130(toy, engine, capsys):
    engine.error = KeyboardInterrupt()
    code, out, err = call(capsys, "run", "toy")
    assert (code, out) == (130, "")
    assert "Traceback" not in err


def test_an_unforeseen_fault_can_be_traced(toy, engine, monkeypatch):
    monkeypatch.setenv(DEBUG, "1")
    engine.error = RuntimeError("shape")
    with pytest.raises(RuntimeError, match="shape"):
        cli.main(["run", "toy"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("lst",), "Did you mean 'list'"),
        (("run",), "Missing argument"),
        (("run", "toy", "--smok"), "No such option"),
        (("run", "toy", "--set"), "requires an argument"),
        (("run", "toy", "--seed", "x"), "--seed"),
        (("run", "toy", "--retries", "-1"), "--retries"),
        (("run", "toi"), "unknown study 'toi'. Did you mean 'toy'?"),
        (("show", "toi"), "Did you mean 'toy'?"),
        (("run", "toy", "--no-plugins"), "drop --no-plugins"),
        (("run", "toy", "--set", "rows"), "expected key=value"),
        (("run", "toy", "--set", "rowz=3"), "unknown key 'rowz'. Did you mean 'rows'?"),
        (("run", "toy", "--set", "optimiser.rat=3"), "unknown key 'optimiser.rat'. Did you mean 'rate'?"),
        (("run", "toy", "--set", "rows=x"), "rows: given 'x', expected integer"),
        (("run", "toy", "--set", "rows=0"), "rows: given 0, expected greater than or equal to 1"),
        (("run", "toy", "--set", "rows=1000001"), "rows: given 1000001, expected less than"),
        (("run", "toy", "--seed", "-1"), "seed: given -1"),
        (("run", "toy", "--seed", "1", "--set", "seed=2"), "'seed' is set in the same command"),
        (("run", "toy", "--set", "name=../../x"), "unknown key 'name'"),
        (("run", "toy", "--set", "shifts=[]"), "axis 'inference.shift' is empty"),
        (("run", "toy", "--workers", "0"), "--workers: given '0'"),
        (("run", "toy", "--workers", "http://x:1"), "expected a number of processes or tcp://host:port"),
        (("run", "toy", "--resume"), "say which, with --out FOLDER"),
        (("clean", "--older-than", "soon"), "--older-than"),
        (("compare",), "Missing argument"),
    ],
)
def test_what_is_wrong_is_said_in_one_message(words, message, toy, engine, capsys):
    """A suggestion for an unknown name; path, value and expectation; exit 2; nothing is written."""
    assert message in refused(capsys, *words)
    assert engine.calls == []
    assert list(Path.cwd().iterdir()) == []


@pytest.mark.parametrize(
    "value", ["!!python/object/apply:os.system ['touch planted']", "&a [*a, *a]", "x" * 20_000]
)
def test_hostile_values_are_refused(value, toy, engine, capsys):
    assert "--set label" in refused(capsys, "run", "toy", "--set", f"label={value}")
    assert list(Path.cwd().iterdir()) == []


def test_spoiled_data_leave_no_folder(toy, capsys):
    message = refused(capsys, "run", "toy", "--set", "bad=true")
    assert "1 value is missing or infinite; the first is nan in row 2, column 'a'" in message
    assert list(Path.cwd().iterdir()) == []


def test_a_shard_that_cannot_be_is_refused(toy, capsys):
    assert "--shard: expected i/n" in refused(capsys, "run", "toy", "--shard", "4/4")
    assert list(Path.cwd().iterdir()) == []


def test_too_few_rows_leave_no_folder(toy, capsys):
    assert "1 row, at least 2 needed" in refused(capsys, "run", "toy", "--set", "rows=1")
    assert list(Path.cwd().iterdir()) == []


HOSTILE = ["../../x", "/etc", "a\0b", "x" * 300, "x/" * 600, "", " ", "/etc/passwd", "."]


@pytest.mark.parametrize("name", HOSTILE)
def test_no_command_takes_a_hostile_name_of_a_study(name, toy, engine, capsys):
    for command in ("run", "show"):
        message = refused(capsys, command, name)
        assert "unknown study" in message
        assert len(message) < 600
    assert engine.calls == []


@pytest.mark.parametrize("command", ["report", "compare", "status"])
@pytest.mark.parametrize("path", HOSTILE)
def test_only_run_folders_are_read(command, path, toy, capsys):
    message = refused(capsys, command, path)
    assert len(message) < 1500
    assert list(Path.cwd().iterdir()) == []


def test_an_out_folder_that_is_a_link_or_somebody_elses_is_refused(toy, tmp_path, capsys):
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "file").write_text("mine")
    (tmp_path / "link").symlink_to(theirs)
    for out in (tmp_path / "link", tmp_path / "link" / ".." / "theirs", theirs, Path("a\0"), Path("x" * 300)):
        refused(capsys, "run", "toy", "--smoke", "--out", str(out))
    assert [path.name for path in theirs.iterdir()] == ["file"]


def test_a_grid_of_a_million_points_needs_a_word(toy, engine, capsys):
    shifts = "shifts=[" + ",".join(str(value) for value in range(1000)) + "]"
    from evidentia.studies.harness.declare import study as module

    assert call(capsys, "run", "toy", "--set", shifts)[0] == 0
    limit, module.Study.confirm.__defaults__ = module.Study.confirm.__defaults__, (False, 999)
    try:
        assert "1,000 points, more than 999. Run with --yes" in refused(capsys, "run", "toy", "--set", shifts)
        assert call(capsys, "run", "toy", "--set", shifts, "--yes")[0] == 0
    finally:
        module.Study.confirm.__defaults__ = limit
    assert [options["yes"] for _, options in engine.calls] == [False, True]


def test_a_dry_run_prints_points_and_writes_nothing(toy, capsys):
    code, out, err = call(capsys, "run", "toy", "--dry-run")
    assert (code, err) == (0, "")
    assert "3 points, nothing written" in out
    assert [line.split()[-1] for line in out.splitlines()[-3:]] == ["0.0", "1.0", "2.0"]
    code, out, _ = call(capsys, "run", "toy", "--dry-run", "--json")
    assert json.loads(out)["points"] == 3
    assert list(Path.cwd().iterdir()) == []


def test_a_dry_run_validates_the_data(toy, capsys):
    assert "nan in row 2" in refused(capsys, "run", "toy", "--dry-run", "--set", "bad=true")


def test_a_run_ends_with_claims_report_and_command(toy, capsys):
    code, out, _ = call(capsys, "run", "toy", "--smoke")
    assert code == 0
    assert "PASS" in out
    (folder,) = Path("runs/toy").iterdir()
    assert str(folder / "report.html") in out
    assert "repeat" in out.splitlines()[-1]
    code, out, _ = call(capsys, "run", "toy", "--smoke", "--out", str(folder), "--resume")
    assert code == 0
    assert "complete" in out
    code, out, _ = call(capsys, "status", str(folder))
    assert (code, "2 done" in out) == (0, True)
    before = (folder / "report.html").read_bytes()
    assert call(capsys, "report", str(folder)) == (0, f"{folder}/report.html\n", "")
    assert (folder / "report.html").read_bytes() == before


def test_doctor_shows_what_is_installed(toy, capsys):
    code, out, _ = call(capsys, "doctor")
    assert code == 0
    assert "torch" in out


def test_a_failed_claim_is_exit_1_and_json_is_one_document(toy, capsys):
    code, out, _ = call(capsys, "run", "toy", "--set", "shifts=[-1.0]", "--json")
    assert code == 1
    document = json.loads(out)
    assert document["verdict"]["claims"][0]["passed"] is False


@pytest.mark.parametrize(
    "words", [("run", "toy", "--set", "rows=0"), ("run", "toi"), ("run", "toy", "--quiet")]
)
def test_a_fault_under_json_is_one_document_too(words, toy, capsys):
    code, out, err = call(capsys, *words, "--json")
    document = json.loads(out)
    assert (code, document["exit_code"]) == (2, 2)
    assert err == f"error: {document['error']}\n"


def test_a_tag_that_no_study_has_gets_a_notice(builtin_toy, capsys):
    code, out, err = call(capsys, "list", "--tag", "tyo")
    assert (code, out.split()) == (0, ["name", "points", "minutes", "question"])
    assert "no study has the tag 'tyo'. Did you mean 'toy'?" in err


def test_a_reader_that_goes_away_leaves_no_traceback(toy):
    command = f"{sys.executable} -m evidentia.studies.harness.cli show toy --json | true"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert done.stderr == ""


def test_clean_removes_nothing_where_there_is_nothing(toy, capsys):
    assert call(capsys, "clean", "--older-than", "1h") == (0, "0 temporary files removed\n", "")


def test_a_module_is_its_own_command(toy, monkeypatch, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "toy_study", "--smoke", "--dry-run"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "toy: 2 points, nothing written" in done.stdout
    assert list(Path.cwd().iterdir()) == []
    done = subprocess.run(
        [sys.executable, "-m", "evidentia.studies.harness.cli", "run", "toy", "--set", "rows=0"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: rows: given 0")
