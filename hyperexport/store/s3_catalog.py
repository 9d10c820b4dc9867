"""What lies in a bucket: the exports with their manifests and marks, what is staged, and whose it is.

The layout is that of a folder: ``<prefix>/<vm folder>/<export-id>/<file>``. An export is what has a manifest; a staged
one has none, and an owner tag. Nothing is written here.
"""

import logging
import re
from collections.abc import Collection, Mapping
from typing import Final

from hyperexport.errors import HyperExportError, Interrupted, StoreUnusable
from hyperexport.model.damaged import DamagedExport, Problem
from hyperexport.model.manifest import FILE_NAME, LARGEST, ExportManifest, is_export_id
from hyperexport.model.marks import LARGEST as LARGEST_MARK
from hyperexport.model.marks import MARK_FILES, marked
from hyperexport.model.ownership import Owner
from hyperexport.store.at_once import at_once
from hyperexport.store.base import RECORD_LARGEST, AbandonedStaging, Record, RecordName, StoredExport, record_names
from hyperexport.store.listing import StoreListing, attempting, damaged_by, done_of, listing_of
from hyperexport.store.s3_bucket import S3Bucket
from hyperexport.store.s3_settings import S3Location
from hyperexport.store.s3_staging import DELETED_FILE, OWNER_FILE

logger = logging.getLogger(__name__)

_VM_FOLDER: Final = re.compile(r".+\.[0-9a-f]{8}")
_OWNER_LARGEST: Final = 64 * 1024
_MARKS: Final = frozenset({OWNER_FILE, DELETED_FILE})

_MOST_KNOWN: Final = 256
"""Manifests that are kept in memory at the most."""


class S3Catalog:
    """The exports of a bucket, read.

    Args:
        location: The bucket and prefix.
        bucket: Its requests.
    """

    def __init__(self, location: S3Location, bucket: S3Bucket) -> None:
        self.url = str(location)
        self._location = location
        self._bucket = bucket
        self._known: dict[tuple[str, str], tuple[str | None, ExportManifest]] = {}
        """Proved manifests that were read, with their ETags: one is written once, so none is downloaded twice."""

    def folders(self) -> list[str]:
        """The names of all folders that have the form of a VM's."""
        return self._folders(None)

    def exports(self, folder: str | None = None) -> list[StoredExport]:
        """The proved exports (of one VM's folder, or of all), newest first.

        Raises:
            StoreUnusable, StoreUnreachable: The listing failed; there is no telling what is there.
        """
        return list(self.listing(folder).exports)

    def listing(self, folder: str | None = None) -> StoreListing:
        """The proved exports, and what cannot be relied on.

        Raises:
            StoreUnusable, StoreUnreachable: The listing failed; there is no telling what is there.
        """
        listing = self._look(folder)
        if any(one.problem is Problem.BYTES for one in listing.damaged):
            # A cleanup beside may have removed an export and then the one that it used, between two of our requests.
            listing = self._look(folder)
        for one in listing.damaged:
            logger.warning("left out of the listing of %s: %s", self.url, one.words)
        return listing

    def read(self, folder: str, export_id: str) -> StoredExport | DamagedExport | None:
        """One export as it is now.

        Raises:
            StoreUnreachable: The store does not answer.
        """
        return self._read_or_reason((folder, export_id))

    def manifest_versions(self) -> dict[tuple[str, str], str]:
        """For each export's folder and id the ETag of its manifest; for what is damaged, why."""

        def tags(name: str) -> list[tuple[str, str]]:
            prefix = self._location.key(name, "")
            return [(key.removeprefix(prefix), etag) for key, etag in self._bucket.etags(prefix)]

        folders = self._folders(None)
        done, failed = done_of(folders, at_once(attempting(tags), folders))
        found = {(one.folder, ""): str(one.problem) for one in failed}
        for name, listed in done:
            marks: dict[str, dict[str, str]] = {}
            for file, etag in listed:
                export_id, _, rest = file.partition("/")
                if rest and is_export_id(export_id):
                    marks.setdefault(export_id, {})[rest] = etag
            for export_id, files in marks.items():
                if _is_export(files.keys()):
                    mark = files.get(FILE_NAME, str(Problem.MISSING))
                    marked_by = (f"{file}:{files[file]}" for file in MARK_FILES if file in files)
                    found[name, export_id] = " ".join((mark, *marked_by, *record_names(files)))
        return found

    def abandoned(self, folder: str | None = None) -> list[AbandonedStaging]:
        """Staged exports and unfinished uploads that are there now, of live and dead runs alike."""
        places, failed = self._scan(folder)
        staged = [place for place, files in places.items() if not _is_export(files)]
        for name in self._folders(folder):
            prefix = self._location.key(name, "")
            for upload in self._bucket.unfinished_uploads(prefix):
                export_id, _, _ = upload.key.removeprefix(prefix).partition("/")
                if is_export_id(export_id) and FILE_NAME not in places.get((name, export_id), ()):
                    staged.append((name, export_id))
        for one in failed:
            self._bucket.note_warning(f"incomplete exports are not removed yet: {one.words}")
        staged = list(dict.fromkeys(staged))
        return [
            AbandonedStaging(folder=name, export_id=export_id, owner=owner, doubt=doubt)
            for (name, export_id), (owner, doubt) in zip(staged, at_once(self._tag_of, staged), strict=True)
        ]

    def records(self, listing: StoreListing) -> list[Record]:
        """Read the records that a listing found."""
        return [one for one in at_once(self._record, listing.records) if one]

    def _record(self, place: RecordName) -> Record | None:
        try:
            data = self._bucket.read(self._location.key(*place), limit=RECORD_LARGEST)
        except StoreUnusable as error:
            logger.warning("a record cannot be read: %s", error)
            return None
        return None if data is None else Record(place, data)

    # -- within ------------------------------------------------------------------------------------------------------

    def _key(self, export: StoredExport, name: str) -> str:
        return self._location.key(export.folder, export.export_id, name)

    def _folders(self, folder: str | None) -> list[str]:
        if folder is not None:
            return [folder]
        root = self._location.key("") if self._location.prefix else ""
        return [name for name in self._bucket.folders(root) if _VM_FOLDER.fullmatch(name)]

    def _scan(self, folder: str | None) -> tuple[dict[tuple[str, str], dict[str, str]], list[DamagedExport]]:
        """Which files lie where: (folder, export id) -> name -> ETag; and the folders that could not be listed.

        Raises:
            StoreUnusable, StoreUnreachable: None could be listed, or not the one that was asked for.
        """
        places: dict[tuple[str, str], dict[str, str]] = {}

        def keys(name: str) -> list[tuple[str, str]]:
            return list(self._bucket.etags(self._location.key(name, "")))

        folders = self._folders(folder)
        done, failed = done_of(folders, at_once(attempting(keys), folders))
        for name, found in done:
            for key, etag in found:
                export_id, _, file = key.removeprefix(self._location.key(name, "")).partition("/")
                if file and is_export_id(export_id):
                    places.setdefault((name, export_id), {})[file] = etag
        return places, failed

    def _look(self, folder: str | None) -> StoreListing:
        scanned, damaged = self._scan(folder)
        places = [place for place, files in scanned.items() if _is_export(files)]
        found = at_once(lambda place: self._read_or_reason(place, scanned[place]), places)
        damaged += [one for one in found if isinstance(one, DamagedExport)]
        records = (RecordName(*place, name) for place in places for name in record_names(scanned[place]))
        proved = (one for one in found if isinstance(one, StoredExport))
        return listing_of(proved, damaged, records, same_file=self.same_file)

    def same_file(self, folder: str, export_id: str, name: str) -> str:
        """The object's key: each has one name."""
        return self._location.key(folder, export_id, name)

    def _read_or_reason(
        self, place: tuple[str, str], names: Mapping[str, str] | None = None
    ) -> StoredExport | DamagedExport | None:
        """An export, or why it cannot be relied on; None where it is gone, or only staged.

        Args:
            place: Folder and export id.
            names: The files that lie there, with their ETags, as a listing has just told; asked for if None.

        Raises:
            StoreUnusable, StoreUnreachable: The store as a whole does not answer, so that this says nothing of the one.
        """
        try:
            manifest = self._manifest(place, etag=names.get(FILE_NAME) if names else None)
            if manifest is not None:
                return self._with_marks(place, manifest, self._names(place) if names is None else names)
            files = self._names(place)
        except Interrupted:
            raise
        except HyperExportError as error:
            if error.transient:
                self._names(place)
            return damaged_by(error, *place)
        if not files or not _is_export(files):
            return None
        return DamagedExport(
            folder=place[0],
            export_id=place[1],
            problem=Problem.MISSING,
            reason=f"its manifest {FILE_NAME} is missing; nothing else in the folder is touched",
        )

    def _names(self, place: tuple[str, str]) -> set[str]:
        prefix = self._location.key(*place, "")
        return {key.removeprefix(prefix) for key, _ in self._bucket.objects(prefix)}

    def _with_marks(self, place: tuple[str, str], manifest: ExportManifest, names: Collection[str]) -> StoredExport:
        """An export with what the marks beside it say.

        Raises:
            StoreUnreachable: The store does not answer.
        """
        marks: dict[str, bytes | None] = {}
        for name in MARK_FILES:
            if name in names:
                try:
                    data = self._bucket.read(self._location.key(*place, name), limit=LARGEST_MARK)
                except StoreUnusable as error:
                    logger.warning("a mark cannot be read: %s", error)
                    marks[name] = None
                else:
                    marks |= {} if data is None else {name: data}
        found = marked(manifest, marks)
        return StoredExport(
            folder=place[0],
            manifest=found.manifest,
            unproved_marks=found.unproved,
            verification=found.verification,
        )

    def _manifest(self, place: tuple[str, str], *, etag: str | None = None) -> ExportManifest | None:
        """A proved manifest; None where there is none.

        Args:
            place: Folder and export id.
            etag: Of the object, as a listing has just told; if it was read before with this one, it is not again.

        Raises:
            ManifestInvalid: It is not proved.
            StoreUnusable, StoreUnreachable: It was not handed out.
        """
        known = self._known.get(place)
        if known and known[0] and known[0] == etag:
            return known[1]
        key = self._location.key(*place, FILE_NAME)
        data = self._bucket.read(key, limit=LARGEST)
        if data is None:
            return None
        manifest = ExportManifest.of_export(data, place[1], source=self._bucket.url(key))
        if len(self._known) >= _MOST_KNOWN:
            self._known.clear()
        self._known[place] = etag, manifest
        return manifest

    def _known_manifest(self, place: tuple[str, str]) -> ExportManifest | None:
        """As :meth:`_manifest`, but without a question where it was read before: it may be gone by now."""
        known = self._known.get(place)
        return known[1] if known else self._manifest(place)

    def _tag_of(self, place: tuple[str, str]) -> tuple[Owner | None, str | None]:
        """Whose a staging is, or why the owner tag that is there does not tell; two Nones where there is none."""
        try:
            data = self._bucket.read(self._location.key(*place, OWNER_FILE), limit=_OWNER_LARGEST)
        except Interrupted:
            raise
        except HyperExportError as error:
            if error.transient:
                self._names(place)  # is it the store that does not answer?
            return None, f"its owner tag cannot be read: {error.what}"
        owner = None if data is None else Owner.from_json(data)
        return owner, None if owner or data is None else "its owner tag is damaged"


def _is_export(files: Collection[str]) -> bool:
    """Whether the files at an export's place are one, or what is left of one: neither staged nor being deleted."""
    return FILE_NAME in files or not _MARKS.intersection(files)
