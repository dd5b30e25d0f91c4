"""Optional packages, imported on use: a missing or broken one is one message that names the extra."""

from __future__ import annotations

import contextlib
import importlib
import io
import warnings
from collections.abc import Iterator
from types import ModuleType

from evidentia.studies.harness.errors import StudyError

__all__ = ["quiet", "require"]


def require(extra: str, *modules: str) -> ModuleType:
    """Import the modules of an optional extra, and return the first.

    Args:
        extra: the extra that brings them, as `pip install 'evidentia[extra]'` names it.
        modules: dotted names of modules.

    Raises:
        StudyError: one of them is absent, or cannot be imported, whatever it raises (exit 2).

    Example:
        >>> require("tb", "no_such_module")
        Traceback (most recent call last):
        evidentia.studies.harness.errors.StudyError: extra tb is unusable: No module named 'no_such_module'. \
Fix: pip install 'evidentia[tb]'
    """
    try:
        with quiet():
            found = [importlib.import_module(module) for module in modules]
    except Exception as error:  # whatever it raises on import, it is the installation that is at fault
        lines = str(error).strip().splitlines() or [type(error).__name__]
        kind = "" if isinstance(error, ImportError) else f"{type(error).__name__}: "
        raise StudyError(
            f"extra {extra} is unusable: {kind}{lines[0]}. Fix: pip install 'evidentia[{extra}]'"
        ) from None
    return found[0]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Swallow what a package prints or warns about inside the block."""
    sink = io.StringIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(sink), contextlib.redirect_stderr(sink):
        warnings.simplefilter("ignore")
        yield
