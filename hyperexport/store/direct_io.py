"""A file that is written once, from its beginning to its end, past the page cache where the filesystem lets us.

Direct writes take less of the processor and leave the machine's page cache to those who need it. They want aligned
memory and lengths, so the bytes are gathered in aligned blocks; the tail is written plainly. And since nothing lies
between them and the device, a thread writes one block while the next is filled: else network and disk would wait for
each other by turns.
"""

import errno
import fcntl
import mmap
import os
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Final

from hyperexport.base.units import MIB
from hyperexport.store.base import Stored
from hyperexport.store.filesystem import translated

BLOCK: Final = 2 * MIB
"""Bytes written at once; a multiple of every device's sector and of the page that memory is aligned to."""

_DIRECT: Final[int] = getattr(os, "O_DIRECT", 0)  # not there on macOS
_FLAGS: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class FileSink:
    """Writes a new file; see :class:`hyperexport.store.base.Sink`.

    Args:
        path: Must not exist.

    Raises:
        DiskFull: From here, ``write`` and ``finish``.
        StoreUnusable: From here, ``write`` and ``finish``.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with translated("write", path):
            # Anonymous memory begins on a page. One block is filled while the other is written.
            self._block, self._other = (memoryview(mmap.mmap(-1, BLOCK)) for _ in range(2))
            self._fd, self._direct = _create(path)
            self._identity = os.fstat(self._fd)
        self._filled = 0
        self._size = 0
        self._writer = ThreadPoolExecutor(1, thread_name_prefix=f"write {path.name}")
        self._writing: Future[None] | None = None

    def write(self, data: memoryview) -> None:
        """Take bytes; the buffer is the caller's again when this returns."""
        while data:
            room = min(len(data), BLOCK - self._filled)
            self._block[self._filled : self._filled + room] = data[:room]
            self._filled += room
            self._size += room
            data = data[room:]
            if self._filled == BLOCK:
                self._settle()
                self._writing = self._writer.submit(self._put_all, self._block)
                self._block, self._other = self._other, self._block
                self._filled = 0

    def finish(self) -> Stored:
        """Write the rest and wait until the device has it all."""
        self._settle()
        with translated("write", self._path):
            self._plainly()
            self._put_all(self._block[: self._filled])
            os.fsync(self._fd)
            self._leave_page_cache()
            self._close()
        return Stored(size=self._size)

    def abort(self) -> None:
        """Remove the file, if it is still this one that has the name."""
        with suppress(Exception):
            self._settle()
        with suppress(OSError):
            if os.path.samestat(self._identity, os.lstat(self._path)):
                self._path.unlink()
        with suppress(OSError):
            self._close()

    def _settle(self) -> None:
        """Wait for the block that is being written, and raise what became of it."""
        writing, self._writing = self._writing, None
        if writing is not None:
            with translated("write", self._path):
                writing.result()

    def _put_all(self, data: memoryview) -> None:
        while data:
            data = data[self._put(data) :]

    def _put(self, data: memoryview) -> int:
        try:
            return os.write(self._fd, data)
        except OSError as error:
            # Some filesystems take the flag and refuse the writes.
            if error.errno != errno.EINVAL or not self._direct:
                raise
            self._plainly()
            return os.write(self._fd, data)

    def _plainly(self) -> None:
        if self._direct:
            fcntl.fcntl(self._fd, fcntl.F_SETFL, fcntl.fcntl(self._fd, fcntl.F_GETFL) & ~_DIRECT)
            self._direct = False

    def _leave_page_cache(self) -> None:
        """Give back what plain writes took of it; a wish only, and not known to macOS."""
        if hasattr(os, "posix_fadvise"):
            with suppress(OSError):
                os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def _close(self) -> None:
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)
            self._writer.shutdown()
            self._block = self._other = memoryview(b"")


def _create(path: Path) -> tuple[int, bool]:
    if _DIRECT:
        try:
            return os.open(path, _FLAGS | _DIRECT, 0o644), True
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            # Linux makes the file before it finds that its filesystem has no direct writes.
            with suppress(FileNotFoundError):
                path.unlink()
    return os.open(path, _FLAGS, 0o644), False
