"""Parts of a disk, read wherever they lie: what every range transport has in common.

A range is a stretch of whole grains. Neighbours are read together, and nothing in between is.
"""

import time
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple, Protocol

from hyperexport.base.stop import StopSignal
from hyperexport.base.units import MIB
from hyperexport.transfer.bandwidth.throttle import Throttle

LARGEST_RANGE: Final = 2 * MIB
"""Bytes of one request. A vCenter passes on no more at once over NFC (kubevirt/containerized-data-importer #3752)."""


class RangeSource(Protocol):
    """A disk that can be read at any place; used by one thread, closed by any."""

    @property
    def name(self) -> str:
        """What it is, for messages."""
        ...

    @property
    def capacity(self) -> int:
        """Bytes that the guest sees."""
        ...

    def read(self, offset: int, length: int) -> bytes:
        """Read exactly these bytes; what may pass is tried again before it raises.

        Raises:
            TransportUnavailable: They cannot be had this way.
            TransferInterrupted, ServerUnreachable: The connection failed again and again.
            Interrupted: The run was asked to stop.
        """
        ...

    def close(self) -> None:
        """End the connection."""
        ...


class Range(NamedTuple):
    """A stretch of a disk, in bytes."""

    offset: int
    length: int


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


def fetch(source: RangeSource, part: Range, *, throttle: Throttle, stop: StopSignal) -> bytes:
    """Read one range within the run's bandwidth; errors as for :meth:`RangeSource.read`."""
    stop.check()
    throttle.take(part.length, stop)
    asked = time.monotonic()
    data = source.read(part.offset, part.length)
    throttle.observe("read", len(data), time.monotonic() - asked)
    return data
