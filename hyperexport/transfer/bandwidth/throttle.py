"""How fast a run may move bytes: one bucket for all its streams and uploads together.

The bucket is a *debt*: a stream takes its bytes first and then waits until all the credit up to and including them has
been earned. So any size of chunk keeps exactly to the rate, streams are served in the order in which they took, and
nobody sleeps for less than a few milliseconds at a time. The rate may follow a :class:`RateLimit`, and the bytes may
also be drawn from an :class:`Allowance` that the fleet shares. This module knows bytes, seconds and a stop signal.
"""

import threading
import time
from collections.abc import Callable
from typing import Final, NamedTuple

from hyperexport.base.stop import StopSignal
from hyperexport.base.units import KIB
from hyperexport.transfer.bandwidth.rate_limit import RateLimit
from hyperexport.transfer.bandwidth.shared import Allowance

CHUNK: Final = 256 * KIB
"""Bytes taken at once: a 16 MiB part waits its turn as often as the same bytes of a disk's stream do."""

MIN_SLEEP: Final = 0.005
"""Seconds. A shorter debt is carried on to the next turn: naps below a timer's resolution last too long."""

MAX_SLEEP: Final = 0.5
"""Seconds after which a waiting stream looks again, because the rate may have changed."""

SLACK: Final = 0.05
"""Seconds' worth of credit that is kept even with no burst, to make up for naps that lasted too long."""


class Account(NamedTuple):
    """What became of a limit.

    Args:
        taken: Bytes that passed, in both directions.
        seconds: From the first byte to the last.
        waited: Seconds that streams waited, summed over all of them.
        lowest: The lowest rate that held, in bytes per second; None where there never was a limit.
        mean: The rate that held on the average while there was a limit.
    """

    taken: int
    seconds: float
    waited: float
    lowest: float | None
    mean: float | None

    @property
    def achieved(self) -> float | None:
        """Bytes per second; None where nothing has passed."""
        return self.taken / self.seconds if self.seconds > 0 else None


class Throttle:
    """A rate shared by everyone who has it. Safe to share between threads.

    The bucket is full when the first byte moves, and fills again in a pause. So in any span of ``t`` seconds no more
    passes than ``rate * t + burst_bytes``, and one turn for each stream. A rate that falls empties the bucket: what was
    saved up under the old limit must not pass under the new one. After a time without a limit it is empty, too.

    Args:
        bytes_per_second: The rate; None for no limit. Only the first one, where there is a pace.
        burst_bytes: Credit that may be saved up, in bytes; two seconds' worth of the rate if not given.
        rate_limit: Says again and again which rate holds, and is told how the link is doing.
        allowance: What bytes are drawn from besides: the run's part of a shared budget.
        clock: Seconds that only ever go forward.

    Attributes:
        warnings: What whoever started the run should be told of its bandwidth.
    """

    def __init__(
        self,
        bytes_per_second: float | None,
        burst_bytes: float | None = None,
        *,
        rate_limit: RateLimit | None = None,
        allowance: Allowance | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.warnings: list[str] = []
        self._rate_limit = rate_limit
        self._allowance = allowance
        self._lock = threading.Lock()
        self._clock = clock
        self._burst = burst_bytes
        self._rate = _checked(rate_limit.rate() if rate_limit else bytes_per_second)
        self._taken = 0
        self._earned = 0.0  # of the same line as _taken: bytes up to here are paid
        self._looked: float | None = None  # when _earned was last brought up to date; None before the first byte
        self._waited = 0.0
        self._began = self._ended = clock()
        self._lowest = self._rate
        self._limited = 0.0  # seconds in which there was a limit
        self._allowed = 0.0  # bytes that it allowed in them

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
            if self._looked is not None:
                self._earn()
                if rate is not None and (self._rate is None or rate < self._rate):
                    self._earned = min(self._earned, float(self._taken))
            self._rate = rate
            self._lowest = min((one for one in (rate, self._lowest) if one), default=None)

    def take(self, count: int, stop: StopSignal) -> None:
        """Take ``count`` bytes that moved or are about to, and wait until they are paid.

        Raises:
            Interrupted: The run was asked to stop.
        """
        for begin in range(0, count, CHUNK):
            chunk = min(CHUNK, count - begin)
            self._follow()
            self._wait(self.charge(chunk), stop)
            if self._allowance:
                self._add_wait(self._allowance.draw(chunk, stop))

    def observe(self, way: str, count: int, seconds: float) -> None:
        """Tell how long the link took for bytes, without any wait for the limit.

        Args:
            way: The direction, such as ``read`` or ``write``.
            count: Bytes.
            seconds: How long.
        """
        if self._rate_limit:
            self._rate_limit.observe(way, count, seconds)

    def answered(self, way: str, seconds: float) -> None:
        """Tell how long a server took for the first byte of an answer."""
        if self._rate_limit:
            self._rate_limit.answered(way, seconds)

    def trouble(self) -> None:
        """Tell that an attempt failed for the network's or the server's sake."""
        if self._rate_limit:
            self._rate_limit.trouble()

    @property
    def account(self) -> Account:
        """What became of the limit so far."""
        with self._lock:
            mean = self._allowed / self._limited if self._limited else self._rate
            return Account(self._taken, self._ended - self._began, self._waited, self._lowest, mean)

    def charge(self, count: int) -> int:
        """Take bytes without waiting.

        Returns:
            Their place in the line of all bytes ever taken, to ask :meth:`due` about.
        """
        with self._lock:
            if self._looked is None:
                self._began = self._looked = self._clock()
                self._earned = self._saved_at_most() if self._rate else 0.0
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
        while (seconds := self.due(place)) >= MIN_SLEEP:
            began = self._clock()
            stop.wait(min(seconds, MAX_SLEEP))
            self._add_wait(self._clock() - began)
            stop.check()
            self._follow()
        self._ended = self._clock()

    def _follow(self) -> None:
        if self._rate_limit and (rate := self._rate_limit.rate()) != self._rate:
            self.set_rate(rate)

    def _add_wait(self, seconds: float) -> None:
        with self._lock:
            self._waited += seconds
            self._ended = self._clock()

    def _earn(self) -> None:
        now = self._clock()
        if self._looked is not None:
            if self._rate is None:
                self._earned = self._taken
            else:
                self._limited += now - self._looked
                self._allowed += (now - self._looked) * self._rate
                earned = self._earned + (now - self._looked) * self._rate
                self._earned = min(earned, self._taken + self._saved_at_most())
        self._looked = now

    def _saved_at_most(self) -> float:
        """Bytes of credit that the bucket holds when it is full."""
        rate = self._rate or 0.0
        return 2 * rate if self._burst is None else max(self._burst, SLACK * rate)


def _checked(rate: float | None) -> float | None:
    if rate is not None and rate <= 0:
        raise ValueError(f"a rate of {rate} bytes per second is too low")
    return rate
