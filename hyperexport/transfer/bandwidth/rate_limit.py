"""How fast a run may be at this moment: its limit, the window of the week, what the link allows, the fleet's budget.

The throttle asks, at most once a second, and follows. Nothing here waits or moves bytes.
"""

import time
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Final

from hyperexport.base.units import MIB
from hyperexport.model.bandwidth_windows import Window, limit_at
from hyperexport.transfer.bandwidth.adaptive import AdaptiveRate

SECONDS_BETWEEN_LOOKS: Final = 1.0


def wall_clock() -> datetime:
    """What the clock on this machine's wall shows."""
    return datetime.now().astimezone()


class RateLimit:
    """The rate that holds now. Safe to share between threads.

    Args:
        limit: MB/s outside of all windows; 0 for no limit.
        windows: When another limit holds; the first that fits wins.
        most: Bytes per second that are never exceeded, whatever the windows say: the fleet's budget.
        adaptive: Gives way when the link is in trouble; None to keep to the limit as it is.
        clock: Seconds that only ever go forward.
        wall: The local time.
    """

    def __init__(
        self,
        limit: float = 0,
        *,
        windows: Sequence[Window] = (),
        most: float | None = None,
        adaptive: AdaptiveRate | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], datetime] = wall_clock,
    ) -> None:
        self._limit = limit
        self._windows = windows
        self._most = most
        self._adaptive = adaptive
        self._clock = clock
        self._wall = wall
        self._looked = clock() - SECONDS_BETWEEN_LOOKS
        self._rate: float | None = None

    def rate(self) -> float | None:
        """Bytes per second; None for no limit."""
        now = self._clock()
        if now - self._looked >= SECONDS_BETWEEN_LOOKS:
            self._looked = now
            ceiling = self._ceiling()
            self._rate = self._adaptive.rate(ceiling) if self._adaptive else ceiling
        return self._rate

    def observe(self, way: str, count: int, seconds: float) -> None:
        """Bytes have passed; see :meth:`AdaptiveRate.observe`."""
        if self._adaptive:
            self._adaptive.observe(way, count, seconds)

    def answered(self, way: str, seconds: float) -> None:
        """A server began to answer; see :meth:`AdaptiveRate.answered`."""
        if self._adaptive:
            self._adaptive.answered(way, seconds)

    def trouble(self) -> None:
        """An attempt failed; see :meth:`AdaptiveRate.trouble`."""
        if self._adaptive:
            self._adaptive.trouble()
            self._looked = self._clock() - SECONDS_BETWEEN_LOOKS  # don't go on for a second as if nothing had been

    def _ceiling(self) -> float | None:
        limit = (limit_at(self._wall(), self._windows, self._limit) if self._windows else self._limit) * MIB
        return min((rate for rate in (limit, self._most) if rate), default=None)
