"""Exports in an S3 bucket, laid out as they are in a folder: ``<prefix>/<vm folder>/<export-id>/<file>``.

An unchanged file is not stored again but referred to (``stored_in``). What lies in the bucket is read by
``s3_catalog.py``. This module writes, deletes and opens exports; the other s3_* modules move the bytes.
"""

import logging
import secrets
import threading
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime
from typing import Final

from hyperexport.base.stop import StopSignal
from hyperexport.errors import USE_ANOTHER_EXPORT, ExportNotFound, HyperExportError, ManifestInvalid, StoreUnusable
from hyperexport.model.damaged import DamagedExport, Problem
from hyperexport.model.manifest import FILE_NAME, ExportManifest, FileEntry
from hyperexport.model.marks import Mark
from hyperexport.model.ownership import Owner
from hyperexport.store.base import AbandonedStaging, RangeReader, Staging, StoredExport
from hyperexport.store.s3_bucket import ObjectFacts, S3Bucket
from hyperexport.store.s3_catalog import S3Catalog
from hyperexport.store.s3_parts import PartSender, Throttle
from hyperexport.store.s3_protection import PROBE_NAME, PROBES, Protection, drop_probes, find_protection
from hyperexport.store.s3_reader import S3Reader
from hyperexport.store.s3_settings import S3Location, S3Settings
from hyperexport.store.s3_staging import DELETED_FILE, S3Staging, is_mark, remove_tree

__all__ = ["S3Location", "S3Settings", "S3Store"]

logger = logging.getLogger(__name__)

_GIVEN_UP: Final = b"given up"
"""What :data:`DELETED_FILE` holds where its deletion was refused, and so was that of the file itself."""


class S3Store(S3Catalog):
    """A :class:`hyperexport.store.base.Store` in a bucket.

    Args:
        location: The bucket and prefix.
        settings: How to reach and log in to the service.
        throttle: The run's budget of bytes, charged for every byte of a file, both ways; None for no limit.
        stop: Ends what is under way.

    Raises:
        StoreUnusable: The settings contradict themselves or name a profile that is not there.
    """

    def __init__(
        self, location: S3Location, settings: S3Settings, *, throttle: Throttle | None = None, stop: StopSignal
    ) -> None:
        super().__init__(location, S3Bucket(location, settings, stop))
        self.refers = True
        self._throttle = throttle
        self._stop = stop
        self._lock = threading.Lock()
        self._protection: Protection | None = None
        self._asked: dict[str, ObjectFacts | None] | None = None

    # -- the place ---------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Prove, by writing and removing a probe, that an export can be kept here.

        Raises:
            StoreUnusable: It can't, and repeating won't help.
            StoreUnreachable: It did not answer.
        """
        # A run beside takes a probe that it sees for a dead one's, and removes it.
        if not any(self._gives_back() for _ in range(PROBES)):
            raise StoreUnusable(f"{self.url} does not return what was written to it")
        self._bucket.folders(self._location.key(""))
        self._protected()

    def check_unseen(self) -> None:
        """Prove that uploads are taken, with some that are never completed: no object and no version comes of them.

        Raises:
            StoreUnusable: They aren't, and repeating won't help.
            StoreUnreachable: It did not answer.
        """
        self._bucket.folders(self._location.key(""))
        find_protection(self._bucket, drop=False)

    def _gives_back(self) -> bool:
        probe = self._location.key(f"{PROBE_NAME}-{secrets.token_hex(4)}")
        self._bucket.replace(probe, b"probe")
        read = self._bucket.read(probe, limit=len(b"probe"))
        self._bucket.delete(probe)
        return read == b"probe"

    def free_bytes(self) -> int | None:
        """None: a bucket has no end."""
        return None

    def server_time(self) -> datetime | None:
        """The service's time, from the Date header of an answer."""
        return self._bucket.server_time()

    # -- writing -----------------------------------------------------------------------------------------------------

    @contextmanager
    def stage(self, folder: str, export_id: str, owner: Owner) -> Generator[Staging]:
        """Begin an export. Leaving the block without publishing discards it.

        Raises:
            StoreUnusable: The place is taken, or the store refuses.
            StoreUnreachable: No answer.
        """
        protection = self._protected()
        staging = S3Staging(
            self._bucket,
            folder,
            export_id,
            owner=owner,
            protection=protection,
            new_sender=lambda: PartSender(self._bucket, protection, throttle=self._throttle, stop=self._stop),
            refer=self._refer,
        )
        staging.create_owner_tag()
        try:
            yield staging
        finally:
            staging.discard()

    def remove_abandoned(self, staging: AbandonedStaging) -> None:
        """Remove one of :meth:`abandoned`; what was published in the meantime stays."""
        prefix = self._location.key(staging.folder, staging.export_id, "")
        if self._bucket.head(prefix + FILE_NAME) is not None:
            logger.warning("%s was published in the meantime; not removed", self._bucket.url(prefix))
            return
        freed = remove_tree(self._bucket, prefix)
        logger.info("removed the abandoned %s (%d bytes)", self._bucket.url(prefix), freed)

    def sweep(self, folder: str | None = None) -> list[str]:
        """Remove what a crash left that has no mark of an owner: the rest of a deletion, and marks without use.

        Raises:
            StoreUnusable, StoreUnreachable: Something could not be listed or removed.
        """
        drop_probes(self._bucket)
        swept: list[str] = []
        places, failed = self._scan(folder)
        for one in failed:
            self._bucket.note_warning(f"not swept: {one.words}")
        for (name, export_id), files in places.items():
            prefix = self._location.key(name, export_id, "")
            marks = {file for file in files if is_mark(file)} if FILE_NAME in files else files.keys() & {DELETED_FILE}
            try:
                if marks and FILE_NAME not in files:
                    remove_tree(self._bucket, prefix)
                for mark in marks if FILE_NAME in files else ():
                    self._bucket.delete(prefix + mark)
            except StoreUnusable as error:  # locked, perhaps for years: no reason to fail a run for
                self._bucket.note_warning(f"remains of the deleted {name}/{export_id} could not be removed: {error}")
            else:
                swept += [f"{name}/{export_id}"] if marks else []
        return swept

    def delete(self, export: StoredExport) -> int:
        """Remove an export: its manifest first, then the rest. Whether others refer to it is the policy's question.

        Returns:
            The bytes freed.

        Raises:
            StoreUnusable, StoreUnreachable: Something remains; it is no longer listed, but found by :meth:`abandoned`.
            StoreUnusable: Its manifest is not the one that was looked at, or not proved; everything remains.
        """
        # Should we not come to its end. And whoever writes a mark from now on sees it; an earlier mark is seen below.
        self._bucket.replace(self._key(export, DELETED_FILE), b"")
        try:
            there = self.read(export.folder, export.export_id)
            if isinstance(there, DamagedExport) and there.problem is not Problem.MISSING:
                raise StoreUnusable(f"{there.words}; it is not deleted", fix=there.remedy)
            if isinstance(there, StoredExport) and there != export.by_its_own_marks():
                raise StoreUnusable(f"{export} has changed since the cleanup was planned", fix="Plan the cleanup again")
            freed = remove_tree(self._bucket, self._key(export, ""), first=self._key(export, FILE_NAME))
        except StoreUnusable:
            self._give_up_deletion(export)
            raise
        logger.info("deleted %s (%d bytes)", export, freed)
        return freed

    def _give_up_deletion(self, export: StoredExport) -> None:
        """Take back that a deletion has begun, if the export is still whole."""
        mark = self._key(export, DELETED_FILE)
        try:
            if self._bucket.head(self._key(export, FILE_NAME)) is None:
                return
            try:
                self._bucket.delete(mark)
            except StoreUnusable:  # a bucket from which nothing may be deleted
                self._bucket.replace(mark, _GIVEN_UP)
        except HyperExportError as error:
            self._bucket.note_warning(f"{self._bucket.url(mark)} says that a deletion has begun, and stays: {error}")

    def write_mark(self, export: StoredExport, mark: Mark) -> StoredExport:
        """Write a mark beside an export, over the last of its kind.

        Raises:
            ManifestInvalid: The export's manifest is not proved; nothing was written.
            ExportNotFound: The export was deleted in the meantime; nothing of the mark stays.
            StoreUnusable, StoreUnreachable: It could not be written, or a deletion of the export has begun.
        """
        place = (export.folder, export.export_id)
        if self._manifest(place) is not None:
            self.keep_record(export, mark.file_name, mark.to_json())
            there = self._manifest(place)
            if there is not None:
                return self._with_marks(place, there, self._names(place))
        raise ExportNotFound(f"{export} is not in {self.url} any more")

    def warnings(self) -> list[str]:
        """What could not be looked at or removed since this store was opened, and failed no call."""
        return list(self._bucket.warnings)

    def keep_record(self, export: StoredExport, name: str, data: bytes) -> None:
        """Write a small file beside an export's own.

        Raises:
            ExportNotFound: The export was deleted in the meantime; nothing of the file stays.
            StoreUnusable, StoreUnreachable: It could not be written, or a deletion of the export has begun.
        """
        manifest, key = self._key(export, FILE_NAME), self._key(export, name)
        begun = self._key(export, DELETED_FILE)
        if self._bucket.head(manifest) is not None:
            self._bucket.replace(key, data)
            deleting = self._bucket.read(begun, limit=len(_GIVEN_UP)) == b""
            if self._bucket.head(manifest) is not None:
                if deleting:
                    raise StoreUnusable(
                        f"a deletion of {export} has begun, so {name} may be deleted with it",
                        fix="Try again; if it stays so, run a cleanup, which ends the deletion or takes it back",
                    )
                return
            self._bucket.delete(key)
        raise ExportNotFound(f"{export} is not in {self.url} any more")

    # -- reading -----------------------------------------------------------------------------------------------------

    @contextmanager
    def asking_once(self) -> Generator[None]:
        """Within the block, ask the server only once about each stored file, however many exports share it."""
        self._asked = {}
        try:
            yield
        finally:
            self._asked = None

    def _facts(self, key: str) -> ObjectFacts | None:
        if self._asked is None:
            return self._bucket.head(key)
        if key not in self._asked:
            self._asked[key] = self._bucket.head(key)
        return self._asked[key]

    def open(self, export: StoredExport, name: str) -> AbstractContextManager[RangeReader]:
        """Open a stored file for reading, wherever its bytes are.

        Raises:
            ExportNotFound: The manifest has no such file, or the bytes are gone.
        """
        holder, entry = self._holder(export, self._entry(export, name))
        key = self._key(holder, entry.member_of or entry.name)
        facts = self._facts(key)
        if facts is None:
            raise ExportNotFound(f"{self._bucket.url(key)} does not exist", fix=USE_ANOTHER_EXPORT)
        start = entry.offset or 0 if entry.member_of else 0
        # Of a whole object as much as there is: verify has to see one that has grown or shrunk.
        size = entry.size if entry.member_of else facts.size
        return S3Reader(
            self._bucket,
            key,
            etag=facts.etag,
            start=start,
            size=size,
            whole=entry.member_of is None,
            stop=self._stop,
            throttle=self._throttle,
        )

    def files(self, export: StoredExport) -> dict[str, int]:
        """Name and size of every object under the export's key.

        Raises:
            StoreUnusable, StoreUnreachable: The listing failed; there is no telling what is there.
        """
        prefix = self._key(export, "")
        return {key.removeprefix(prefix): size for key, size in self._bucket.objects(prefix)}

    def checksum(self, export: StoredExport, name: str) -> str | None:
        """What the server keeps of the object, as ``algorithm:value``; None for a member of an OVA.

        Raises:
            ExportNotFound: The manifest has no such file, or the bytes are gone.
        """
        holder, entry = self._holder(export, self._entry(export, name))
        if entry.member_of is not None:
            return None
        facts = self._facts(self._key(holder, entry.name))
        if facts is None:
            raise ExportNotFound(
                f"{self._bucket.url(self._key(holder, entry.name))} does not exist", fix=USE_ANOTHER_EXPORT
            )
        return facts.checksum

    # -- within ------------------------------------------------------------------------------------------------------

    def _protected(self) -> Protection:
        with self._lock:
            if self._protection is None:
                self._protection = find_protection(self._bucket)
            return self._protection

    def _entry(self, export: StoredExport, name: str) -> FileEntry:
        entry = export.manifest.file(name)
        if entry is None:
            raise ExportNotFound(f"{export} has no file {name}")
        return entry

    def _holder(self, export: StoredExport, entry: FileEntry) -> tuple[StoredExport, FileEntry]:
        """The export that really holds a file's bytes, and its entry there, found by content: names may differ."""
        if entry.stored_in is None:
            return export, entry
        problem = ""
        try:
            manifest = self._known_manifest((export.folder, entry.stored_in))
        except ManifestInvalid as error:
            manifest, problem = None, f": {error.reason}"
        held = manifest.holding(entry) if manifest else None
        if manifest and held:
            return StoredExport(folder=export.folder, manifest=manifest), held
        raise ExportNotFound(
            f"{export}: the bytes of {entry.name} should be in {entry.stored_in}, and are not{problem}",
            fix=USE_ANOTHER_EXPORT,
        )

    def _refer(self, base: StoredExport, entry: FileEntry) -> FileEntry | None:
        """The entry to use for a file whose bytes an earlier export holds, once that is proved."""
        try:
            holder, held = self._holder(base, entry)
        except ExportNotFound as error:
            logger.warning("cannot be reused: %s", error)
            return None
        facts = self._bucket.head(self._key(holder, held.member_of or held.name))
        if facts is None or not _is_as_recorded(facts, held, holder.manifest):
            logger.warning("cannot be reused: %s in %s has changed since it was written", held.name, holder)
            return None
        place = held.written_as or f"{holder.export_id}/{held.member_of or held.name}"
        refers = {"stored_in": holder.export_id, "written_as": place, "member_of": None, "offset": None}
        return entry.model_copy(update=refers)


def _is_as_recorded(facts: ObjectFacts, held: FileEntry, manifest: ExportManifest) -> bool:
    stored = manifest.file(held.member_of) if held.member_of else held
    if stored is None or facts.size != stored.size or stored.etag not in {None, facts.etag}:
        return False
    recorded, now = ((checksum or "").partition(":") for checksum in (stored.checksum, facts.checksum))
    return recorded[0] != now[0] or recorded == now  # a server may keep another algorithm's since
