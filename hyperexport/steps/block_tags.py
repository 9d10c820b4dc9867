"""The tags of a disk's files, left beside them: of the file's blocks, and of the grains that it holds.

Block tags prove any part of a file without the rest of it being read; grain tags tell which grains of a stream are as
they were, without the file being read. Every file that holds bytes of the guest has both, the files that a delta builds
on too. They are no part of the package: they lie beside an OVA, and neither the descriptor nor the ``.mf`` names them.
"""

import hashlib
import logging
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from hyperexport.formats.block_tags import BlockTagger
from hyperexport.formats.grain_tags import GrainTagger
from hyperexport.images.opening import read_whole
from hyperexport.model.manifest import GRAINS_SUFFIX, TAGS_SUFFIX, FileEntry, FileRole
from hyperexport.options.declaring import Format, VerifyMode
from hyperexport.steps.job import Job
from hyperexport.steps.proof import find_damage
from hyperexport.steps.staging import Copies, Entries, StagedCopy, as_kept, as_stored
from hyperexport.store.base import Store, StoredExport

logger = logging.getLogger(__name__)

Packed = Mapping[str, bytes]
"""A file's tags as they are stored, by what their names have after the file's."""

_SUFFIXES: Final = (TAGS_SUFFIX, GRAINS_SUFFIX)


class DiskTagger:
    """Takes the bytes of one file in order, as a sink does; gives all its tags at the end."""

    def __init__(self) -> None:
        self._blocks, self._grains = BlockTagger(), GrainTagger()

    def write(self, data: memoryview | bytes) -> None:
        """Take the next bytes, which were checked before."""
        self._blocks.write(data)
        self._grains.write(data)

    def finish(self) -> Packed:
        """The tags of everything that was written; nothing may be written afterwards."""
        grains = self._grains.finish()
        return {TAGS_SUFFIX: self._blocks.finish().pack()} | ({GRAINS_SUFFIX: grains.pack()} if grains else {})


def with_tags(job: Job, copies: Copies, file: Entries, fresh: Packed | None = None) -> list[Entries]:
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
    beside = [_put(job, copies, file, suffix, (fresh or {}).get(suffix)) for suffix in _SUFFIXES]
    return [file, *(entries for entries in beside if entries)]


def _put(job: Job, copies: Copies, file: Entries, suffix: str, fresh: bytes | None) -> Entries:
    is_shared = not _is_own(job, file[0])
    left = _Left.find(job, copies, file[0], suffix) if is_shared or fresh is None else None
    if left is None and fresh is None:
        logger.info("%s has no %s: the export that holds its bytes left none", file[0].name, suffix)
        return ()
    name = file[0].name + suffix
    tags = FileEntry(name=name, role=FileRole.TAGS, **(left.identity if left else _identity(fresh or b"")))
    beside_ova = job.options.destination.format is Format.OVA
    entries: list[FileEntry] = []
    for index, copy in enumerate(copies.all):
        shares = not beside_ova and not _is_own(job, file[index])
        kept = _reuse(copy, tags) if shares else None
        if kept is None:
            packed = left.read(most=tags.size) if left else fresh or b""
            kept = as_stored(tags, copy.staging.put(name, packed), by=job.export_id)
        entries.append(kept)
    return tuple(entries)


def drop_file(copies: Copies, name: str) -> None:
    """Take a disk's file and its tags out of the staged export again."""
    for copy in copies.parts:
        copy.staging.remove(name)
    for copy in copies.all:
        for suffix in _SUFFIXES:
            copy.staging.remove(name + suffix)


def _is_own(job: Job, entry: FileEntry) -> bool:
    return (entry.written_as or "").startswith(f"{job.export_id}/")


def _identity(packed: bytes) -> dict[str, Any]:
    return {"size": len(packed), "sha256": hashlib.sha256(packed).hexdigest()}


class _Left(NamedTuple):
    """The tags that an earlier export left of the same bytes."""

    store: Store
    export: StoredExport
    entry: FileEntry

    @classmethod
    def find(cls, job: Job, copies: Copies, file: FileEntry, suffix: str) -> "_Left | None":
        """Find some that are proved as far as that costs no download: what cannot be used is a warning."""
        for copy in copies.all:
            if (found := copy.holding(file)) is None:
                continue
            export, held = found
            entry = export.manifest.file(held.name + suffix)
            if entry is None or entry.role is not FileRole.TAGS:
                continue
            damage = find_damage(copy.store, export, entry, mode=VerifyMode.ON, stop=job.stop)
            if not damage:
                return cls(copy.store, export, entry)
            job.warn(f"the tags {entry.name} of {copy.store.url}/{export} cannot be used: {entry.name} {damage}")
        return None

    @property
    def identity(self) -> dict[str, Any]:
        return {"size": self.entry.size, "sha256": self.entry.sha256}

    def read(self, *, most: int) -> bytes:
        return read_whole(self.store, self.export, self.entry, most=most)


def _reuse(copy: StagedCopy, tags: FileEntry) -> FileEntry | None:
    found = copy.holding(tags)
    reused = copy.staging.reuse(*found, tags.name) if found else None
    return as_kept(tags, reused).model_copy(update={"transferred": False}) if reused else None
