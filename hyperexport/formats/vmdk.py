"""The streamOptimized VMDK on paper: its header, descriptor, grains and markers, packed and parsed.

What the writer, the checker and the reader share. Layout facts are those of VMware's "Virtual Disk Format 5.0" and of
open-vmdk's ``vmware_vmdk.h``; all integers are little-endian, offsets and capacities are counted in sectors of 512
bytes. This module must never know where the bytes come from or go to.
"""

import re
import struct
from dataclasses import dataclass
from typing import Final, NamedTuple

from hyperexport.base.units import KIB, SECTOR
from hyperexport.errors import StreamCorrupt

MAGIC: Final = b"KDMV"
GRAIN: Final = 64 * KIB
"""Bytes of the guest's disk in one grain, as vSphere and every other writer of the format choose it."""
GRAIN_SECTORS: Final = GRAIN // SECTOR
TABLE_ENTRIES: Final = 512
"""Grains that one grain table covers; 32 MiB of disk at 64 KiB a grain."""
TABLE_BYTES: Final = TABLE_ENTRIES * 4
GD_AT_END: Final = 0xFFFF_FFFF_FFFF_FFFF
"""In the header's place for the grain directory: it is in the footer, 1,024 bytes before the end of the file."""
LARGEST_CAPACITY: Final = 64 * KIB**4
"""No virtual disk is larger: vSphere's own limit is 62 TB ("Configuration Maximums")."""

_LARGEST_DESCRIPTOR: Final = 2048
"""Sectors: a reader keeps all of it in memory. Every writer of the format leaves 20 and needs 2."""

FLAG_NEWLINES: Final = 1 << 0
FLAG_COMPRESSED: Final = 1 << 16
FLAG_MARKERS: Final = 1 << 17
_DEFLATE: Final = 1
_NEWLINES: Final = b"\n \r\n"

MARKER_END: Final = 0
MARKER_TABLE: Final = 1
MARKER_DIRECTORY: Final = 2
MARKER_FOOTER: Final = 3
MARKER_PROGRESS: Final = 4

# magic, version, flags | capacity, grain size, descriptor offset and size | entries a table |
# redundant directory, directory, overhead | unclean shutdown | newline test | compression | padding
_HEADER: Final = struct.Struct("<4sII QQQQ I QQQ B 4s H 433x")
GRAIN_HEADER: Final = struct.Struct("<QI")
"""LBA (sector on the guest's disk) and bytes of the zlib stream that follows. 0 bytes: it is a marker instead."""
MARKER: Final = struct.Struct("<QII496x")
"""Sectors that follow, 0 in place of a grain's bytes, and the marker's kind; a whole sector."""


@dataclass(frozen=True, slots=True)
class Header:
    """The first sector of the file, and again its footer. Offsets and sizes in sectors."""

    capacity: int
    directory: int
    overhead: int
    descriptor: int = 1
    descriptor_size: int = 20
    grain: int = GRAIN_SECTORS
    redundant_directory: int = 0
    version: int = 3
    flags: int = FLAG_NEWLINES | FLAG_COMPRESSED | FLAG_MARKERS

    @property
    def capacity_bytes(self) -> int:
        """Bytes that the guest sees."""
        return self.capacity * SECTOR

    @property
    def grain_bytes(self) -> int:
        """Bytes of the guest's disk in one grain."""
        return self.grain * SECTOR

    @property
    def grains(self) -> int:
        """Grains that the disk has, whether they hold anything or not."""
        return -(-self.capacity // self.grain)

    @property
    def tables(self) -> int:
        """Grain tables that the directory has room for."""
        return -(-self.grains // TABLE_ENTRIES)

    @property
    def directory_sectors(self) -> int:
        """The length of the grain directory."""
        return sectors(self.tables * 4)

    @property
    def directory_at_end(self) -> bool:
        """Whether the footer says where the directory is (as vSphere writes it), and not the header (as qemu does)."""
        return self.directory == GD_AT_END

    def pack(self) -> bytes:
        """Pack the header into its sector of 512 bytes."""
        return _HEADER.pack(
            MAGIC,
            self.version,
            self.flags,
            self.capacity,
            self.grain,
            self.descriptor,
            self.descriptor_size,
            TABLE_ENTRIES,
            self.redundant_directory,
            self.directory,
            self.overhead,
            0,
            _NEWLINES,
            _DEFLATE,
        )

    @classmethod
    def parse(cls, sector: bytes, offset: int) -> "Header":
        """Read a header or footer that may be anything.

        Args:
            sector: Its 512 bytes.
            offset: Where they stand in the file (bytes), for the error.

        Raises:
            StreamCorrupt: They are not the header of a streamOptimized VMDK, or of an absurd one.
        """
        (magic, version, flags, capacity, grain, descriptor, descriptor_size, entries, redundant, directory, overhead,
         _unclean, newlines, compression) = _HEADER.unpack(sector)  # fmt: skip
        if magic != MAGIC:
            raise corrupt(offset, f"it begins with {bytes(magic)!r}, not with a VMDK's KDMV")
        header = cls(capacity, directory, overhead, descriptor, descriptor_size, grain, redundant, version, flags)
        checks = (
            (1 <= version <= 3, f"its version is {version}"),
            (flags & FLAG_COMPRESSED and flags & FLAG_MARKERS, f"its flags {flags:#x} are not streamOptimized"),
            (compression == _DEFLATE, f"its compression method is {compression}"),
            (not flags & FLAG_NEWLINES or newlines == _NEWLINES, "its line ends were converted on the way"),
            (0 < capacity <= LARGEST_CAPACITY // SECTOR, f"its capacity is {capacity} sectors"),
            (grain in (8, 16, 32, 64, 128, 256, 512, 1024, 2048), f"its grains have {grain} sectors"),
            (entries == TABLE_ENTRIES, f"its grain tables have {entries} entries"),
        )
        for passed, problem in checks:
            if not passed:
                raise corrupt(offset, problem)
        header._check_layout(offset)
        return header

    def check_directory(self, offset: int, end: int) -> None:
        """Refuse a grain directory that does not lie wholly before a sector.

        Raises:
            StreamCorrupt: It does not.
        """
        if not 1 <= self.directory <= end - self.directory_sectors:
            raise corrupt(offset, f"its grain directory would be at sector {self.directory}")

    def _check_layout(self, offset: int) -> None:
        # The most that can stand before the first grain: two directories with all their tables, and some alignment.
        largest = 2 * (self.directory_sectors + self.tables * sectors(TABLE_BYTES)) + 4 * self.grain + 4096
        if not 1 <= self.overhead <= largest:
            raise corrupt(offset, f"its first grain would be at sector {self.overhead}")
        end = self.overhead - self.descriptor_size
        if self.descriptor and not (1 <= self.descriptor <= end and self.descriptor_size <= _LARGEST_DESCRIPTOR):
            raise corrupt(offset, f"its descriptor would be at sectors {self.descriptor}+{self.descriptor_size}")


def corrupt(offset: int, problem: str) -> StreamCorrupt:
    """Name what is wrong with a disk, and where (bytes from the file's beginning)."""
    error = StreamCorrupt(f"the VMDK is damaged at byte {offset}: {problem}", fix="Transfer the disk again")
    error.offset = offset
    return error


def sectors(length: int) -> int:
    """Sectors that so many bytes take."""
    return -(-length // SECTOR)


def largest_compressed(grain_bytes: int) -> int:
    """The most bytes that any setting of zlib makes of a grain (its own ``deflateBound``, rounded up)."""
    return grain_bytes + grain_bytes // 8 + grain_bytes // 64 + 64


NO_PARENT: Final = 0xFFFF_FFFF
"""The parent CID of a disk that is whole by itself."""
_CONTENT_ID: Final = re.compile(rb"(?m)^[ \t]*CID[ \t]*=[ \t]*([0-9A-Fa-f]{1,8})[ \t\r]*$")
_PARENT_ID: Final = re.compile(rb"(?m)^[ \t]*parentCID[ \t]*=[ \t]*([0-9A-Fa-f]{1,8})[ \t\r]*$")
_PARENT_NAME: Final = re.compile(rb'(?m)^[ \t]*parentFileNameHint[ \t]*=[ \t]*"([^"\n]*)"[ \t\r]*$')


class Parent(NamedTuple):
    """The disk that a delta builds on, as the delta's descriptor names it."""

    content_id: int
    name: str
    """The file's name, in the same folder."""


class Identity(NamedTuple):
    """What a descriptor says of the disk's content, and of the disk that it builds on."""

    content_id: int
    parent_id: int
    parent_name: str | None

    @property
    def can_be_a_base(self) -> bool:
        """Whether a delta can name this disk as its parent."""
        return self.content_id not in {0, NO_PARENT}


def parse_identity(text: bytes, offset: int) -> Identity:
    """Read the CIDs out of an embedded descriptor.

    Args:
        text: The descriptor, with the zeros behind it.
        offset: Where it stands in the file (bytes), for the error.

    Raises:
        StreamCorrupt: It has no CID, or several.
    """
    text = text.partition(b"\0")[0]
    own, parent, names = _CONTENT_ID.findall(text), _PARENT_ID.findall(text), _PARENT_NAME.findall(text)
    if len(own) != 1 or len(parent) > 1 or len(names) > 1:
        raise corrupt(offset, "its descriptor does not say which content it has, or says it twice")
    name = names[0].decode("utf-8", "replace") if names else None
    return Identity(int(own[0], 16), int(parent[0], 16) if parent else NO_PARENT, name)


def descriptor(capacity: int, *, name: str, content_id: int, parent: Parent | None = None) -> bytes:
    """The embedded text that names the disk's type, extent and geometry.

    Args:
        capacity: Bytes that the guest sees.
        name: The file's own name.
        content_id: The CID: 32 bits, neither 0 nor all ones (which means: no parent).
        parent: The disk that this one builds on; None where it is whole.
    """
    cylinders = min(max(capacity // (255 * 63 * SECTOR), 1), 0xFFFF_FFFF)
    # A quote or a line end in a VM's name must not become a line of its own.
    name = "".join(character if character.isprintable() and character != '"' else "_" for character in name[:255])
    builds_on = f'parentFileNameHint="{parent.name}"\n' if parent else ""
    return f"""# Disk DescriptorFile
version=1
encoding="UTF-8"
CID={content_id:08x}
parentCID={parent.content_id if parent else NO_PARENT:08x}
createType="streamOptimized"
{builds_on}
# Extent description
RW {capacity // SECTOR} SPARSE "{name}"

# The Disk Data Base
#DDB

ddb.adapterType = "lsilogic"
ddb.geometry.cylinders = "{cylinders}"
ddb.geometry.heads = "255"
ddb.geometry.sectors = "63"
ddb.virtualHWVersion = "13"
""".encode()
