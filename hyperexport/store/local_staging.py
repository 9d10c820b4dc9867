"""A local export while it is written: a folder that says whose it is, and that one rename makes visible.

A crash at any moment leaves either a whole export or a folder ``<export-id>.partial``, never anything between. This
module must never write outside that folder.
"""

import errno
import logging
import os
import secrets
import stat
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from hyperexport.errors import HyperExportError, StoreUnusable
from hyperexport.model.manifest import FILE_NAME, ExportManifest, FileEntry
from hyperexport.model.ownership import Owner
from hyperexport.store.base import Stored, StoredExport
from hyperexport.store.direct_io import FileSink
from hyperexport.store.filesystem import (
    checked_name,
    held,
    read_at_most,
    remove_if_empty,
    remove_tree,
    sync_folder,
    translated,
    write_new,
)
from hyperexport.store.local_reader import LocalReader, open_reader

logger = logging.getLogger(__name__)

PARTIAL: Final = ".partial"
DELETED: Final = ".deleted"
OWNER_FILE: Final = ".owner.json"
_ATTEMPTS: Final = 3
_LARGEST_OWNER: Final = 64 * 1024


def partial(path: Path) -> Path:
    """Where an export is staged."""
    return path.with_name(path.name + PARTIAL)


def deleted(path: Path) -> Path:
    """What an export is called from the moment on in which its deletion has begun; whoever finds it ends that."""
    return path.with_name(path.name + DELETED)


def tag_of(path: Path) -> tuple[Owner | None, str | None]:
    """Whose a staged export is, or why the owner tag that is there does not tell; two Nones where there is none."""
    try:
        owner = Owner.from_json(read_at_most(path / OWNER_FILE, _LARGEST_OWNER))
    except FileNotFoundError:
        return None, None
    except OSError as error:
        return None, f"its owner tag cannot be read: {error.strerror}"
    return owner, None if owner else "its owner tag is damaged"


def is_unsigned(path: Path) -> bool:
    """Whether a staged export has no owner tag, or only the beginning of one, as a crash while writing it leaves it.

    A whole tag that is damaged is another thing: its run may be alive.
    """
    try:
        data = read_at_most(path / OWNER_FILE, _LARGEST_OWNER)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return not data.endswith(b"\n") and b"}" not in data[-2:]


def remove_staging(path: Path) -> None:
    """Remove a staged export, its mark last: what a crash leaves in between still says whose it was.

    Raises:
        OSError: As the system has it; part of it may be gone.
    """
    failures: list[OSError] = []
    for name in os.listdir(path):  # noqa: PTH208 - names alone
        if name != OWNER_FILE and not (path / name).is_dir():
            try:
                (path / name).unlink(missing_ok=True)
            except OSError as error:
                failures.append(error)
    if failures:
        raise failures[0]
    remove_tree(path)


class LocalStaging:
    """One export while it is written; see :class:`hyperexport.store.base.Staging`.

    Args:
        path: Where the export will be once it is published.
        owner: Whose it is until then.
    """

    def __init__(self, path: Path, owner: Owner) -> None:
        self.export_id = path.name
        self._final = path
        self._partial = partial(path)
        self._owner = owner
        self._published = False

    def __enter__(self) -> Self:
        with translated("create", self._partial):
            for _ in range(_ATTEMPTS):
                self._create()
                try:
                    if self._sign():
                        return self
                except BaseException:
                    self.discard()
                    raise
            raise FileNotFoundError(errno.ENOENT, "another process removes it as soon as it is created")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.discard()

    def create(self, name: str) -> FileSink:
        """Begin a file, or begin it afresh."""
        self.remove(name)
        return FileSink(self._partial / name)

    def put(self, name: str, data: bytes) -> Stored:
        """Write a small file at once."""
        self.remove(name)
        with translated("write", self._partial / name):
            write_new(self._partial / name, data)
        return Stored(size=len(data))

    def open(self, name: str) -> AbstractContextManager[LocalReader]:
        """Read a finished file back."""
        return open_reader(self._partial / checked_name(name))

    def reuse(self, base: StoredExport, entry: FileEntry, name: str) -> FileEntry | None:
        """Give the bytes of an earlier export's file a second name here; it costs nothing and outlives the first.

        None also where they lie in an OVA, or where the filesystem makes no hard links: then they must be copied.
        """
        if entry.member_of is not None or entry.stored_in is not None:
            return None
        source = self._final.parents[1] / base.folder / base.export_id / checked_name(entry.name)
        fresh = self._partial / f".{secrets.token_hex(4)}.link"
        try:
            # The link first: what is looked at is then what is kept, whatever happens to the earlier export.
            os.link(source, fresh, follow_symlinks=False)
        except OSError as error:
            logger.info("%s cannot be linked, so its bytes are not reused: %s", source, error.strerror)
            return None
        with translated("link", source):
            try:
                status = os.lstat(fresh)
                if not _is_file_of(status, entry.size):
                    logger.warning("%s does not have the %d bytes that its manifest says", source, entry.size)
                    return None
                fresh.replace(self._partial / checked_name(name))
            finally:
                fresh.unlink(missing_ok=True)  # a rename onto another name of the same file leaves both
        return entry.model_copy(update={"name": name, "transferred": False})

    def remove(self, name: str) -> None:
        """Take a file away again; one that is not there is no matter."""
        path = self._partial / checked_name(name)
        if name == FILE_NAME:
            raise StoreUnusable(f"{FILE_NAME} is written only by publishing the export")
        with translated("remove", path):
            path.unlink(missing_ok=True)

    def publish(self, manifest: ExportManifest) -> StoredExport:
        """Write the manifest and make the export visible by one rename."""
        if manifest.export_id != self.export_id:
            raise StoreUnusable(f"the manifest of {manifest.export_id} cannot publish {self.export_id}")
        for entry in manifest.files:
            self._prove(entry)
        with translated("publish", self._final):
            write_new(self._partial / FILE_NAME, manifest.to_json())
            sync_folder(self._partial)
            self._partial.rename(self._final)
            sync_folder(self._final.parent)
        self._published = True
        with suppress(OSError):
            (self._final / OWNER_FILE).unlink()
        return StoredExport(folder=self._final.parent.name, manifest=manifest)

    def discard(self) -> None:
        """Remove everything that was staged; nothing once the export is published."""
        if self._published:
            return
        with suppress(OSError):
            self._final.rename(self._partial)  # where publishing failed after its own rename
        try:
            with translated("remove", self._partial), suppress(FileNotFoundError):
                remove_staging(self._partial)
        except HyperExportError as error:
            logger.warning("a staged export could not be removed: %s", error)
        remove_if_empty(self._final.parent)

    def _create(self) -> None:
        if os.path.lexists(self._final):
            raise FileExistsError(errno.EEXIST, "the export already exists")
        for attempt in range(_ATTEMPTS):
            self._final.parent.mkdir(parents=True, exist_ok=True)
            try:
                self._partial.mkdir()
                return
            except FileNotFoundError:  # another run of this VM has just removed the empty folder
                if attempt == _ATTEMPTS - 1:
                    raise

    def _sign(self) -> bool:
        """Leave the mark; False where a sweep took the folder, which was nobody's yet."""
        with held(self._partial, wait=True) as ours:
            if ours:
                write_new(self._partial / OWNER_FILE, self._owner.model_dump_json(indent=2).encode() + b"\n")
                for folder in (self._partial, *self._partial.parents[:2]):
                    sync_folder(folder)
            return ours

    def _prove(self, entry: FileEntry) -> None:
        if entry.member_of is not None or entry.stored_in is not None:
            return
        path = self._partial / checked_name(entry.name)
        with translated("publish", path):
            status = os.lstat(path)
        if not _is_file_of(status, entry.size):
            raise StoreUnusable(f"{path} has {status.st_size} bytes, but {entry.size} were written")


def _is_file_of(status: os.stat_result, size: int) -> bool:
    return stat.S_ISREG(status.st_mode) and status.st_size == size
