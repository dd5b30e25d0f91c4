"""Points: identity and seed by the formula, independence of order, growth, duplicates, collisions."""

import hashlib
import json
import tracemalloc
from itertools import islice
from typing import Any

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evidentia.studies.harness.declare.discovery import find, load
from evidentia.studies.harness.declare.overrides import apply_overrides
from evidentia.studies.harness.declare.points import Budget, Point, Ref, canon, digest, expand
from evidentia.studies.harness.declare.study import Study
from evidentia.studies.harness.errors import StudyError

pytestmark = pytest.mark.no_torch

SCALARS = st.none() | st.booleans() | st.integers(-(10**6), 10**6) | st.text(max_size=5)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    SCALARS | NUMBERS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
PARAMS = st.dictionaries(st.sampled_from("abcdef"), VALUES, max_size=4)
ordinary = settings(deadline=None, max_examples=30, derandomize=True)


def make_study(**changes: Any) -> Study:
    base: dict[str, Any] = {"name": "toy", "data": "tanh", "inference": Ref("svi", {"num_steps": 3})}
    return Study(**(base | changes))


def identities(study: Study) -> dict[str, int]:
    return {point.id: point.seed for point in study.points()}


@ordinary
@given(PARAMS)
def test_canonical_json_has_sorted_keys_no_spaces_and_reads_back(params: dict[str, Any]):
    text = canon(params)
    assert json.loads(text) == json.loads(json.dumps(params))
    expected = json.dumps(params, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert text == expected
    assert canon(dict(reversed(params.items()))) == text


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {"a": [float("-inf")]}, object(), {1: 2}])
def test_canonical_json_refuses_what_json_cannot_hold(value: Any):
    with pytest.raises(ValueError, match="given"):
        canon(value)


def test_identity_and_seed_follow_the_formula():
    point = Point(data=Ref("tanh"), inference=Ref("svi", {"rate": 1e-3}), study_seed=5)
    settings_of_point = {
        "data": {"key": "tanh", "params": {}},
        "model": None,
        "guide": None,
        "inference": {"key": "svi", "params": {"rate": 0.001}},
        "metrics": [],
        "budget": {"max_steps": None, "max_seconds": None},
        "replicate": 0,
    }
    text = json.dumps(settings_of_point, sort_keys=True, separators=(",", ":"))
    assert point.canon == text
    assert point.id == hashlib.sha256(text.encode()).hexdigest()[:12]
    words = numpy.random.SeedSequence([5, int(point.id, 16)]).generate_state(1)
    assert point.seed == int(words[0]) < 2**32


def test_the_identity_holds_everything_that_changes_the_numbers():
    point = Point(data=Ref("tanh"), inference=Ref("svi"))
    changes: list[dict[str, Any]] = [
        {"data": Ref("diabetes")},
        {"data": Ref("tanh", {"a": 1})},
        {"model": Ref("m")},
        {"guide": Ref("g")},
        {"inference": Ref("nuts")},
        {"metrics": ("log_evidence",)},
        {"budget": Budget(max_steps=3)},
        {"replicate": 1},
    ]
    found = {point.id} | {point.replace(**change).id for change in changes}
    assert len(found) == len(changes) + 1
    assert {point.replace(study_seed=3).id, point.replace(varied={"a": 1}).id} == {point.id}
    assert point.replace(study_seed=3).seed != point.seed


def test_the_identity_ignores_what_a_study_says_about_itself():
    one = make_study()
    other = make_study(name="other", description="text", tags=("a",), module="x", checkpoint_every=7)
    assert identities(one) == identities(other)


@ordinary
@given(st.permutations([0.1, 0.2, 0.5, 1.0]), st.permutations([0, 1, 2]), st.booleans())
def test_ids_and_seeds_do_not_depend_on_the_order(rates: list[float], seeds: list[int], swap: bool):
    """What a seed from the position of the point would break."""
    axes = [("inference.rate", (0.1, 0.2, 0.5, 1.0)), ("inference.power", (1, 2))]
    first = make_study(grid=dict(axes), seeds=(0, 1, 2))
    shuffled = {"inference.rate": tuple(rates), "inference.power": (2, 1)}
    second = make_study(grid=dict(reversed(shuffled.items())) if swap else shuffled, seeds=tuple(seeds))
    assert identities(first) == identities(second)
    assert len(identities(first)) == 24


@ordinary
@given(
    st.lists(st.integers(0, 50), min_size=1, unique=True),
    st.lists(st.integers(0, 50), unique=True),
    st.integers(1, 3),
)
def test_a_grown_grid_keeps_its_old_points(old: list[int], more: list[int], replicates: int):
    """What the grid in the canonical JSON would break."""
    before = identities(make_study(grid={"inference.power": tuple(old)}))
    after = identities(make_study(grid={"inference.power": (*more, *old)}, seeds=replicates))
    assert before.items() <= after.items()
    both = identities(
        make_study(grid=({"inference.power": tuple(more) or (0,)}, {"inference.power": tuple(old)}))
    )
    assert before.items() <= both.items()


def test_two_spellings_of_a_number_are_one_point(toy):
    """What an id from the settings as given, before they are validated, would break."""
    module = load(find("toy"))
    found = [
        identities(module.study(apply_overrides(module.config(), [f"rate={text}", f"shifts=[{text}, 2]"])))
        for text in ("1e-3", "0.001", "1.0e-3", ".001")
    ]
    assert found[0] == found[1] == found[2] == found[3]
    assert len(found[0]) == 2


def test_the_short_path_of_a_parameter_is_the_same_point():
    short = make_study(grid={"inference.num_steps": (1, 2)})
    full = make_study(grid={"inference.params.num_steps": (1, 2)})
    plain = [make_study(inference=Ref("svi", {"num_steps": steps})) for steps in (1, 2)]
    assert identities(short) == identities(full) == identities(plain[0]) | identities(plain[1])


def test_duplicate_points_are_removed():
    study = make_study(grid=({"inference.power": (1, 1, 2)}, {"inference.power": (2, 3)}), seeds=(0, 0))
    assert [point.varied["power"] for point in study.points()] == [1, 2, 3]
    assert study.count() == 10


@pytest.mark.parametrize("values", [(), [], {}, "abc", 3, None])
def test_an_axis_needs_values(values: Any):
    with pytest.raises(ValueError, match=r"axis 'inference\.power'"):
        make_study(grid={"inference.power": values})
    with pytest.raises(StudyError, match=r"grid.*axis 'inference\.power'"):
        make_study().replace(grid=({"inference.power": values},))


def test_a_million_points_are_counted_and_begun_without_expanding():
    study = make_study(grid={f"inference.a{axis}": tuple(range(100)) for axis in range(3)}, seeds=2)
    tracemalloc.start()
    assert study.count() == 2 * 10**6
    assert len(list(islice(study.points(), 5))) == 5
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()
    with pytest.raises(StudyError, match=r"2,000,000 points, more than 10,000\. Run with --yes"):
        study.confirm()
    study.confirm(yes=True)
    make_study().confirm()


def test_a_true_collision_is_refused():
    study = make_study(grid={"inference.power": (1, 2)})
    with pytest.raises(StudyError, match="two different points have the id 0000"):
        list(expand(study, fingerprint=lambda text: "0" * 64))
    same = make_study(grid={"inference.power": (1, 1)})
    assert len(list(expand(same, fingerprint=lambda text: "0" * 64))) == 1


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("inferenc.power", r"unknown part 'inferenc'. Did you mean 'inference'\?"),
        ("name", "unknown part 'name'"),
        ("seed", "unknown part 'seed'"),
        ("metrics.x", "'metrics' has no keys below it"),
        ("inference.num_steps.x", "has no keys below it"),
        ("", "unknown part"),
    ],
)
def test_a_grid_path_that_leads_nowhere_is_named(path: str, message: str):
    with pytest.raises(ValueError, match=message):
        make_study(grid={path: (1,)})


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({"budget.max_steps": (1, 0)}, r"toy\.budget\.max_steps: given 0"),
        ({"budget.max_step": (1,)}, r"unknown key 'toy\.budget\.max_step'. Did you mean 'max_steps'\?"),
        ({"data.key": ("../x",)}, r"toy\.data\.key: given '../x'"),
        ({"inference": (3,)}, r"toy\.inference: given 3"),
    ],
)
def test_each_cell_is_validated_as_a_full_point(grid: dict[str, Any], message: str):
    with pytest.raises(StudyError, match=message):
        list(make_study(grid=grid).points())


def test_columns_name_the_axes():
    study = make_study(
        grid=(
            {"data": ("tanh", Ref("diabetes_wide", {"split": 1})), "inference.list": ((1, 2),)},
            {"model.width": (3,)},
        ),
        model=Ref("m", {"width": 8}),
        seeds=(4, 5),
    )
    rows = [dict(point.varied) for point in study.points()]
    assert rows[0] == {"data": "tanh", "list": "[1,2]", "width": 8, "replicate": 4}
    assert rows[2]["data"] == "diabetes_wide(split=1)"
    assert rows[-1] == {"data": "tanh", "list": None, "width": 3, "replicate": 5}
    both = make_study(grid={"data": (Ref("diabetes_wide", {"a": 1}),), "data.split": (3,)})
    assert dict(next(both.points()).varied) == {"data": "diabetes_wide(a=1)", "split": 3}
    clash = make_study(grid={"inference.width": (1,), "model.width": (2,)}, model="m")
    assert dict(next(clash.points()).varied) == {"inference.width": 1, "model.width": 2}


def test_a_whole_part_and_a_parameter_of_it_can_both_vary():
    study = make_study(grid={"inference.power": (1, 2), "inference": ("svi", "nuts")})
    found = {(point.inference.key, point.inference.params["power"]) for point in study.points()}
    assert found == {("svi", 1), ("svi", 2), ("nuts", 1), ("nuts", 2)}


def test_a_ref_is_written_in_several_ways():
    full = Ref("svi", {"a": [1]})
    assert full == Ref(key="svi", params={"a": (1,)}) == Ref.model_validate_json(canon(full))
    assert Ref.model_validate("svi") == Ref("svi")
    assert (full.kind, full.label) == ("svi", "svi(a=(1,))")
    for bad in ({"key": "a", "other": 1}, {}, 3, "../x", "x" * 65, "a\n"):
        with pytest.raises(ValueError, match="validation error"):
            Ref.model_validate(bad)
    assert digest("{}") == "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
