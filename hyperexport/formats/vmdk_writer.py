"""Writes a streamOptimized VMDK in one pass, in memory that does not grow with what is written.

The footer form, which vSphere itself writes: grains by ascending place on the disk, all-zero ones left out, after each
32 MiB of disk its grain table, at the end the grain directory, the footer and the end marker. The writer hands out
bytes and must never know what becomes of them.
"""

import struct
from array import array
from dataclasses import replace
from typing import Final

from hyperexport.base.units import SECTOR
from hyperexport.formats.deflate import compress
from hyperexport.formats.vmdk import (
    GD_AT_END,
    GRAIN,
    GRAIN_HEADER,
    GRAIN_SECTORS,
    LARGEST_CAPACITY,
    MARKER,
    MARKER_DIRECTORY,
    MARKER_END,
    MARKER_FOOTER,
    MARKER_TABLE,
    TABLE_BYTES,
    TABLE_ENTRIES,
    Header,
    Parent,
    descriptor,
    sectors,
)

ZERO_GRAIN: Final = bytes(GRAIN)
_OVERHEAD: Final = 128
_OVERHEAD_OF_DELTA: Final = 24
"""Sectors before the first grain. A whole disk's grains begin where vSphere puts them; a delta may be that small."""
_LONGEST_NAME: Final = 255
_PADDING: Final = tuple(bytes(length) for length in range(SECTOR))


class StreamWriter:
    """Makes the bytes of one disk: ``header()``, then ``grain()`` in ascending order, then ``finish()``.

    Args:
        capacity: Bytes that the guest sees; a multiple of 512.
        name: The file's name, for its descriptor.
        content_id: The descriptor's CID; the same content under the same id gives the same bytes.
        parent: The disk that this one builds on, for a delta.

    Raises:
        ValueError: The capacity is not that of a disk, or the parent's name is not one that a descriptor can hold.
    """

    def __init__(
        self,
        capacity: int,
        *,
        name: str = "disk.vmdk",
        content_id: int = 0xFFFF_FFFE,
        parent: Parent | None = None,
    ) -> None:
        if parent and ('"' in parent.name or not parent.name.isprintable() or len(parent.name) > _LONGEST_NAME):
            raise ValueError(f"{parent.name!r} cannot be named as a parent")
        if not 0 < capacity <= LARGEST_CAPACITY or capacity % SECTOR:
            raise ValueError(f"{capacity} bytes is not a disk's capacity")
        overhead = _OVERHEAD_OF_DELTA if parent else _OVERHEAD
        self._header = Header(capacity=capacity // SECTOR, directory=GD_AT_END, overhead=overhead)
        self._name = name
        self._content_id = content_id
        self._parent = parent
        self._sector = overhead
        self._next_grain = 0
        self._table_index = 0
        self._table = array("I", bytes(TABLE_BYTES))
        self._directory = array("I", bytes(self._header.tables * 4))
        self.populated = 0
        """Bytes of the guest's disk that the grains written so far hold."""

    def header(self) -> bytes:
        """What is before the first grain: header and descriptor."""
        text = descriptor(
            self._header.capacity_bytes, name=self._name, content_id=self._content_id, parent=self._parent
        )
        return (self._header.pack() + text).ljust(self._header.overhead * SECTOR, b"\0")

    def grain(self, lba: int, data: bytes | memoryview) -> bytes:
        """The bytes for one grain; none at all when it is zero.

        Args:
            lba: The grain's first sector on the guest's disk; a multiple of 128.
            data: Its content: 65,536 bytes, or less at the disk's end.

        Raises:
            ValueError: Not in ascending order, not at a grain's beginning, or beyond the disk's end.
        """
        if len(data) != GRAIN:
            if lba + sectors(len(data)) != self._header.capacity or len(data) > GRAIN:
                raise ValueError(f"{len(data)} bytes at sector {lba} are not a grain")
            data = bytes(data).ljust(GRAIN, b"\0")
        if data == ZERO_GRAIN:
            return b""
        return self.precompressed(lba, compress(data))

    def precompressed(self, lba: int, *zlib_stream: bytes) -> bytes:
        """The bytes for a grain whose zlib stream (of 65,536 bytes of content) exists already, whole or in parts.

        Raises:
            ValueError: As for :meth:`grain`, or the file would outgrow its 32-bit sector numbers (2 TiB).
        """
        number, misplaced = divmod(lba, GRAIN_SECTORS)
        if misplaced or not self._next_grain <= number < self._header.grains:
            raise ValueError(f"a grain at sector {lba} is out of order or off the disk")
        index, entry = divmod(number, TABLE_ENTRIES)
        table = b"" if index == self._table_index else self._close_table(index)
        length = sum(map(len, zlib_stream))
        size = GRAIN_HEADER.size + length
        if self._sector > 0xFFFF_FFFF:
            raise ValueError("the file would grow past the 2 TiB that a VMDK's sector numbers reach")
        self._table[entry] = self._sector
        self._sector += sectors(size)
        self._next_grain = number + 1
        self.populated += min(GRAIN, self._header.capacity_bytes - lba * SECTOR)
        return b"".join((table, GRAIN_HEADER.pack(lba, length), *zlib_stream, _PADDING[-size % SECTOR]))

    def finish(self) -> bytes:
        """The last grain table, the grain directory, the footer and the end marker."""
        table = self._close_table(self._header.tables)
        directory = _pack(self._directory).ljust(self._header.directory_sectors * SECTOR, b"\0")
        footer = replace(self._header, directory=self._sector + 1)
        return b"".join(
            (
                table,
                MARKER.pack(self._header.directory_sectors, 0, MARKER_DIRECTORY),
                directory,
                MARKER.pack(1, 0, MARKER_FOOTER),
                footer.pack(),
                MARKER.pack(0, 0, MARKER_END),
            )
        )

    def _close_table(self, following: int) -> bytes:
        """The table of the 32 MiB that end here; nothing when they held no grain."""
        closed, self._table_index = self._table_index, following
        if not any(self._table):
            return b""
        self._directory[closed] = self._sector + 1
        self._sector += 1 + sectors(TABLE_BYTES)
        table = MARKER.pack(sectors(TABLE_BYTES), 0, MARKER_TABLE) + _pack(self._table)
        self._table = array("I", bytes(TABLE_BYTES))
        return table


def _pack(entries: "array[int]") -> bytes:
    return struct.pack(f"<{len(entries)}I", *entries)
