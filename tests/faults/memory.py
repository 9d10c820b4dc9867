"""A stored export held in memory, so that damage costs no write: the real store finds, this one answers the reads."""

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hyperexport.errors import ExportNotFound
from hyperexport.store.base import StoredExport
from hyperexport.store.local import LocalStore


class Bytes:
    """A hyperexport.store.base.RangeReader over bytes."""

    def __init__(self, data: bytearray | memoryview) -> None:
        self._data = memoryview(data)
        self.size = len(data)

    def read_at(self, offset: int, length: int) -> bytes:
        return bytes(self._data[offset : offset + length])

    def chunks(self, size: int = 1 << 20) -> Iterator[bytes]:
        for offset in range(0, self.size, size):
            yield self.read_at(offset, size)


class InMemory:
    """A local store whose files are read once, and answered from memory from then on, damaged as a test likes.

    Args:
        store: The real one.
        folder: The export's own.
    """

    def __init__(self, store: LocalStore, folder: Path) -> None:
        self._store = store
        self.data = {path.name: bytearray(path.read_bytes()) for path in folder.iterdir()}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    @contextmanager
    def open(self, export: StoredExport, name: str) -> Generator[Bytes]:
        entry = export.manifest.file(name)
        holder = (entry.member_of if entry else None) or name
        if holder not in self.data:
            raise ExportNotFound(f"{holder} is not there")
        data = memoryview(self.data[holder])
        if entry and entry.member_of:
            data = data[entry.offset or 0 : (entry.offset or 0) + entry.size]
        yield Bytes(data)

    @contextmanager
    def flipped(self, name: str, place: int, bit: int) -> Generator[None]:
        """One bit of one file, for the time of the block."""
        self.data[name][place] ^= 1 << bit
        try:
            yield
        finally:
            self.data[name][place] ^= 1 << bit
