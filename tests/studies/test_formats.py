"""Runs in the formats of other programs, read back by those programs; and what is refused."""

from __future__ import annotations

import stat
import sys
from pathlib import Path

import fake_run
import numpy as np
import pandas as pd
import pytest

from evidentia.studies.harness.cli import main
from evidentia.studies.harness.errors import StorageError, StudyError
from evidentia.studies.harness.formats import parquet
from evidentia.studies.harness.formats.export import FORMATS, export_run
from evidentia.studies.harness.storage import manifest
from evidentia.studies.harness.storage.read_run import read_table

DOT = 'digraph model {\n  "a" -> "b";\n}'


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run of three points, the first with draws."""
    import arviz as az

    folder = fake_run.write_run(tmp_path / "run")
    rng = np.random.default_rng(0)
    draws = az.from_dict(
        posterior={"b": rng.normal(size=(1, 20, 2))},
        observed_data={"obs": np.arange(3.0)},
        coords={"feature": ["age", "bmi"]},
        dims={"b": ["feature"], "obs": ["data"]},
    )
    draws.to_netcdf(str(folder / "points" / f"{0:012x}" / "draws.nc"), engine="h5netcdf")
    (folder / "model.dot").write_text(DOT)
    return folder


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_parquet_has_every_table_with_its_types_and_values(run, tmp_path):
    written = export_run(run, "parquet", tmp_path / "out")
    assert written.notices == ()
    assert {str(path.relative_to(tmp_path / "out")) for path in written.paths} == names(tmp_path / "out")
    point = f"points/{1:012x}"
    assert {f"{point}/{name}.parquet" for name in ("metrics", "structures", "inclusion")} <= names(
        tmp_path / "out"
    )
    for name, source in (
        ("metrics", "metrics.csv"),
        (f"{point}/structures", f"{point}/tables/structures.csv"),
    ):
        found = pd.read_parquet(tmp_path / "out" / f"{name}.parquet")
        pd.testing.assert_frame_equal(found, read_table(run / source))
    assert pd.read_parquet(tmp_path / "out" / "metrics.parquet")["point"][0] == "0" * 12


def test_one_point_by_the_beginning_of_its_id(run, tmp_path):
    export_run(run, "parquet", tmp_path / "out", point=f"{2:012x}")
    assert {Path(name).parent.name for name in names(tmp_path / "out")} == {f"{2:012x}"}
    with pytest.raises(StudyError, match=r"POINT: '0000' begins 3 points"):
        export_run(run, "parquet", tmp_path / "other", point="0000")
    with pytest.raises(StudyError, match=r"no point 'x'\. Known: 000000000000"):
        export_run(run, "parquet", tmp_path / "other", point="x")


def test_zarr_has_the_groups_of_the_draws(run, tmp_path):
    import xarray as xr

    from evidentia.inference import diagnostics

    written = export_run(run, "zarr", tmp_path / "out")
    assert written.notices == ("2 points have no draws",)
    (store,) = written.paths
    before = diagnostics.load(run / "points" / f"{0:012x}" / "draws.nc")
    with xr.open_datatree(store, engine="zarr") as after:
        assert set(after.children) == set(before.groups())
        xr.testing.assert_identical(after["posterior"].to_dataset().load(), before.posterior)


def test_graphviz_gives_the_source_and_without_dot_says_so(run, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    written = export_run(run, "graphviz", tmp_path / "out")
    assert names(tmp_path / "out") == {"model.gv"}
    assert (tmp_path / "out" / "model.gv").read_text().strip() == DOT
    assert "no picture" in written.notices[0]


@pytest.mark.parametrize(("code", "expected"), [(0, {"model.gv", "model.svg"}), (1, {"model.gv"})])
def test_where_there_is_a_dot_there_is_a_picture_unless_it_fails(run, tmp_path, monkeypatch, code, expected):
    dot = tmp_path / "dot"
    dot.write_text(f"#!/bin/sh\necho '<svg/>'\nexit {code}\n")
    dot.chmod(dot.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    written = export_run(run, "graphviz", tmp_path / "out")
    assert names(tmp_path / "out") == expected
    assert bool(written.notices) == bool(code)


def test_the_command_prints_what_it_wrote(run, tmp_path, capsys):
    assert main(["export", str(run), "--to", "parquet", "--out", str(tmp_path / "out")]) == 0
    assert f"{tmp_path / 'out' / 'metrics.parquet'}\n" in capsys.readouterr().out
    assert main(["export", str(run), "--to", "parkett", "--out", str(tmp_path / "new")]) == 2
    assert "unknown format 'parkett'. Did you mean 'parquet'?" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("kind", ["empty", "full", "file", "link", "inside"])
def test_a_target_that_exists_or_belongs_to_a_run_is_refused(run, tmp_path, kind):
    out = tmp_path / "out"
    if kind == "file":
        out.write_text("mine")
    elif kind == "link":
        out.symlink_to(tmp_path / "nowhere")
    elif kind == "inside":
        out = run / "out"
    else:
        out.mkdir()
        if kind == "full":
            (out / "mine.txt").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(StudyError, match=r"exists; nothing is overwritten|lies inside the run") as caught:
        export_run(run, "parquet", out)
    assert caught.value.exit_code == 2
    assert sorted(tmp_path.rglob("*")) == before


# pandas reads with pyarrow once it has found it, so only the part that pandas does not need can be hidden.
HIDDEN = {"parquet": "pyarrow.parquet", "zarr": "zarr", "graphviz": "graphviz"}


@pytest.mark.parametrize(("kind", "package"), HIDDEN.items())
def test_an_extra_that_is_not_there_is_one_message_and_no_folder(run, tmp_path, monkeypatch, kind, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        StudyError, match=rf"extra {kind} is unusable: .*Fix: pip install 'evidentia\[{kind}\]'"
    ):
        export_run(run, kind, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


def test_a_fault_half_way_leaves_nothing_behind(run, tmp_path, monkeypatch):
    calls = []

    def full(table, path):
        calls.append(path)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")
        path.write_text("x")

    monkeypatch.setattr(parquet, "_write", full)
    with pytest.raises(StorageError, match="No space left") as caught:
        export_run(run, "parquet", tmp_path / "out")
    assert caught.value.exit_code == 74
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


def test_changed_files_and_foreign_ones_are_refused(run, tmp_path):
    point = run / "points" / f"{0:012x}"
    (point / "draws.nc").write_bytes(b"\x80\x04 a pickle")
    with pytest.raises(StudyError, match=r"draws\.nc is not a netCDF file"):
        export_run(run, "zarr", tmp_path / "out")
    manifest.write_manifest(point)
    (point / "metrics.csv").write_text("point,a\n000000000000,1\n")
    with pytest.raises(StudyError, match=r"metrics\.csv changed after it was finished"):
        export_run(run, "parquet", tmp_path / "out")


def test_unfinished_points_are_left_out_and_nothing_finished_is_refused(tmp_path):
    run = fake_run.write_run(tmp_path / "run", done=False)
    written = export_run(run, "parquet", tmp_path / "out")
    assert written.notices == ("1 unfinished points left out",)
    for what, match in (("zarr", "no point of .* has draws"), ("graphviz", "no graph of its model")):
        with pytest.raises(StudyError, match=match):
            export_run(run, what, tmp_path / what)
    for point in (run / "points").iterdir():
        (point / "DONE").unlink(missing_ok=True)
    with pytest.raises(StudyError, match="no finished point"):
        export_run(run, "parquet", tmp_path / "none")


def test_a_column_of_mixed_types_is_named(run, tmp_path, monkeypatch):
    mixed = pd.DataFrame({"a": [b"x", 1.5]})
    with pytest.raises(StudyError, match=r"table odd: .*Use its CSV file instead"):
        parquet._write(mixed, tmp_path / "odd.parquet")


def test_each_format_is_an_extra_of_the_package():
    from evidentia.studies.harness.reporting.doctor import extras

    assert set(FORMATS) | {"tb", "mlflow", "scale"} <= set(extras())
