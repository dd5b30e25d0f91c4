"""Configurations: frozen, validated on every change, and what cannot change inside them."""

import pickle
from typing import Any

import pytest
from pydantic import Field

from evidentia.studies.harness.declare.config import Frozen, FrozenDict, Params, StudyConfig, freeze
from evidentia.studies.harness.errors import StudyError

pytestmark = pytest.mark.no_torch


class Inner(Frozen):
    rate: float = Field(default=0.1, gt=0, le=1)


class Config(StudyConfig):
    steps: int = Field(default=100, ge=1)
    inner: Inner = Inner()
    options: Params = FrozenDict()

    def smoke(self) -> "Config":
        return self.replace(steps=2)


def test_replace_validates_what_model_copy_would_take():
    with pytest.raises(StudyError, match=r"steps: given -1, expected greater than or equal to 1"):
        Config().replace(steps=-1)
    with pytest.raises(StudyError, match=r"unknown key 'stepz'. Did you mean 'steps'\?"):
        Config().replace(stepz=1)
    assert Config().replace(steps=5).steps == 5


def test_a_nested_fault_is_named_by_its_dotted_path():
    with pytest.raises(StudyError, match=r"inner\.rate: given 2, expected less than or equal to 1"):
        Config().replace(inner={"rate": 2})
    with pytest.raises(StudyError, match=r"unknown key 'inner\.rat'. Did you mean 'rate'\?"):
        Config().replace(inner={"rat": 1})


def test_replace_keeps_the_rest_and_the_original():
    config = Config(seed=3, options={"a": [1, 2]})
    changed = config.replace(steps=7)
    assert (changed.seed, changed.options, config.steps) == (3, {"a": (1, 2)}, 100)


def test_smoke_is_validated_and_keeps_the_seed():
    assert Config(seed=9).smoke() == Config(seed=9, steps=2)
    assert StudyConfig().smoke() == StudyConfig()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1, 2**63, "x", None])
def test_a_seed_is_a_bounded_whole_number(value):
    with pytest.raises(StudyError, match="seed"):
        StudyConfig().replace(seed=value)


def test_nothing_inside_can_be_changed():
    config = Config(options={"a": {"b": [1]}})
    with pytest.raises(ValueError, match="frozen"):
        config.steps = 3
    for change in (
        lambda: config.options.update(a=1),
        lambda: config.options.pop("a"),
        lambda: config.options["a"].clear(),
        lambda: config.options.setdefault("c", 1),
        lambda: config.options.__setitem__("a", 1),
        lambda: config.options.__delitem__("a"),
        lambda: config.options["a"].__ior__({"b": 2}),
    ):
        with pytest.raises(TypeError, match="frozen"):
            change()
    assert config.options == {"a": {"b": (1,)}}


def test_equal_configurations_hash_equally_and_survive_a_round_trip():
    one, other = Config(options={"a": 1, "b": 2}), Config(options={"b": 2, "a": 1})
    assert one == other
    assert hash(one) == hash(other)
    again = pickle.loads(pickle.dumps(one))
    assert again == one
    assert isinstance(again.options, FrozenDict)
    assert Config.model_validate(one.model_dump(mode="json")) == one


@pytest.mark.parametrize(
    "value", [object(), lambda: 0, b"x", {1: 2}, float("nan"), float("-inf"), {"a": {1}}]
)
def test_free_form_values_are_data_only(value: Any):
    with pytest.raises(ValueError, match="given"):
        freeze(value)
    with pytest.raises(StudyError, match="options"):
        Config().replace(options={"a": value})
