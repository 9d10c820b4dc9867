"""Reads a stored streamOptimized VMDK: any part of the guest's disk, or all of it as a proof of its soundness.

Works on anything that can be read at an offset, and takes nothing in the file on trust: whatever it says, only
:class:`StreamCorrupt` comes out, and memory stays bounded by the disk's grain directory (1 MiB for 8 TiB). This module
must never know what kind of store the file lies in.
"""

import struct
from collections.abc import Iterable, Iterator
from typing import Protocol

from hyperexport.base.units import MIB, SECTOR
from hyperexport.formats.deflate import NotInflated, inflate
from hyperexport.formats.vmdk import (
    GRAIN_HEADER,
    MARKER,
    MARKER_END,
    TABLE_BYTES,
    TABLE_ENTRIES,
    Header,
    corrupt,
    largest_compressed,
)
from hyperexport.formats.vmdk_stream import StreamCheck

_TABLE = struct.Struct(f"<{TABLE_ENTRIES}I")
_ABSENT = 1
"""Entries up to this one have no grain: 0 was never written, 1 is known to be zero."""


class Readable(Protocol):
    """A file that can be read at any place."""

    size: int

    def read_at(self, offset: int, length: int) -> bytes:
        """Read ``length`` bytes at ``offset``; fewer only at the end of the file."""
        ...


def open_image(reader: Readable) -> "DiskImage":
    """Find a disk's header (or footer) and grain directory.

    Raises:
        StreamCorrupt: It is not a streamOptimized VMDK, or its beginning or end is damaged.
    """
    return DiskImage(reader, find_header(reader))


def find_header(reader: Readable) -> Header:
    """Find the header that knows where the grain directory is: the first sector, or else the footer.

    Raises:
        StreamCorrupt: As for :func:`open_image`.
    """
    header = Header.parse(exactly(reader, 0, SECTOR), 0)
    at_end = header.directory_at_end
    if at_end:
        # VMware's Virtual Disk Format 5.0: the footer is followed by the end marker only.
        place = reader.size - 2 * SECTOR
        footer = Header.parse(exactly(reader, place, SECTOR), place)
        if (footer.capacity, footer.grain) != (header.capacity, header.grain):
            raise corrupt(place, "its footer describes another disk than its header")
        header = footer
    header.check_directory(reader.size - 2 * SECTOR if at_end else 0, reader.size // SECTOR)
    return header


class DiskImage:
    """An open disk; made by :func:`open_image`. Not for several threads at once."""

    def __init__(self, reader: Readable, header: Header) -> None:
        self._reader = reader
        self._header = header
        self._directory = struct.unpack(
            f"<{header.tables}I", exactly(reader, header.directory * SECTOR, header.tables * 4)
        )
        self._cached: tuple[int, tuple[int, ...]] = (-1, ())

    @property
    def capacity(self) -> int:
        """Bytes that the guest sees."""
        return self._header.capacity_bytes

    def read(self, offset: int, length: int) -> bytes:
        """Read bytes as the guest would; fewer at the disk's end.

        Raises:
            StreamCorrupt: A grain on the way is damaged.
        """
        grain = self._header.grain_bytes
        end = min(offset + length, self.capacity)
        if offset < 0 or offset >= end:
            return b""
        first = offset // grain
        data = b"".join(self._grain(number) or bytes(grain) for number in range(first, (end - 1) // grain + 1))
        return data[offset - first * grain : end - first * grain]

    def grains(self) -> Iterator[tuple[int, bytes]]:
        """Everything that the disk holds: offset on the guest's disk and content, ascending; the rest is zero.

        Raises:
            StreamCorrupt: The directory or a grain is damaged.
        """
        for lba, sector in self._entries():
            content = self._inflate(lba, sector * SECTOR)
            yield lba * SECTOR, content[: self.capacity - lba * SECTOR]

    def walk(self, chunks: Iterable[bytes] | None = None) -> int:
        """Prove the whole file sound: every marker, every grain, and that the directory names exactly the grains.

        The redundant directory that qemu keeps is not compared, nor is what stands in padding.

        Args:
            chunks: The file's bytes in order, where the caller reads (and perhaps hashes) them anyway; read here if
                not given. Always read to the end of the disk unless it is damaged.

        Returns:
            Bytes of the guest's disk that the grains hold.

        Raises:
            StreamCorrupt: It is damaged; the error has the offset of the first damage.
        """
        self._check_descriptor()
        check = StreamCheck(capacity=self.capacity)
        stream = _Sequential(check, self._chunks() if chunks is None else chunks)
        named = self._entries()
        stream.skip(self._header.overhead * SECTOR)
        while True:
            offset = stream.offset
            record = stream.take(SECTOR)
            lba, size = GRAIN_HEADER.unpack_from(record)
            if size:
                record += stream.take(-(-(GRAIN_HEADER.size + size) // SECTOR) * SECTOR - SECTOR)
                self._check_entry(next(named, None), lba, offset)
                self._check_content(lba, offset, record[GRAIN_HEADER.size : GRAIN_HEADER.size + size])
                continue
            length, _, kind = MARKER.unpack(record)
            if kind == MARKER_END:
                break
            stream.skip(length * SECTOR)
        stream.drain()
        check.finish()
        if (left := next(named, None)) is not None:
            raise corrupt(left[1] * SECTOR, f"the grain for sector {left[0]} of the disk is not where it should be")
        return check.populated

    def _check_descriptor(self) -> None:
        if self._header.descriptor:
            place = self._header.descriptor * SECTOR
            text = exactly(self._reader, place, self._header.descriptor_size * SECTOR)
            if b'createType="streamOptimized"' not in text:
                raise corrupt(place, "its descriptor is not that of a streamOptimized disk")

    def _check_entry(self, named: tuple[int, int] | None, lba: int, offset: int) -> None:
        if named != (lba, offset // SECTOR):
            where = "ends before it" if named is None else f"has sector {named[0]} at byte {named[1] * SECTOR} instead"
            raise corrupt(offset, f"the grain directory leaves out sector {lba} of the disk: it {where}")

    def _chunks(self) -> Iterator[bytes]:
        for offset in range(0, self._reader.size, MIB):
            yield exactly(self._reader, offset, min(MIB, self._reader.size - offset))

    # -- one grain ----------------------------------------------------------------------------------------------------

    def _entries(self) -> Iterator[tuple[int, int]]:
        """LBA and sector in the file of every grain that the directory names, ascending by LBA."""
        for index, place in enumerate(self._directory):
            if place:
                for number, sector in enumerate(self._table(index), index * TABLE_ENTRIES):
                    if sector > _ABSENT:
                        yield number * self._header.grain, sector

    def _grain(self, number: int) -> bytes | None:
        index, entry = divmod(number, TABLE_ENTRIES)
        sector = self._table(index)[entry] if self._directory[index] else 0
        return self._inflate(number * self._header.grain, sector * SECTOR) if sector > _ABSENT else None

    def _table(self, index: int) -> tuple[int, ...]:
        if self._cached[0] != index:
            table = exactly(self._reader, self._directory[index] * SECTOR, TABLE_BYTES)
            self._cached = index, _TABLE.unpack(table)
        return self._cached[1]

    def _inflate(self, lba: int, offset: int) -> bytes:
        largest = largest_compressed(self._header.grain_bytes)
        if offset + SECTOR > self._reader.size:
            raise corrupt(offset, f"the grain for sector {lba} of the disk would lie beyond the file's end")
        record = exactly(self._reader, offset, min(GRAIN_HEADER.size + largest, self._reader.size - offset))
        found, size = GRAIN_HEADER.unpack_from(record)
        if found != lba or not 0 < size <= len(record) - GRAIN_HEADER.size:
            raise corrupt(offset, f"there is no grain for sector {lba} of the disk")
        content = self._check_content(lba, offset, record[GRAIN_HEADER.size : GRAIN_HEADER.size + size])
        return content.ljust(self._header.grain_bytes, b"\0")

    def _check_content(self, lba: int, offset: int, compressed: bytes) -> bytes:
        return inflate_grain(self._header, lba, offset, compressed)


class _Sequential:
    """The file's bytes in order, each shown to the checker before anything is taken from it."""

    def __init__(self, check: StreamCheck, chunks: Iterable[bytes]) -> None:
        self._check = check
        self._chunks = iter(chunks)
        self._chunk = b""
        self._at = 0
        self.offset = 0

    def take(self, length: int) -> bytes:
        parts: list[bytes] = []
        self.offset += length
        while length:
            if self._at == len(self._chunk):
                self._next()
            part = self._chunk[self._at : self._at + length]
            self._at += len(part)
            length -= len(part)
            parts.append(part)
        return b"".join(parts)

    def skip(self, length: int) -> None:
        while length:
            step = min(length, 64 * SECTOR)
            self.take(step)
            length -= step

    def drain(self) -> None:
        for chunk in self._chunks:
            self._check.feed(chunk)

    def _next(self) -> None:
        chunk = next(self._chunks, None)
        if chunk is None:
            self._check.finish()
            raise corrupt(self.offset, "the file ends too early")
        self._check.feed(chunk)
        self._chunk, self._at = chunk, 0


def inflate_grain(header: Header, lba: int, offset: int, compressed: bytes | memoryview) -> bytes:
    """Inflate one grain.

    Args:
        header: That of its file.
        lba: The grain's first sector on the guest's disk.
        offset: Where the grain begins in the file, in bytes, for the error.
        compressed: Its zlib stream.

    Returns:
        Its content; a grain at the disk's end may be shorter than the others.

    Raises:
        StreamCorrupt: It is damaged, or not on the disk.
    """
    grain = header.grain_bytes
    if lba % header.grain or lba >= header.capacity:
        raise corrupt(offset, f"a grain for sector {lba} of the disk is off the disk")
    try:
        content = inflate(compressed, grain)
    except NotInflated as error:
        raise corrupt(offset, f"the grain for sector {lba} of the disk does not inflate ({error})") from error
    # qemu compresses of a last, partial grain only what is on the disk; others fill it up.
    least = min(grain, header.capacity_bytes - lba * SECTOR)
    if len(content) < least:
        raise corrupt(offset, f"the grain for sector {lba} of the disk inflates to {len(content)} bytes")
    return content


def exactly(reader: Readable, offset: int, length: int) -> bytes:
    """Read bytes of which not one may be missing.

    Raises:
        StreamCorrupt: The file ends before them.
    """
    if not 0 <= offset <= reader.size - length:
        raise corrupt(max(offset, 0), f"the file ends at byte {reader.size}")
    data = reader.read_at(offset, length)
    if len(data) != length:
        raise corrupt(offset + len(data), "the file ends before its size")
    return data
