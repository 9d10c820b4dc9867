"""The grains of a streamOptimized VMDK whose bytes pass in order, in pieces of any length.

The bytes must have been checked before (:class:`hyperexport.formats.vmdk_stream.StreamCheck`): this only follows them.
"""

from collections.abc import Generator, Iterator
from typing import NamedTuple

from hyperexport.base.units import SECTOR
from hyperexport.formats.vmdk import GRAIN_HEADER, MARKER, MARKER_END, Header


class GrainRecord(NamedTuple):
    """One grain as it passes."""

    lba: int
    """Its first sector on the guest's disk."""
    offset: int
    """Where its record begins in the file, in bytes."""
    compressed: memoryview
    """Its zlib stream; good only until the next one is asked for."""


class GrainRecords:
    """Takes the bytes of one file and gives its grains; each piece's grains have to be taken before the next piece."""

    def __init__(self) -> None:
        self.header: Header | None = None
        """The file's header, once its first sector has come."""
        self.seen = 0
        """Bytes that were taken so far, but for a record that is not whole yet."""
        self._rest = b""
        self._next = 0
        self._ended = False

    def take(self, data: memoryview | bytes) -> Iterator[GrainRecord]:
        """Take the next bytes; the grains that they complete.

        Raises:
            StreamCorrupt: The header is not that of such a file.
        """
        view = memoryview(self._rest + data) if self._rest else memoryview(data)
        used = 0
        if self.header is None and len(view) >= SECTOR:
            self.header = Header.parse(bytes(view[:SECTOR]), 0)
            self._next = self.header.overhead * SECTOR
        if self.header is not None:
            used = yield from self._records(view)
        self._rest = bytes(view[used:])
        self.seen += used

    def _records(self, view: memoryview) -> Generator[GrainRecord, None, int]:
        """The whole records of a stretch; returns how many bytes of it were used."""
        at = self._next - self.seen
        while not self._ended and at + SECTOR <= len(view):
            lba, size = GRAIN_HEADER.unpack_from(view, at)
            if not size:
                length, _, kind = MARKER.unpack_from(view, at)
                self._ended = kind == MARKER_END
                at += (1 + length) * SECTOR
                continue
            end = at + GRAIN_HEADER.size + size
            if end > len(view):
                break
            yield GrainRecord(lba, self.seen + at, view[at + GRAIN_HEADER.size : end])
            at += -(-(GRAIN_HEADER.size + size) // SECTOR) * SECTOR
        self._next = self.seen + at
        return len(view) if self._ended else min(max(at, 0), len(view))
