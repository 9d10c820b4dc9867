"""A stretch of a disk as the libraries take one: a file object in Python, or an image of The Sleuth Kit."""

import io
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, Protocol

from hyperexport.errors import GuestFilesystemDamaged, HyperExportError


class Readable(Protocol):
    """A disk, or anything else that can be read at a place; ``capacity`` is its length in bytes."""

    @property
    def capacity(self) -> int:
        """The length in bytes."""
        ...

    def read(self, offset: int, length: int) -> bytes:
        """Bytes at a place; fewer only at the end."""
        ...


class Window(io.RawIOBase):
    """A part of a disk as a seekable file.

    An error of the disk would be lost in the libraries' C code, so it is kept for :meth:`raising`.
    """

    def __init__(self, disk: Readable, offset: int, length: int) -> None:
        self.offset = offset
        self.capacity = min(length, max(disk.capacity - offset, 0))
        self.error: HyperExportError | None = None
        self._disk = disk
        self._at = 0

    def read_at(self, offset: int, length: int) -> bytes:
        """Bytes of the window; fewer only at its end."""
        length = min(length, self.capacity - offset)
        if length <= 0 or offset < 0:
            return b""
        try:
            return self._disk.read(self.offset + offset, length)
        except HyperExportError as error:
            self.error = self.error or error
            raise OSError(str(error)) from error

    def read(self, size: int | None = -1, /) -> bytes:
        """Read up to this many bytes from the position; empty at the end."""
        data = self.read_at(self._at, self.capacity - self._at if size is None or size < 0 else size)
        self._at += len(data)
        return data

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Move; returns the new position."""
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.capacity}[whence]
        return self._at

    def tell(self) -> int:
        """The position in bytes from the beginning."""
        return self._at

    def seekable(self) -> bool:
        """It is."""
        return True

    def readable(self) -> bool:
        """It is."""
        return True

    def get_size(self) -> int:
        """Its length, by the name that the libraries ask for."""
        return self.capacity

    @contextmanager
    def raising(self) -> Generator[None]:
        """Raise the disk's own error where a library raises what it made of it, and ours for what is the library's.

        Raises:
            VerificationFailed: The disk is damaged.
            GuestFilesystemDamaged: The library could not read what is on the disk.
        """
        try:
            yield
        except (OSError, RuntimeError, MemoryError, ValueError) as error:
            if self.error is not None:
                raise self.error from None
            said = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
            raise GuestFilesystemDamaged(f"what the guest has on its disk cannot be read there: {said}") from error


def tsk_image(pytsk3: Any, window: Window) -> Any:
    """The window as an image of The Sleuth Kit."""

    class _Image(pytsk3.Img_Info):  # pyright: ignore[reportUntypedBaseClass]
        def read(self, offset: int, size: int) -> bytes:
            return window.read_at(offset, size)

        def get_size(self) -> int:
            return window.capacity

    return _Image(url="", type=pytsk3.TSK_IMG_TYPE_EXTERNAL)
