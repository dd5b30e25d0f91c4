"""Files made to harm: no reader of ours executes or half-reads them, and no source of ours could."""

import hashlib
import io
import os
import pickle
import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy
import pytest
import torch

from evidentia.studies.harness.errors import StudyError
from evidentia.studies.harness.storage import atomic, manifest, read_run, results, run_folder

ROOT = Path(__file__).parents[2]
# Written in parts, so that this file does not find itself.
FORBIDDEN = {
    "pickle": r"\b(c?loud)?pick" + r"le\b",
    "joblib.load": r"\bjoblib\s*\.\s*load\b",
    "yaml.load": r"\byaml\s*\.\s*(unsafe_|full_)?load(_all)?\b",
    "torch.load": r"\btorch\s*\.\s*load\s*\((?![^)]*weights_only\s*=\s*True)",
    "weights_only=False": r"weights_only\s*=\s*False",
    "ParamStore.load": r"(get_param_store\(\)|[Pp]aram_?[Ss]tore\w*)\s*\.\s*load\b",
    "PyroOptim.load": r"(PyroOptim|optim\w*)\s*\.\s*load\s*\(",
    "allow_pickle=True": r"allow_pick" + r"le\s*=\s*True",
    "eval": r"(?<![\w.])(eval|exec)\s*\(",
}


def code_of(text: str) -> str:
    """Return a module without comments, docstrings and other texts, where the words may stand."""
    import tokenize

    kept = []
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        kept.append('""' if token.type in (tokenize.STRING, tokenize.COMMENT) else token.string)
        kept.append("\n" if token.type in (tokenize.NEWLINE, tokenize.NL) else " ")
    return "".join(kept).replace(" . ", ".").replace(" ( ", "(").replace(" = ", "=").replace(" )", ")")


def sources() -> list[Path]:
    found = [path for room in ("models", "inference", "studies") for path in (ROOT / room).rglob("*.py")]
    assert len(found) > 30
    return found


@pytest.mark.no_torch
@pytest.mark.parametrize("name", FORBIDDEN)
def test_no_source_can_run_what_it_reads(name: str) -> None:
    guilty = [path for path in sources() if re.search(FORBIDDEN[name], code_of(path.read_text()))]
    assert guilty == []


@pytest.mark.no_torch
@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("pickle", "import pick" + "le"),
        ("pickle", "from cloudpick" + "le import load"),
        ("joblib.load", "x = joblib.load(path)"),
        ("yaml.load", "yaml.load(text, Loader=yaml.Loader)"),
        ("yaml.load", "yaml.unsafe_load(text)"),
        ("torch.load", "torch.load(path)"),
        ("weights_only=False", "torch.load(path, weights_only=False)"),
        ("ParamStore.load", "pyro.get_param_store().load(path)"),
        ("PyroOptim.load", "optimizer.load(path)"),
        ("allow_pickle=True", "numpy.load(path, allow_pick" + "le=True)"),
        ("eval", "eval(text)"),
    ],
)
def test_the_search_finds_what_it_looks_for(name: str, line: str) -> None:
    assert re.search(FORBIDDEN[name], code_of(line + "\n"))


@pytest.mark.no_torch
def test_the_search_lets_good_code_pass() -> None:
    good = "yaml.safe_load(t)\nx.load_state_dict(s)\nmodel.eval()\ntorch.load(p, weights_only=True)\n"
    assert not [name for name, pattern in FORBIDDEN.items() if re.search(pattern, code_of(good))]


class Bomb:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return os.system, (f"touch {self.marker}",)


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    return tmp_path / "marker"


def hostile_files(marker: Path) -> dict[str, bytes]:
    bomb = Bomb(marker)
    store, archive, text = io.BytesIO(), io.BytesIO(), f"!!python/object/apply:os.system ['touch {marker}']\n"
    torch.save({"params": bomb, "constraints": bomb}, store)
    with zipfile.ZipFile(archive, "w") as parts:
        array = io.BytesIO()
        numpy.save(array, numpy.array([bomb], dtype=object), allow_pickle=True)
        parts.writestr("y.npy", array.getvalue())
    return {
        "plain": pickle.dumps(bomb),
        "param store": store.getvalue(),
        "npz": archive.getvalue(),
        "yaml": text.encode(),
        "truncated HDF5": b"\x89HDF\r\n\x1a\n" + b"\0" * 50,
        "empty": b"",
    }


def read_npz(path: Path) -> object:
    from evidentia.studies.harness.data.table_file import csv

    return csv(str(path), target="y")


def read_draws(path: Path) -> object:
    from evidentia.inference import diagnostics

    return diagnostics.load(path)


READERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "weights": ("weights.safetensors", results.read_weights),
    "draws": ("draws.nc", read_draws),
    "settings": ("config.yaml", lambda path: run_folder.read_config(path.parent)),
    "manifest": ("MANIFEST.json", lambda path: manifest.read_manifest(path.parent)),
    "json": ("point.json", atomic.read_json),
    "record": ("point.json", read_run.read_record),
    "rows": ("metrics.csv", results.read_rows),
    "run": ("config.yaml", lambda path: read_run.read_run(path.parent)),
    "csv data": ("data.csv", read_npz),
    "npz data": ("data.npz", read_npz),
}


@pytest.mark.parametrize("reader", READERS)
def test_no_reader_executes_a_file(reader: str, marker: Path, tmp_path: Path) -> None:
    """Each reader refuses each file with a ValueError (exit 2), or finds nothing in it; no command runs."""
    name, read = READERS[reader]
    for kind, data in hostile_files(marker).items():
        path = tmp_path / name
        path.write_bytes(data)
        try:
            found = read(path)
        except ValueError:
            pass
        else:
            assert reader == "rows", f"{reader} read {kind} as {found!r}"
            assert kind in ("empty", "yaml"), f"{reader} read {kind} as {found!r}"
        assert not marker.exists(), f"{reader} executed {kind}"


def test_the_files_are_dangerous(marker: Path) -> None:
    """The trial can see an execution."""
    files = hostile_files(marker)
    pickle.loads(files["plain"])
    assert marker.exists()
    marker.unlink()
    with pytest.raises(Exception):  # noqa: B017, PT011
        torch.load(io.BytesIO(files["param store"]))
    assert not marker.exists(), "torch's default refuses"
    torch.load(io.BytesIO(files["param store"]), weights_only=False)
    assert marker.exists()


def test_a_run_with_hostile_results_is_not_believed(marker: Path, tmp_path: Path) -> None:
    run_folder.write_config(tmp_path, {"name": "toy"})
    point = tmp_path / "points" / ("0" * 12)
    point.mkdir(parents=True)
    data = hostile_files(marker)["plain"]
    for name in (
        "metrics.csv",
        "draws.nc",
        "weights.safetensors",
        "checks.json",
        "status.json",
        "point.json",
    ):
        (point / name).write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    atomic.write_json(point / "MANIFEST.json", {"schema": 1, "files": {"metrics.csv": digest}})
    (point / "DONE").write_text("done\n")
    from evidentia.studies.harness.reporting.report import build_report

    for read in (read_run.read_run, build_report):
        with pytest.raises(StudyError) as refusal:
            read(tmp_path)
        assert refusal.value.exit_code == 2
    assert run_folder.read_status(point) == {}
    assert not marker.exists()
