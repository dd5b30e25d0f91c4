"""Registries: lazy targets, close matches, parameters checked by signature, and the mark on a study."""

import sys
from typing import Any

import pytest
from pydantic import Field

from evidentia.studies.harness.declare import registry as module
from evidentia.studies.harness.declare.config import Frozen
from evidentia.studies.harness.declare.points import Ref
from evidentia.studies.harness.declare.registry import Registry
from evidentia.studies.harness.errors import StudyError

pytestmark = pytest.mark.no_torch


def build(width: int, *, depth: int = 1) -> tuple[int, int]:
    return width, depth


def test_a_target_is_imported_when_it_is_asked_for(add_plugin):
    add_plugin("lazy", "lazily_imported", "def f():\n    return 3\n")
    table = Registry("thing", {"f": "lazily_imported:f"})
    assert "lazily_imported" not in sys.modules
    assert table.get("f")() == 3
    assert "lazily_imported" in sys.modules


def test_an_unknown_key_gets_a_close_match():
    with pytest.raises(StudyError, match=r"unknown dataset 'diabets'. Did you mean 'diabetes'\?"):
        module.datasets.get("diabets")
    with pytest.raises(StudyError, match=r"unknown thing 'x'\. There are none"):
        Registry("thing").get("x")


def test_a_key_is_taken_once():
    table = Registry("thing", {"a": "math:sqrt"})
    table.add("a", "math:sqrt")
    table.get("a")
    table.add("a", "math:sqrt")
    with pytest.raises(ValueError, match="'a' is math:sqrt already"):
        table.add("a", "math:exp")
    assert list(table) == ["a"]
    assert "a" in table
    assert repr(table) == "Registry('thing', keys=['a'])"


@pytest.mark.parametrize("target", ["os.system", "os:system('x')", "a b:c", ":f", "m:"])
def test_a_target_has_one_form(target: str):
    with pytest.raises(ValueError, match="expected 'module:attribute'"):
        Registry("thing").add("a", target)


def test_a_ref_cannot_name_a_module():
    with pytest.raises(ValueError, match="key"):
        Ref("os:system")


def test_parameters_are_checked_by_the_signature():
    table = Registry("model")
    assert table.register("build")(build) is build
    assert table.check(Ref("build", {"width": 2}), "model") is build
    with pytest.raises(
        StudyError, match=r"model\.widht: 'build' takes no such parameter. Did you mean 'width'"
    ):
        table.check(Ref("build", {"widht": 2}), "model")
    with pytest.raises(StudyError, match=r"model\.width: model 'build' needs a value"):
        table.check(Ref("build"), "model")
    with pytest.raises(StudyError, match=r"model\.width: given '2', expected integer"):
        table.check(Ref("build", {"width": "2"}), "model")
    with pytest.raises(StudyError, match=r"model\.depth: given True"):
        table.check(Ref("build", {"width": 2, "depth": True}), "model")
    with pytest.raises(StudyError, match=r"model: unknown model 'bild'"):
        table.check(Ref("bild"), "model")


def test_parameters_are_checked_by_a_schema_where_there_is_one():
    class Steps(Frozen):
        num_steps: int = Field(default=3, ge=1)

    def handler(problem: Any, params: Any, context: Any) -> None: ...

    handler.parameters = Steps
    table = Registry("inference", {"h": handler})
    table.check(Ref("h", {"num_steps": 2}), "inference")
    with pytest.raises(StudyError, match=r"inference\.num_steps: given 0"):
        table.check(Ref("h", {"num_steps": 0}), "inference")
    with pytest.raises(StudyError, match=r"unknown key 'inference\.num_step'"):
        table.check(Ref("h", {"num_step": 1}), "inference")


def test_a_registered_study_takes_its_own_configuration(toy):
    import toy_study

    assert toy_study.study() == toy_study.study(toy_study.Config())
    assert toy_study.study().module == "toy_study"
    with pytest.raises(StudyError, match="expected its own Config, given StudyConfig"):
        toy_study.study(module.StudyConfig())
