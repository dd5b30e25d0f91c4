"""Optuna, imported on use, and kept from writing to the terminal while it is at work."""

import contextlib
import warnings
from collections.abc import Iterator
from types import ModuleType

from evidentia.studies.harness.errors import StudyError

INSTALL = "pip install 'evidentia[search]'"


def load_optuna() -> ModuleType:
    """The module ``optuna``.

    Raises:
        StudyError: it is not installed, or cannot be imported (exit 2).
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import optuna
            import optuna.storages.journal
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "optuna":
            raise StudyError(f"a search needs Optuna; the extra search is not installed: {INSTALL}") from None
        raise StudyError(f"extra search is unusable: {error}. Install it again: {INSTALL}") from None
    except Exception as error:  # whatever it raises on import, it is the installation that is at fault
        reason = f"{type(error).__name__}: {error}"
        raise StudyError(f"extra search is unusable: {reason}. Install it again: {INSTALL}") from None
    return optuna


@contextlib.contextmanager
def quiet() -> Iterator[ModuleType]:
    """Optuna without its log lines and warnings inside the block; both are put back as they were."""
    optuna = load_optuna()
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield optuna
    finally:
        optuna.logging.set_verbosity(verbosity)
