"""Fixtures of the studies: a toy study that outside packages add, in this process and in others."""

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

TOY = '''
"""Does the mean of a column move with the shift? A toy without any fitting."""

from typing import Annotated

from pydantic import Field

from evidentia.studies.harness.declare.config import Frozen, StudyConfig
from evidentia.studies.harness.main import run_as_main
from evidentia.studies.harness.declare.registry import datasets, inferences, register_study
from evidentia.studies.harness.declare.study import Claim, Study


class Optimiser(Frozen):
    rate: float = Field(default=0.1, gt=0, le=1)
    name: str = "adam"


class Config(StudyConfig):
    """Settings of the toy."""

    tags = ("toy",)
    minutes = 0.1

    shifts: tuple[float, ...] = Field(default=(0.0, 1.0, 2.0), description="added to the column")
    rows: Annotated[int, Field(ge=1, le=10**6)] = 20
    rate: float = Field(default=0.1, gt=0)
    bad: bool = False
    slow: float = 0.0
    optimiser: Optimiser = Optimiser()

    def smoke(self):
        return self.replace(shifts=(0.0, 1.0), rows=5)


def line(rows: int, bad: bool = False):
    import numpy
    from evidentia.studies.harness.data.dataset import make_dataset

    column = numpy.linspace(-1.0, 1.0, rows)[:, None]
    if bad:
        column[1, 0] = numpy.nan
    return make_dataset(column, column[:, 0] * 2.0, ["a"])


def shift(problem, params, context):
    import time
    import numpy
    from evidentia.studies.harness.engine.outcome import Outcome

    if params.get("slow"):
        time.sleep(params["slow"])
    noise = numpy.random.default_rng(context.seed).normal()
    return Outcome(rows=[{"mean": float(problem.data.x.mean()) + params["shift"], "noise": float(noise)}])


datasets.add("toy_line", "MODULE:line")
inferences.add("toy_shift", "MODULE:shift")


@register_study
def study(config: Config) -> Study:
    return Study(
        name="toy",
        data={"key": "toy_line", "params": {"rows": config.rows, "bad": config.bad}},
        inference={"key": "toy_shift", "params": {"slow": config.slow, "rate": config.rate}},
        grid={"inference.shift": config.shifts},
        seed=config.seed,
        expect=(Claim(text="the mean is not negative", metric="mean", op=">=", value=0, tolerance=1e-12),),
    )


def run(config):
    return study(config).run(out=None).table


def plot(result):
    from matplotlib.figure import Figure

    figure = Figure()
    figure.subplots().plot(result["mean"])
    return figure


if __name__ == "__main__":
    run_as_main(__name__)
'''

METADATA = "Metadata-Version: 2.1\nName: {name}\nVersion: 0.1\n"


def write_plugin(folder: Path, name: str, module: str, source: str, distribution: str | None = None) -> None:
    """Write a module and the metadata that make it the plugin ``name``."""
    distribution = distribution or f"{name}-package"
    folder.mkdir(exist_ok=True)
    (folder / f"{module}.py").write_text(source.replace("MODULE", module).lstrip())
    info = folder / f"{distribution.replace('-', '_')}-0.1.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text(METADATA.format(name=distribution))
    (info / "entry_points.txt").write_text(f"[evidentia.studies]\n{name} = {module}\n")


@pytest.fixture
def registries() -> Iterator[None]:
    """Leave the registries as they were; the studies that ship have made their entries before."""
    from evidentia.studies.harness.declare import registry
    from evidentia.studies.harness.declare.discovery import discover

    for source in discover(plugins=False).values():
        importlib.import_module(source.module)

    tables = [getattr(registry, name) for name in ("datasets", "models", "guides", "inferences", "metrics")]
    before = [dict(table._targets) for table in tables]
    yield
    for table, targets in zip(tables, before, strict=True):
        table._targets.clear()
        table._targets.update(targets)


@pytest.fixture
def add_plugin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, registries: None
) -> Iterator[Callable[[str, str, str], Path]]:
    """A function that writes a plugin and puts it on the path of this process and of its children."""
    folder = tmp_path / "plugins"
    modules = []

    def add(name: str, module: str, source: str) -> Path:
        write_plugin(folder, name, module, source)
        modules.append(module)
        importlib.invalidate_caches()
        return folder

    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("PYTHONPATH", str(folder))
    yield add
    for module in modules:
        sys.modules.pop(module, None)


@pytest.fixture
def toy(add_plugin: Callable[[str, str, str], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """The name of the toy study; the working directory is an empty folder. Its module is ``toy_study``."""
    add_plugin("toy", "toy_study", TOY)
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    return "toy"


@pytest.fixture
def builtin_toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, registries: None) -> Iterator[str]:
    """The toy as if it were a module of evidentia.studies, in this process only."""
    import evidentia.studies

    name = "evidentia.studies.toy"
    (tmp_path / "toy.py").write_text(TOY.replace("MODULE", name).lstrip())
    monkeypatch.setattr(evidentia.studies, "__path__", [*evidentia.studies.__path__, str(tmp_path)])
    importlib.invalidate_caches()
    yield "toy"
    sys.modules.pop(name, None)
    if hasattr(evidentia.studies, "toy"):
        del evidentia.studies.toy
