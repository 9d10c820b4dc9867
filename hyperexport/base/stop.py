"""One flag that every loop of a run obeys, and the sockets to close when it is raised.

Prefect's cancellation reaches only the main thread, and a thread that waits in a read on a socket sees no exception
until bytes come. So a function that blocks registers a way to be woken (closing its socket), and every loop over bytes
calls :meth:`StopSignal.check`. The flow, or the command's signal handler, sets the signal.
"""

import logging
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager

from hyperexport.errors import Interrupted

logger = logging.getLogger(__name__)


class StopSignal:
    """Raised once, from any thread; seen by all. Safe to share between threads."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._lock = threading.Lock()
        self._wakers: dict[int, Callable[[], None]] = {}
        self._next = 0

    def set(self) -> None:
        """Raise the flag and wake everyone who registered; later calls do nothing."""
        with self._lock:
            self._event.set()
            wakers = list(self._wakers.values())
            self._wakers.clear()
        for wake in wakers:
            _call_guarded(wake)

    def is_set(self) -> bool:
        """Tell whether the run was asked to stop."""
        return self._event.is_set()

    def check(self) -> None:
        """Raise if the run was asked to stop.

        Raises:
            Interrupted: The flag is up.
        """
        if self._event.is_set():
            raise Interrupted("the run was asked to stop")

    def wait(self, seconds: float) -> bool:
        """Sleep at most this long; return at once with True when the flag is raised."""
        return self._event.wait(seconds)

    @contextmanager
    def waking(self, wake: Callable[[], None]) -> Generator[None]:
        """While the block runs, have ``wake`` called (from the thread that stops) when the flag is raised."""
        with self._lock:
            key, self._next = self._next, self._next + 1
            self._wakers[key] = wake
            already = self._event.is_set()
        if already:
            _call_guarded(wake)
        try:
            yield
        finally:
            with self._lock:
                self._wakers.pop(key, None)


def _call_guarded(wake: Callable[[], None]) -> None:
    try:
        wake()
    except Exception as error:  # noqa: BLE001 - one waker's failure must not keep the others asleep
        logger.debug("waking a stopped transfer failed: %s", error)
