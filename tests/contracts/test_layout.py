"""The contract of the layout: packages, import direction, docstrings, formats that are never read."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ORDER = {"models": 0, "inference": 1, "studies": 2}
SOURCES = sorted(path for package in ORDER for path in (ROOT / package).rglob("*.py"))
HEAVY = {"torch", "pyro", "arviz", "sklearn", "matplotlib", "pandas", "xarray", "scipy"}

pytestmark = pytest.mark.no_torch


def identify(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imported(tree: ast.AST) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            yield node.lineno, "." * node.level + (node.module or "")


def imported_at_module_level(tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Import | ast.ImportFrom | ast.If | ast.Try | ast.With):
            for _, name in imported(node):
                yield name


@pytest.fixture(scope="module")
def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_packages_are_exactly_the_folders_on_disk(project):
    on_disk = {
        "evidentia." + ".".join(path.parent.relative_to(ROOT).parts)
        for path in SOURCES
        if path.name == "__init__.py"
    }
    assert set(project["tool"]["setuptools"]["packages"]) == on_disk
    folders_with_code = {path.parent for path in SOURCES}
    assert all((folder / "__init__.py").exists() for folder in folders_with_code)


@pytest.mark.parametrize("package", ORDER)
def test_each_part_is_marked_as_typed(package):
    assert (ROOT / package / "py.typed").exists()


@pytest.mark.parametrize("path", SOURCES, ids=identify)
def test_imports_are_absolute_and_point_one_way(path):
    own = ORDER[path.relative_to(ROOT).parts[0]]
    for line, name in imported(ast.parse(path.read_text())):
        where = f"{identify(path)}:{line} imports {name}"
        assert not name.startswith("."), f"{where}: relative"
        assert name.split(".")[0] not in ORDER, f"{where}: write evidentia.{name}"
        parts = name.split(".")
        if parts[0] == "evidentia" and len(parts) > 1:
            assert ORDER[parts[1]] <= own, f"{where}: against studies -> inference -> models"


@pytest.mark.parametrize("path", SOURCES, ids=identify)
def test_every_file_says_what_it_is(path):
    assert ast.get_docstring(ast.parse(path.read_text())), f"{identify(path)} has no module docstring"


@pytest.mark.parametrize("path", SOURCES, ids=identify)
def test_only_one_module_touches_arviz_and_the_core_needs_no_plotting(path):
    names = {name.split(".")[0] for _, name in imported(ast.parse(path.read_text()))}
    if identify(path) != "inference/diagnostics.py":
        assert "arviz" not in names
    if path.relative_to(ROOT).parts[0] != "studies":
        assert not names & {"sklearn", "matplotlib"}


@pytest.mark.parametrize(
    "path", [path for path in SOURCES if path.relative_to(ROOT).parts[0] == "studies"], ids=identify
)
def test_studies_import_nothing_heavy_at_module_level(path):
    names = {name.split(".")[0] for name in imported_at_module_level(ast.parse(path.read_text()))}
    assert not names & HEAVY


FORBIDDEN = {
    "pickle": r"^\s*(import|from) +(c?pickle|cloudpickle|dill|joblib)\b|\b(pickle|dill|joblib)\.load",
    "yaml.load": r"yaml\.(load|unsafe_load|full_load)\(",
    "weights_only=False": r"weights_only\s*=\s*False",
    "torch.load": r"torch\.load\((?!.*weights_only=True)",
    "ParamStore.load": r"get_param_store\(\)\.load\(|param_store\.load\(",
    "PyroOptim.load": r"PyroOptim\.load|optim\.load\(",
    "allow_pickle": r"allow_pickle\s*=\s*True",
}


@pytest.mark.parametrize("name", FORBIDDEN)
def test_no_source_reads_a_format_that_runs_code(name):
    pattern = re.compile(FORBIDDEN[name], re.MULTILINE)
    hits = [identify(path) for path in SOURCES if pattern.search(path.read_text())]
    assert not hits, f"{name} in {hits}"


def test_the_folder_names_never_become_top_level_modules():
    code = (
        "import sys, pkgutil, importlib, evidentia\n"
        "for part in ('models', 'inference', 'studies'):\n"
        "    importlib.import_module('evidentia.' + part)\n"
        "    assert part not in sys.modules, part\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd="/", check=False)
    assert done.returncode == 0, done.stderr
