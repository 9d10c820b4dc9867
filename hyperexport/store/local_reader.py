"""Reading a stored file, or the part of an OVA that one of its members is, at any place."""

import os
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hyperexport.errors import ExportNotFound
from hyperexport.store.filesystem import open_regular, translated


class LocalReader:
    """A stored file, or a part of one; see :class:`hyperexport.store.base.RangeReader`."""

    def __init__(self, path: Path, fd: int, offset: int, size: int, identity: str = "") -> None:
        self.size = size
        self.identity = identity
        self._path = path
        self._fd = fd
        self._offset = offset

    def read_at(self, offset: int, length: int) -> bytes:
        """Read ``length`` bytes at ``offset``; fewer only at the end."""
        length = min(length, self.size - offset)
        pieces: list[bytes] = []
        with translated("read", self._path):
            while length > 0 and (piece := os.pread(self._fd, length, self._offset + offset)):
                pieces.append(piece)
                offset += len(piece)
                length -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def chunks(self, size: int = 1 << 20) -> Iterator[bytes]:
        """Read the whole of it in order."""
        offset = 0
        while chunk := self.read_at(offset, size):
            yield chunk
            offset += len(chunk)


@contextmanager
def open_reader(path: Path, offset: int = 0, size: int | None = None) -> Generator[LocalReader]:
    """Open a file, or ``size`` bytes of it from ``offset`` on; fewer where the file is shorter.

    Raises:
        ExportNotFound: The file is not there.
        StoreUnusable: It cannot be read, or is a symbolic link.
    """
    with translated("read", path, missing=ExportNotFound):
        fd = open_regular(path)
    try:
        with translated("read", path):
            status = os.fstat(fd)
        there = max(0, status.st_size - offset)
        whole = offset == 0 and size is None
        # The time of the last change of the inode as well: nobody can set it back after writing.
        facts = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        identity = "-".join(map(str, facts)) if whole else ""
        yield LocalReader(path, fd, offset, there if size is None else min(size, there), identity)
    finally:
        with suppress(OSError):  # nothing was written
            os.close(fd)
