"""How fast a run may move bytes: one bucket for all its streams and uploads together.

The bucket is a *debt*: a stream takes its bytes first and then waits until all the credit up to and including them has
been earned. So any size of chunk keeps exactly to the rate, streams are served in the order in which they took, and
nobody sleeps for less than a few milliseconds at a time. This module knows bytes, seconds and a stop signal.
"""

import threading
import time
from collections.abc import Callable
from typing import Final

from hyperexport.stop import StopSignal
from hyperexport.units import KIB

TURN: Final = 256 * KIB
"""Bytes taken at once: a 16 MiB part waits its turn as often as the same bytes of a disk's stream do."""

SHORTEST_NAP: Final = 0.005
"""Seconds. A shorter debt is carried on to the next turn: naps below a timer's resolution last too long."""

LONGEST_NAP: Final = 0.5
"""Seconds after which a waiting stream looks again, because the rate may have changed."""

SLACK: Final = 0.05
"""Seconds' worth of credit that is kept even with no burst, to make up for naps that lasted too long."""


class Throttle:
    """A rate shared by everyone who has it. Safe to share between threads.

    The bucket starts empty, so that no run is ever faster than its limit on the average; what a pause leaves unused
    is the burst, up to ``burst_bytes``.

    Args:
        bytes_per_second: The rate; None for no limit.
        burst_bytes: Credit that may be saved up, in bytes; two seconds' worth of the rate if not given.
        clock: Seconds that only ever go forward.
    """

    def __init__(
        self,
        bytes_per_second: float | None,
        burst_bytes: float | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._lock = threading.Lock()
        self._clock = clock
        self._burst = burst_bytes
        self._rate = _checked(bytes_per_second)
        self._taken = 0
        self._earned = 0.0  # of the same line as _taken: bytes up to here are paid
        self._looked: float | None = (
            None  # when _earned was last brought up to date; earning begins with the first take
        )
        self._waited = 0.0

    @property
    def rate(self) -> float | None:
        """Bytes per second; None for no limit."""
        return self._rate

    @property
    def taken(self) -> int:
        """Bytes taken so far."""
        return self._taken

    @property
    def waited(self) -> float:
        """Seconds that streams have waited, summed over all of them."""
        return self._waited

    def set_rate(self, bytes_per_second: float | None) -> None:
        """Change the rate; streams that wait now follow within half a second."""
        rate = _checked(bytes_per_second)
        with self._lock:
            self._earn()
            self._rate = rate

    def take(self, count: int, stop: StopSignal) -> None:
        """Take ``count`` bytes that moved or are about to, and wait until they are paid.

        Raises:
            Interrupted: The run was asked to stop.
        """
        for begin in range(0, count, TURN):
            self._wait(self.charge(min(TURN, count - begin)), stop)

    def charge(self, count: int) -> int:
        """Take bytes without waiting.

        Returns:
            Their place in the line of all bytes ever taken, to ask :meth:`due` about.
        """
        with self._lock:
            self._earn()
            self._taken += count
            return self._taken

    def due(self, place: int) -> float:
        """Seconds until all bytes up to this place are paid, at the rate as it is now."""
        with self._lock:
            self._earn()
            return max(0.0, place - self._earned) / self._rate if self._rate else 0.0

    def _wait(self, place: int, stop: StopSignal) -> None:
        stop.check()
        while (seconds := self.due(place)) >= SHORTEST_NAP:
            began = self._clock()
            stop.wait(min(seconds, LONGEST_NAP))
            with self._lock:
                self._waited += self._clock() - began
            stop.check()

    def _earn(self) -> None:
        now = self._clock()
        if self._looked is not None:
            if self._rate is None:
                self._earned = self._taken
            else:
                burst = 2 * self._rate if self._burst is None else max(self._burst, SLACK * self._rate)
                self._earned = min(self._earned + (now - self._looked) * self._rate, self._taken + burst)
        self._looked = now


def _checked(rate: float | None) -> float | None:
    if rate is not None and rate <= 0:
        raise ValueError(f"a rate of {rate} bytes per second moves nothing")
    return rate
