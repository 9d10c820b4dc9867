"""Exports in a folder of this machine's filesystem.

Only folders with the names that this tool gives are ever looked into, and no symbolic link is followed. This module
knows how exports are found, read and removed; how one comes to be is told in ``local_staging.py``.
"""

import logging
import os
import secrets
from collections.abc import Iterator
from contextlib import AbstractContextManager, suppress
from pathlib import Path

from hyperexport.errors import ExportNotFound, ManifestInvalid, StoreUnusable
from hyperexport.model.manifest import FILE_NAME, LARGEST, ExportManifest, is_export_id, is_vm_folder
from hyperexport.model.ownership import Owner
from hyperexport.store.base import AbandonedStaging, StoredExport
from hyperexport.store.changes import rebased
from hyperexport.store.filesystem import (
    PROBE,
    NotRegular,
    checked_name,
    is_full,
    locked,
    nearest_folder,
    read_at_most,
    remove_if_empty,
    remove_tree,
    sync_folder,
    translated,
    write_new,
)
from hyperexport.store.local_reader import LocalReader, open_reader
from hyperexport.store.local_staging import PARTIAL, LocalStaging, deleted, owner_of, partial, remove_staging
from hyperexport.store.local_sweep import sweep_root, sweep_vm

logger = logging.getLogger(__name__)


class LocalStore:
    """A folder of exports; see :class:`hyperexport.store.base.Store` for what each method promises.

    Args:
        root: It need not exist yet.
    """

    def __init__(self, root: Path) -> None:
        self._root = root.absolute()
        self.url = str(self._root)
        self.refers = False

    def check(self) -> None:
        """Prove that an export can be written here, or could be once the folder is made."""
        folder = nearest_folder(self._root)
        probe = folder / f"{PROBE}{secrets.token_hex(4)}"
        where = f"write into {folder}, to keep exports in" if folder != self._root else "write into"
        with translated(where, self._root):
            try:
                write_new(probe, b"hyperexport\n")
                with suppress(FileNotFoundError):  # swept up by a run beside this one, which is as good: it was written
                    read_at_most(probe, 100)
            finally:
                with suppress(FileNotFoundError, NotADirectoryError):
                    probe.unlink()

    def free_bytes(self) -> int:
        """Bytes that this user may still write to the filesystem."""
        with translated("look at", self._root):
            status = os.statvfs(nearest_folder(self._root))
        return status.f_bavail * status.f_frsize

    def exports(self, folder: str | None = None) -> list[StoredExport]:
        """All complete exports, newest first."""
        found: list[StoredExport] = []
        for path in self._export_folders(folder):
            try:
                export = self._read(path)
            except ManifestInvalid as error:
                logger.warning("left out of the listing: %s", error)
                continue
            if export is not None:
                found.append(export)
        return sorted(found, key=lambda export: (export.manifest.started, export.export_id), reverse=True)

    def damaged(self) -> list[str]:
        """``folder/export-id`` of every export whose manifest is there and cannot be read."""
        found: list[str] = []
        for path in self._export_folders(None):
            try:
                self._read(path)
            except ManifestInvalid:
                found.append(f"{path.parent.name}/{path.name}")
        return sorted(found)

    def marks(self) -> dict[tuple[str, str], str]:
        """For each complete export's folder and id its manifest's time, size and inode: it is never rewritten."""
        found: dict[tuple[str, str], str] = {}
        for path in self._export_folders(None):
            with translated("look at", path / FILE_NAME), suppress(FileNotFoundError):
                status = (path / FILE_NAME).stat(follow_symlinks=False)
                found[path.parent.name, path.name] = f"{status.st_mtime_ns}-{status.st_size}-{status.st_ino}"
        return found

    def stage(self, folder: str, export_id: str, owner: Owner) -> LocalStaging:
        """Begin an export; a context manager."""
        return LocalStaging(self._path(folder, export_id), owner)

    def abandoned(self, folder: str | None = None) -> list[AbandonedStaging]:
        """Every staged export that is there now, of live and dead runs alike."""
        found: list[AbandonedStaging] = []
        for parent in self._vm_folders(folder):
            for path in _folders_in(parent):
                export_id = path.name.removesuffix(PARTIAL)
                if path.name.endswith(PARTIAL) and is_export_id(export_id):
                    found.append(AbandonedStaging(folder=parent.name, export_id=export_id, owner=owner_of(path)))
        return found

    def remove_abandoned(self, staging: AbandonedStaging) -> None:
        """Remove a staged export; the caller has proved that its run is over."""
        path = partial(self._path(staging.folder, staging.export_id))
        with translated("remove", path), suppress(FileNotFoundError):
            remove_staging(path)
        remove_if_empty(path.parent)

    def sweep(self, folder: str | None = None) -> list[str]:
        """Remove what a crash left that bears no mark of an owner."""
        swept: list[str] = []
        with translated("sweep", self._root):
            sweep_root(self._root)
            for parent in self._vm_folders(folder):
                swept += [f"{parent.name}/{name}" for name in sweep_vm(parent)]
        return swept

    def open(self, export: StoredExport, name: str) -> AbstractContextManager[LocalReader]:
        """Open a stored file for reading, wherever its bytes lie."""
        return open_reader(*self._locate(export, name))

    def files(self, export: StoredExport) -> dict[str, int]:
        """Name and size of everything in the export's folder, whatever it is."""
        path = self._path(export.folder, export.export_id)
        with translated("list", path, missing=ExportNotFound), os.scandir(path) as entries:
            return {_told(entry.name): entry.stat(follow_symlinks=False).st_size for entry in entries}

    def checksum(self, export: StoredExport, name: str) -> None:
        """Nothing: a filesystem keeps no checksums that it would tell."""
        del export, name

    def delete(self, export: StoredExport) -> int:
        """Remove an export. One rename takes it out of every listing; what a crash then leaves, the next sweep ends."""
        path = self._path(export.folder, export.export_id)
        with translated("remove", path, missing=ExportNotFound), locked(path):
            there = self._read(path)
            if there is not None and there.manifest != export.manifest:
                raise StoreUnusable(f"{path} was changed since it was looked at", fix="Plan the cleanup again")
            freed = remove_tree(_taken_out(path))
        remove_if_empty(path.parent)
        return freed

    def replace_manifest(self, export: StoredExport, manifest: ExportManifest) -> StoredExport:
        """Write a changed manifest in one step."""
        if manifest.export_id != export.export_id:
            raise StoreUnusable(f"the manifest of {manifest.export_id} cannot replace that of {export}")
        path = self._path(export.folder, export.export_id)
        fresh = path / f".{FILE_NAME}.{secrets.token_hex(4)}"
        with translated("write", path / FILE_NAME, missing=ExportNotFound), locked(path):
            there = self._read(path)
            if there is None:
                raise ExportNotFound(f"{path} is no export any more")
            changed = rebased(export.manifest, manifest, there.manifest)
            try:
                write_new(fresh, changed.to_json())
                fresh.replace(path / FILE_NAME)
            finally:
                with suppress(FileNotFoundError):
                    fresh.unlink()
            sync_folder(path)
        return StoredExport(folder=export.folder, manifest=changed)

    def _path(self, folder: str, export_id: str) -> Path:
        if not is_vm_folder(folder) or not is_export_id(export_id):
            raise StoreUnusable(f"{folder}/{export_id} is not a name that an export may have")
        path = self._root / folder / export_id
        for link in (path, path.parent):
            if link.is_symlink():
                raise StoreUnusable(f"{link} is a symbolic link, and none is followed")
        return path

    def _vm_folders(self, folder: str | None) -> Iterator[Path]:
        if folder is None:
            yield from (path for path in _folders_in(self._root) if is_vm_folder(path.name))
        elif is_vm_folder(folder) and not (self._root / folder).is_symlink():
            yield self._root / folder

    def _export_folders(self, folder: str | None) -> Iterator[Path]:
        for parent in self._vm_folders(folder):
            yield from (path for path in _folders_in(parent) if is_export_id(path.name))

    def _read(self, path: Path) -> StoredExport | None:
        """Read an export's manifest; None for a folder that has none."""
        source = path / FILE_NAME
        with translated("read", source):
            try:
                data = read_at_most(source, LARGEST + 1)
            except FileNotFoundError:
                return None
            except NotRegular as error:
                raise ManifestInvalid(f"{source} cannot be read: {error.strerror}") from error
        manifest = ExportManifest.from_json(data, source=str(source))
        if manifest.export_id != path.name:
            raise ManifestInvalid(f"{source} is the manifest of another export, {manifest.export_id}")
        return StoredExport(folder=path.parent.name, manifest=manifest)

    def _locate(self, export: StoredExport, name: str) -> tuple[Path, int, int | None]:
        """Find the file that holds the bytes, where they begin in it, and how many they are (None: all)."""
        path = self._path(export.folder, export.export_id)
        entry = export.manifest.file(name)
        if entry is not None and entry.stored_in is not None:
            path = self._path(export.folder, entry.stored_in)
        if entry is not None and entry.member_of is not None:
            return path / checked_name(entry.member_of), entry.offset or 0, entry.size
        return path / checked_name(name), 0, None


def _told(name: str) -> str:
    """A file's name as text that every encoding takes: on Linux a name is bytes, and may be in none."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _taken_out(path: Path) -> Path:
    """Take an export out of every listing; returns where it is then.

    A filesystem may be so full that it takes no other name (those that write nothing in place do so). Then the
    manifest goes first; and the order of what follows is left to the filesystem.
    """
    gone = deleted(path)
    try:
        path.rename(gone)
    except OSError as error:
        if not is_full(error):
            raise
        (path / FILE_NAME).unlink()
        return path
    try:
        sync_folder(path.parent)
    except OSError as error:
        if not is_full(error):
            raise
    return gone


def _folders_in(path: Path) -> list[Path]:
    """The real folders in a folder, by name; none where the folder itself is not there (yet, or any more)."""
    with translated("list", path), suppress(FileNotFoundError), os.scandir(path) as entries:
        return sorted(Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False))
    return []
