"""The one way that bytes take: source, throttle, check, hash, sinks, in the memory of one buffer.

Each piece is hashed while it is still in the processor's cache, and the sinks (a file, an upload, or both at once) take
it from the same buffer. This module knows none of their makers: anything that reads and writes will do. Whoever opened
the source and the sinks closes them.
"""

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from hyperexport.base.stop import StopSignal
from hyperexport.base.units import KIB
from hyperexport.transfer.bandwidth.throttle import Throttle

PIECE: Final = 256 * KIB
"""Bytes read at once: it fits a core's cache, and no size was measured to be faster."""

PROGRESS_INTERVAL: Final = 0.2
"""Seconds between two reports of progress."""


class Readable(Protocol):
    """Where bytes come from, such as :class:`hyperexport.transfer.source.Source`."""

    def readinto(self, buffer: memoryview) -> int:
        """Fill the buffer as far as there are bytes; 0 at the end and there only."""
        ...


class Writable(Protocol):
    """Where bytes go to, such as a store's sink."""

    def write(self, data: memoryview) -> object:
        """Take all the bytes; the buffer is the caller's again when this returns."""
        ...


class Check(Protocol):
    """Looks at a stream as it passes, such as the one of :mod:`hyperexport.formats.vmdk`; raises where it is broken."""

    @property
    def position(self) -> int:
        """How far into the disk the stream has come, in bytes that the guest sees."""
        ...

    def feed(self, data: memoryview, /) -> None:
        """Look at the next bytes."""
        ...

    def finish(self) -> None:
        """Make sure that the stream was whole."""
        ...


@dataclass(frozen=True, slots=True)
class Received:
    """What came.

    Args:
        size: Bytes, counted as they came.
        digests: The hex digest of them all for each algorithm asked for.
    """

    size: int
    digests: dict[str, str]


def transfer(
    source: Readable,
    sinks: Sequence[Writable],
    *,
    throttle: Throttle,
    stop: StopSignal,
    check: Check | None = None,
    digests: Sequence[str] = ("sha256",),
    on_progress: Callable[[int, int], None] | None = None,
) -> Received:
    """Move all bytes of the source into every sink.

    Args:
        source: Read to its end.
        sinks: Each is given every byte, in order; none is finished or aborted here.
        throttle: Charged once for each byte received.
        stop: Obeyed between any two pieces.
        check: Sees every byte before any sink does, and is finished at the end.
        digests: Names of algorithms that hashlib knows.
        on_progress: Told ``(position, moved)`` in bytes about five times a second and once at the end: how far into
            the disk (without a check, into the stream), and how many bytes came.

    Raises:
        HyperExportError: Whatever the source, the check or a sink raises. The sinks then hold an unfinished file,
            which the caller aborts.
        Interrupted: The run was asked to stop.
    """
    hashes = {name: hashlib.new(name, usedforsecurity=False) for name in digests}
    buffer = memoryview(bytearray(PIECE))
    size = 0
    report_at = time.monotonic() + PROGRESS_INTERVAL
    asked = time.monotonic()
    while count := source.readinto(buffer):
        stop.check()
        throttle.observe("read", count, time.monotonic() - asked)
        throttle.take(count, stop)
        data = buffer[:count]
        if check is not None:
            check.feed(data)
        for one in hashes.values():
            one.update(data)
        for sink in sinks:
            sink.write(data)
        size += count
        if on_progress is not None and time.monotonic() >= report_at:
            on_progress(size if check is None else check.position, size)
            report_at = time.monotonic() + PROGRESS_INTERVAL
        asked = time.monotonic()
    if check is not None:
        check.finish()
    if on_progress is not None:
        on_progress(size if check is None else check.position, size)
    return Received(size, {name: one.hexdigest() for name, one in hashes.items()})
