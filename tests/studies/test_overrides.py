"""Overrides: what --set accepts, what it refuses and what the refusal says."""

import contextlib
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field

from evidentia.studies.harness.declare.config import Frozen, FrozenDict, Params, StudyConfig
from evidentia.studies.harness.declare.overrides import MAX_OVERRIDE_LENGTH, apply_overrides, parse_override
from evidentia.studies.harness.errors import StudyError

pytestmark = pytest.mark.no_torch


class Inner(Frozen):
    rate: float = Field(default=0.1, gt=0, le=1)
    name: str = "adam"


class Config(StudyConfig):
    steps: int = Field(default=100, ge=1)
    rate: float = 0.1
    rates: tuple[float, ...] = (0.1,)
    sizes: tuple[int, ...] = (1, 2)
    label: str = "a"
    flag: bool = False
    maybe: int | None = None
    inner: Inner = Inner()
    options: Params = FrozenDict()


def changed(*texts: str) -> Config:
    return apply_overrides(Config(), texts)


@pytest.mark.parametrize(
    ("text", "path", "value"),
    [
        ("steps=3", "steps", 3),
        ("rate=1e-3", "rate", 0.001),
        ("rate=3", "rate", 3.0),
        ("rates=[1e-3, 2]", "rates", (0.001, 2.0)),
        ("sizes=[3]", "sizes", (3,)),
        ("label=x=y", "label", "x=y"),
        ("label='1'", "label", "1"),
        ("flag=true", "flag", True),
        ("flag=off", "flag", False),
        ("maybe=null", "maybe", None),
        ("options={a: [1, {b: c}]}", "options", {"a": (1, {"b": "c"})}),
        (" steps = 4", "steps", 4),
    ],
)
def test_values(text: str, path: str, value: Any):
    assert getattr(changed(text), path) == value


def test_a_dotted_key_changes_one_field_of_an_inner_model():
    config = changed("inner.rate=0.5")
    assert config.inner == Inner(rate=0.5, name="adam")


def test_a_dotted_key_reaches_into_free_form_options():
    start = Config(options={"a": {"b": 1, "c": 2}})
    assert apply_overrides(start, ["options.a.b=[3]"]).options == {"a": {"b": (3,), "c": 2}}
    assert apply_overrides(start, ["options.new=x"]).options["new"] == "x"
    for text in ("options.z.b=1", "options.a.b.c=1"):
        with pytest.raises(StudyError, match="has no keys below it"):
            apply_overrides(start, [text])
    assert start.options == {"a": {"b": 1, "c": 2}}


def test_two_spellings_of_a_number_are_one_setting():
    assert changed("rate=1e-3") == changed("rate=0.001") == changed("rate=1.0e-3")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("steps", r"--set 'steps': expected key=value, for example --set steps=3"),
        ("", "expected key=value"),
        ("=3", "is no key"),
        ("a b=3", "is no key"),
        ("../x=3", "is no key"),
        ("__class__=3", "unknown key"),
        ("model_config=3", "unknown key"),
        ("stepz=3", r"unknown key 'stepz'. Did you mean 'steps'\?"),
        ("inner.rat=3", r"unknown key 'inner.rat'. Did you mean 'rate'\?"),
        ("steps.x=3", r"unknown key 'steps.x': 'steps' has no keys below it"),
        ("steps=0", r"steps: given 0, expected greater than or equal to 1"),
        ("steps=2.5", r"steps: given 2.5, expected integer"),
        ("steps=abc", r"steps: given 'abc', expected integer"),
        ("steps=", r"steps: given None, expected integer"),
        ("steps=yes", r"steps: given True \(YAML reads yes, no, on, off so\), expected int"),
        ("sizes=[1, no]", r"sizes.1: given False"),
        ("steps=1:30", r"'1:30' is no plain number"),
        ("steps=010", r"'010' is no plain number"),
        ("rate=.nan", r"rate: given nan, expected a finite number"),
        ("rate=.inf", r"rate: given inf, expected a finite number"),
        ("label=no", r"label: given False, expected string"),
        ("label=2024-01-01", r"label: given datetime.date\(2024, 1, 1\), expected string"),
        ("inner=3", r"inner: given 3"),
        ("inner.rate=2", r"inner.rate: given 2, expected less than or equal to 1"),
        ("rates=3", r"rates: given 3, expected tuple"),
        ("options={a: 1, a: 2}", r"the key 'a' is given twice"),
        ("options={[1]: 2}", r"--set options: .*not readable as YAML|options"),
        ("options={1: 2}", "keys of a mapping are strings"),
        ("label=[", "not readable as YAML"),
        ("label=a: b: c", "not readable as YAML"),
        ("label=--- a\n--- b", "not readable as YAML"),
        ("steps=" + "9" * 5000, "steps"),
        ("label=\0", "not readable as YAML"),
    ],
)
def test_refusals_say_where_what_and_why(text: str, message: str):
    with pytest.raises(StudyError, match=message) as caught:
        changed(text)
    assert caught.value.exit_code == 2
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("second", ["steps=4", "steps=3"])
def test_a_key_given_twice_is_refused(second: str):
    with pytest.raises(StudyError, match="'steps' is set in the same command"):
        changed("steps=3", second)
    with pytest.raises(StudyError, match="'inner' is set in the same command"):
        changed("inner={rate: 0.3}", "inner.rate=0.5")


def test_all_faults_are_named_at_once():
    with pytest.raises(StudyError) as caught:
        changed("steps=0", "rate=x")
    assert "steps: given 0" in str(caught.value)
    assert "rate: given 'x'" in str(caught.value)


BOMB = "[" + ",".join(["&a [x,x,x,x,x,x,x,x,x]"] + ["*a"] * 9) + "]"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("!!python/object/apply:os.system ['touch planted']", "tag .* is refused"),
        ("!!python/name:os.system", "tag .* is refused"),
        ("[!!python/object/new:os.system [x]]", "tag .* is refused"),
        ("{a: !!python/module:os ''}", "tag .* is refused"),
        ("!!binary aGk=", "tag .* is refused"),
        ("!x 3", "tag .* is refused"),
        (BOMB, "anchors and aliases"),
        ("&a x", "anchors and aliases"),
        ("{a: &b [1], c: *b}", "anchors and aliases"),
        ("{<<: *x}", "anchors and aliases"),
        ("x" * 10 * 2**20, f"10485760 characters, at most {MAX_OVERRIDE_LENGTH}"),
        ("[" * 5000, "levels deep"),
        ("{a: " * 100 + "1" + "}" * 100, "levels deep"),
    ],
)
def test_hostile_values_run_nothing_and_take_no_time(value: str, message: str, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    start = time.process_time()
    with pytest.raises(StudyError, match=message):
        changed("options=" + value)
    assert time.process_time() - start < 1.0
    assert list(tmp_path.iterdir()) == []


@settings(deadline=None, max_examples=40, derandomize=True)
@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(text: str):
    with contextlib.suppress(StudyError):
        parse_override(text)
        apply_overrides(Config(), [text])


@settings(deadline=None, max_examples=30, derandomize=True)
@given(st.text(alphabet="[]{}:,&*!|>'\"#%@`-? \n\tab1.e", max_size=40))
def test_any_yaml_is_read_or_refused(value: str):
    with contextlib.suppress(StudyError):
        apply_overrides(Config(), [f"options={value}", f"label={value}"])


@settings(deadline=None, max_examples=30, derandomize=True)
@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_finite_float_survives_its_own_repr(value: float):
    assert changed(f"rate={value!r}").rate == value
