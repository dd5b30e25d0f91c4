"""The last line of a study module: ``python -m evidentia.studies.<module>`` is ``evidentia run <module>``."""

import sys
from pathlib import Path
from typing import NoReturn


def run_as_main(name: str) -> NoReturn:
    """Run the study of the module that is the main program, with the options of ``evidentia run``.

    A study module ends with::

        if __name__ == "__main__":
            run_as_main(__name__)

    Args:
        name: the module's ``__name__``.

    Raises:
        SystemExit: always, with the exit code of the run.
    """
    from evidentia.studies.harness.cli import main
    from evidentia.studies.harness.declare.discovery import discover

    module = sys.modules[name]
    spec = getattr(module, "__spec__", None)
    full = spec.name if spec is not None else Path(str(module.__file__)).stem
    named = [source.name for source in discover().values() if source.module == full]
    raise SystemExit(main(["run", *(named or [full.rpartition(".")[2]]), *sys.argv[1:]]))
