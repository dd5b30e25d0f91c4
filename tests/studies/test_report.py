"""The report: self-contained, escaped, the same bytes each time, and saying what the tables say."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from html.parser import HTMLParser
from pathlib import Path

import fake_run
import pandas as pd
import pytest

from evidentia.studies.harness.errors import StudyError
from evidentia.studies.harness.reporting.findings import (
    evidence_sentence,
    inclusion_sentence,
    structure_sentence,
    winners_sentence,
)
from evidentia.studies.harness.reporting.report import build_report

ATTACK = '<script>alert("x")</script>'


class Page(HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    def all(self, name: str) -> list[dict[str, str | None]]:
        return [attrs for tag, attrs in self.tags if tag == name]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return fake_run.write_run(tmp_path_factory.mktemp("runs") / "20260101T000000Z-abc123", figures=True)


@pytest.fixture(scope="module")
def page(run) -> Page:
    return Page(build_report(run).read_text("utf-8"))


def test_the_same_folder_gives_the_same_bytes_at_any_time(run, tmp_path):
    first = build_report(run).read_bytes()
    time.sleep(1.1)
    copy = tmp_path / run.name
    shutil.copytree(run, copy)
    for path in copy.rglob("*"):
        os.utime(path, (0, 0))
    status = copy / "points" / f"{0:012x}" / "status.json"
    status.write_text(status.read_text().replace("2026-01-01", "2031-07-09"))  # a heartbeat is not a result
    fake_run.write_figures(copy / "figures", fake_run.PRIORS)  # SVG and PNG drawn again
    assert build_report(copy).read_bytes() == first


def test_it_is_self_contained(page):
    assert not page.all("script")
    assert not page.all("link")
    assert not page.all("iframe")
    for _, attrs in page.tags:
        for name in ("src", "href"):
            if name in attrs:
                assert attrs[name].startswith(("data:image/", "#")), attrs
        assert not any(name.startswith("on") for name in attrs)
    policy = next(meta["content"] for meta in page.all("meta") if "http-equiv" in meta)
    assert policy.startswith("default-src 'none'")


def test_it_is_accessible(page):
    assert page.all("html")[0]["lang"] == "en"
    assert len(page.all("img")) == 3
    assert all(image["alt"].strip() for image in page.all("img"))
    assert all(header.get("scope") in ("col", "row") for header in page.all("th"))
    assert len(page.all("caption")) == len(page.all("table"))
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    wanted = [attrs["aria-labelledby"] for _, attrs in page.tags if "aria-labelledby" in attrs]
    assert set(wanted) <= set(ids)
    assert len(page.all("h1")) == 1


def test_it_says_what_the_tables_say(page):
    text = re.sub(r"\s+", " ", page.text)
    for wanted in (
        "structure-diabetes",
        "Which of ten measurements predict the progression of diabetes?",
        "No single structure is supported: the most probable, {sex, bmi, bp, s3, s5}, has probability 0.2810",
        "Included with probability above 0.9: sex, bmi, bp, s5.",
        "Structures: the first 10 of 1,024 rows",
        "Posterior inclusion probability",
        "0.5696 ± 0.0040",
        "140.93",
        "1 of 6 diagnostic checks asks for attention.",
        "longer warm-up, more draws",
        "evidentia run structure-diabetes --set inference.evidence=exact --seed 0",
        "9f" * 32,
        "2.13.0",
        "model.params.prior",
        "The 12 most probable structures",  # the caption came with the file
        "Full precision: points/000000000001/tables/structures.csv",
    ):
        assert wanted in text, wanted
    assert text.index("What the evidence supports") < text.index("Claims") < text.index("Results")
    assert "140.9302" not in text  # rounded here, exact in the file


def test_claims_are_checked_again_from_the_folder(page):
    badges = [attrs["class"] for attrs in page.all("span") if "badge" in (attrs.get("class") or "")]
    assert badges == ["badge PASS", "badge FAIL", "badge ERROR"]


def test_markup_in_names_and_cells_is_escaped(tmp_path):
    folder = fake_run.write_run(
        tmp_path / "run",
        description=ATTACK + "\n" + ATTACK,
        priors=(ATTACK, '"><img src=x onerror=alert(1)>'),
    )
    table = pd.DataFrame({ATTACK: [ATTACK], "structure": [ATTACK], "probability": [1.0]})
    (folder / "tables").mkdir()
    table.to_csv(folder / "tables" / "own.csv", index=False)
    table.to_csv(folder / "metrics.csv", index=False)
    (folder / "figures" / "<b>.svg").write_text(f"<svg xmlns='http://www.w3.org/2000/svg'>{ATTACK}</svg>")
    environment = json.loads((folder / "environment.json").read_text())
    environment["command"].append(ATTACK)
    environment["cpu"] = ATTACK
    fake_run.write_json(folder / "environment.json", environment)
    for point in (folder / "points").iterdir():
        checks = {"checks": [{"name": ATTACK, "value": ATTACK, "remedy": ATTACK, "site": ATTACK}]}
        fake_run.write_json(point / "checks.json", checks)
    text = build_report(folder).read_text("utf-8")
    assert "<script" not in text.lower()
    assert "<img src=x" not in text
    assert text.count("&lt;script&gt;") > 12
    assert not Page(text).all("script")


def test_the_studys_own_conclusions_come_first_and_are_escaped(run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    record = {"schema": 1, "sentences": ["Nothing is settled.", ATTACK]}
    (folder / "conclusions.json").write_text(json.dumps(record))
    text = build_report(folder).read_text()
    assert "<p>Nothing is settled.</p>" in text
    assert ATTACK not in text
    (folder / "conclusions.json").write_text('{"sentences": [3]}')
    with pytest.raises(StudyError, match="expected a list of sentences"):
        build_report(folder)


def test_an_unfinished_run_says_so_first(tmp_path):
    folder = fake_run.write_run(tmp_path / "run", done=False)
    source = build_report(folder).read_text("utf-8")
    text = re.sub(r"\s+", " ", Page(source).text)
    assert "2 of 3 points finished. What follows rests on those alone." in text
    assert "loss is not finite at step 71" in text
    assert "not checked: 1 unfinished point" in text
    assert "badge PASS" not in source


def test_a_bare_run_has_a_report(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.yaml").write_text("schema: 1\nname: bare\n")
    text = Page(build_report(folder).read_text("utf-8")).text
    assert "No results yet." in text
    assert "The study declares no claims." in text
    assert "evidentia run bare" in text


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("metrics.csv", b"\x80\x04\x95cos\nsystem\n.", "is not a CSV table"),
        ("metrics.csv", b"a,b\n1,2\n3,4,5\n", "is not a CSV table"),
        ("environment.json", b"{", "is not JSON"),
        ("environment.json", b'{"schema": 99}', "has schema 99"),
        ("config.yaml", b"schema: 99\nname: x\n", "has schema 99"),
        ("config.yaml", b"schema: 1\nname: !!python/object/apply:os.system ['true']\n", "not a run folder"),
        (f"points/{0:012x}/checks.json", b'{"schema": 1, "checks": [3]}', "expected a list of checks"),
    ],
)
def test_a_file_that_is_not_what_its_name_says_is_named(tmp_path, name, content, message):
    folder = fake_run.write_run(tmp_path / "run")
    (folder / name).write_bytes(content)
    with pytest.raises(StudyError, match=message) as caught:
        build_report(folder)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("path", ["/etc", "nowhere"])
def test_other_folders_are_refused_and_nothing_is_written(path):
    with pytest.raises(StudyError, match="not a run folder"):
        build_report(Path(path))
    assert not Path(path, "report.html").exists()


def posterior(*probabilities, **columns):
    names = ["abcdefgh"[i] for i in range(len(probabilities))]
    return pd.DataFrame({"structure": names, "probability": probabilities, **columns})


def test_sentences_are_no_firmer_than_the_numbers():
    assert structure_sentence(posterior(0.97, 0.03)).startswith(
        "The data support a: posterior probability 0.9700"
    )
    favoured = structure_sentence(posterior(0.6, 0.3, 0.1))
    assert favoured.startswith("The data favour a without settling the question")
    assert "It takes 3 structures to hold 95% of the probability." in favoured
    assert structure_sentence(posterior(0.1, 0.4, 0.3, 0.2)).startswith(
        "No single structure is supported: the most"
    )
    tie = posterior(
        0.6, 0.4, log_evidence=[-1.0, -1.4], standard_error=[0.2, 0.2], probability_se=[0.06, 0.06]
    )
    assert "0.6000 ± 0.0600" in structure_sentence(tie)
    assert "order is not certain: the log evidences differ by 0.40 ± 0.28 nats" in structure_sentence(tie)
    clear = tie.assign(log_evidence=[-1.0, -2.0])
    assert "not certain" not in structure_sentence(clear)
    assert "made of lower bounds" in structure_sentence(posterior(0.6, 0.4, kind="lower bound"))
    assert "mixed kinds" in structure_sentence(posterior(0.6, 0.4, kind=["exact", "lower bound"]))
    assert "It takes" not in structure_sentence(posterior(0.5, 0.2))  # the top of a longer table


def test_inclusion_and_winners():
    table = pd.DataFrame({"op": list("abc"), "probability": [0.95, 0.1, 0.05]})
    text = "Included with probability above 0.9: a. Undecided: b (0.10). Below 0.1: c."
    assert inclusion_sentence(table) == text
    many = [{"t": posterior(0.7, 0.3)}] * 5 + [{"t": posterior(0.3, 0.7)}] * 2
    assert winners_sentence(many) == "The most probable structure is, of 7 posteriors: a in 5, b in 2."


def test_evidence_of_rows():
    table = pd.DataFrame(
        {"log_evidence": [-3.0, -1.0], "standard_error": [0.3, 0.4], "kind": "consistent estimate"}
    )
    text = evidence_sentence(table, ["x", "y"])
    assert text == "The highest log evidence is that of y, 2.00 ± 0.50 nats above x."
    assert "within its error" in evidence_sentence(table.assign(standard_error=2.0), ["x", "y"])
    assert "highest lower bound on" in evidence_sentence(table.assign(kind="lower bound"), ["x", "y"])
    assert "not ranked" in evidence_sentence(table.assign(kind=["exact", "lower bound"]), ["x", "y"])
    assert evidence_sentence(table.iloc[:1], ["x"]) == ""
