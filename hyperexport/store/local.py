"""Exports in a folder of this machine's filesystem.

Only folders with the names that this tool gives are ever looked into, and no symbolic link is followed. This module
knows how exports are found, read and removed; how one comes to be is told in ``local_staging.py``.
"""

import hashlib
import logging
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import TypeVar

from hyperexport.errors import (
    USE_ANOTHER_EXPORT,
    ExportNotFound,
    HyperExportError,
    ManifestInvalid,
    StoreUnusable,
)
from hyperexport.model.damaged import DamagedExport, Problem
from hyperexport.model.manifest import FILE_NAME, LARGEST, ExportManifest, FileEntry, is_export_id, is_vm_folder
from hyperexport.model.marks import LARGEST as LARGEST_MARK
from hyperexport.model.marks import MARK_FILES, Mark, marked
from hyperexport.model.ownership import Owner
from hyperexport.store.base import RECORD_LARGEST, AbandonedStaging, Record, RecordName, StoredExport, record_names
from hyperexport.store.filesystem import (
    PROBE,
    NotRegular,
    checked_name,
    held,
    is_full,
    locked,
    nearest_folder,
    read_at_most,
    remove_if_empty,
    remove_tree,
    sync_folder,
    translated,
    write_nameless,
    write_new,
)
from hyperexport.store.listing import StoreListing, attempting, damaged_by, done_of, listing_of
from hyperexport.store.local_reader import LocalReader, open_reader
from hyperexport.store.local_staging import PARTIAL, LocalStaging, deleted, partial, remove_staging, tag_of
from hyperexport.store.local_sweep import sweep_root, sweep_vm

logger = logging.getLogger(__name__)

T = TypeVar("T")


class LocalStore:
    """A folder of exports; see :class:`hyperexport.store.base.Store` for what each method promises.

    Args:
        root: It need not exist yet.
    """

    def __init__(self, root: Path) -> None:
        self._root = root.absolute()
        self.url = str(self._root)
        self.refers = False
        self._setbacks: dict[str, None] = {}

    def check(self) -> None:
        """Prove that an export can be written here, or could be once the folder is made."""
        folder = nearest_folder(self._root)
        probe = folder / f"{PROBE}{secrets.token_hex(4)}"
        where = f"write to {folder} to store exports in" if folder != self._root else "write into"
        with translated(where, self._root):
            try:
                write_new(probe, b"hyperexport\n")
                with suppress(FileNotFoundError):  # swept up by a run beside this one, which is as good: it was written
                    read_at_most(probe, 100)
            finally:
                with suppress(FileNotFoundError, NotADirectoryError):
                    probe.unlink()

    def check_unseen(self) -> None:
        """Prove the same with a file that never has a name."""
        folder = nearest_folder(self._root)
        with translated(f"write to {folder} to store exports in" if folder != self._root else "write into", self._root):
            write_nameless(folder, bytes(4096))

    def free_bytes(self) -> int:
        """Bytes that this user may still write to the filesystem."""
        with translated("look at", self._root):
            status = os.statvfs(nearest_folder(self._root))
        return status.f_bavail * status.f_frsize

    def server_time(self) -> None:
        """Nothing: a filesystem keeps this machine's time."""

    def folders(self) -> list[str]:
        """The names of all folders that have the form of a VM's."""
        return [path.name for path in self._vm_folders(None)]

    def exports(self, folder: str | None = None) -> list[StoredExport]:
        """The proved exports, newest first."""
        return list(self.listing(folder).exports)

    def listing(self, folder: str | None = None) -> StoreListing:
        """The proved exports, and what cannot be relied on."""
        places, damaged = self._places(folder)
        exports: list[StoredExport] = []
        records: list[RecordName] = []
        for path in places:
            found = self._read_or_reason(path)
            if isinstance(found, StoredExport):
                exports.append(found)
                records += [RecordName(path.parent.name, path.name, name) for name in _record_names(path)]
            elif found is not None:
                damaged.append(found)
        listing = listing_of(exports, damaged, records, same_file=self.same_file)
        for one in listing.damaged:
            logger.warning("left out of the listing of %s: %s", self.url, one.words)
        return listing

    def read(self, folder: str, export_id: str) -> StoredExport | DamagedExport | None:
        """One export as it is now."""
        return self._read_or_reason(self._path(folder, export_id))

    def manifest_versions(self) -> dict[tuple[str, str], str]:
        """For each export's folder and id the hash of its manifest; for what is damaged, why."""
        places, damaged = self._places(None)
        found = {(one.folder, one.export_id): str(one.problem) for one in damaged}
        for path in places:
            try:
                mark = hashlib.sha256(read_at_most(path / FILE_NAME, LARGEST + 1)).hexdigest()
                marks = (f"{name}:{hashlib.sha256(data or b'').hexdigest()}" for name, data in _marks_in(path).items())
                mark = " ".join((mark, *marks, *_record_names(path)))
            except FileNotFoundError:
                mark = str(Problem.MISSING)
            except OSError as error:
                mark = f"{Problem.UNREADABLE} {error.errno}"
            found[path.parent.name, path.name] = mark
        return found

    def stage(self, folder: str, export_id: str, owner: Owner) -> LocalStaging:
        """Begin an export; a context manager."""
        return LocalStaging(self._path(folder, export_id), owner)

    def abandoned(self, folder: str | None = None) -> list[AbandonedStaging]:
        """Every staged export that is there now, of live and dead runs alike."""

        def staged(parent: Path) -> list[AbandonedStaging]:
            paths = [path for path in _folders_in(parent) if path.name.endswith(PARTIAL)]
            ids = [(path, path.name.removesuffix(PARTIAL)) for path in paths]
            return [
                AbandonedStaging(folder=parent.name, export_id=export_id, owner=owner, doubt=doubt)
                for path, export_id in ids
                if is_export_id(export_id)
                for owner, doubt in [tag_of(path)]
            ]

        done, failed = self._in_each_vm(folder, staged)
        for one in failed:
            self._note_warning(f"incomplete exports are not removed yet: {one.words}")
        return [staging for stagings in done for staging in stagings]

    def remove_abandoned(self, staging: AbandonedStaging) -> None:
        """Remove a staged export; the caller has proved that its run is over."""
        path = partial(self._path(staging.folder, staging.export_id))
        with translated("remove", path), suppress(FileNotFoundError):
            remove_staging(path)
        remove_if_empty(path.parent)

    def sweep(self, folder: str | None = None) -> list[str]:
        """Remove what a crash left that has no mark of an owner."""
        with translated("sweep", self._root):
            kept = sweep_root(self._root)

        def sweep_one(parent: Path) -> list[str]:
            with translated("sweep", parent):
                swept, kept_there = sweep_vm(parent)
            kept.extend(kept_there)
            return [f"{parent.name}/{name}" for name in swept]

        done, failed = self._in_each_vm(folder, sweep_one)
        for one in failed:
            self._note_warning(f"not swept: {one.words}")
        for path, error in kept:
            self._note_warning(f"remains of a crashed run could not be removed: {path}: {error.strerror or error}")
        return [name for names in done for name in names]

    def warnings(self) -> list[str]:
        """What could not be looked at or removed since this store was opened, and failed no call."""
        return list(self._setbacks)

    def _note_warning(self, words: str) -> None:
        if words not in self._setbacks:
            logger.warning("%s: %s", self.url, words)
        self._setbacks[words] = None

    def asking_once(self) -> AbstractContextManager[None]:
        """Nothing: a filesystem answers at once."""
        return nullcontext()

    def open(self, export: StoredExport, name: str) -> AbstractContextManager[LocalReader]:
        """Open a stored file for reading, wherever its bytes lie."""
        return open_reader(*self._locate(export, name))

    def files(self, export: StoredExport) -> dict[str, int]:
        """Name and size of everything in the export's folder, whatever it is."""
        path = self._path(export.folder, export.export_id)
        with translated("list", path, missing=ExportNotFound), os.scandir(path) as entries:
            return {_shown_name(entry.name): entry.stat(follow_symlinks=False).st_size for entry in entries}

    def checksum(self, export: StoredExport, name: str) -> None:
        """Nothing: a filesystem keeps no checksums that it would tell."""
        del export, name

    def delete(self, export: StoredExport) -> int:
        """Remove an export. One rename takes it out of every listing; what a crash then leaves, the next sweep ends."""
        path = self._path(export.folder, export.export_id)
        with translated("remove", path, missing=ExportNotFound), locked(path):
            there = self._read(path)
            if there is not None and there != export.by_its_own_marks():
                raise StoreUnusable(f"{path} has changed since the cleanup was planned", fix="Plan the cleanup again")
            freed = remove_tree(_taken_out(path))
        remove_if_empty(path.parent)
        return freed

    def same_file(self, folder: str, export_id: str, name: str) -> str | None:
        """The inode: hard links are names of one file, and a copy of a store made without them has several."""
        try:
            status = os.lstat(self._path(folder, export_id) / checked_name(name))
        except OSError:
            return None
        return f"{status.st_dev}-{status.st_ino}"

    def write_mark(self, export: StoredExport, mark: Mark) -> StoredExport:
        """Write a mark beside an export."""
        return self._write_beside(export, mark.file_name, mark.to_json())

    def keep_record(self, export: StoredExport, name: str, data: bytes) -> None:
        """Write a small file beside an export's own."""
        self._write_beside(export, name, data)

    def _write_beside(self, export: StoredExport, name: str, data: bytes) -> StoredExport:
        path = self._path(export.folder, export.export_id)
        fresh = path / f".{checked_name(name)}.{secrets.token_hex(4)}"
        with translated("write", path / name, missing=ExportNotFound), locked(path):
            if self._read(path) is None:
                raise ExportNotFound(f"{path} is no longer an export")
            try:
                write_new(fresh, data)
                fresh.replace(path / name)
            finally:
                with suppress(FileNotFoundError):
                    fresh.unlink()
            sync_folder(path)
            there = self._read(path)
        if there is None:
            raise ExportNotFound(f"{path} is no longer an export")
        return there

    def records(self, listing: StoreListing) -> list[Record]:
        """Read the records that a listing found."""
        found: list[Record] = []
        for place in listing.records:
            path = self._path(place.folder, place.export_id) / place.name
            try:
                found.append(Record(place, read_at_most(path, RECORD_LARGEST + 1)))
            except OSError as error:
                logger.warning("%s cannot be read: %s", path, error.strerror)
        return found

    def _path(self, folder: str, export_id: str) -> Path:
        if not is_vm_folder(folder) or not is_export_id(export_id):
            raise StoreUnusable(f"{folder}/{export_id} is not a valid export name")
        path = self._root / folder / export_id
        for link in (path, path.parent):
            with translated("look at", link):
                linked = link.is_symlink()
            if linked:
                raise StoreUnusable(f"{link} is a symbolic link, and symbolic links are not followed")
        return path

    def _in_each_vm(self, folder: str | None, work: Callable[[Path], T]) -> tuple[list[T], list[DamagedExport]]:
        """Do the same in each VM's folder, or in one; where it fails in some of them, that is said of these."""
        folders = list(self._vm_folders(folder))
        if folder is not None:
            return [work(path) for path in folders], []
        outcomes = [attempting(work)(path) for path in folders]
        done, failed = done_of([path.name for path in folders], outcomes)
        return [outcome for _, outcome in done], failed

    def _vm_folders(self, folder: str | None) -> Iterator[Path]:
        if folder is None:
            yield from (path for path in _folders_in(self._root) if is_vm_folder(path.name))
        elif is_vm_folder(folder):
            with translated("look at", self._root / folder):
                linked = (self._root / folder).is_symlink()
            if not linked:
                yield self._root / folder

    def _places(self, folder: str | None) -> tuple[list[Path], list[DamagedExport]]:
        """The folders of exports; and what has such a folder's name and is none, or cannot be listed."""
        done, damaged = self._in_each_vm(folder, _exports_in)
        damaged += [DamagedExport(folder=name, problem=Problem.LINK, reason=why) for name, why in self._no_vms(folder)]
        for parent, _, strangers in done:
            damaged += [
                DamagedExport(folder=parent, export_id=name, problem=Problem.LINK, reason=why)
                for name, why in strangers
            ]
        return [path for _, paths, _ in done for path in paths], damaged

    def _no_vms(self, folder: str | None) -> list[tuple[str, str]]:
        """What has the name of a VM's folder and is none."""
        return [(name, why) for name, why in _strangers_in(self._root, is_vm_folder) if folder in (None, name)]

    def _read_or_reason(self, path: Path) -> StoredExport | DamagedExport | None:
        """An export, or why it cannot be relied on; None where its folder is gone."""
        try:
            return self._read(path) or self._without_manifest(path)
        except HyperExportError as error:
            return damaged_by(error, path.parent.name, path.name)

    def _without_manifest(self, path: Path) -> StoredExport | DamagedExport | None:
        """Look again at a folder without a manifest, once nobody is about to delete it: see :func:`_taken_out`."""
        with translated("read", path), held(path, wait=True) as there:
            if not there:
                return None
            return self._read(path) or DamagedExport(
                folder=path.parent.name,
                export_id=path.name,
                problem=Problem.MISSING,
                reason=f"its manifest {FILE_NAME} is missing; nothing else in the folder is touched",
            )

    def _read(self, path: Path) -> StoredExport | None:
        """Read an export's manifest; None for a folder that has none."""
        source = path / FILE_NAME
        with translated("read", source):
            try:
                data = read_at_most(source, LARGEST + 1)
            except FileNotFoundError:
                return None
            except NotRegular as error:
                raise _no_file(source, error) from error
        published = ExportManifest.of_export(data, path.name, source=str(source))
        manifest, unproved, verification = marked(published, _marks_in(path))
        return StoredExport(
            folder=path.parent.name, manifest=manifest, unproved_marks=unproved, verification=verification
        )

    def _locate(self, export: StoredExport, name: str) -> tuple[Path, int, int | None]:
        """Find the file that holds the bytes, where they begin in it, and how many they are (None: all)."""
        path = self._path(export.folder, export.export_id)
        entry = export.manifest.file(name)
        if entry is not None and entry.stored_in is not None:
            path = self._path(export.folder, entry.stored_in)
            entry = self._holding(path, export, entry)
            name = entry.name
        if entry is not None and entry.member_of is not None:
            return path / checked_name(entry.member_of), entry.offset or 0, entry.size
        return path / checked_name(name), 0, None

    def _holding(self, path: Path, export: StoredExport, entry: FileEntry) -> FileEntry:
        """A file's entry in the export that holds its bytes, which a proved manifest has to say."""
        try:
            holder = self._read(path)
        except ManifestInvalid as error:
            raise ExportNotFound(
                f"{export}: {entry.name} is stored in {entry.stored_in}: {error.reason}", fix=USE_ANOTHER_EXPORT
            ) from error
        found = holder.manifest.holding(entry) if holder else None
        if found is None:
            raise ExportNotFound(
                f"{export}: the bytes of {entry.name} should be in {entry.stored_in}, and are not",
                fix=USE_ANOTHER_EXPORT,
            )
        return found


def _marks_in(path: Path) -> dict[str, bytes | None]:
    """The marks in an export's folder, by file name; None for one that cannot be read."""
    found: dict[str, bytes | None] = {}
    for name in MARK_FILES:
        try:
            found[name] = read_at_most(path / name, LARGEST_MARK + 1)
        except FileNotFoundError:
            continue
        except OSError as error:
            logger.warning("%s cannot be read: %s", path / name, error.strerror)
            found[name] = None
    return found


def _record_names(path: Path) -> list[str]:
    """The records in an export's folder; none where it was deleted meanwhile, or cannot be listed."""
    try:
        return record_names(each.name for each in path.iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        logger.warning("records in %s could not be listed: %s", path, error.strerror)
        return []


def _no_file(source: Path, error: NotRegular) -> ManifestInvalid:
    invalid = ManifestInvalid(f"{source} cannot be read: {error.strerror}")
    invalid.problem, invalid.reason = Problem.INVALID, f"its manifest cannot be read: {error.strerror}"
    return invalid


def _exports_in(parent: Path) -> tuple[str, list[Path], list[tuple[str, str]]]:
    """A VM folder's name, the folders of its exports, and what has such a name and is none, each with the reason."""
    paths = [path for path in _folders_in(parent) if is_export_id(path.name)]
    return parent.name, paths, _strangers_in(parent, is_export_id)


def _strangers_in(path: Path, is_ours: Callable[[str], bool]) -> list[tuple[str, str]]:
    """What has the name of a folder of ours and is none, and what it is instead."""
    with translated("list", path), suppress(FileNotFoundError), os.scandir(path) as entries:
        return sorted(
            (entry.name, _LINKED if entry.is_symlink() else _NO_FOLDER)
            for entry in entries
            if is_ours(entry.name) and not entry.is_dir(follow_symlinks=False)
        )
    return []


_LINKED = "the folder is a symbolic link, which is not followed"
_NO_FOLDER = "a file has the folder's name"


def _shown_name(name: str) -> str:
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
