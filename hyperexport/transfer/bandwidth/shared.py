"""A budget of bytes that runs on several machines share, leased some at a time into a pocket of the run's own.

The budget itself is kept elsewhere (behind :class:`Budget`) and is slow to ask, so a thread asks ahead of need, for at
least a second's worth. What was leased and not used is lost with the run: it cannot be given back. Where the budget
does not answer, the run goes on at its own limit, with one warning: a backup outlives its orchestrator.
"""

import logging
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from math import ceil
from typing import Final, Protocol

from hyperexport.base.stop import StopSignal
from hyperexport.base.units import MIB

logger = logging.getLogger(__name__)

BUDGET_TIMEOUT: Final = 10.0
"""Seconds for which streams wait for a budget that does not answer, before the run goes on without."""

SECONDS_BETWEEN_TRIES: Final = 1.0
SECONDS_BETWEEN_LATE_TRIES: Final = 15.0
"""Between two questions to a budget that does not answer: while streams wait for it, and when they don't any more."""

HEADROOM: Final = 0.4
"""The part of a lease that is left free at first, for others who may have waited longer."""

HEADROOM_DECAY: Final = 0.85
"""What is left of that room with each lease's worth of time: of up to two dozen runs, none was simulated to get less
than half of its share (``tests/unit/test_shared.py``); with 0.5 it was a third."""


class Budget(Protocol):
    """Where the bytes are kept that runs share."""

    @property
    def rate(self) -> float:
        """MiB that come in each second."""
        ...

    @property
    def grant(self) -> int:
        """MiB that are taken at once; the same for everyone who shares."""
        ...

    def acquire(self) -> float:
        """Take one lease.

        Returns:
            0 where it was taken; else the seconds after which to ask again.

        Raises:
            Exception: Whatever keeps the budget does not answer.
        """
        ...


def grant_size(rate: float, limit: int) -> int:
    """MiB to take at once from a budget of ``rate`` MiB/s that hands out ``limit`` at the most.

    Two seconds' worth, for a budget may take a second to answer, and more of a small one: whoever keeps it may count in
    whole MiB and drop the rest at each lease. Never more than half of the limit, so that what comes in while nobody
    asks is not lost.
    """
    return max(1, min(_preferred_grant(rate), limit // 2))


def budget_slots(rate: float) -> int:
    """MiB that a new budget hands out at the most: what comes in while its keeper is slow to answer is not lost."""
    return 3 * _preferred_grant(rate)


def _preferred_grant(rate: float) -> int:
    return max(ceil(2 * rate), min(16, ceil(4 * rate)))


def seconds_until_next_grant(*, free: int, grant: int, limit: int, rate: float, waited: float) -> float:
    """When to take a lease, by what is free now; everyone who shares follows the same rule.

    Whoever has just had a lease leaves some room above it, which shrinks as the others have theirs: so those who have
    waited longest go first, without anyone knowing of the others.

    Args:
        free: MiB that could be taken now.
        grant: MiB to take.
        limit: MiB that can be free at the most.
        rate: MiB that come in each second.
        waited: Seconds since this run's last lease.

    Returns:
        0 to take it now; else the seconds after which to look again. The end of the wait is approached in small steps,
        because budgets count in whole MiB and each should be taken just when it has come in.
    """
    room = min(HEADROOM * grant, (limit - grant) / 2) * HEADROOM_DECAY ** (waited * rate / grant)
    missing = grant + round(room) - free
    return max((missing - 1) / rate, min(1 / rate, max(0.05, 0.2 / rate))) if missing > 0 else 0.0


class Allowance:
    """The pocket below a budget: filled by a thread of its own, emptied by streams. Made by :func:`draw_from_budget`.

    Args:
        budget: Asked by one thread only.
        warn: Told, once, when the budget does not answer.
        clock: Seconds that only ever go forward.
        timeout: Seconds for which streams wait for a budget that does not answer.
    """

    def __init__(
        self,
        budget: Budget,
        *,
        warn: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
        timeout: float = BUDGET_TIMEOUT,
    ) -> None:
        self._budget = budget
        self._warn = warn
        self._clock = clock
        self._timeout = timeout
        self._changed = threading.Condition()
        self._pocket = 0
        self._wanted = False
        self._failing_since: float | None = None
        self._alone = False
        self._warned = False
        self._closed = threading.Event()
        self.granted = 0
        """Bytes leased so far."""

    @property
    def bytes_per_second(self) -> float:
        """The whole budget's rate: what a run that is alone may take."""
        return self._budget.rate * MIB

    def draw(self, count: int, stop: StopSignal) -> float:
        """Take bytes out of the pocket; wait while it is empty.

        Returns:
            The seconds waited.

        Raises:
            Interrupted: The run was asked to stop.
        """
        began = self._clock()
        with self._changed:
            self._wanted = True
            self._changed.notify_all()
            while self._pocket < count and not self._alone and not self._closed.is_set():
                stop.check()
                self._changed.wait(0.25)
            self._pocket = max(0, self._pocket - count)
            if self._pocket <= self._low:
                self._changed.notify_all()
        return self._clock() - began

    def fill_until_closed(self) -> None:
        """Ask for leases ahead of need: the work of the thread."""
        while not self._closed.is_set():
            with self._changed:
                self._changed.wait_for(lambda: self._closed.is_set() or (self._wanted and self._pocket <= self._low))
            if not self._closed.is_set():
                self._closed.wait(self._ask())

    def close(self) -> None:
        """Ask for nothing any more; whoever still draws goes on."""
        with self._changed:
            self._closed.set()
            self._changed.notify_all()

    @property
    def _low(self) -> int:
        return self._budget.grant * MIB // 2

    def _ask(self) -> float:
        """Try for one lease.

        Returns:
            The seconds to wait before asking again.
        """
        try:
            seconds = self._budget.acquire()
        except Exception as error:  # noqa: BLE001 - whatever it is, the transfer goes on
            return self._unanswered(error)
        with self._changed:
            self._failing_since = None
            if self._alone:
                logger.info("the shared bandwidth budget answers again")
            self._alone = False
            if seconds == 0:
                self._pocket += self._budget.grant * MIB
                self.granted += self._budget.grant * MIB
                self._wanted = False
                self._changed.notify_all()
        return seconds

    def _unanswered(self, error: Exception) -> float:
        now = self._clock()
        with self._changed:
            since = self._failing_since = now if self._failing_since is None else self._failing_since
            if now - since < self._timeout:
                return min(SECONDS_BETWEEN_TRIES, self._timeout)
            self._alone = True
            self._changed.notify_all()
        if not self._warned:
            self._warned = True
            problem = f"the shared bandwidth budget does not answer ({type(error).__name__})"
            message = f"{problem}: continuing at this run's own limit"
            logger.warning(message)
            self._warn(message)
        return SECONDS_BETWEEN_LATE_TRIES


@contextmanager
def draw_from_budget(
    budget: Budget, *, warn: Callable[[str], None], timeout: float = BUDGET_TIMEOUT
) -> Generator[Allowance]:
    """Lease from a budget while the block runs. Nothing is asked for before the first byte wants to move."""
    allowance = Allowance(budget, warn=warn, timeout=timeout)
    thread = threading.Thread(target=allowance.fill_until_closed, name="bandwidth-budget", daemon=True)
    thread.start()
    try:
        yield allowance
    finally:
        allowance.close()
        thread.join(timeout=SECONDS_BETWEEN_TRIES)
