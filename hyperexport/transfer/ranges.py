"""Parts of a disk, read wherever they lie: what every range transport has in common.

A range is a stretch of whole grains. Neighbours are read together, and nothing in between is. While one is answered,
the next ones have been asked for: a server that needs a moment for each would otherwise decide how long it takes.
"""

import random
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from typing import Final, NamedTuple, Protocol

from hyperexport.base.retry import is_transient
from hyperexport.base.stop import StopSignal
from hyperexport.base.units import MIB
from hyperexport.errors import HyperExportError
from hyperexport.transfer.bandwidth.throttle import Throttle

LARGEST_RANGE: Final = 2 * MIB
"""Bytes of one request. A vCenter passes on no more at once over NFC (kubevirt/containerized-data-importer #3752)."""

AHEAD: Final = 4
"""Requests that may wait for their answers; over HTTPS each has a connection of its own, of which a host has few."""

LARGEST_AHEAD: Final = 4 * MIB
"""Bytes that may be on their way."""

ATTEMPTS: Final = 4
"""How often one range is asked for before its failure counts."""

_FIRST_PAUSE: Final = 0.5
_LONGEST_PAUSE: Final = 8.0


class Range(NamedTuple):
    """A stretch of a disk, in bytes."""

    offset: int
    length: int


class RangeSource(Protocol):
    """A disk of which any part can be asked for; used by one thread, cut by any.

    Parts are answered in the order in which they were asked for. Each call is one attempt and raises:

    - ``TransportUnavailable``: The part cannot be had this way, or the source was cut.
    - ``TransferInterrupted``, ``ServerUnreachable``: The connection failed; after :meth:`reset` it may be tried again.
    - ``Interrupted``: The run was asked to stop.
    """

    @property
    def name(self) -> str:
        """What it is, for messages."""
        ...

    @property
    def capacity(self) -> int:
        """Bytes that the guest sees."""
        ...

    def ask(self, part: Range) -> None:
        """Ask for a part, and do not wait for it."""
        ...

    def answer(self) -> bytes:
        """Wait for the part that was asked for first and is not answered, and take exactly its bytes."""
        ...

    def reset(self) -> None:
        """Give up what was asked for and is not answered."""
        ...

    def cut(self) -> None:
        """End the reading for good, from any thread: a call that waits ends at once, with an error."""
        ...


def joined(grains: Iterable[int], *, grain: int, capacity: int, largest: int = LARGEST_RANGE) -> Iterator[Range]:
    """The ranges that hold these grains and nothing else.

    Args:
        grains: Their numbers, ascending, each once.
        grain: Bytes of a grain.
        capacity: Bytes of the disk; the last grain may reach beyond its end.
        largest: Bytes of a range at most; at least one grain.
    """
    most = max(largest // grain, 1)
    first = end = -1
    for number in grains:
        if number == end and end - first < most:
            end += 1
            continue
        if end > first:
            yield _range(first, end, grain, capacity)
        first, end = number, number + 1
    if end > first:
        yield _range(first, end, grain, capacity)


def _range(first: int, end: int, grain: int, capacity: int) -> Range:
    return Range(first * grain, min(end * grain, capacity) - first * grain)


def read_ranges(
    source: RangeSource, parts: Iterable[Range], *, throttle: Throttle, stop: StopSignal
) -> Generator[tuple[Range, bytes]]:
    """Read ranges in their order, within the run's bandwidth; the next ones are asked for before they are needed.

    What may pass is tried again, up to :data:`ATTEMPTS` times for each range, one at a time and after a pause. After
    each failure fewer ranges are ahead, as the server may not allow so many.

    Raises:
        HyperExportError: As :class:`RangeSource` says. When this ends, nothing that was asked for is left unanswered.
    """
    return _RangeReader(source, parts, throttle, stop).read()


class _RangeReader:
    """Ranges in the order in which they are read, the first of them on their way."""

    def __init__(self, source: RangeSource, parts: Iterable[Range], throttle: Throttle, stop: StopSignal) -> None:
        self._source = source
        self._parts = iter(parts)
        self._throttle = throttle
        self._stop = stop
        self._most = AHEAD
        self._waiting = deque[Range]()
        self._sent = 0
        """How many of those that wait, from the first on, are on their way."""

    def read(self) -> Generator[tuple[Range, bytes]]:
        try:
            while self._waiting or self._take_next():
                data = self._with_retries()
                yield self._waiting.popleft(), data
        finally:
            if self._sent:
                self._source.reset()

    def _with_retries(self) -> bytes:
        attempt = 1
        while True:
            try:
                return self._first(self._most if attempt == 1 else 1)
            except HyperExportError as error:
                self._source.reset()
                self._sent = 0
                self._most = max(self._most // 2, 1)
                if not is_transient(error) or attempt == ATTEMPTS or self._stop.is_set():
                    raise
            self._stop.wait(random.uniform(0, min(_FIRST_PAUSE * 2**attempt, _LONGEST_PAUSE)))  # noqa: S311 - no secret hangs on it
            attempt += 1

    def _first(self, most: int) -> bytes:
        """Read the first of those that wait, once, with so many on their way."""
        self._stop.check()
        while self._sent < most and (self._sent < len(self._waiting) or self._take_next()):
            self._source.ask(self._waiting[self._sent])
            self._sent += 1
        asked = time.monotonic()
        data = self._source.answer()
        self._sent -= 1
        self._throttle.observe("read", len(data), time.monotonic() - asked)
        return data

    def _take_next(self) -> bool:
        """Have one more wait, and pay for it; False where there is none, or no room."""
        if sum(part.length for part in self._waiting) > LARGEST_AHEAD - LARGEST_RANGE:
            return False
        part = next(self._parts, None)
        if part is None:
            return False
        self._throttle.take(part.length, self._stop)
        self._waiting.append(part)
        return True
