"""SIGINT and SIGTERM ask a run to stop after the current step; a second SIGINT stops it at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Self, final

INTERRUPTED = 128 + signal.SIGINT
TERMINATED = 128 + signal.SIGTERM


@final
class StopSignals:
    """Context that turns the two signals into a flag, and puts the former handlers back at its end.

    The first SIGINT or SIGTERM sets the flag: the step in progress is finished and a checkpoint written.
    A SIGINT after that raises KeyboardInterrupt where the program is. Outside the main thread, where
    Python cannot install handlers, the flag just stays unset.

    Args:
        on_first: called once, with the name of the signal, when the flag is set.

    Example::

        >>> import os
        >>> with StopSignals() as stop:
        ...     os.kill(os.getpid(), signal.SIGTERM)
        ...     bool(stop), stop.exit_code
        (True, 143)
    """

    def __init__(self, on_first: Callable[[str], object] | None = None) -> None:
        self.number: int | None = None
        self._on_first = on_first
        self._former: dict[int, object] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._former[number] = signal.signal(number, self._receive)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._former.clear()

    def __bool__(self) -> bool:
        return self.number is not None

    @property
    def exit_code(self) -> int:
        """130 after SIGINT, 143 after SIGTERM, 0 after neither."""
        return 0 if self.number is None else 128 + self.number

    def _receive(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self.number is None:
            self.number = number
            if self._on_first is not None:
                self._on_first(signal.Signals(number).name)
        elif number == signal.SIGINT:
            self.number = number
            raise KeyboardInterrupt
