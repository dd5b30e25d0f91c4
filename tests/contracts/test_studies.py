"""The contract of a study: found by discovery, one question, a smoke run that is finite, claims that hold."""

import importlib
import math

import pytest

from evidentia.studies.harness.declare.discovery import discover
from evidentia.studies.harness.reporting.claims import check_claims

STUDIES = {name: source.module for name, source in discover(plugins=False).items()}


def test_the_studies_that_ship_are_found():
    assert {"diabetes", "tanh", "vae-ard", "vae-bounds", "vae-gaps"} <= set(STUDIES)


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_asks_one_question(name):
    module = importlib.import_module(STUDIES[name])
    question = (module.__doc__ or "").partition("\n")[0]
    assert question.endswith("?")
    assert module.study(module.Config()).description == question


@pytest.mark.parametrize("name", STUDIES)
def test_a_smoke_run_gives_finite_rows_and_figures(name):
    from matplotlib.figure import Figure

    module = importlib.import_module(STUDIES[name])
    study = module.study(module.Config().smoke())
    result = study.run()
    assert {each.id for each in study.points()} == set(result.table["point"])
    numbers = result.table.select_dtypes("number")
    infinite = [column for column in numbers if numbers[column].map(math.isinf).any()]
    assert not infinite
    scored = result.table["structure"] if "structure" in result.table else result.table["log_evidence"]
    evidence = result.table["log_evidence"][scored.notna()]
    assert len(evidence)
    assert evidence.map(math.isfinite).all()
    assert all(sentence.endswith(".") for sentence in study.conclude(result))
    figures = study.diagnose(result)
    assert figures
    assert all(isinstance(figure, Figure) for figure in figures.values())


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", STUDIES)
def test_the_claims_hold_at_full_size(name):
    module = importlib.import_module(STUDIES[name])
    study = module.study(module.Config())
    assert study.expect
    found = check_claims(study.expect, study.run().table)
    assert [claim.sentence() for claim in found if not claim.passed] == []
