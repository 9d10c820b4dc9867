"""A file in memory that can be read at any place, as a store's reader can."""

from dataclasses import dataclass


@dataclass
class Memory:
    """Bytes with the reading half of ``hyperexport.store.base.RangeReader``."""

    data: bytes | bytearray

    @property
    def size(self) -> int:
        return len(self.data)

    def read_at(self, offset: int, length: int) -> bytes:
        return bytes(self.data[offset : offset + length])
