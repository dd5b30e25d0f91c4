"""Check an installed wheel: every sub-package is there, imports, and nothing lies beside `evidentia/`.

Usage: python check_wheel.py SITE WHEEL, where SITE is the folder the wheel was installed into.
"""

import importlib
import pkgutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]


def contents(wheel: Path) -> list[str]:
    """Return the files of the wheel that are not its metadata."""
    return [name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name]


def check(site: Path, wheel: Path) -> int:
    """Import every module of the installed wheel and return how many there are."""
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    files = contents(wheel)
    strays = [name for name in files if not name.startswith("evidentia/")]
    if strays:
        raise SystemExit(f"the wheel puts files outside evidentia/: {strays}")
    missing = [name for name in packages if name.replace(".", "/") + "/__init__.py" not in files]
    if missing:
        raise SystemExit(f"the wheel lacks {missing}")
    sources = {
        "evidentia/" + str(path.relative_to(ROOT))
        for package in ("models", "inference", "studies")
        for path in (ROOT / package).rglob("*")
        if path.suffix in {".py", ".html", ".typed"}
    }
    if sources - set(files):
        raise SystemExit(f"the wheel lacks {sorted(sources - set(files))}")
    names = []
    for name in packages:
        module = importlib.import_module(name)
        if not str(module.__file__).startswith(str(site)):
            raise SystemExit(f"{name} was imported from {module.__file__}, not from {site}")
        names += [info.name for info in pkgutil.iter_modules(module.__path__, name + ".")]
    for name in names:
        importlib.import_module(name)
    return len(names)


if __name__ == "__main__":
    if "--inner" in sys.argv:
        site, wheel = Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()
        # The editable install of the checkout must not answer in place of the wheel.
        sys.meta_path[:] = [finder for finder in sys.meta_path if "Editable" not in repr(finder)]
        sys.path.insert(0, str(site))
        print(f"wheel: {check(site, wheel)} modules imported from {site}")
    else:
        command = [sys.executable, __file__, *sys.argv[1:3], "--inner"]
        raise SystemExit(subprocess.run(command, cwd="/", check=False).returncode)
