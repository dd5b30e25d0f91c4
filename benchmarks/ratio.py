"""One measured ratio: our way of doing a thing beside another way, timed alternately in one process."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True)
class Ratio:
    """How many times faster `ours` is than `peer`; seconds are medians over the repeats."""

    question: str
    ours: str
    peer: str
    ours_seconds: float
    peer_seconds: float
    least: float
    target: float

    @property
    def value(self) -> float:
        """Return the ratio of the medians."""
        return self.peer_seconds / self.ours_seconds

    def __str__(self) -> str:
        verdict = "meets" if self.value >= self.target else "MISSES"
        times = f"{self.value:,.1f} times (worst repeat {self.least:,.1f})"
        return (
            f"{self.question}: {times}; {verdict} {self.target:g}\n"
            f"    {self.ours}: {self.ours_seconds:.3g} s    {self.peer}: {self.peer_seconds:.3g} s"
        )


def measure(
    question: str,
    *,
    ours: tuple[str, Callable[[], object]],
    peer: tuple[str, Callable[[], object]],
    target: float,
    repeats: int = 5,
    peer_share: float = 1.0,
) -> Ratio:
    """Time both sides alternately and return their ratio.

    Args:
        question: what is compared.
        ours: name and call of our side.
        peer: name and call of the other side.
        target: the ratio the project promises.
        repeats: number of alternations; each side is called once before, untimed.
        peer_share: the share of the whole work that one call of `peer` does; its time is divided by it.
    """
    sides = (ours[1], peer[1])
    for call in sides:
        call()
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        for side, call in enumerate(sides):
            start = time.perf_counter()
            call()
            seconds[side].append(time.perf_counter() - start)
    peers = [value / peer_share for value in seconds[1]]
    worst = min(theirs / own for own, theirs in zip(seconds[0], peers, strict=True))
    return Ratio(question, ours[0], peer[0], median(seconds[0]), median(peers), worst, target)
