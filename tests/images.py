"""Disks opened from memory, as an export's disks are opened from a store."""

import hashlib
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from hyperexport.base.stop import StopSignal
from hyperexport.formats.block_tags import BlockTags
from hyperexport.formats.vmdk import GRAIN, GRAIN_SECTORS
from hyperexport.formats.vmdk_writer import StreamWriter
from hyperexport.images.disk import Disk
from hyperexport.images.layer import Layer
from hyperexport.images.verified import VerifiedFile, verify_whole
from hyperexport.model.manifest import FileEntry, FileRole


@dataclass
class StoredFile:
    """A file of a store, in memory; ``requests`` has every range that was read."""

    data: bytes | bytearray

    def __post_init__(self) -> None:
        self.requests: list[tuple[int, int]] = []

    @property
    def size(self) -> int:
        return len(self.data)

    def read_at(self, offset: int, length: int) -> bytes:
        self.requests.append((offset, length))
        return bytes(self.data[offset : offset + length])

    def chunks(self, size: int = 1 << 20) -> Iterator[bytes]:
        for offset in range(0, len(self.data), size):
            yield bytes(self.data[offset : offset + size])


def entry_of(data: bytes, name: str = "db01-disk-0.vmdk") -> FileEntry:
    """The manifest's entry for a disk with these bytes."""
    return FileEntry(name=name, role=FileRole.DISK, size=len(data), sha256=hashlib.sha256(data).hexdigest())


def proven(data: bytes, *, now: bytes | bytearray | None = None, distant: bool = False) -> VerifiedFile:
    """A file that was exported with these bytes; its store may give others now."""
    entry, tags = _verified(data)
    stored = StoredFile(data if now is None else now)
    return VerifiedFile(stored, entry, tags, where="db01-disk-0.vmdk of X", distant=distant, stop=StopSignal())


@lru_cache(maxsize=8)
def _verified(data: bytes) -> tuple[FileEntry, BlockTags]:
    entry = entry_of(data)
    return entry, verify_whole(StoredFile(data), entry, where="then", stop=StopSignal())


def disk_of(*files: bytes) -> Disk:
    """A disk of a base and its deltas."""
    return Disk([Layer(proven(data), f"file {number}") for number, data in enumerate(files)])


def vmdk_of(capacity: int, grains: dict[int, bytes], *, delta: bool = False) -> bytes:
    """A streamOptimized VMDK of these grains; a delta keeps grains of zeros as grains of zeros."""
    writer = StreamWriter(capacity)
    pieces = [writer.header()]
    for number, content in sorted(grains.items()):
        lba = number * GRAIN_SECTORS
        whole = content.ljust(GRAIN, b"\0")
        pieces.append(
            writer.precompressed(lba, zlib.compress(whole, 1))
            if delta
            else writer.grain(lba, whole[: capacity - number * GRAIN])
        )
    return b"".join((*pieces, writer.finish()))
