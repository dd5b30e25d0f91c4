"""The Study object: names, bounds, claims, a stable round trip, figures, and results."""

import pickle
from typing import Any

import pytest
import yaml

from evidentia.studies.harness.declare.points import Ref, canon
from evidentia.studies.harness.declare.study import Claim, Result, Study
from evidentia.studies.harness.errors import StudyError

BASE: dict[str, Any] = {"name": "toy", "data": "tanh", "inference": "svi"}
CLAIM: dict[str, Any] = {"text": "t", "metric": "m", "op": ">="}


@pytest.mark.parametrize(
    "name", ["", "../../x", "/etc", "a/b", "a\0", "A", "-a", "a" * 65, "a\n", "a.b", ".", "ä", "a b"]
)
def test_names_are_checked_by_a_full_match(name: str):
    with pytest.raises(ValueError, match="name"):
        Study(**(BASE | {"name": name}))


@pytest.mark.parametrize(
    "change",
    [
        {"seed": -1},
        {"seeds": 0},
        {"seeds": ()},
        {"seeds": True},
        {"seeds": (-1,)},
        {"seeds": (0.5,)},
        {"device": "gpu"},
        {"checkpoint_every": 0},
        {"budget": {"max_seconds": 0}},
        {"grid": 3},
        {"grid": (3,)},
        {"unknown": 1},
        {"metrics": ("a b",)},
    ],
)
def test_values_out_of_range_are_refused(change: dict[str, Any]):
    with pytest.raises(StudyError):
        Study(**BASE).replace(**change)


@pytest.mark.parametrize("change", [{}, {"value": 1, "tolerance": -1}, {"value": 1, "op": "~"}])
def test_a_claim_has_a_right_hand_side_and_a_known_comparison(change: dict[str, Any]):
    with pytest.raises(ValueError, match="Claim"):
        Claim(**(CLAIM | change))


def test_a_study_survives_yaml_json_and_transport():
    study = Study(
        **BASE,
        grid=(
            {"inference.rate": (1e-3, 0.1), "data": ("tanh", Ref("diabetes_wide", {"split": 1}))},
            {"model": ("m",)},
        ),
        seeds=(3, 4),
        expect=(Claim(**CLAIM, where={"a": 1}, than={"a": 2}), Claim(**CLAIM, value="x")),
    )
    plain = study.model_dump(mode="json")
    for again in (
        Study.model_validate(yaml.safe_load(yaml.safe_dump(plain))),
        Study.model_validate_json(canon(study)),
        pickle.loads(pickle.dumps(study)),
    ):
        assert again == study
        assert hash(again) == hash(study)
        assert {point.id for point in again.points()} == {point.id for point in study.points()}


def test_seeds_are_a_number_or_a_list():
    assert list(Study(**BASE, seeds=3).replicates) == [0, 1, 2]
    assert list(Study(**BASE, seeds=[5, 7]).replicates) == [5, 7]


def test_diagnose_takes_the_figures_of_the_module(toy):
    import pandas
    import toy_study

    result = Result(pandas.DataFrame({"mean": [0.0, 1.0]}))
    study = toy_study.study()
    assert list(study.diagnose(result)) == ["result"]
    toy_study.diagnose = lambda given: {"a": given, "b": given}
    assert study.diagnose(result) == {"a": result, "b": result}
    assert Study(**BASE).diagnose(result) == {}


def test_a_study_runs_in_this_process_without_any_file(toy, tmp_path):
    import toy_study

    config = toy_study.Config().smoke()
    table = toy_study.run(config)
    assert list(table["shift"]) == [0.0, 1.0]
    assert list(table["mean"]) == pytest.approx([0.0, 1.0])
    result = toy_study.study(config).run()
    assert [point.id for point in result.points] == list(table["point"])
    assert list(toy_study.study(config).diagnose(result)) == ["result"]
    shuffled = toy_study.study(config.replace(shifts=(1.0, 0.0))).run().table.sort_values("shift")
    assert list(shuffled["noise"]) == list(table["noise"])
    assert list((tmp_path / "work").iterdir()) == []


class FakeOutcome:
    idata = "draws"
    weights = {"w": 1}  # noqa: RUF012
    tables = {"inclusion": "frame"}  # noqa: RUF012


def test_a_result_finds_the_point_that_is_meant(tmp_path):
    study = Study(**BASE, grid={"inference.power": (1, 2)})
    first, second = study.points()
    both = Result(None, (first, second), {first.id: FakeOutcome()}, tmp_path)
    assert both.to_idata(first) == "draws"
    assert both.state(first.id) == {"w": 1}
    assert both.read(first, "inclusion") == "frame"
    with pytest.raises(StudyError, match=r"no table 'inclusin'. Did you mean 'inclusion'"):
        both.read(first, "inclusin")
    with pytest.raises(StudyError, match=r"has no tables/inclusion\.csv"):
        both.read(second, "inclusion")
    with pytest.raises(StudyError, match="2 points; say which one"):
        both.to_idata()
    with pytest.raises(StudyError, match="no point 'x' in this result"):
        both.state("x")
    with pytest.raises(StudyError, match=rf"point {second.id} has no draws\.nc"):
        both.to_idata(second)
    assert Result(None, (first,), {first.id: FakeOutcome()}).to_idata() == "draws"


def test_a_result_reads_weights_and_tables_from_its_folder(tmp_path):
    import torch
    from safetensors.torch import save_file

    (point,) = Study(**BASE).points()
    folder = tmp_path / "points" / point.id
    folder.mkdir(parents=True)
    save_file({"w": torch.arange(3.0)}, folder / "weights.safetensors")
    (folder / "tables").mkdir()
    (folder / "tables" / "a.csv").write_text("op,probability\nx,0.5\n")
    result = Result(None, (point,), {}, tmp_path)
    assert result.state()["w"].tolist() == [0, 1, 2]
    assert result.read(None, "a")["probability"].tolist() == [0.5]


def test_a_study_that_names_no_seed_has_that_of_its_configuration(toy) -> None:
    import importlib

    from evidentia.studies.harness.declare.discovery import find

    module = importlib.import_module(find("toy").module)
    config = module.Config(seed=7)
    assert module.study(config).seed == 7
