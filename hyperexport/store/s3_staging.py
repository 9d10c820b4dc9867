"""One export while it is being written to a bucket.

Its files lie at their final keys from the start; what makes them an export is the manifest, written last and only
where none is. Until then ``.owner.json`` beside them says whose they are.
"""

import json
import logging
import secrets
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Final, Protocol

from hyperexport.errors import ExportNotFound, HyperExportError, ManifestInvalid, StoreUnusable
from hyperexport.model import manifest as manifest_module
from hyperexport.model.manifest import ExportManifest, FileEntry
from hyperexport.model.ownership import Owner
from hyperexport.store.at_once import at_once
from hyperexport.store.base import RangeReader, Sink, Stored, StoredExport
from hyperexport.store.listing import attempting
from hyperexport.store.s3_bucket import S3Bucket, UnfinishedUpload
from hyperexport.store.s3_parts import PartSender
from hyperexport.store.s3_protection import Protection
from hyperexport.store.s3_reader import S3Reader
from hyperexport.store.s3_upload import LARGEST_NOTE, NOTE, S3Sink, noted

logger = logging.getLogger(__name__)

OWNER_FILE: Final = ".owner.json"
DELETED_FILE: Final = ".deleted"
"""Says of an export without a manifest that its deletion was begun; whoever finds it ends that."""

METADATA_KEY: Final = "hyperexport-owner"
"""The user metadata of every multipart upload: the same mark as in ``.owner.json``."""

_LARGEST_MARK: Final = 64 * 1024


class Referrer(Protocol):
    """Finds out whether an earlier export holds a file undamaged."""

    def __call__(self, base: StoredExport, entry: FileEntry) -> FileEntry | None:
        """The entry of the export that really holds the bytes, with ``stored_in`` set to it."""
        ...


class S3Staging:
    """The staged export. Made by S3Store.stage(), which discards it unless it was published."""

    def __init__(
        self,
        bucket: S3Bucket,
        folder: str,
        export_id: str,
        *,
        owner: Owner,
        protection: Protection,
        new_sender: Callable[[], PartSender],
        refer: Referrer,
    ) -> None:
        self.export_id = export_id
        self._published: str | None = None  # the manifest's key, once it may be there
        self._ended = False
        self._bucket = bucket
        self._folder = folder
        self._owner = owner
        self._protection = protection
        self._new_sender = new_sender
        self._refer = refer
        self._sinks: dict[str, S3Sink] = {}

    def create_owner_tag(self) -> None:
        """Leave the mark of ownership where nothing is yet.

        Raises:
            StoreUnusable: There is something at that place already.
        """
        taken = next(self._bucket.objects(self._key("")), None)
        if taken or not self._bucket.create_if_absent(self._key(OWNER_FILE), self._owner.model_dump_json().encode()):
            raise StoreUnusable(
                f"{self._bucket.url(self._key(''))} belongs to another export", fix="Start the export again"
            )

    def create(self, name: str) -> Sink:
        """Begin a file; what a first try with this name left is removed."""
        if name in self._sinks:
            self.remove(name)
        sink = S3Sink(
            self._bucket,
            self._key(name),
            sender=self._new_sender(),
            protection=self._protection,
            metadata={METADATA_KEY: json.dumps(self._owner.model_dump(mode="json"))},
            note=self._key(f"{NOTE}{secrets.token_hex(4)}"),
        )
        self._sinks[name] = sink
        return sink

    def put(self, name: str, data: bytes) -> Stored:
        """Write a small file at once."""
        sink = self.create(name)
        try:
            sink.write(memoryview(data))
            return sink.finish()
        except BaseException:
            sink.abort()
            raise

    def open(self, name: str) -> AbstractContextManager[RangeReader]:
        """Read a finished file of this staging back.

        Raises:
            ExportNotFound: There is no such file.
        """
        facts = self._bucket.head(self._key(name))
        if facts is None:
            raise ExportNotFound(f"{self._bucket.url(self._key(name))} does not exist")
        return S3Reader(
            self._bucket, self._key(name), etag=facts.etag, start=0, size=facts.size, stop=self._bucket.stop
        )

    def reuse(self, base: StoredExport, entry: FileEntry, name: str) -> FileEntry | None:
        """Refer to the export that holds the bytes, if it proves to hold them."""
        if base.folder != self._folder:
            return None  # ``stored_in`` names an export of the same VM.
        found = self._refer(base, entry)
        if found is None:
            return None
        if name in self._sinks:
            self.remove(name)
        logger.info("%s/%s: %s is stored in %s", self._folder, self.export_id, name, found.stored_in)
        return found.model_copy(update={"name": name, "transferred": False})

    def remove(self, name: str) -> None:
        """Take a file away again, finished or not."""
        sink = self._sinks.pop(name, None)
        if sink is not None:
            sink.abort()
        self._bucket.delete(self._key(name))

    def publish(self, manifest: ExportManifest) -> StoredExport:
        """Write the manifest where none is: the commit point.

        Raises:
            StoreUnusable: Another run has published an export with this id.
        """
        holders = sorted({entry.stored_in for entry in manifest.files if entry.stored_in})
        for holder, proved in zip(holders, at_once(self._is_proved, holders), strict=True):
            if not proved:
                raise StoreUnusable(
                    f"{self._folder}/{holder}, whose files this export uses, was deleted or damaged meanwhile",
                    fix="Start the export again",
                )
        key = self._key(manifest_module.FILE_NAME)
        ours = self._is_ours()
        self._published = key
        created = ours and self._bucket.create_if_absent(key, manifest.to_json())
        self._ended = True  # Also where it was another run: what lies there is part of its export now.
        if not created:
            raise StoreUnusable(
                f"{self._bucket.url(key)} was published or removed by another run",
                fix="Start the export again",
            )
        try:
            self._bucket.delete(self._key(OWNER_FILE))
        except HyperExportError as error:
            logger.warning("%s/%s is published, but its owner tag remains: %s", self._folder, self.export_id, error)
        return StoredExport(folder=self._folder, manifest=manifest)

    def discard(self) -> None:
        """Remove everything that was staged, unless it was published. Never raises; logs what it could not remove."""
        for sink in self._sinks.values():
            sink.abort()
        if self._ended:
            return
        self._ended = True
        try:
            if self._is_ours():
                remove_tree(self._bucket, self._key(""), first=self._published)
        except HyperExportError as error:
            logger.warning("%s/%s: staged files remain until the next cleanup: %s", self._folder, self.export_id, error)

    def _is_proved(self, holder: str) -> bool:
        key = self._bucket.location.key(self._folder, holder, manifest_module.FILE_NAME)
        data = self._bucket.read(key, limit=manifest_module.LARGEST)
        try:
            return data is not None and bool(ExportManifest.of_export(data, holder, source=self._bucket.url(key)))
        except ManifestInvalid as error:
            logger.warning("%s/%s cannot be published: %s", self._folder, self.export_id, error)
            return False

    def _is_ours(self) -> bool:
        """Whether the mark that we left is still there.

        Where a server has no conditional writes two may have created one place, and then it is the later one's; and
        somebody who took this run for dead has removed the mark with all the rest.
        """
        data = self._bucket.read(self._key(OWNER_FILE), limit=_LARGEST_MARK)
        return data is not None and Owner.from_json(data) == self._owner

    def _key(self, name: str) -> str:
        return self._bucket.location.key(self._folder, self.export_id, name)


def remove_tree(bucket: S3Bucket, prefix: str, *, first: str | None = None) -> int:
    """Remove the unfinished uploads and all objects under a prefix that ends with a slash.

    One request an object: an export has few, and servers differ in which checksum they demand of a batch.

    Args:
        bucket: Where.
        prefix: Everything under it goes.
        first: The key that goes before all others; where that fails, nothing else is touched.

    Returns:
        The bytes freed; what the bucket keeps as older versions is not.

    Raises:
        StoreUnusable, StoreUnreachable: Something could not be removed; the message names the first such thing.
    """
    freed = 0
    versions = 0
    if first is not None:
        facts = bucket.head(first)
        freed += facts.size if bucket.delete(first) and facts else 0
    objects = dict(bucket.objects(prefix))  # only now: what was written beside it while it was there is among them
    uploads = [attempting(bucket.abort_upload)(upload) for upload in unfinished(bucket, prefix, objects)]
    failures = [outcome for outcome in uploads if outcome is not None]

    # The marks go last, so that what a failure leaves can still be told whose it is.
    marks = [key for key in objects if is_mark(key.rpartition("/")[2])]
    files = [key for key in objects if key not in marks]
    for keys in (files, marks):
        outcomes = dict(zip(keys, at_once(attempting(bucket.delete), keys), strict=True))
        failures += [outcome for outcome in outcomes.values() if not isinstance(outcome, bool)]
        freed += sum(objects[key] for key, outcome in outcomes.items() if outcome is True)
        versions += sum(objects[key] for key, outcome in outcomes.items() if outcome is False)
        if failures:
            break
    if failures:
        error = failures[0]
        raise type(error)(
            f"{len(failures)} of {len(objects)} objects and uploads could not be removed: {error.what}", fix=error.fix
        )
    if versions:
        logger.warning("%s: the bucket keeps %d bytes as older versions: not freed", bucket.url(prefix), versions)
    return freed


def is_mark(name: str) -> bool:
    """Whether an object is no file of an export, but says something of it while it is made or deleted."""
    return name in {OWNER_FILE, DELETED_FILE} or name.startswith(NOTE)


def unfinished(bucket: S3Bucket, prefix: str, keys: Iterable[str]) -> list[UnfinishedUpload]:
    """The unfinished uploads under a prefix: those that the server lists, and those that notes name.

    Args:
        bucket: Where.
        prefix: Of one export; ends with a slash.
        keys: The objects there.
    """
    found = dict.fromkeys(bucket.unfinished_uploads(prefix))
    for key in keys:
        if not key.startswith(prefix + NOTE):
            continue
        upload = noted(bucket.read(key, limit=LARGEST_NOTE) or b"", prefix)
        if upload is not None:
            if upload.upload_id:
                found[upload] = None
            # A run that died between the note and the upload's id: MinIO lists the uploads of a whole key.
            found |= dict.fromkeys(one for one in bucket.unfinished_uploads(upload.key) if one.key == upload.key)
    return list(found)
