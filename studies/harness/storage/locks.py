"""Locks of the operating system on a run folder: taken without waiting, freed when their owner dies.

An ordinary run holds ``.lock`` from beginning to end. A shard holds ``.lock`` only while it opens the
folder, and its own ``.lock-<i>-of-<n>`` from beginning to end; so shards work side by side, and an
ordinary run and a shard never do. Below that, each point has a ``.lock`` of its own, so that no point is
ever computed by two processes.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, final

from evidentia.studies.harness.errors import StudyError
from evidentia.studies.harness.storage import atomic

LOCK = ".lock"
DOOR = ".lock-door"


@final
class BusyError(StudyError):
    """Another process works here (exit 2)."""


@final
class Shard(NamedTuple):
    """Part ``part`` of ``parts`` of a sweep, counted from 0; a point belongs to exactly one part.

    Example::

        >>> Shard.parse("1/4")
        Shard(part=1, parts=4)
        >>> [Shard(0, 3).owns(position) for position in range(4)]
        [True, False, False, True]
    """

    part: int
    parts: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read ``i/n`` with 0 <= i < n.

        Raises:
            StudyError: for anything else (exit 2).
        """
        first, slash, second = text.strip().partition("/")
        digits = first.isdecimal() and second.isdecimal() and len(text) < 20
        if not slash or not digits or not int(first) < int(second):
            raise StudyError(
                f"--shard: expected i/n with 0 <= i < n, for example 0/4, given {text[:40]!r}. "
                "A job array numbered from 1 needs --shard $((TASK_ID - 1))/$COUNT"
            )
        return cls(int(first), int(second))

    @property
    def name(self) -> str:
        """The shard as part of a file name."""
        return f"{self.part}-of-{self.parts}"

    def owns(self, position: int) -> bool:
        """Return whether the point at ``position`` of the expansion belongs to this part."""
        return position % self.parts == self.part


@contextlib.contextmanager
def hold(path: Path, busy: str, wait_s: float = 0.0) -> Iterator[None]:
    """Hold the lock ``path`` for the block.

    Args:
        path: the lock file; it stays behind and means nothing by itself.
        busy: the message if another process holds it.
        wait_s: seconds to wait for it; 0 means one attempt.

    Raises:
        BusyError: if another process holds it (exit 2).
        StorageError: if the file cannot be created (exit 74).
    """
    from filelock import FileLock, Timeout

    lock = FileLock(path, thread_local=False)
    try:
        # filelock would make the folder, and so bring back one that was deleted.
        os.stat(path.parent)
        lock.acquire(timeout=wait_s, poll_interval=0.05)
    except Timeout:
        raise BusyError(busy) from None
    except OSError as error:
        raise atomic.storage_error("lock", path, error) from error
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def hold_run(folder: Path, shard: Shard | None) -> Iterator[contextlib.ExitStack]:
    """Hold a run folder: the whole of it, or one shard.

    Yields:
        A stack to close as soon as the folder is opened and its settings are written; for a shard that
        lets the next shard in, for an ordinary run it changes nothing.

    Raises:
        BusyError: if another process works in the folder (exit 2).
    """
    message = (
        f"{folder} is busy: another process is running there. Wait for it, stop it, or choose another --out; "
        "`evidentia status` shows what it does"
    )
    if shard is None:
        with hold(folder / LOCK, message), contextlib.ExitStack() as nothing:
            for path in sorted(folder.glob(f"{LOCK}-*-of-*")):
                with hold(path, message + f" (shard {path.name.removeprefix(LOCK + '-')})"):
                    pass
            yield nothing
        return
    with contextlib.ExitStack() as opening:
        # Shards of one job array start together: they queue at the door, and only there.
        opening.enter_context(hold(folder / DOOR, message, wait_s=60.0))
        opening.enter_context(hold(folder / LOCK, message))
        own = f"{LOCK}-{shard.name}"
        with hold(folder / own, message + f" (shard {shard.part}/{shard.parts})"):
            yield opening
