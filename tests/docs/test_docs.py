"""The documentation names only what exists, and every tutorial runs."""

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [*sorted((ROOT / "docs").rglob("*.md")), ROOT / "README.md"]
PAGES = [page for page in PAGES if "_build" not in page.parts]
SYMBOL = re.compile(r"`(evidentia(?:\.\w+)+)`")
FILE = re.compile(r"`((?:models|inference|studies|tests|benchmarks|docs)/[\w./-]+\.\w+)`")


def resolve(dotted: str) -> object:
    parts = dotted.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            value: object = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for name in parts[cut:]:
            value = getattr(value, name)
        return value
    raise ModuleNotFoundError(dotted)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_name_in_the_documentation_resolves(page):
    text = page.read_text()
    for dotted in SYMBOL.findall(text):
        resolve(dotted)
    for path in FILE.findall(text):
        assert (ROOT / path).exists(), path


@pytest.mark.slow
@pytest.mark.docs
def test_the_examples_of_the_readme_run():
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    family, pair, any_model = ({"__name__": "readme"} for _ in range(3))
    assert len(blocks) == 3
    for block, names in zip(blocks, (family, pair, any_model), strict=True):
        exec(compile(block, "README.md", "exec"), names)
    assert family["posterior"].map.label == "one"
    assert family["best"].structure.label == "one"
    losses = pair["result"].losses
    assert losses[-20:].mean() < losses[:20].mean()
    assert any_model["draws"].samples["spread"].shape == (256, 200)
    for name, exact in (("alike", -30.84416), ("varied", -31.31135)):
        found = any_model["evidence"][name]
        assert abs(found.value - exact) < 4.5 * found.standard_error + 1e-4


@pytest.mark.slow
@pytest.mark.docs
@pytest.mark.timeout(600)
def test_pages_build_and_tutorials_run(tmp_path):
    command = [sys.executable, "-m", "sphinx", "-W", "-q", "-b", "html", str(ROOT / "docs"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
