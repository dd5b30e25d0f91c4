"""The contract of the public surface: everything imports, examples run, docstrings are complete."""

import doctest
import importlib
import inspect
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from types import ModuleType

import pytest

PACKAGES = ("evidentia.models", "evidentia.inference", "evidentia.studies")


def module_names() -> Iterator[str]:
    for package in PACKAGES:
        yield package
        path = importlib.import_module(package).__path__
        yield from (info.name for info in pkgutil.walk_packages(path, package + "."))


NAMES = sorted(module_names())


def own_public_objects(module: ModuleType) -> Iterator[tuple[str, object]]:
    for name, value in vars(module).items():
        if name.startswith("_") or getattr(value, "__module__", None) != module.__name__:
            continue
        if inspect.isclass(value) or inspect.isfunction(value):
            yield name, value


@pytest.mark.parametrize("name", NAMES)
def test_examples_in_docstrings_run(name):
    result = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert result.failed == 0


@pytest.mark.parametrize("name", NAMES)
def test_public_objects_are_documented_and_typed(name):
    for label, value in own_public_objects(importlib.import_module(name)):
        assert inspect.getdoc(value), f"{name}.{label} has no docstring"
        if inspect.isfunction(value):
            missing = [
                parameter.name
                for parameter in inspect.signature(value).parameters.values()
                if parameter.annotation is inspect.Parameter.empty
            ]
            assert not missing, f"{name}.{label}: no type on {missing}"


def test_importing_everything_changes_no_global_state():
    code = f"""
import importlib, warnings, matplotlib, torch, pyro, arviz

def state():
    settings = {{key: value for key, value in dict.items(matplotlib.rcParams) if key != "backend"}}
    torch_state = (torch.get_default_dtype(), torch.get_num_threads())
    return (torch_state, pyro.settings.get(), settings, warnings.filters[:])

before = state()
for name in {NAMES!r}:
    importlib.import_module(name)
after = state()
assert before[:3] == after[:3], (before[:2], after[:2])
filters = [set(map(str, state[3])) for state in (before, after)]
assert filters[0] == filters[1], filters[1] - filters[0]
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd="/", check=False)
    assert done.returncode == 0, done.stderr


def exported() -> Iterator[tuple[str, object]]:
    for package in ("evidentia.models", "evidentia.inference"):
        for name, value in vars(importlib.import_module(package)).items():
            if not name.startswith("_") and not inspect.ismodule(value):
                yield f"{package}.{name}", value


OFFERED = dict(exported())


@pytest.mark.parametrize("name", OFFERED)
def test_what_a_package_offers_says_where_it_comes_from(name):
    assert "References:" in (inspect.getdoc(OFFERED[name]) or ""), f"{name} has no references"
