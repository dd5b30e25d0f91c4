"""The arguments that several commands share, and the reading of what a user typed."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evidentia.studies.harness.errors import StudyError, shorten

if TYPE_CHECKING:
    from evidentia.studies.harness.declare.config import StudyConfig
    from evidentia.studies.harness.declare.discovery import StudyModule
    from evidentia.studies.harness.declare.study import Study

MAX_PATH = 1024

StudyName = Annotated[
    str, typer.Argument(help="name of a study; `evidentia list` shows all", show_default=False)
]
RunFolder = Annotated[str, typer.Argument(help="folder of a run, runs/<study>/<run>", show_default=False)]
Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="change a setting; repeatable")
]
Json = Annotated[bool, typer.Option("--json", help="one JSON document on stdout")]
NoPlugins = Annotated[bool, typer.Option("--no-plugins", help="ignore studies of other packages")]
Smoke = Annotated[bool, typer.Option("--smoke", help="the same question in seconds")]
Seed = Annotated[int | None, typer.Option("--seed", help="same as --set seed=N")]


def resolve(
    name: str, overrides: Sequence[str] | None, smoke: bool, seed: int | None, no_plugins: bool
) -> "tuple[StudyModule, StudyConfig, Study]":
    """The study module, its configuration after ``--smoke`` and ``--set``, and the study that follows."""
    from evidentia.studies.harness.declare import discovery
    from evidentia.studies.harness.declare.overrides import apply_overrides

    module = discovery.load(discovery.find(name, plugins=not no_plugins))
    config = module.config().smoke() if smoke else module.config()
    texts = [*(overrides or ()), *([] if seed is None else [f"seed={seed}"])]
    config = apply_overrides(config, texts)
    return module, config, discovery.declare(module, config)


def workers(text: str | None) -> int | str | None:
    """The value of ``--workers``: a number of processes or the address of a scheduler.

    Example:
        >>> workers("2"), workers("tcp://host:8786"), workers(None)
        (2, 'tcp://host:8786', None)
    """
    if text is None:
        return None
    if re.fullmatch(r"[1-9][0-9]{0,3}", text):
        return int(text)
    if re.fullmatch(r"(tcp|tls)://[\w.\-\[\]:]{1,255}:[0-9]{1,5}", text, re.ASCII):
        return text
    raise StudyError(f"--workers: given {shorten(text)}, expected a number of processes or tcp://host:port.")


def path(text: str, option: str) -> Path:
    """A path the user typed, as far as its text can be judged.

    Raises:
        StudyError: it is empty, has a NUL character, or is too long.
    """
    if not text.strip() or "\0" in text:
        raise StudyError(f"{option}: given {shorten(text)}, expected the path of a folder.")
    if len(text) > MAX_PATH or any(len(part.encode(errors="replace")) > 200 for part in Path(text).parts):
        raise StudyError(f"{option}: the path has {len(text)} characters, more than a path may have.")
    return Path(text)
