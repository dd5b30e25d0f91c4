"""One report of progress, and the trend of one bar: smoothed ELBO, or draws and divergences; speed; ETA."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import NamedTuple, final

__all__ = ["Clock", "ProgressEvent", "Trend"]

Clock = Callable[[], float]
CHAIN = " chain "


@final
class ProgressEvent(NamedTuple):
    """One report from a point: where it is and how it is doing. Give the fields by keyword.

    Args:
        step: steps or draws done.
        total: steps or draws planned, None if not known.
        phase: one word, for example "svi" or "warmup".
        chain: number of the chain from 0, None without chains.
        elbo: (noisy) ELBO in nats for the whole data set.
        divergences: divergent transitions so far.
        point: the point's name; the engine fills it in.
        state: running, done, failed, stopped or skipped. Every state but running ends the point.
        message: the error of a failed point.
    """

    step: int = 0
    total: int | None = None
    phase: str = ""
    chain: int | None = None
    elbo: float | None = None
    divergences: int | None = None
    point: str = ""
    state: str = "running"
    message: str = ""

    @property
    def bar(self) -> str:
        """Name of the bar: the point, and its chain, counted from one."""
        return self.point if self.chain is None else f"{self.point}{CHAIN}{self.chain + 1}"


def bars_of(point: str, names: Iterable[str]) -> list[str]:
    """The bars that belong to a point."""
    return [name for name in names if name == point or name.startswith(point + CHAIN)]


@final
class Trend:
    """Smoothed ELBO with its change, speed and time left.

    The mean is exponential and bias-corrected, `m_t = (1-β) Σ β^{t-i} x_i / (1-β^t)`; the change compares it,
    in per cent of its size, with its value `lag` reports ago.

    References:
        Adam: A method for stochastic optimization (Kingma & Ba, 2015), for the bias correction.

    Example:
        >>> trend = Trend(0.9, clock=iter([0.0, 1.0, 2.0]).__next__)
        >>> for step in (0, 50, 100):
        ...     trend.add(ProgressEvent(step, 200, elbo=-100.0 + step / 10))
        >>> trend.text(ProgressEvent(100, 200))
        'ELBO -94.65 (+5.4 %)  50 it/s  ETA 0:02'
    """

    def __init__(self, decay: float = 0.98, lag: int = 100, clock: Clock = time.monotonic) -> None:
        self._decay, self._clock = decay, clock
        self._sum = self._weight = 0.0
        self._smooth: deque[float] = deque(maxlen=lag + 1)
        self._marks: deque[tuple[float, int]] = deque(maxlen=lag + 1)

    def add(self, event: ProgressEvent) -> None:
        """Take one report. A value that is not finite does not enter the mean."""
        if self._marks and event.step < self._marks[-1][1]:
            self._marks.clear()  # a new phase counts from zero again
        self._marks.append((self._clock(), event.step))
        if event.elbo is not None and math.isfinite(event.elbo):
            self._sum = self._decay * self._sum + (1 - self._decay) * event.elbo
            self._weight = self._decay * self._weight + (1 - self._decay)
            self._smooth.append(self._sum / self._weight)

    @property
    def elbo(self) -> float | None:
        """Smoothed ELBO in nats, None before the first one."""
        return self._smooth[-1] if self._smooth else None

    @property
    def change(self) -> float | None:
        """Per cent of change of the smoothed ELBO over the last reports; positive is better."""
        if len(self._smooth) < 2 or self._smooth[0] == 0:
            return None
        return 100.0 * (self._smooth[-1] - self._smooth[0]) / abs(self._smooth[0])

    @property
    def rate(self) -> float | None:
        """Iterations per second over the last reports."""
        if len(self._marks) < 2:
            return None
        (then, first), (now, last) = self._marks[0], self._marks[-1]
        return (last - first) / (now - then) if now > then and last > first else None

    def text(self, event: ProgressEvent) -> str:
        """The trend as a phrase: ELBO and change, or draws and divergences; it/s; ETA."""
        parts = []
        if self.elbo is not None:
            change = "" if self.change is None else f" ({self.change:+.1f} %)"
            parts.append(f"ELBO {self.elbo:.2f}{change}")
        if event.divergences is not None:
            parts.append(f"{event.step} draws, {event.divergences} divergences")
        if self.rate is not None:
            parts.append(f"{self.rate:.0f} it/s" if self.rate >= 10 else f"{self.rate:.2g} it/s")
            if event.total is not None:
                parts.append(f"ETA {clock_text(max(event.total - event.step, 0) / self.rate)}")
        return "  ".join(parts)


def clock_text(seconds: float) -> str:
    """Minutes and seconds, with hours if there are any: 0:02, 12:34, 1:02:03."""
    minutes, rest = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
