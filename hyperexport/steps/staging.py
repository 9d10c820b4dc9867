"""An export while it is being written, to every store at once."""

from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

from hyperexport.manifest import FileEntry
from hyperexport.options import Format
from hyperexport.steps.job import Job
from hyperexport.store.base import Staging, Store, Stored, StoredExport


class StagedCopy(NamedTuple):
    """The export in one store, with what that store already holds of the VM."""

    store: Store
    staging: Staging
    earlier: tuple[StoredExport, ...]

    def holding(self, entry: FileEntry) -> tuple[StoredExport, FileEntry] | None:
        """Find the newest earlier export of this store with the same content as ``entry``."""
        for export in self.earlier:
            for candidate in export.manifest.disks:
                if candidate.sha256 == entry.sha256 and candidate.size == entry.size:
                    return export, candidate
        return None


class Copies(NamedTuple):
    """The export in every store."""

    all: tuple[StagedCopy, ...]
    parts: tuple[StagedCopy, ...]
    """Those that get the package's files one by one: all for an OVF folder; for an OVA the local one alone, where the
    files wait until they are packed."""


Entries = tuple[FileEntry, ...]
"""One file's manifest entries: one for each copy that holds it, in the same order."""


def as_stored(entry: FileEntry, done: Stored) -> FileEntry:
    """Complete a file's entry with what the store says of it."""
    return entry.model_copy(
        update={"protection": done.protection, "etag": done.etag, "checksum": done.checksum, "stored_in": None}
    )


def as_kept(entry: FileEntry, kept: FileEntry) -> FileEntry:
    """Complete a file's entry with where its bytes already are."""
    fields = ("stored_in", "protection", "etag", "checksum")
    return entry.model_copy(update={field: getattr(kept, field) for field in fields})


@contextmanager
def staged(job: Job) -> Generator[Copies]:
    """Begin the export in every store; whatever is not published when the block ends is discarded."""
    with ExitStack() as stack:
        copies: list[StagedCopy] = []
        for store in job.stores:
            earlier = tuple(store.exports(job.folder))
            staging = stack.enter_context(store.stage(job.folder, job.export_id, job.owner))
            copies.append(StagedCopy(store, staging, earlier))
        as_ova = job.options.destination.format is Format.OVA
        yield Copies(tuple(copies), tuple(copies[:1] if as_ova else copies))
