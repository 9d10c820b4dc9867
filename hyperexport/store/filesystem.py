"""The few things that a store asks of a filesystem, done so that they last and with errors that people understand.

What is written is synced, names are checked before they become paths, and no symbolic link is ever followed. This
module knows nothing of exports.
"""

import errno
import os
import shutil
import stat
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from hyperexport.base.file_locks import FileLock, lock_file
from hyperexport.errors import USE_ANOTHER_EXPORT, DiskFull, HyperExportError, StoreUnusable

PROBE: Final = ".hyperexport-probe-"
"""How the name of a file begins that is written only to see whether one can be."""

_FULL: Final = {errno.ENOSPC, errno.EDQUOT}
_FORBIDDEN: Final = {errno.EACCES, errno.EPERM, errno.EROFS}
_READING: Final = {"read", "list", "look at"}
"""What is tried where no other place to write to is a remedy."""


@contextmanager
def translated(doing: str, path: Path, *, missing: type[HyperExportError] = StoreUnusable) -> Generator[None]:
    """Turn whatever the system says about ``path`` in the block into an error of ours.

    Args:
        doing: What is tried, to stand before the path: ``write``.
        path: On what.
        missing: What to raise when the path is not there.

    Raises:
        DiskFull: No space or quota is left.
        StoreUnusable: Anything else.
    """
    try:
        yield
    except OSError as error:
        raise _ours(error, doing, path, missing) from error


def is_full(error: OSError) -> bool:
    """Whether it is room that the system lacks."""
    return error.errno in _FULL


def _ours(error: OSError, doing: str, path: Path, missing: type[HyperExportError]) -> HyperExportError:
    failed = f"cannot {doing} {path}: {error.strerror or error}"
    if is_full(error):
        return DiskFull(failed, fix="Free some space (--cleanup does), or choose another --output")
    if error.errno in _FORBIDDEN:
        can_read = "Let this user read it"
        return StoreUnusable(
            failed, fix=can_read if doing in _READING else "Let this user write there, or choose another --output"
        )
    if error.errno == errno.EIO:
        return StoreUnusable(failed, fix="Check the system log: the disk or the file server is failing")
    fix = USE_ANOTHER_EXPORT if doing == "read" else None
    if error.errno == errno.ENOENT and missing is not StoreUnusable:
        return missing(failed, fix=fix)
    return StoreUnusable(failed, fix=fix or "Choose another --output, or remove what blocks this path")


def checked_name(name: str) -> str:
    """Let pass the name of a file that lies directly in an export's folder, and no other.

    Raises:
        StoreUnusable: It would be a path, a hidden file, or no file name at all.
    """
    if (
        not name
        or name.startswith(".")
        or len(name.encode("utf-8", "surrogatepass")) > 255
        or any(char in "/\\" or not char.isprintable() for char in name)
    ):
        raise StoreUnusable(f"{name!r} is not a valid file name for an export")
    return name


def write_new(path: Path, data: bytes) -> None:
    """Write a file that must not exist yet, and make it durable.

    Raises:
        OSError: As the system has it.
    """
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    with os.fdopen(fd, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(fd)


def write_nameless(folder: Path, data: bytes) -> None:
    """Write a file that has no name and is gone when it is closed, so that nothing is left whatever happens.

    Where a filesystem has no such files (NFS, for one), only what the system says of the user's rights is asked.

    Raises:
        OSError: As the system has it.
    """
    try:
        fd = os.open(folder, os.O_WRONLY | os.O_TMPFILE | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno not in {errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL}:
            raise
    except AttributeError:  # macOS has none
        pass
    else:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(fd)
        return
    if not folder.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    if os.statvfs(folder).f_bavail == 0:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def read_at_most(path: Path, limit: int) -> bytes:
    """Read a small regular file; a longer one is cut at ``limit`` bytes.

    Raises:
        OSError: As the system has it.
        NotRegular: It is a link, a folder, or worse.
    """
    fd = open_regular(path)
    with os.fdopen(fd, "rb") as file:
        return file.read(limit)


class NotRegular(OSError):
    """Something other than a plain file has the name."""


def open_regular(path: Path) -> int:
    """Open a plain file for reading and nothing else that may have its name; returns the descriptor.

    Raises:
        OSError: As the system has it.
        NotRegular: It is a link, a folder, or worse.
    """
    if not stat.S_ISREG(os.lstat(path).st_mode):
        raise NotRegular(errno.EINVAL, "it is not a plain file")
    # Should it be exchanged now: no link is followed, and no fifo holds us.
    return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)


def sync_folder(path: Path) -> None:
    """Make durable which files the folder holds and what they are called.

    Raises:
        OSError: As the system has it.
    """
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextmanager
def held(path: Path, *, wait: bool) -> Generator[bool]:
    """Keep a folder from others that do the same; the system lets it go with the process, however that ends.

    Args:
        path: The folder.
        wait: Whether to wait for whoever has it.

    Yields:
        Whether it is held, and still is the folder of that name. Where the filesystem knows no such thing, only who
        waits is told so.

    Raises:
        OSError: As the system has it.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        yield False
        return
    try:
        lock = lock_file(fd, wait=wait)
        ours = lock is FileLock.HELD or (wait and lock is FileLock.UNKNOWN)
        try:
            ours = ours and os.path.samestat(os.fstat(fd), os.lstat(path))
        except FileNotFoundError:
            ours = False
        yield ours
    finally:
        os.close(fd)


@contextmanager
def locked(path: Path) -> Generator[None]:
    """Hold a folder that has to be there, however long one waits for it. It takes no room on a full disk.

    Raises:
        OSError: As the system has it; the folder may not be there.
    """
    with held(path, wait=True) as ours:
        if not ours:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        yield


def remove_tree(path: Path) -> int:
    """Remove a folder and all in it, not following links; what cannot be removed does not keep the rest.

    Returns:
        The bytes freed: a file that has another name outside of the folder frees none.

    Raises:
        OSError: As the system has it; part of the folder may be gone.
    """
    found: dict[tuple[int, int], os.stat_result] = {}
    names_of: Counter[tuple[int, int]] = Counter()
    for folder, _, names in os.walk(path, followlinks=False):
        for name in names:
            status = os.lstat(os.path.join(folder, name))  # noqa: PTH118 - a Path for each would be dear
            found[status.st_dev, status.st_ino] = status
            names_of[status.st_dev, status.st_ino] += 1
    failures: list[BaseException] = []
    shutil.rmtree(path, onerror=lambda _function, _path, raised: failures.append(raised[1]))
    if failures:
        raise failures[0]
    return sum(status.st_size for inode, status in found.items() if names_of[inode] == status.st_nlink)


def nearest_folder(path: Path) -> Path:
    """The path itself, or the nearest of its parents that is there."""
    return next(folder for folder in (path, *path.parents) if os.path.lexists(folder))


def remove_if_empty(folder: Path) -> None:
    """Remove a folder that holds nothing; never raises."""
    with suppress(OSError):
        folder.rmdir()
