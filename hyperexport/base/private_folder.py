"""A private folder for temporary files, such as the sockets of a child process. It ends with its use.

A process that was killed leaves its folder, which the next one of the same user removes: who is alive holds a lock on
its folder, and the kernel drops the lock with the process.
"""

import os
import shutil
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from hyperexport.base.file_locks import FileLock, lock_file

_SECONDS_TO_LOCK: Final = 60.0
"""A folder that is younger may be one that its run is about to lock."""


@contextmanager
def private_folder(prefix: str) -> Generator[Path]:
    """Make a folder that only this user may read, and remove it with what is in it; those of dead runs go first.

    Args:
        prefix: How its name begins, and those that are removed.

    Raises:
        OSError: It cannot be made.
    """
    _sweep(prefix)
    with tempfile.TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True) as name:  # mode 0700
        handle = os.open(name, os.O_RDONLY | os.O_DIRECTORY)
        try:
            lock_file(handle, wait=True)  # without locks, no other run removes the folder
            yield Path(name)
        finally:
            os.close(handle)


def _sweep(prefix: str) -> None:
    for folder in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        try:
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:
            continue
        try:
            state = os.fstat(handle)
            old = time.time() - state.st_mtime > _SECONDS_TO_LOCK
            if state.st_uid == os.getuid() and old and lock_file(handle) is FileLock.HELD:
                shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(handle)
