"""Checks a streamOptimized VMDK while its bytes pass on their way to somewhere else.

A lease's stream has no length beforehand, so a broken connection may look like success: what tells the end is the
format itself. The checker looks at headers and markers only and steps over the grains' payloads by arithmetic; whether
they inflate is checked when the disk is read back. It must never keep or change what it is shown.
"""

from collections.abc import Callable
from enum import IntEnum

from hyperexport.base.units import SECTOR
from hyperexport.formats.vmdk import (
    GRAIN_HEADER,
    MARKER,
    MARKER_DIRECTORY,
    MARKER_END,
    MARKER_FOOTER,
    MARKER_PROGRESS,
    MARKER_TABLE,
    TABLE_BYTES,
    Header,
    corrupt,
    largest_compressed,
    sectors,
)

Buffer = memoryview | bytes | bytearray

_MARKER_SLACK = 16
"""Markers beyond one for each grain and table: directory, footer, end and a few that only tell progress."""
_LARGEST_PADDING = 128
"""Sectors by which a directory, or the file after its end, may be longer than needed (qemu leaves 126)."""


class _Seen(IntEnum):
    """How near to its end the stream is; it only moves forward."""

    NOTHING = 0
    HEADER = 1
    DIRECTORY = 2
    FOOTER = 3
    END = 4


class StreamCheck:
    """Takes every buffer of one stream, in order, and then its end.

    Args:
        capacity: Bytes that the guest's disk has, where the caller knows; a stream of any other disk is refused.
    """

    def __init__(self, *, capacity: int | None = None) -> None:
        self._expected = capacity
        self._seen = _Seen.NOTHING
        self._header = Header(capacity=0, directory=0, overhead=0)
        self._largest = 0
        self._directory = 0
        self._markers = 0
        self._padding = 0
        self._grains = 0
        self._next_lba = 0
        self._last_lba = 0
        # What is parsed next: where it begins, how many bytes of it are needed, by whom.
        self._next = 0
        self._need = SECTOR
        self._parse: Callable[[Buffer, int], None] = self._parse_header
        self._partial = bytearray()
        self.bytes = 0
        """Bytes of the stream seen so far."""

    @property
    def capacity(self) -> int:
        """Bytes that the guest sees; 0 before the header has come."""
        return self._header.capacity_bytes

    @property
    def position(self) -> int:
        """How far on the guest's disk the stream has come, in bytes; the capacity once the end was seen."""
        return self.capacity if self._seen is _Seen.END else self._last_lba * SECTOR

    @property
    def populated(self) -> int:
        """Bytes of the guest's disk that the grains seen so far hold."""
        beyond = max(self._next_lba - self._header.capacity, 0) * SECTOR
        return self._grains * self._header.grain_bytes - beyond

    def feed(self, view: Buffer) -> None:
        """Look at the next bytes of the stream; a buffer of any length.

        Raises:
            StreamCorrupt: They cannot belong to a whole, well-formed disk.
        """
        begin = self.bytes
        self.bytes += len(view)
        if self._partial:
            self._partial += view[: self._need - len(self._partial)]
            if len(self._partial) < self._need:
                return
            whole, self._partial = self._partial, bytearray()
            self._parse(whole, 0)
        while (at := self._next - begin) + self._need <= len(view):
            self._parse(view, at)
        if at < len(view):
            self._partial += view[at:]

    def finish(self) -> None:
        """The stream is over.

        Raises:
            StreamCorrupt: It ended too early.
        """
        if self._seen is _Seen.NOTHING:
            raise corrupt(self.bytes, "the stream ended before the VMDK's header")
        if self._seen is not _Seen.END:
            reached = f"byte {self.position} of {self.capacity} of the guest's disk"
            raise corrupt(self.bytes, f"the stream ended at {reached}, before the end marker")

    # -- the parts, each called with its bytes at ``view[at:]`` -------------------------------------------------------

    def _expect(self, need: int, parse: Callable[[Buffer, int], None], *, step: int) -> None:
        self._next, self._need, self._parse = self._next + step, need, parse

    def _parse_header(self, view: Buffer, at: int) -> None:
        self._header = Header.parse(bytes(view[at : at + SECTOR]), 0)
        if self._expected is not None and self.capacity != self._expected:
            raise corrupt(0, f"its disk has {self.capacity} bytes, the VM's disk has {self._expected}")
        if not self._header.directory_at_end:
            self._header.check_directory(0, self._header.overhead)
        self._largest = largest_compressed(self._header.grain_bytes)
        self._seen = _Seen.HEADER
        self._expect(SECTOR, self._parse_record, step=self._header.overhead * SECTOR)

    def _parse_record(self, view: Buffer, at: int) -> None:
        """A grain, of which only the beginning is looked at, or a marker."""
        lba, size = GRAIN_HEADER.unpack_from(view, at)
        if not size:
            self._parse_marker(view, at)
            return
        if lba < self._next_lba or lba % self._header.grain or lba >= self._header.capacity:
            raise corrupt(self._next, f"a grain for sector {lba} of the disk is out of order or off its end")
        # RFC 1950: the method is 8, and the first two bytes, read as one number, are a multiple of 31.
        method, check = view[at + GRAIN_HEADER.size], view[at + GRAIN_HEADER.size + 1]
        if size > self._largest or method & 15 != 8 or (method << 8 | check) % 31:
            raise corrupt(self._next, f"the grain for sector {lba} of the disk is not compressed data")
        if self._seen is not _Seen.HEADER:
            raise corrupt(self._next, "a grain follows the grain directory")
        self._last_lba, self._next_lba = lba, lba + self._header.grain
        self._grains += 1
        self._next += (GRAIN_HEADER.size + size + SECTOR - 1) // SECTOR * SECTOR

    def _parse_marker(self, view: Buffer, at: int) -> None:
        length, _, kind = MARKER.unpack_from(view, at)
        self._markers += 1
        if self._markers > self._grains + self._header.tables + _MARKER_SLACK:
            raise corrupt(self._next, "there are more markers than such a disk can have")
        if not self._is_possible(kind, length):
            raise corrupt(self._next, f"a marker of kind {kind} with {length} sectors does not belong here")
        if kind == MARKER_END:
            self._seen = _Seen.END
            self._expect(1, self._parse_padding, step=SECTOR)
        elif kind == MARKER_FOOTER:
            self._expect(SECTOR, self._parse_footer, step=SECTOR)
        else:
            if kind == MARKER_DIRECTORY:
                self._seen, self._directory = _Seen.DIRECTORY, self._next // SECTOR + 1
            self._next += (1 + length) * SECTOR

    def _is_possible(self, kind: int, length: int) -> bool:
        header, seen = self._header, self._seen
        if kind == MARKER_TABLE:
            return length == sectors(TABLE_BYTES) and seen is _Seen.HEADER
        if kind == MARKER_DIRECTORY:
            return 0 <= length - header.directory_sectors <= _LARGEST_PADDING and seen is _Seen.HEADER
        if kind == MARKER_FOOTER:
            return length == 1 and seen is _Seen.DIRECTORY
        if kind == MARKER_END:
            return length == 0 and seen is (_Seen.FOOTER if header.directory_at_end else _Seen.HEADER)
        return kind == MARKER_PROGRESS and length <= _LARGEST_PADDING

    def _parse_footer(self, view: Buffer, at: int) -> None:
        footer = Header.parse(bytes(view[at : at + SECTOR]), self._next)
        if (footer.capacity, footer.grain) != (self._header.capacity, self._header.grain):
            raise corrupt(self._next, "its footer describes another disk than its header")
        if footer.directory != self._directory:
            raise corrupt(self._next, f"its footer has the grain directory at sector {footer.directory}")
        self._seen = _Seen.FOOTER
        self._expect(SECTOR, self._parse_record, step=SECTOR)

    def _parse_padding(self, view: Buffer, at: int) -> None:
        """All that follows the end: a few zeros where the directory is at the head, as qemu leaves them.

        Where it is in the footer nothing may follow, because readers find the footer by the file's size.
        """
        rest = bytes(view[at:])
        if self._header.directory_at_end or rest.count(0) != len(rest):
            raise corrupt(self._next, "something follows its end")
        self._next += len(rest)
        self._padding += len(rest)
        if self._padding > _LARGEST_PADDING * SECTOR:
            raise corrupt(self._next, "it continues after its end")
