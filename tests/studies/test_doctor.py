"""Doctor: what is installed, what is not and why; it never fails."""

from __future__ import annotations

import shutil
import sys
from collections import namedtuple

import pytest

from evidentia.studies.harness.reporting import doctor
from evidentia.studies.harness.reporting.doctor import diagnose, doctor_report, extras, usable


@pytest.fixture
def few_extras(monkeypatch):
    monkeypatch.setattr(doctor, "extras", lambda: {"scale": ("no_such_package",), "other": ("json",)})


@pytest.mark.usefixtures("few_extras")
def test_it_lists_versions_threads_extras_dot_and_disk(tmp_path):
    text = doctor_report(tmp_path)
    for wanted in ("python", "torch", "pyro-ppl", "arviz", "threads", "scale", "dot", "GiB free"):
        assert wanted in text
    assert 'not installed: pip install "evidentia[scale]"' in text
    sections = [line for line in text.splitlines() if line and not line.startswith(" ")]
    assert sections == ["versions", "machine", "extras", "tools", "disk"]


def test_a_broken_extra_is_a_reason_and_no_traceback(tmp_path, monkeypatch, capsys):
    (tmp_path / "broken_extra.py").write_text(
        "print('hello')\nraise RuntimeError('operator x does not exist\\nmore')\n"
    )
    (tmp_path / "needs_more.py").write_text("import not_there_at_all\n")
    monkeypatch.syspath_prepend(tmp_path)
    finding = usable("own", ("broken_extra",))
    assert (finding.text, finding.good) == ("unusable: RuntimeError: operator x does not exist", False)
    assert "not_there_at_all" in usable("own", ("needs_more",)).text
    assert not usable("own", ("needs_more",)).good
    assert capsys.readouterr().out == ""


@pytest.mark.usefixtures("few_extras")
def test_a_broken_torch_is_a_finding(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch", None)
    assert "unusable: ModuleNotFoundError" in doctor_report(tmp_path)


@pytest.mark.usefixtures("few_extras")
def test_low_and_missing_disk(monkeypatch, tmp_path):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(1, 1, 2**20))
    assert "exit 74" in doctor_report(tmp_path)
    monkeypatch.undo()
    monkeypatch.setattr(doctor, "extras", dict)
    assert [f.good for f in diagnose(tmp_path / "gone") if f.section == "disk"] == [False]


@pytest.mark.usefixtures("few_extras")
def test_dot_is_optional(monkeypatch, tmp_path):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert "drawn without it" in doctor_report(tmp_path)


def test_the_extras_are_those_of_the_package():
    assert extras()["scale"] == ("dask", "distributed")
    assert "dev" not in extras()
    assert "torch" not in {name for names in extras().values() for name in names}
