"""An export while it is being written, to every store at once."""

from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

from hyperexport.errors import HyperExportError
from hyperexport.model.history import newest_first, of_vm
from hyperexport.model.manifest import MOST_PREDECESSORS, FileEntry, vm_folder
from hyperexport.options.declaring import Format
from hyperexport.steps.folders import exports_of, folders_of, holding, is_shared
from hyperexport.steps.job import Job
from hyperexport.steps.liveness import at_work_here
from hyperexport.steps.locks import FolderLock, describe_staging_owner, lock_folder, removal_hint
from hyperexport.store.base import Staging, Store, Stored, StoredExport


class StagedCopy(NamedTuple):
    """The export in one store, with what that store already holds of the VM."""

    store: Store
    staging: Staging
    earlier: tuple[StoredExport, ...]
    predecessors: tuple[str, ...] = ()
    """The ids of the VM's exports that are there now, the newest first."""

    def holding(self, entry: FileEntry) -> tuple[StoredExport, FileEntry] | None:
        """Find the newest earlier export of this store with the same content as ``entry``, and not known as damaged."""
        return holding(self.earlier, entry)


class Copies(NamedTuple):
    """The export in every store."""

    all: tuple[StagedCopy, ...]
    parts: tuple[StagedCopy, ...]
    """Those that get the package's files one by one: all for an OVF folder; for an OVA the local one alone, where the
    files wait until they are packed."""

    def of_its_own(self) -> "Copies":
        """The same export without any earlier one to share bytes with: a full export is a copy of its own.

        However equal its bytes are, one file that rots must not take every restore point with it.
        """
        alone = [copy._replace(earlier=()) for copy in self.all]
        return Copies(tuple(alone), tuple(alone[: len(self.parts)]))


Entries = tuple[FileEntry, ...]
"""One file's manifest entries: one for each copy that holds it, in the same order."""


def as_stored(entry: FileEntry, done: Stored, *, by: str) -> FileEntry:
    """Complete the entry of a file that the export ``by`` has written with what the store says of it."""
    told = {"protection": done.protection, "etag": done.etag, "checksum": done.checksum}
    return entry.model_copy(update={**told, "stored_in": None, "written_as": f"{by}/{entry.name}"})


def as_kept(entry: FileEntry, kept: FileEntry) -> FileEntry:
    """Complete a file's entry with where its bytes already are."""
    fields = ("stored_in", "written_as", "protection", "etag", "checksum")
    return entry.model_copy(update={field: getattr(kept, field) for field in fields})


@contextmanager
def staged(job: Job) -> Generator[Copies]:
    """Begin the export in every store; whatever is not published when the block ends is discarded."""
    copies: list[StagedCopy] = []
    try:
        with ExitStack() as stack:
            job.owner = job.owner.announced_in(stack.enter_context(at_work_here(job.run)))
            for store in job.stores:
                lock = _lock_folder(job, store, stack)
                exports = _exports_of_vm(job, store)
                ids = tuple(dict.fromkeys(export.export_id for export in exports))[:MOST_PREDECESSORS]
                copies.append(StagedCopy(store, lock.staging, _earlier(job, store, lock, exports), ids))
            as_ova = job.options.destination.format is Format.OVA
            yield Copies(tuple(copies), tuple(copies[:1] if as_ova else copies))
    except BaseException:
        job.cleaned_up.extend(_outcome(copy.store, job) for copy in copies)
        raise


def _lock_folder(job: Job, store: Store, stack: ExitStack) -> FolderLock:
    """Lock the VM's folder; another one, if a run of another VM takes the same new folder at this moment."""
    while True:
        folder = job.folder_in(store)
        with ExitStack() as attempt:
            lock = attempt.enter_context(
                lock_folder(
                    store,
                    folder,
                    job.export_id,
                    owner=job.owner,
                    is_over=job.is_over,
                    at_work=job.at_work,
                    stop=job.stop,
                )
            )
            new = folder == vm_folder(job.ref) and not exports_of(store, folder, job.identity)
            if not new or not is_shared(store, folder, job.identity):
                stack.push(attempt.pop_all())
                return lock
        job.avoid_folder(store)


def _exports_of_vm(job: Job, store: Store) -> list[StoredExport]:
    found = [export for name in folders_of(store, job.ref, job.identity) for export in store.exports(name)]
    return newest_first(of_vm(found, lambda export: export.manifest, job.identity), lambda export: export.manifest)


def _earlier(job: Job, store: Store, lock: FolderLock, exports: list[StoredExport]) -> tuple[StoredExport, ...]:
    """What the export may build on; to be asked only while the folder is locked.

    Beside a staging whose run may still be active, no earlier export is referred to: the run may be a cleanup. A hard
    link needs no such care, because it keeps its bytes when the other name is deleted.
    """
    for other in lock.doubtful:
        job.warn(
            f"the half-written export {store.url}/{other} stays: it is unknown whether "
            f"{describe_staging_owner(other)} is over. {removal_hint(other.owner)}"
        )
    folder = job.folder_in(store)
    job.warn_of_damaged(store, store.listing(folder).damaged)
    return () if lock.doubtful and store.refers else tuple(one for one in exports if one.folder == folder)


def _outcome(store: Store, job: Job) -> str:
    """What became of an export that was not finished: looked up, because discarding it never raises."""
    try:
        if any(staging.export_id == job.export_id for staging in store.abandoned(job.folder_in(store))):
            return f"the half-written export in {store.url} could NOT be discarded; the next run of the VM removes it"
        if any(export.export_id == job.export_id for export in store.exports(job.folder_in(store))):
            return f"the export in {store.url} is complete, and stays"
    except HyperExportError as error:
        return f"{store.url} does not tell whether the half-written export is gone: {error}"
    return f"the half-written export in {store.url} was discarded"
