"""Compare on folders: what is read, what is refused, and that nothing in a folder is executed."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import fake_run
import numpy as np
import pandas as pd
import pytest

from evidentia.studies.harness.errors import StudyError
from evidentia.studies.harness.reporting.compare_entries import family_evidence
from evidentia.studies.harness.reporting.compare_groups import compare_runs, comparisons
from evidentia.studies.harness.storage import manifest


def one(folder: Path, value: float, **changes) -> Path:
    """A run with one point whose log evidence is `value`."""
    fake_run.write_run(folder, priors=("p",), **changes)
    metrics = folder / "points" / f"{0:012x}" / "metrics.csv"
    pd.read_csv(metrics, dtype={"point": str}).assign(log_evidence=value).to_csv(metrics, index=False)
    return folder


def comparison(folders: list[Path]):
    """The one comparison of these folders."""
    (group,), alone = comparisons(folders)
    assert not alone
    return group.comparison


def draws(seed: int, observations: int = 30):
    import arviz as az

    rng = np.random.default_rng(seed)
    return az.from_dict(
        posterior={"b": rng.normal(size=(1, 200))},
        log_likelihood={"obs": rng.normal(-1.0 - seed, 0.05, size=(1, 200, observations))},
        observed_data={"obs": np.zeros(observations)},
        dims={"obs": ["data"]},
    )


def keep_draws(folder: Path, seed: int, observations: int = 30) -> Path:
    path = folder / "points" / f"{0:012x}" / "draws.nc"
    draws(seed, observations).to_netcdf(str(path), engine="h5netcdf")
    return path


def test_two_runs_of_one_data_set(tmp_path):
    left, right = one(tmp_path / "left", -100.0), one(tmp_path / "right", -101.0)
    table, warnings = comparison([right, left])
    assert table["model"].tolist() == ["structure-diabetes/left", "structure-diabetes/right"]
    np.testing.assert_allclose(table["probability"], [1 / (1 + np.exp(-1)), 1 / (1 + np.exp(1))], rtol=1e-12)
    assert table["seconds"].tolist() == [1.25, 1.25]
    assert warnings == ()
    text = compare_runs([left, right])
    assert "-100.00" in text
    assert "0.7311" in text
    assert compare_runs([left, right], csv=True).startswith("model,log_evidence,log_evidence_se,kind,delta")


def test_the_points_of_one_run_and_single_points(tmp_path):
    run = fake_run.write_run(tmp_path / "run")
    table = comparison([run]).table
    assert set(table["model"]) == {f"prior = {prior}" for prior in fake_run.PRIORS}
    points = sorted((run / "points").iterdir())
    assert len(comparison(points[:2]).table) == 2


def posterior_rows(values, priors, errors=0.0, **columns):
    joint = np.array(values) + np.log(priors)
    probability = np.exp(joint - np.logaddexp.reduce(joint))
    return pd.DataFrame(
        {
            "structure": [f"s{i}" for i in range(len(values))],
            "log_evidence": values,
            "standard_error": errors,
            "kind": "exact",
            "log_prior": np.log(priors),
            "probability": probability,
            **columns,
        }
    )


def test_a_family_is_one_model_among_several_and_its_structures_when_alone(tmp_path):
    left, right = one(tmp_path / "left", -100.0), one(tmp_path / "right", -101.0)
    values, priors = [-100.0, -101.0, -104.0], [0.5, 0.25, 0.25]
    metrics = left / "points" / f"{0:012x}" / "metrics.csv"
    rows = posterior_rows(values, priors).assign(point=f"{0:012x}", seconds=2.0)
    rows.iloc[:2].to_csv(metrics, index=False)  # the top of the table is enough
    table = comparison([left, right]).table.set_index("model")
    exact = np.logaddexp.reduce(np.array(values) + np.log(priors))
    assert table.loc["structure-diabetes/left", "log_evidence"] == pytest.approx(exact, abs=1e-12)
    assert table.loc["structure-diabetes/left", "kind"] == "exact"
    assert comparison([left]).table["model"].tolist() == [f"structure-diabetes/left: s{i}" for i in (0, 1)]


def test_the_error_of_a_family_is_that_of_its_structures_or_of_the_draws():
    rows = posterior_rows([-1.0, -1.5], [0.5, 0.5], errors=[0.1, 0.2], kind="consistent estimate")
    p = rows["probability"].to_numpy()
    whole = family_evidence(rows.to_dict("records"))
    assert whole["standard_error"] == pytest.approx(np.hypot(p[0] * 0.1, p[1] * 0.2))
    noise = np.random.default_rng(0).standard_normal((100_000, 2)) * [0.1, 0.2]
    simulated = np.logaddexp.reduce(np.array([-1.0, -1.5]) + noise, axis=1).std()
    assert whole["standard_error"] == pytest.approx(simulated, rel=0.03)
    drawn = posterior_rows([-1.0, -1.5], [0.5, 0.5], probability_se=0.01)
    whole = family_evidence(drawn.to_dict("records"))
    assert whole["standard_error"] == pytest.approx(0.01 / p[0])
    assert whole["kind"] == "consistent estimate"
    mixed = drawn.assign(kind=["exact", "lower bound"]).to_dict("records")
    assert family_evidence(mixed) is None
    assert family_evidence([{"log_evidence": 1.0}, {"log_evidence": 2.0}]) is None


def test_unfinished_points_are_left_out(tmp_path):
    run = fake_run.write_run(tmp_path / "run", done=False)
    assert len(comparison([run]).table) == 2
    for point in (run / "points").iterdir():
        (point / "DONE").unlink(missing_ok=True)
    with pytest.raises(StudyError, match="no finished point"):
        comparison([run])


def test_loo_stands_beside_the_evidence(tmp_path):
    left, right = one(tmp_path / "left", -100.0), one(tmp_path / "right", -101.0)
    keep_draws(left, 0)
    keep_draws(right, 1)
    table, _ = comparison([left, right])
    assert table["elpd_diff"].tolist()[0] == 0.0
    assert table["elpd_loo"].is_monotonic_decreasing
    assert table["elpd_diff_se"][1] < table["elpd_diff"][1]
    assert table["weight"].sum() == pytest.approx(1.0)
    assert table["pareto_k_bad"].tolist() == [0, 0]
    assert "elpd LOO" in compare_runs([left, right])


def test_other_data_is_refused(tmp_path):
    left, right = (
        one(tmp_path / "left", -100.0),
        one(tmp_path / "right", -101.0, sha="ee" * 32, observations=50),
    )
    with pytest.raises(
        StudyError, match=r"left has sha256 9f9f.* 442 .*right has eeee.* and 50 obs"
    ) as caught:
        compare_runs([left, right])
    assert caught.value.exit_code == 2


def test_fifty_against_forty_nine_observations_is_refused(tmp_path):
    left = one(tmp_path / "left", -100.0, observations=50)
    right = one(tmp_path / "right", -101.0, observations=49)
    with pytest.raises(StudyError, match=r"left has 50, structure-diabetes/right has 49"):
        compare_runs([left, right])
    keep_draws(left, 0, 49)  # the draws know better than the record
    assert len(comparison([left, right]).table) == 2
    keep_draws(right, 0, 50)
    with pytest.raises(StudyError, match=r"left has 49, structure-diabetes/right has 50"):
        compare_runs([left, right])


def test_a_file_that_changed_after_the_end_is_refused(tmp_path):
    left, right = one(tmp_path / "left", -100.0), one(tmp_path / "right", -101.0)
    point = right / "points" / f"{0:012x}"
    manifest.write_manifest(point)
    assert len(comparison([left, right]).table) == 2
    metrics = point / "metrics.csv"
    metrics.write_text(metrics.read_text().replace("-101.0", "-1.0"))
    with pytest.raises(StudyError, match=r"metrics\.csv changed after the point finished"):
        compare_runs([left, right])


class Marker:
    """A pickle that leaves a file behind when it is loaded."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("name", ["draws.nc", "metrics.csv", "point.json"])
@pytest.mark.parametrize("protocol", [0, 4])
def test_a_pickle_is_refused_and_not_executed(tmp_path, name, protocol):
    left, right = one(tmp_path / "left", -100.0), one(tmp_path / "right", -101.0)
    planted = tmp_path / "executed"
    (right / "points" / f"{0:012x}" / name).write_bytes(pickle.dumps(Marker(planted), protocol=protocol))
    with pytest.raises(StudyError, match=name.replace(".", r"\.")) as caught:
        compare_runs([left, right])
    assert caught.value.exit_code == 2
    assert not planted.exists()


@pytest.mark.parametrize("keep", [8, 100, 2000])
def test_truncated_draws_are_refused(tmp_path, keep):
    left, right = one(tmp_path / "left", -100.0), one(tmp_path / "right", -101.0)
    path = keep_draws(right, 0)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(StudyError, match=r"draws\.nc"):
        compare_runs([left, right])


@pytest.mark.parametrize("path", ["/etc", "/etc/passwd", "nowhere", "../..", "a\0b", "x" * 5000])
def test_what_is_no_run_folder_is_refused(tmp_path, path):
    left = one(tmp_path / "left", -100.0)
    with pytest.raises(StudyError, match=r"not a run folder|path") as caught:
        compare_runs([left, Path(path)])
    assert caught.value.exit_code == 2
