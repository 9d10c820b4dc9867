"""The tags of a disk's files, left beside them: they prove any part of a file without the rest of it being read.

Every file that holds bytes of the guest has them, the files that a delta builds on too. They are no part of the
package: they lie beside an OVA, and neither the descriptor nor the ``.mf`` names them.
"""

import hashlib
import logging

from hyperexport.errors import ExportNotFound, StoreUnusable, VerificationFailed
from hyperexport.formats.block_tags import BlockTags
from hyperexport.images.opening import tags_of
from hyperexport.model.manifest import TAGS_SUFFIX, FileEntry, FileRole
from hyperexport.options.groups import Format
from hyperexport.steps.job import Job
from hyperexport.steps.staging import Copies, Entries, StagedCopy, as_kept, as_stored

logger = logging.getLogger(__name__)


def with_tags(job: Job, copies: Copies, file: Entries, fresh: BlockTags | None = None) -> list[Entries]:
    """Put the tags of a disk's file beside it, in every store.

    Args:
        job: The export.
        copies: The staged export in each store.
        file: The file's entries.
        fresh: Its tags, where its bytes have just come. Where an earlier export's bytes stand for them, so do the
            earlier tags.

    Returns:
        The entries of the file, and of its tags if there are any: a file of an export that left none has none.
    """
    is_shared = not _is_own(job, file[0])
    packed = (_earlier(job, copies, file[0]) if is_shared or fresh is None else None) or (fresh and fresh.pack())
    if packed is None:
        logger.info("%s has no block tags: the export that holds its bytes left none", file[0].name)
        return [file]
    name = file[0].name + TAGS_SUFFIX
    tags = FileEntry(name=name, role=FileRole.TAGS, size=len(packed), sha256=hashlib.sha256(packed).hexdigest())
    beside_ova = job.options.destination.format is Format.OVA
    entries: list[FileEntry] = []
    for index, copy in enumerate(copies.all):
        shares = not beside_ova and not _is_own(job, file[index])
        kept = _reuse(copy, tags) if shares else None
        entries.append(kept or as_stored(tags, copy.staging.put(name, packed), by=job.export_id))
    return [file, tuple(entries)]


def drop_file(copies: Copies, name: str) -> None:
    """Take a disk's file and its tags out of the staged export again."""
    for copy in copies.parts:
        copy.staging.remove(name)
    for copy in copies.all:
        copy.staging.remove(name + TAGS_SUFFIX)


def _is_own(job: Job, entry: FileEntry) -> bool:
    return (entry.written_as or "").startswith(f"{job.export_id}/")


def _earlier(job: Job, copies: Copies, entry: FileEntry) -> bytes | None:
    """The tags that an earlier export left of the same bytes, proved."""
    for copy in copies.all:
        found = copy.holding(entry)
        if found is None:
            continue
        try:
            tags = tags_of(copy.store, *found, job.stop)
        except (ExportNotFound, StoreUnusable, VerificationFailed) as error:
            job.warn(f"the block tags of {found[1].name} of {copy.store.url}/{found[0]} cannot be used: {error.what}")
            continue
        if tags is not None:
            return tags.pack()
    return None


def _reuse(copy: StagedCopy, tags: FileEntry) -> FileEntry | None:
    found = copy.holding(tags)
    reused = copy.staging.reuse(*found, tags.name) if found else None
    return as_kept(tags, reused).model_copy(update={"transferred": False}) if reused else None
