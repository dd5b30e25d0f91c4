"""From a fault to one message and an exit code; nothing here shows a traceback unless it is asked for."""

import os
import sys
from typing import Any, TextIO, final

import typer
from pydantic import ValidationError

from evidentia.studies.harness import errors
from evidentia.studies.harness.errors import StudyError, explain

DEBUG = "EVIDENTIA_TRACEBACK"


@final
class Counted:
    """A text stream that remembers whether anything was written to it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self.used = stream, False

    def write(self, text: str) -> int:
        """Pass the text on."""
        self.used = self.used or bool(text)
        return self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def call(app: typer.Typer, words: list[str]) -> tuple[int, str | None]:
    """Run one command of an application.

    Args:
        app: the application.
        words: its arguments.

    Returns:
        The exit code and, where the command failed, the message.
    """
    try:
        code = app(args=words, prog_name="evidentia", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else errors.OK, None
    except StudyError as error:
        return error.exit_code, str(error)
    except ValidationError as error:
        return errors.BAD_INPUT, explain(error)
    except (KeyboardInterrupt, typer.Abort):
        return errors.INTERRUPTED, "interrupted"
    except (BrokenPipeError, SystemExit):
        # The reader of our output went away (typer turns that into an exit); there is nobody to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return errors.STORAGE, None
    except OSError as error:
        return errors.STORAGE, f"{error.filename or 'disk'}: {error.strerror or error}"
    except Exception as error:
        if callable(describe := getattr(error, "format_message", None)):  # a usage error of typer
            return errors.BAD_INPUT, f"{describe()} `evidentia --help` shows the commands and options."
        if os.environ.get(DEBUG):
            raise
        return (
            errors.NUMERICAL,
            f"{type(error).__name__}: {error or 'no message'}. Set {DEBUG}=1 to see where.",
        )
