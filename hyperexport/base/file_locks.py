"""Advisory locks on open files and folders; the kernel drops them with the process, however it ends."""

import fcntl
from enum import Enum


class FileLock(Enum):
    """What became of an attempt to lock."""

    HELD = "held"
    BUSY = "busy"
    """Another process holds it."""
    UNKNOWN = "unknown"
    """The filesystem has no locks (NFS without its lock service, some FUSE filesystems): another process may use it."""


def lock_file(fd: int, *, wait: bool = False) -> FileLock:
    """Lock an open file or folder for this process alone, until its descriptor is closed.

    Args:
        fd: The open file or folder.
        wait: Whether to wait while another process holds it.
    """
    try:
        fcntl.flock(fd, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return FileLock.BUSY
    except OSError:
        return FileLock.UNKNOWN
    return FileLock.HELD
