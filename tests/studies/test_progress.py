"""Every form of progress output: bars on a terminal, plain lines, quiet, JSON."""

from __future__ import annotations

import io
import json

import pandas as pd
import pytest
from rich.console import Console

from evidentia.studies.harness.reporting.verdict import Verdict
from evidentia.studies.harness.terminal.bars import RichReporter
from evidentia.studies.harness.terminal.progress import (
    JsonReporter,
    PlainReporter,
    ProgressEvent,
    QuietReporter,
    Reporter,
    make_reporter,
)
from evidentia.studies.harness.terminal.trend import Trend, clock_text

HEADER = {"study": "tanh [bold]", "folder": "runs/tanh/20260101-abc123"}
VERDICT = Verdict(
    table=pd.DataFrame({"structure": ["one"], "log_evidence": [-36.551], "standard_error": [0.02]}),
    checks=(),
    claims=(),
    report="runs/" + "a" * 150 + "/report.html",
    command="evidentia run tanh " + "--set a.b=3 " * 20,
)


class Tick:
    """A clock that moves when told to."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def drive(reporter: Reporter, clock: Tick, points: int = 2) -> None:
    reporter.start(HEADER, points)
    for step in range(0, 101, 10):
        clock.now += 0.5
        reporter.update(ProgressEvent(step, 100, "svi", elbo=-200.0 + step, point="p1"))
        for chain in (0, 1):
            reporter.update(ProgressEvent(step, 100, "sample", chain, divergences=3, point="p2"))
    reporter.notice("the environment differs")
    reporter.update(ProgressEvent(point="p1", state="done"))
    reporter.update(ProgressEvent(point="p2", state="failed", message="loss is not finite at step 7"))
    reporter.finish(VERDICT)


def test_trend_smooths_and_is_unmoved_by_a_value_that_is_not_finite():
    clock = Tick()
    trend = Trend(decay=0.5, clock=clock)
    for step, elbo in enumerate([-4.0, -2.0, float("nan"), float("-inf")]):
        clock.now += 2.0
        trend.add(ProgressEvent(step, elbo=elbo))
    assert trend.elbo == pytest.approx((0.25 * -4.0 + 0.5 * -2.0) / 0.75)
    assert trend.change == pytest.approx(100 * (trend.elbo + 4.0) / 4.0)
    assert trend.rate == pytest.approx(0.5)
    trend.add(ProgressEvent(0))  # a new phase
    assert trend.rate is None


def test_clock_text():
    assert [clock_text(t) for t in (0, 1.2, 61, 3661)] == ["0:00", "0:02", "1:01", "1:01:01"]


def test_bars_on_a_forced_terminal():
    out, clock = io.StringIO(), Tick()
    console = Console(file=out, force_terminal=True, width=140, color_system=None)
    reporter = RichReporter(console, clock)
    reporter.start(HEADER, 2)
    for step in (0, 50, 100):
        clock.now += 1.0
        reporter.update(ProgressEvent(step, 200, "svi", elbo=-200.0 + step, point="p1"))
        reporter.update(ProgressEvent(step, 200, "warmup", 0, divergences=3, point="p2"))
        reporter.update(ProgressEvent(step, 200, "warmup", 1, divergences=0, point="p2"))
    reporter._progress.refresh()
    text = out.getvalue()
    assert "tanh [bold]" in text  # no markup
    for wanted in ("p1 svi", "p2 chain 1 warmup", "p2 chain 2 warmup", "ELBO", " %)", "50 it/s", "ETA 0:02"):
        assert wanted in text
    assert "100 draws, 3 divergences" in text
    reporter.update(ProgressEvent(point="p2", state="failed", message="loss is not finite"))
    reporter.update(ProgressEvent(point="p2", state="failed", message="again"))
    assert list(reporter._tasks) == ["p1"]
    assert reporter._progress.tasks[0].completed == 1  # a point counts once
    reporter.finish(VERDICT)
    tail = out.getvalue()
    assert "✗ p2 failed loss is not finite" in tail
    assert tail.splitlines()[-1].endswith(VERDICT.command.rstrip()) or VERDICT.command in tail
    assert VERDICT.report in tail  # not wrapped


def test_plain_lines_come_at_a_low_rate():
    out, clock = io.StringIO(), Tick()
    drive(PlainReporter(out, interval=2.0, clock=clock), clock)
    lines = out.getvalue().splitlines()
    assert lines[0] == "study   tanh [bold]"
    assert sum(line.startswith("p1 svi") for line in lines) == 3  # at 0.5, 2.5 and 4.5 seconds of 5.5
    assert "p2 chain 2 sample 80/100  80 draws, 3 divergences  20 it/s  ETA 0:01" in lines
    assert "[1/2] p1 done" in lines
    assert "[2/2] p2 failed: loss is not finite at step 7" in lines
    assert "notice: the environment differs" in lines
    assert "\x1b" not in out.getvalue()
    assert lines[-1] == f"repeat  {VERDICT.command}"


def test_quiet_prints_only_the_verdict():
    out, clock = io.StringIO(), Tick()
    drive(QuietReporter(out), clock)
    assert out.getvalue() == VERDICT.text() + "\n"


def test_json_is_one_document_on_stdout_and_the_rest_on_stderr():
    out, err, clock = io.StringIO(), io.StringIO(), Tick()
    drive(JsonReporter(out, err, interval=2.0, clock=clock), clock)
    document = json.loads(out.getvalue())
    assert document["run"] == HEADER
    assert document["verdict"]["table"][0]["log_evidence"] == -36.551
    assert document["verdict"]["command"] == VERDICT.command
    assert "p1 svi" in err.getvalue()
    assert "notice" in err.getvalue()
    out = io.StringIO()
    JsonReporter(out, err).finish(None)
    assert json.loads(out.getvalue())["verdict"] is None


def test_the_streams_and_switches_choose_the_form():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    pipe, terminal = io.StringIO(), Terminal()
    assert isinstance(make_reporter(pipe, pipe), PlainReporter)
    assert isinstance(make_reporter(terminal, pipe), RichReporter)
    assert isinstance(make_reporter(terminal, pipe, quiet=True), QuietReporter)
    assert isinstance(make_reporter(terminal, pipe, as_json=True, quiet=True), JsonReporter)
    assert all(isinstance(make_reporter(pipe, pipe, quiet=q), Reporter) for q in (True, False))
