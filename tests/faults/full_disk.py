"""A disk that is full, or failing, from the Nth change on: in place of the calls by which Python changes a disk.

In the process that tests, so that nothing has to die for it. What needs no room goes through: a full disk still
removes, lists and reads.
"""

import errno
import os
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import pytest

NEED_ROOM = ("write", "fsync", "mkdir", "link", "rename", "replace")


class Disk:
    """Counts the changes that need room, and refuses those that come when there is none."""

    def __init__(self, refuse_at: int | None, code: int, *, once: bool) -> None:
        self._refuse_at = refuse_at
        self._code = code
        self._once = once
        self.seen = 0
        self.refused: list[str] = []

    def ask(self, name: str) -> None:
        """Let a change pass, or raise."""
        self.seen += 1
        if self._refuse_at is None or self.seen < self._refuse_at or (self._once and self.refused):
            return
        self.refused.append(name)
        raise OSError(self._code, os.strerror(self._code))

    def asked(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def changed(*arguments: Any, **named: Any) -> Any:
            self.ask(name)
            return call(*arguments, **named)

        return changed


@contextmanager
def disk(refuse_at: int | None = None, *, code: int = errno.ENOSPC, once: bool = False) -> Generator[Disk]:
    """While the block runs, refuse the Nth change and, unless ``once``, all after it; None only counts them."""
    counting = Disk(refuse_at, code, once=once)
    real_open, real_fdopen = os.open, os.fdopen

    def opened(path: Any, flags: int, *arguments: Any, **named: Any) -> int:
        if flags & os.O_CREAT:
            counting.ask("open")
        return real_open(path, flags, *arguments, **named)

    def opened_file(fd: int, mode: str = "r", *arguments: Any, **named: Any) -> Any:
        if "w" not in mode:
            return real_fdopen(fd, mode, *arguments, **named)
        file = real_fdopen(fd, mode, 0)  # unbuffered: each write is one of the disk
        return _File(file, counting)

    with pytest.MonkeyPatch.context() as patch:
        for name in NEED_ROOM:
            patch.setattr(os, name, counting.asked(name, getattr(os, name)))
        patch.setattr(os, "open", opened)
        patch.setattr(os, "fdopen", opened_file)
        yield counting


class _File:
    """A file whose writes are asked for."""

    def __init__(self, file: Any, counting: Disk) -> None:
        self._file = file
        self._disk = counting

    def __enter__(self) -> "_File":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, data: bytes) -> int:
        self._disk.ask("write")
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()
