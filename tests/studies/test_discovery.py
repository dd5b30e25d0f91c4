"""Discovery: what is a study, what plugins add, what list costs, and modules that lack a part."""

import subprocess
import sys
from typing import Annotated, Literal

import pytest
from pydantic import Field

from evidentia.studies.harness.declare.config import FrozenDict, Params, StudyConfig
from evidentia.studies.harness.declare.discovery import declare, discover, find, load
from evidentia.studies.harness.declare.study import Study
from evidentia.studies.harness.errors import StudyError
from evidentia.studies.harness.terminal import listing

pytestmark = pytest.mark.no_torch


def test_every_study_of_evidentia_loads_and_has_the_name_of_its_module():
    for source in discover(plugins=False).values():
        module = load(source)
        study = declare(module, module.config())
        assert study.name == source.name
        assert module.question.endswith(("?", ".")), (
            f"{source.module}: the docstring's first line is the question"
        )
        assert study.count() >= 1
        declare(module, module.config().smoke())


def test_a_plain_public_module_is_a_study(builtin_toy):
    source = discover(plugins=False)["toy"]
    assert (source.module, source.distribution) == ("evidentia.studies.toy", None)
    module = load(source)
    assert module.question == "Does the mean of a column move with the shift? A toy without any fitting."
    study = declare(module, module.config())
    assert study.module == "evidentia.studies.toy"
    assert (study.description, study.tags) == (module.question, ("toy",))
    assert not {"harness", "__init__"} & set(discover())


def test_a_plugin_is_listed_by_its_metadata_alone(toy):
    source = discover()["toy"]
    assert source.distribution == "toy-package"
    rows, notices = listing.study_rows()
    row = next(row for row in rows if row.name == "toy")
    assert (row.distribution, row.points, row.question) == ("toy-package", None, None)
    assert notices == []
    assert "toy_study" not in sys.modules
    assert "toy" not in discover(plugins=False)


def test_a_plugin_cannot_take_the_name_of_a_study(builtin_toy, add_plugin):
    add_plugin("toy", "other_toy", "raise SystemExit('imported')")
    assert discover()["toy"].distribution is None


def test_a_plugin_with_an_improper_name_is_left_out(add_plugin):
    add_plugin("../x", "odd_name", "")
    assert not [name for name in discover() if "x" in name and "/" in name]


def test_names_are_found_with_a_close_match(toy):
    assert find("toy").module == "toy_study"
    with pytest.raises(
        StudyError, match=r"unknown study 'toi'. Did you mean 'toy'\? `evidentia list` shows all"
    ):
        find("toi")
    with pytest.raises(StudyError, match="comes from the plugin 'toy-package'; drop --no-plugins"):
        find("toy", plugins=False)
    for hostile in ("../../x", "/etc", "a\0", "x" * 300, "toy.harness", ""):
        with pytest.raises(StudyError, match="unknown study") as caught:
            find(hostile)
        assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import no_such_module", "cannot be imported: ModuleNotFoundError"),
        ("1/0", "cannot be imported: ZeroDivisionError"),
        ("def f(:", "cannot be imported: SyntaxError"),
        ("raise SystemExit(0)", "cannot be imported: SystemExit"),
        (
            "from evidentia.studies.harness.declare.config import StudyConfig\n"
            "from evidentia.studies.harness.declare.registry import register_study\n"
            "class Config(StudyConfig):\n    steps: int = 'x'\n"
            "@register_study\ndef study(config): ...\n",
            "study broken: steps: given 'x', expected integer",
        ),
        ("", r"needs a class Config\(StudyConfig\)"),
        ("class Config: pass", r"needs a class Config\(StudyConfig\)"),
        (
            "from evidentia.studies.harness.declare.config import StudyConfig as Config\n"
            "def study(config): ...",
            "@register_study",
        ),
        (
            "from evidentia.studies.harness.declare.config import StudyConfig\n"
            "from evidentia.studies.harness.declare.registry import register_study\n"
            "class Config(StudyConfig):\n    steps: int\n"
            "@register_study\ndef study(config): ...\n",
            "Config.steps has no default",
        ),
    ],
)
def test_a_module_that_lacks_a_part_is_named(source: str, message: str, add_plugin):
    add_plugin("broken", "broken_study", source)
    with pytest.raises(StudyError, match=message) as caught:
        load(find("broken"))
    assert "broken" in str(caught.value)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return Study(name='../x', data='tanh', inference='svi')", r"study bent: name: given '\.\./x'"),
        ("return Study(name='other', data='tanh', inference='svi')", "study bent: it calls itself 'other'"),
        ("return Study(name='bent', data='tanh')", "study bent: inference: nothing given"),
        ("return 3", "expected a Study, given int"),
        ("1/0", r"study bent: study\(config\) failed: ZeroDivisionError"),
    ],
)
def test_a_study_that_is_not_valid_is_named(body: str, message: str, add_plugin):
    add_plugin(
        "bent",
        "bent_study",
        "from evidentia.studies.harness.declare.config import StudyConfig as Config\n"
        "from evidentia.studies.harness.declare.registry import register_study\n"
        "from evidentia.studies.harness.declare.study import Study\n"
        f"@register_study\ndef study(config): {body}\n",
    )
    module = load(find("bent"))
    with pytest.raises(StudyError, match=message):
        declare(module, module.config())


def test_a_broken_study_does_not_break_the_list(builtin_toy, tmp_path):
    (tmp_path / "cracked.py").write_text("1/0")
    rows, notices = listing.study_rows(plugins=False)
    assert {"toy", "cracked"} <= {row.name for row in rows}
    assert next(row for row in rows if row.name == "toy").points == 3
    assert any("cracked" in notice for notice in notices)


def test_settings_have_type_default_and_bound(toy):
    module = load(find("toy"))
    rows = {row.key: row for row in listing.settings(module.config().smoke())}
    assert rows["rows"].bound == ">= 1, <= 1000000"
    assert (rows["rows"].value, rows["rows"].default, rows["rows"].type) == (5, 20, "int")
    assert rows["shifts"].type == "tuple[float, ...]"
    assert rows["shifts"].description == "added to the column"
    assert rows["optimiser.rate"].bound == "> 0, <= 1"


class Odd(StudyConfig):
    sizes: tuple[Annotated[int, Field(ge=1)], ...] = (1,)
    kind: Literal["a", "b"] = "a"
    maybe: Annotated[float, Field(gt=0)] | None = None
    free: Params = FrozenDict()


def test_types_and_bounds_are_written_for_a_reader():
    rows = {row.key: (row.type, row.bound) for row in listing.settings(Odd())}
    assert rows["sizes"] == ("tuple[int, ...]", "each >= 1")
    assert rows["kind"] == ("'a' | 'b'", "")
    assert rows["maybe"] == ("float | null", "each > 0")
    assert rows["free"] == ("dict[str, Any]", "")


def test_the_parts_are_shown_as_text():
    study = Study(
        name="toy",
        data="tanh",
        model="m",
        inference="svi",
        grid={"inference.power": tuple(range(20))},
        seeds=3,
    )
    assert listing.graph(study) == [
        "data tanh -> model m -> inference svi",
        "axis inference.power: 0, 1, 2, 3, 4, 5, 6, 7, … (20 values)",
        "axis replicate: 0, 1, 2",
    ]


CODE = """
import sys, time
from evidentia.studies.harness.cli import main
code = main(["list"])
heavy = {"torch", "pyro", "arviz", "sklearn", "matplotlib", "pandas", "scipy"} & set(sys.modules)
assert code == 0 and not heavy, (code, heavy)
print(time.process_time())
"""


def test_list_imports_nothing_heavy_and_is_quick():
    """At most a third of the CPU time of ``import pyro``; the least of two runs, as the machine is shared."""

    def cpu(code: str) -> float:
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd="/"
        )
        assert done.returncode == 0, done.stderr
        return float(done.stdout.splitlines()[-1])

    listed = min(cpu(CODE) for _ in range(2))
    imported = min(cpu("import time, pyro; print(time.process_time())") for _ in range(2))
    assert listed < 0.8
    assert listed < imported / 3
