"""Giving way on a link that others need too: additive increase, multiplicative decrease.

A run that fails, or that has to wait much longer than it used to, slows down at once, by a part of its rate; while all
goes well it speeds up again, by equal steps, until it is where it was. So it always recovers, within a time that is
bounded by the constants below. This module knows bytes, seconds and a clock; it moves nothing.
"""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from hyperexport.base.units import KIB, MIB, format_rate

logger = logging.getLogger(__name__)

AFTER_TROUBLE: Final = 0.7
"""What is left of the rate after a failure. TCP's CUBIC (RFC 9438) leaves as much."""

AFTER_DELAY: Final = 0.85
"""What is left after latency rose, which may be the source's own doing: milder."""

FLOOR: Final = 0.1
"""The floor, as a part of the limit (without one, of the rate from which the slowing down began)."""

LOWEST: Final = 64 * KIB
"""Bytes per second below which nothing is slowed down: a stream must go on, or its lease and its server give up."""

PAUSE: Final = 2.0
"""Seconds after a decrease in which no other follows: the streams of a run fail together, and are one failure."""

RECOVERY: Final = 30.0
"""Seconds from zero back to the limit, in which nothing goes wrong; without a limit, to twice the rate before."""

TICK: Final = 1.0
"""Seconds over which the rate and the latency are summed up."""


@dataclass
class LatencyTrend:
    """Whether a latency has risen, compared with what is usual for it.

    Args:
        grace: How much above the usual is never a rise, in the unit of the values.
    """

    grace: float
    recent: float = 0.0
    usual: float = 0.0
    _seen: int = field(default=0, repr=False)

    def rises(self, value: float) -> bool:
        """Take the next value into account, and tell whether it has risen to more than three times the usual.

        What is usual follows the values slowly, and faster down than up: it settles within about a minute of ticks
        even where a latency stays high, so no change of the link slows a run down for ever.
        """
        self._seen += 1
        if self._seen == 1:
            self.recent = self.usual = value
            return False
        self.recent += 0.5 * (value - self.recent)
        risen = self._seen > 5 and self.recent > 3 * self.usual + self.grace
        self.usual += (0.02 if value > self.usual else 0.05) * (value - self.usual)
        return risen


@dataclass
class _Way:
    """One direction of the link: what passed since the last tick, and its trends."""

    count: int = 0
    busy: float = 0.0
    cost: LatencyTrend = field(default_factory=lambda: LatencyTrend(grace=0.008))  # seconds for each MiB
    answer: LatencyTrend = field(default_factory=lambda: LatencyTrend(grace=0.25))  # seconds to a first byte


class AdaptiveRate:
    """A rate that gives way. Safe to share between threads.

    Args:
        clock: Seconds that only ever go forward.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._lock = threading.Lock()
        self._clock = clock
        self._ceiling: float | None = None
        self._rate: float | None = None  # None: as fast as the limit allows
        self._before = 0.0  # bytes per second that passed when the slowing down began
        self._passing = 0.0  # bytes per second that pass now
        self._ways: dict[str, _Way] = {}
        self._ticked = self._grown = clock()
        self._slowed = -PAUSE

    def rate(self, ceiling: float | None) -> float | None:
        """The rate to keep to now, in bytes per second; None for none.

        Args:
            ceiling: The limit, which is never exceeded; None where there is none.
        """
        with self._lock:
            self._ceiling = ceiling
            self._grow()
            if self._rate is None:
                return ceiling
            return self._rate if ceiling is None else min(ceiling, self._rate)

    def observe(self, way: str, count: int, seconds: float) -> None:
        """Bytes have passed.

        Args:
            way: Which direction, such as ``read``.
            count: Bytes.
            seconds: How long the link took for them, without any wait for a limit.
        """
        with self._lock:
            one = self._ways.setdefault(way, _Way())
            one.count += count
            one.busy += seconds
            if self._clock() - self._ticked >= TICK:
                self._tick()

    def answered(self, way: str, seconds: float) -> None:
        """A server gave the first byte of its answer after so many seconds."""
        with self._lock:
            if self._ways.setdefault(way, _Way()).answer.rises(seconds):
                self._slow_down(AFTER_DELAY, "answers take longer")

    def trouble(self) -> None:
        """An attempt failed: the connection broke, or the server is overloaded."""
        with self._lock:
            self._slow_down(AFTER_TROUBLE, "an attempt failed")

    def _tick(self) -> None:
        """Sum up the last second or so."""
        elapsed = self._clock() - self._ticked
        self._ticked += elapsed
        ways = [way for way in self._ways.values() if way.count]
        self._passing = sum(way.count for way in ways) / elapsed
        risen = [way.cost.rises(way.busy / way.count * MIB) for way in ways]
        for way in ways:
            way.count, way.busy = 0, 0.0
        if any(risen):
            self._slow_down(AFTER_DELAY, "bytes take longer")

    def _slow_down(self, left: float, why: str) -> None:
        now = self._clock()
        if now - self._slowed < PAUSE:
            return
        self._grow()
        known = [rate for rate in (self._rate, self._ceiling, self._passing or None) if rate is not None]
        if not known:
            return  # nothing has moved yet, and there is no limit: nothing to slow down
        if self._rate is None:
            self._before = min(known)
        self._rate = max(min(known) * left, min(self._floor(), self._ceiling or self._floor()))
        self._slowed = self._grown = now
        logger.info("%s: slowing down to %s", why, format_rate(self._rate))

    def _floor(self) -> float:
        return max(LOWEST, FLOOR * (self._ceiling or self._before))

    def _grow(self) -> None:
        """Make up for the time that nothing went wrong, and forget the slowing down once it is made up for."""
        now = self._clock()
        if self._rate is None:
            return
        target = self._ceiling or 2 * max(self._before, LOWEST)
        self._rate += (now - self._grown) * target / RECOVERY
        self._grown = now
        if self._rate >= target:
            self._rate = None
            logger.info("recovered: back to %s", format_rate(target) if self._ceiling else "no limit")
