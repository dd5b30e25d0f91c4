"""What can go wrong in a study, and the exit code each kind of fault has."""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, ClassVar, final

if TYPE_CHECKING:
    from pydantic import ValidationError

OK = 0
CLAIM_FAILED = 1
BAD_INPUT = 2
NUMERICAL = 3
STORAGE = 74
INTERRUPTED = 130
TERMINATED = 143


class StudyError(ValueError):
    """A fault in what the user gave. The message is complete: what, where, given, expected, fix.

    Example:
        >>> raise StudyError("steps: given -1, expected at least 1")
        Traceback (most recent call last):
        evidentia.studies.harness.errors.StudyError: steps: given -1, expected at least 1
    """

    exit_code: ClassVar[int] = BAD_INPUT


@final
class NumericalFailure(StudyError):  # noqa: N818
    """Numbers failed during a computation: a loss or a gradient is not finite."""

    exit_code: ClassVar[int] = NUMERICAL


@final
class StorageError(StudyError):
    """The disk refused: full, read-only, gone."""

    exit_code: ClassVar[int] = STORAGE


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """End of a message about an unknown name: a close match, or the names there are.

    Args:
        name: what was given.
        names: what would have been accepted.

    Returns:
        One or two sentences, without a leading space.

    Example:
        >>> did_you_mean("stepz", ["steps", "seed"])
        "Did you mean 'steps'?"
        >>> did_you_mean("x", ["steps", "seed"])
        'Known: seed, steps.'
    """
    known = sorted(set(names))
    folded = {each.lower().replace("-", "_"): each for each in known}
    close = get_close_matches(name.lower().replace("-", "_")[:100], folded, n=1, cutoff=0.6)
    if close:
        return f"Did you mean {folded[close[0]]!r}?"
    if not known:
        return "There are none."
    listed = ", ".join(known[:20])
    return f"Known: {listed}{', …' if len(known) > 20 else ''}."


def shorten(value: object, limit: int = 80) -> str:
    """The repr of a value a user gave, cut to a length that fits a message.

    Example:
        >>> shorten("a" * 1000, 12)
        "'aaaaaaaaaa…"
    """
    text = repr(value[: limit + 1] if isinstance(value, str | bytes) else value)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def shorten_path(path: object, limit: int = 80) -> str:
    """A path for a message, quoted; of a long one the end is kept, which has the file's name.

    Example:
        >>> shorten_path("/a/very/long/way/to/table.csv", 16)
        "'…/to/table.csv'"
    """
    text = str(path)
    return repr(text if len(text) <= limit - 2 else "…" + text[3 - limit :])


def explain(
    error: "ValidationError", known: Mapping[str, Iterable[str]] | None = None, prefix: str = ""
) -> str:
    """One line for each fault pydantic found: dotted path, value given, what was expected.

    Args:
        error: the pydantic error.
        known: for each dotted parent path (``""`` is the top), the keys that exist there.
        prefix: dotted path of the validated object inside what the user sees.

    Returns:
        The message, one fault per line.
    """
    lines = []
    for fault in error.errors(include_url=False):
        path = ".".join(str(part) for part in fault["loc"])
        full = ".".join(part for part in (prefix, path) if part)
        if fault["type"] == "extra_forbidden":
            parent = ".".join(str(part) for part in fault["loc"][:-1])
            names = (known or {}).get(parent, ())
            lines.append(f"unknown key {full!r}. {did_you_mean(str(fault['loc'][-1]), names)}")
        elif fault["type"] == "missing":
            lines.append(f"{full}: nothing given, a value is required.")
        else:
            lines.append(f"{full}: {_reason(fault)}" if full else _reason(fault))
    return "\n".join(lines)


def _reason(fault: Any) -> str:
    """Expected and given, from one entry of ``ValidationError.errors()``."""
    if fault["type"] in ("value_error", "assertion_error"):
        reason = fault["msg"].removeprefix("Value error, ")
        return f"{reason} (given {shorten(fault['input'])})" if fault["loc"] else reason
    expected = fault["msg"].removeprefix("Input should be ").removeprefix("a valid ")
    return f"given {shorten(fault['input'])}, expected {expected}."
