"""Files and folders of a guest, copied into a folder of this machine."""

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from hyperexport.base.stop import StopSignal
from hyperexport.errors import DiskFull, ExtractionFailed, TargetExists
from hyperexport.files.filesystems import Filesystem, Kind, Node
from hyperexport.files.guest import Guest

_DEEPEST: Final = 200
"""Folders within folders: a damaged filesystem may have one in itself."""
_LONGEST_NAME: Final = 255


@dataclass
class Extracted:
    """The files and bytes that were extracted from a guest, and what was left out."""

    path: Path
    files: int = 0
    bytes: int = 0
    skipped: list[str] = field(default_factory=list[str])
    """What was not: links, devices and names that no file here may have, each with the reason."""


def extract(guest: Guest, path: str, into: Path, *, stop: StopSignal) -> Extracted:
    """Copy a file, or a folder with all in it, out of a guest.

    Links are not made, because a link of the guest's would lead to files of this machine; the result lists them. Owners
    and permissions are not kept: what is written is this user's.

    Args:
        guest: The volumes.
        path: What, such as ``/disk0p1/etc``.
        into: The folder that gets it; made if it is not there.
        stop: Ends it.

    Raises:
        GuestFileNotFound: There is nothing of that path.
        TargetExists: The folder has something of that name.
        VerificationFailed: The disk is damaged on the way.
        ExtractionFailed, DiskFull: It could not be written. Whatever the error, nothing stays.
    """
    filesystem, node, clean = guest.find(path)
    name = safe_name(clean.rpartition("/")[2])
    if name is None:
        raise ExtractionFailed(f"{clean!r} has a name that no file here may have")
    target = into.absolute() / name
    if os.path.lexists(target):
        raise TargetExists(f"{target} already exists", fix="Remove it, or choose another --into")
    partial = target.with_name(f".{name[:200]}.{secrets.token_hex(4)}.partial")
    result = Extracted(target)
    try:
        into.mkdir(parents=True, exist_ok=True)
        _Copying(filesystem, result, stop).copy(node, partial, clean, frozenset())
        if not os.path.lexists(partial):
            raise ExtractionFailed(f"{clean} was not extracted: {'; '.join(result.skipped)}")
        if os.path.lexists(target):
            raise TargetExists(f"{target} already exists", fix="Remove it, or choose another --into")
        partial.rename(target)
    except OSError as error:
        failed = f"cannot extract {clean} to {target}: {error.strerror or error}"
        raise (DiskFull if is_full(error) else ExtractionFailed)(failed) from error
    finally:
        if os.path.lexists(partial):
            remove(partial)
    return result


def is_full(error: OSError) -> bool:
    """Whether it is room that the system lacks."""
    return error.errno in {errno.ENOSPC, errno.EDQUOT}


def remove(path: Path) -> None:
    """Remove a file, or a folder with all in it."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def safe_name(name: str) -> str | None:
    """The name if a file may have it without leading anywhere else; None if not."""
    fits = 0 < len(os.fsencode(name)) <= _LONGEST_NAME if "\0" not in name else False
    return name if fits and name not in {".", ".."} and "/" not in name else None


class _Copying:
    """One extraction in progress."""

    def __init__(self, filesystem: Filesystem, result: Extracted, stop: StopSignal) -> None:
        self._filesystem = filesystem
        self._result = result
        self._stop = stop

    def copy(self, node: Node, target: Path, path: str, above: frozenset[int]) -> None:
        """Copy something and what is below it; ``above`` has the folders that it lies in."""
        self._stop.check()
        if node.kind is Kind.FILE:
            _copy_file(self._filesystem.chunks(node), target, node.size, self._stop)
            self._result.files += 1
            self._result.bytes += node.size
        elif node.kind is not Kind.FOLDER:
            kind = "a symbolic link" if node.kind is Kind.LINK else "a special file"
            self._result.skipped.append(f"{path}: {kind}")
        elif node.inode in above or len(above) >= _DEEPEST:
            self._result.skipped.append(f"{path}: a folder in itself, or too deep")
        else:
            self._copy_folder(node, target, path, above | {node.inode})

    def _copy_folder(self, node: Node, target: Path, path: str, above: frozenset[int]) -> None:
        target.mkdir()
        for child in self._filesystem.children(node):
            name, below = safe_name(child.name), f"{path}/{child.name}"
            if name is None or os.path.lexists(target / name):
                self._result.skipped.append(f"{below!r}: a name that no file here may have, or there twice")
            else:
                self.copy(child, target / name, below, above)


def _copy_file(chunks: Iterator[bytes], target: Path, size: int, stop: StopSignal) -> None:
    """Write a file that must not exist; stretches of zeros become holes."""
    fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        for chunk in chunks:
            stop.check()
            if any(chunk):
                file.write(chunk)
            else:
                file.seek(len(chunk), os.SEEK_CUR)
        file.truncate(size)
