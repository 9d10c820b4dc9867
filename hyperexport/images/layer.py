"""One VMDK of a disk's stack: where it has which grain, and the grain's bytes."""

import struct
from array import array
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Final

from hyperexport.base.units import SECTOR
from hyperexport.errors import USE_ANOTHER_EXPORT, StreamCorrupt, VerificationFailed
from hyperexport.formats.vmdk import (
    GRAIN_HEADER,
    TABLE_BYTES,
    TABLE_ENTRIES,
    Identity,
    corrupt,
    largest_compressed,
    parse_identity,
)
from hyperexport.formats.vmdk_image import Readable, exactly, find_header, inflate_grain

NOTHING: Final = 0
"""A grain table's entry where the file says nothing of a grain: it is the parent's, or zero where there is none."""
ZERO: Final = 1
"""A grain table's entry for a grain that is zero, whatever the parent has."""


class Layer:
    """An open VMDK. Safe for several threads if its file is.

    Args:
        file: The stored file.
        where: What an error calls it.

    Raises:
        VerificationFailed: It is not a streamOptimized VMDK, or its header or directory is damaged.
    """

    def __init__(self, file: Readable, where: str) -> None:
        self.where: Final = where
        self._file = file
        with naming(where):
            self.header = find_header(file)
            tables = self.header.tables
            place = self.header.directory * SECTOR
            self._largest = largest_compressed(self.header.grain_bytes)
            self._identity: Identity | None = None
            self._directory = array("I", struct.unpack(f"<{tables}I", exactly(file, place, tables * 4)))

    @property
    def tables(self) -> int:
        """Grain tables that the disk has; each is for 512 grains."""
        return len(self._directory)

    def identity(self) -> Identity:
        """What the embedded descriptor says of the content and of the disk that this one builds on.

        Raises:
            VerificationFailed: It has no descriptor, or one that does not say.
        """
        if self._identity is None:
            header = self.header
            with naming(self.where):
                if not header.descriptor:
                    raise corrupt(0, "it has no descriptor")
                place = header.descriptor * SECTOR
                found = exactly(self._file, place, header.descriptor_size * SECTOR)
                self._identity = parse_identity(found, place)
        return self._identity

    def table(self, index: int) -> "array[int] | None":
        """A grain table: 512 sectors, ``NOTHING`` or ``ZERO``; None where the file has nothing there at all.

        Raises:
            VerificationFailed: It does not lie in the file.
        """
        place = self._directory[index] if index < len(self._directory) else 0
        if not place:
            return None
        with naming(self.where):
            return array("I", struct.unpack(f"<{TABLE_ENTRIES}I", exactly(self._file, place * SECTOR, TABLE_BYTES)))

    def entries(self) -> Iterator[tuple[int, int]]:
        """Number and sector of every grain that the directory names, ascending by number."""
        for index in range(self.tables):
            for number, sector in enumerate(self.table(index) or (), index * TABLE_ENTRIES):
                if sector > ZERO:
                    yield number, sector

    def compressed(self, number: int, sector: int, until: int = 0) -> bytes:
        """The zlib stream of a grain, as it is stored.

        Args:
            number: The grain's number on the guest's disk.
            sector: Where the file's table says that it is.
            until: The sector at which the next grain begins, where that is known; saves a read.

        Raises:
            VerificationFailed: There is no such grain there.
        """
        try:
            return self._compressed(number, sector, until)
        except StreamCorrupt as error:
            raise named(error, self.where) from error

    def content(self, number: int, sector: int, until: int = 0) -> bytes:
        """The content of a grain, a whole grain long; the arguments are those of :meth:`compressed`.

        Raises:
            VerificationFailed: It is damaged.
        """
        header = self.header
        try:
            compressed = self._compressed(number, sector, until)
            content = inflate_grain(header, number * header.grain, sector * SECTOR, compressed)
        except StreamCorrupt as error:
            raise named(error, self.where) from error
        return content if len(content) == header.grain_bytes else content.ljust(header.grain_bytes, b"\0")

    def _compressed(self, number: int, sector: int, until: int) -> bytes:
        offset, lba = sector * SECTOR, number * self.header.grain
        expected = (until - sector) * SECTOR
        if not 0 < expected <= self._largest:
            expected = SECTOR
        record = exactly(self._file, offset, expected)
        found, size = GRAIN_HEADER.unpack_from(record)
        if found != lba or not 0 < size <= self._largest:
            raise corrupt(offset, f"there is no grain for sector {lba} of the disk")
        end = GRAIN_HEADER.size + size
        if end > expected:
            record += exactly(self._file, offset + expected, end - expected)
        return record[GRAIN_HEADER.size : end]


@contextmanager
def naming(where: str) -> Generator[None]:
    """Say of which stored file the damage is that comes up in the block."""
    try:
        yield
    except StreamCorrupt as error:
        raise named(error, where) from error


def named(error: StreamCorrupt, where: str) -> VerificationFailed:
    """The same damage, with the name of the file that has it."""
    return VerificationFailed(f"{where}: {error.what}", fix=USE_ANOTHER_EXPORT)
