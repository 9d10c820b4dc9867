"""What a store can do, whatever it is made of.

A store knows manifests and files, never vSphere. What is being written is *staged*: invisible to every listing until
:meth:`Staging.publish` writes the manifest, and gone after :meth:`Staging.discard`. A listing that fails raises; it
never returns an empty list in place of an error, because a failed listing must not become a deletion.
"""

import re
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from datetime import datetime
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from pydantic import Field

from hyperexport.model.damaged import DamagedExport
from hyperexport.model.manifest import ExportManifest, FileEntry
from hyperexport.model.marks import MARK_FILES, Mark, SharedDamage, VerifiedMark
from hyperexport.model.ownership import Owner
from hyperexport.model.vm import Value

if TYPE_CHECKING:
    from hyperexport.store.listing import StoreListing


class StoredExport(Value):
    """A complete export that a store holds."""

    folder: str = Field(description="The folder that it lies in; it tells nothing about whose it is.")
    manifest: ExportManifest = Field(description="As it was published, with what its marks say since.")
    unproved_marks: tuple[str, ...] = Field(
        default=(), description="The files of marks that say nothing, because no seal proves them."
    )
    verification: VerifiedMark | None = Field(default=None, description="What the mark of the last verification says.")
    shared_damage: tuple[SharedDamage, ...] = Field(
        default=(),
        description="What the marks of other exports say of files that this one has, too, and its own mark does not. "
        "A listing finds it; `manifest.damage` has it as well.",
    )

    def by_its_own_marks(self) -> "StoredExport":
        """The export as it would be without what other exports' marks say."""
        if not self.shared_damage:
            return self
        damage = self.manifest.damage[: -len(self.shared_damage)]
        manifest = self.manifest.model_copy(update={"damage": damage})
        return self.model_copy(update={"manifest": manifest, "shared_damage": ()})

    @property
    def export_id(self) -> str:
        """The export's id, which is also its folder's name."""
        return self.manifest.export_id

    def __str__(self) -> str:
        return f"{self.folder}/{self.export_id}"


class AbandonedStaging(Value):
    """A staged export that was neither published nor discarded."""

    folder: str
    export_id: str
    owner: Owner | None = Field(description="None where no owner tag was written, or it cannot be trusted.")
    doubt: str | None = Field(
        default=None, description="Why an owner tag that is there tells nothing. The run may be alive."
    )

    def __str__(self) -> str:
        return f"{self.folder}/{self.export_id}"


class RecordName(NamedTuple):
    """Where a small file lies beside an export's own."""

    folder: str
    export_id: str
    name: str


class Record(NamedTuple):
    """A small file that lies beside an export's own."""

    place: RecordName
    data: bytes
    """Its bytes, which nothing has proved yet."""


_RECORD: Final = re.compile(r"drill-[0-9A-Za-z-]{1,64}\.(?:json|png)")
RECORD_LARGEST: Final = 1 << 20
"""Bytes of a record that is read; a longer one is none."""


def is_record(name: str) -> bool:
    """Tell whether a file has the name of a record, or of the picture that belongs to one."""
    return _RECORD.fullmatch(name) is not None


def lies_beside(name: str) -> bool:
    """Tell whether a file has the name of what is written beside an export after it was published."""
    return name in MARK_FILES or is_record(name)


def record_names(names: Iterable[str]) -> list[str]:
    """Those of an export's files that are records, in order."""
    return sorted(name for name in names if is_record(name) and name.endswith(".json"))


class Stored(Value):
    """What a sink says of the file that it has finished."""

    size: int
    protection: str | None = Field(default=None, description="S3: how the bytes are protected during the upload.")
    etag: str | None = None
    checksum: str | None = Field(
        default=None, description="S3: what Store.checksum() answers for as long as the object is unchanged."
    )


class Sink(Protocol):
    """Takes the bytes of one file, in order. Exactly one of ``finish`` and ``abort`` ends it."""

    def write(self, data: memoryview) -> None:
        """Take bytes; the buffer is the caller's again when this returns."""
        ...

    def finish(self) -> Stored:
        """Make the bytes durable (fsync, or the multipart upload completed)."""
        ...

    def abort(self) -> None:
        """Drop what was written. Never raises; safe to call after any failure, also of ``finish``."""
        ...


class RangeReader(Protocol):
    """Reads a stored file at any place; a context manager."""

    size: int
    identity: str
    """Tells these bytes from all others of the store, under whatever name they are opened; a write changes it.
    Empty for a part of a file."""

    def read_at(self, offset: int, length: int) -> bytes:
        """Read ``length`` bytes at ``offset``; fewer only at the end of the file."""
        ...

    def chunks(self, size: int = 1 << 20) -> Iterator[bytes]:
        """Read the whole file in order."""
        ...


class Staging(Protocol):
    """One export while it is being written to one store."""

    export_id: str

    def create(self, name: str) -> Sink:
        """Begin a file. A second call with the same name starts it afresh; no byte of the first try remains."""
        ...

    def put(self, name: str, data: bytes) -> Stored:
        """Write a small file at once."""
        ...

    def open(self, name: str) -> AbstractContextManager[RangeReader]:
        """Read a finished file of this staging back (to pack it into an OVA). Local stores only."""
        ...

    def reuse(self, base: StoredExport, entry: FileEntry, name: str) -> FileEntry | None:
        """Let a file of an earlier export of this store stand for a file of this one, without copying its bytes.

        A finished file ``name`` of this staging is replaced by it; when the answer is None it stays as it is.

        Returns:
            The entry for the new manifest (``name``, ``stored_in`` where the store refers, ``transferred`` False),
            or None where this store does not hold those bytes undamaged (missing, or of another size).
        """
        ...

    def remove(self, name: str) -> None:
        """Take a finished file away again (because an earlier one stands for it)."""
        ...

    def publish(self, manifest: ExportManifest) -> StoredExport:
        """Write the manifest and make the export visible: the commit point."""
        ...

    def discard(self) -> None:
        """Remove everything that was staged. Never raises; logs what it could not remove."""
        ...


class Store(Protocol):
    """A place for exports."""

    url: str
    """How a person names it: an absolute path, or ``s3://bucket/prefix``."""

    refers: bool
    """Whether a reused file stays where it is and is referred to (S3), or gets a second name (a hard link)."""

    def check(self) -> None:
        """Prove, by writing and removing a probe, that an export can be kept here.

        Raises:
            StoreUnusable: It can't, and repeating won't help.
            StoreUnreachable: It did not answer.
        """
        ...

    def check_unseen(self) -> None:
        """Prove the same as :meth:`check` for a dry run: nothing that was written is left, nor seen by anybody.

        Raises:
            DiskFull: There is no space left.
            StoreUnusable: It can't, and repeating won't help.
            StoreUnreachable: It did not answer.
        """
        ...

    def free_bytes(self) -> int | None:
        """Bytes that are free; None where the notion has no meaning."""
        ...

    def server_time(self) -> datetime | None:
        """What time the store's own server says it is; None where there is no server to ask."""
        ...

    def folders(self) -> list[str]:
        """The names of all folders that have the form of a VM's."""
        ...

    def listing(self, folder: str | None = None) -> "StoreListing":
        """Read what is there of one VM's folder, or of all: the proved exports, and what cannot be relied on.

        What is not ours or staged is not listed. One element that cannot be read is listed as damaged, and fails
        nothing; so is a VM's folder that cannot be listed, unless it was asked for by name or none can be.

        Raises:
            StoreUnusable, StoreUnreachable: The listing failed; there is no telling what is there.
        """
        ...

    def exports(self, folder: str | None = None) -> list[StoredExport]:
        """The proved exports of :meth:`listing`, newest first; what is damaged is logged."""
        ...

    def read(self, folder: str, export_id: str) -> StoredExport | DamagedExport | None:
        """Read one export's manifest again: the proved export, what is wrong with it, or None where nothing is.

        Whether an export that it refers to is sound is not asked.

        Raises:
            StoreUnreachable: The store does not answer.
        """
        ...

    def manifest_versions(self) -> dict[tuple[str, str], str]:
        """For the folder and id of each element of :meth:`listing` a mark that changes whenever its manifest does.

        It changes with the export's marks and records, too. The id is empty where it is a VM's whole folder. Cheaper
        than a listing: only where a mark is another, a manifest needs to be read again.
        """
        ...

    def stage(self, folder: str, export_id: str, owner: Owner) -> AbstractContextManager[Staging]:
        """Begin an export. Leaving the block without :meth:`Staging.publish` discards it."""
        ...

    def abandoned(self, folder: str | None = None) -> list[AbandonedStaging]:
        """Staged exports (and unfinished uploads) that are there now, of live and dead runs alike."""
        ...

    def remove_abandoned(self, staging: AbandonedStaging) -> None:
        """Remove one of :meth:`abandoned`; the caller has proved that its run is over."""
        ...

    def sweep(self, folder: str | None = None) -> list[str]:
        """Remove what a crash left that has no mark of an owner, because it fell between two steps.

        It is never a part of an export, and nobody alive needs it: deletions that were begun are ended, a staging
        that nobody signed goes, and marks that outlived their use.

        Returns:
            ``folder/export-id`` of each export of which something was removed.
        """
        ...

    def warnings(self) -> list[str]:
        """What could not be looked at or removed since this store was opened, and failed no call: each once, in words.

        What a dead run left may be there, and stays.
        """
        ...

    def asking_once(self) -> AbstractContextManager[None]:
        """Within the block, ask the server only once about each stored file, however many exports share it."""
        ...

    def open(self, export: StoredExport, name: str) -> AbstractContextManager[RangeReader]:
        """Open a stored file for reading (following ``stored_in``, and into an OVA for its members).

        Raises:
            ExportNotFound: The file is not there.
        """
        ...

    def files(self, export: StoredExport) -> dict[str, int]:
        """Name and size (bytes) of everything that lies in the export's own place, its manifest included."""
        ...

    def checksum(self, export: StoredExport, name: str) -> str | None:
        """What the *server* keeps of the object, as ``algorithm:value``, to compare with the entry's ``checksum``.

        Returns:
            Its checksum of the whole object, or else its ETag; None where a store keeps neither, and for a member of
            an OVA, which has none of its own.
        """
        ...

    def keep_record(self, export: StoredExport, name: str, data: bytes) -> None:
        """Write a small file beside an export's own, once; the export's deletion takes it along.

        Args:
            export: The export.
            name: ``drill-<id>.json`` or what belongs to it: :func:`is_record`.
            data: Its bytes.

        Raises:
            ExportNotFound: The export was deleted in the meantime; nothing of the file stays.
            StoreUnusable, StoreUnreachable: It could not be written.
        """
        ...

    def records(self, listing: "StoreListing") -> list[Record]:
        """Read the records that a listing found; one that cannot be read is left out, and logged.

        Raises:
            StoreUnreachable: The store does not answer.
        """
        ...

    def delete(self, export: StoredExport) -> int:
        """Remove an export: its manifest first, so that what is half deleted is no longer listed.

        Returns:
            The bytes freed.
        """
        ...

    def same_file(self, folder: str, export_id: str, name: str) -> str | None:
        """Tell which stored file a name stands for: equal for all names of one file; None where it is not there."""
        ...

    def write_mark(self, export: StoredExport, mark: Mark) -> StoredExport:
        """Write a mark beside an export, in one step, over the last of its kind.

        Returns:
            The export as it is now, with all its marks.

        Raises:
            ManifestInvalid: The export's manifest is not proved; nothing was written.
            ExportNotFound: The export was deleted in the meantime; nothing of the mark stays.
            StoreUnusable, StoreUnreachable: It could not be written, or a deletion of the export has begun.
        """
        ...
