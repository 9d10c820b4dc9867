"""Files that appear under their names only when all of them are written; a failure leaves none."""

import errno
import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from hyperexport.base.file_locks import FileLock, lock_file
from hyperexport.base.units import format_bytes
from hyperexport.errors import ConversionFailed, DiskFull, TargetExists
from hyperexport.store.filesystem import is_full, sync_folder

PARTIAL: Final = ".partial"
_NO_LINKS: Final = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}


class Output:
    """The files of one conversion in one folder; a context manager.

    Leaving the block without :meth:`publish` removes what was written, and the folder if it was made for it.

    Args:
        folder: Where the files go; made if it is not there.
        names: The names that they will have.

    Raises:
        TargetExists: One is there already.
        ConversionFailed: The folder cannot be written.
    """

    def __init__(self, folder: Path, names: list[str]) -> None:
        self._folder = folder.absolute()
        self._names = names
        self._files: dict[str, int] = {}
        self._made_folder = False

    def check(self, needed: int) -> None:
        """Refuse what :meth:`__enter__` and :meth:`require` would refuse, and change nothing.

        Raises:
            TargetExists, DiskFull, ConversionFailed: As for those.
        """
        for name in self._names:
            if os.path.lexists(self._folder / name):
                raise _exists(self._folder / name)
        there = next(folder for folder in (self._folder, *self._folder.parents) if os.path.lexists(folder))
        if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
            raise ConversionFailed(
                f"cannot write {self._folder}: {there} is not a folder that this user can write",
                fix="Choose another --into, or let this user write there",
            )
        self._require(needed, there)

    def __enter__(self) -> Self:
        for name in self._names:
            if os.path.lexists(self._folder / name):
                raise _exists(self._folder / name)
        with writing(self._folder):
            if not self._folder.exists():
                self._folder.mkdir(parents=True)
                self._made_folder = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name, fd in self._files.items():
            with suppress(FileNotFoundError):
                self.partial(name).unlink()
            os.close(fd)
        if self._made_folder:
            with suppress(OSError):
                self._folder.rmdir()  # succeeds only where nothing was published

    def require(self, needed: int) -> None:
        """Refuse before anything is written what will not fit.

        Raises:
            DiskFull: Fewer bytes are free.
        """
        self._require(needed, self._folder)

    def _require(self, needed: int, there: Path) -> None:
        with writing(self._folder):
            free = shutil.disk_usage(there).free
        if needed > free:
            raise DiskFull(
                f"{self._folder} has {format_bytes(free)} free, the conversion needs up to {format_bytes(needed)}",
                fix="Free some space, or choose another --into",
            )

    def partial(self, name: str) -> Path:
        """Where the file with this name is while it is being written."""
        return self._folder / f"{name}{PARTIAL}"

    def create(self, name: str) -> int:
        """Begin a file, empty; what a killed conversion left under its partial name is overwritten.

        Returns:
            Its descriptor, closed with the block.

        Raises:
            ConversionFailed: Another conversion is writing it.
        """
        path = self.partial(name)
        with writing(path):
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
            if lock_file(fd) is FileLock.BUSY:
                os.close(fd)
                raise ConversionFailed(
                    f"another conversion is writing {path}", fix="Wait for it, or choose another --into"
                )
            self._files[name] = fd
            os.ftruncate(fd, 0)
        return fd

    def publish(self) -> list[Path]:
        """Make every file durable and give it its name; nothing is ever overwritten.

        Returns:
            The files' paths, in the order in which they were created.

        Raises:
            TargetExists: A file of that name was created meanwhile; none of ours is left.
        """
        published: list[Path] = []
        try:
            for name, fd in self._files.items():
                with writing(self.partial(name)):
                    os.fsync(fd)
            for name in self._files:
                path = self._folder / name
                with writing(path):
                    _give_name(self.partial(name), path)
                published.append(path)
            with writing(self._folder):
                sync_folder(self._folder)
        except BaseException:
            for path in published:
                path.unlink(missing_ok=True)
            raise
        return published


@contextmanager
def writing(path: Path) -> Generator[None]:
    """Turn what the system says about writing ``path`` into an error of ours.

    Raises:
        DiskFull: No space or quota is left.
        TargetExists: Something has that name.
        ConversionFailed: Anything else.
    """
    try:
        yield
    except FileExistsError as error:
        raise _exists(path) from error
    except OSError as error:
        failed = f"cannot write {path}: {error.strerror or error}"
        if is_full(error):
            raise DiskFull(failed, fix="Free some space, or choose another --into") from error
        raise ConversionFailed(failed, fix="Choose another --into, or let this user write there") from error


def _give_name(partial: Path, path: Path) -> None:
    try:
        os.link(partial, path, follow_symlinks=False)
    except FileExistsError:
        raise
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        # The filesystem has no links (FAT, some shares): a rename, after a check that the name is still free.
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)) from None
        partial.rename(path)


def _exists(path: Path) -> TargetExists:
    return TargetExists(f"{path} already exists", fix="Remove it, or choose another --into")
