"""The package's files, packed into one OVA for every store."""

import hashlib
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Final

from hyperexport.errors import ChecksumMismatch
from hyperexport.formats import ova
from hyperexport.model.manifest import FileEntry, FileRole, StageName, slug
from hyperexport.steps.disks import sinks_for
from hyperexport.steps.job import Job
from hyperexport.steps.stages import stage
from hyperexport.steps.staging import Copies, Entries, as_stored
from hyperexport.store.base import RangeReader, Staging

_BESIDE: Final = frozenset({FileRole.CONFIG, FileRole.TAGS})


@stage(StageName.PACK)
def pack_ova(job: Job, copies: Copies, files: Sequence[Entries]) -> list[Entries]:
    """Pack what waits in the local staging into one OVA, in one pass to all stores, and take the single files away.

    The VM's configuration and the block tags stay beside the OVA: they are ours, not a part of the package.

    Args:
        job: The export.
        copies: The staged export; its files wait in the first of ``copies.parts``.
        files: The entries of the package's files in its order, then those that stay beside.

    Returns:
        The OVA's entry and its members' entries for every store, then those that stay beside.

    Raises:
        ChecksumMismatch: A file that waited is no longer what it was when it was written.
    """
    local = copies.parts[0].staging
    members = [entries[0] for entries in files if entries[0].role not in _BESIDE]
    beside = [entries for entries in files if entries[0].role in _BESIDE]
    name = f"{slug(job.vm.name)}.ova"
    parts = [ova.Part(entry.name, entry.size, partial(_proved, local, entry)) for entry in members]
    digest = hashlib.sha256()
    with sinks_for(copies.all, name) as sinks:

        def write(data: memoryview) -> None:
            job.stop.check()
            digest.update(data)
            for sink in sinks:
                sink.write(data)

        places = ova.write(parts, write, modified=job.started)
        stored = [sink.finish() for sink in sinks]
    whole = FileEntry(name=name, role=FileRole.OVA, size=stored[0].size, sha256=digest.hexdigest())
    for entry in members:
        local.remove(entry.name)
    inside: list[Entries] = []
    for entry, place in zip(members, places, strict=True):
        lies = {"member_of": name, "offset": place.offset, "stored_in": None, "written_as": f"{job.export_id}/{name}"}
        inside.append((entry.model_copy(update=lies),) * len(copies.all))
    return [tuple(as_stored(whole, done, by=job.export_id) for done in stored), *inside, *beside]


@contextmanager
def _proved(local: Staging, entry: FileEntry) -> Generator["_Proved"]:
    with local.open(entry.name) as reader:
        yield _Proved(reader, entry)


class _Proved:
    """A file that is read once, in order, and compared with its SHA-256 at its end."""

    def __init__(self, reader: RangeReader, entry: FileEntry) -> None:
        self._reader, self._entry = reader, entry

    def chunks(self) -> Iterator[bytes]:
        digest = hashlib.sha256()
        for chunk in self._reader.chunks():
            digest.update(chunk)
            yield chunk
        if digest.hexdigest() != self._entry.sha256:
            raise ChecksumMismatch(
                f"{self._entry.name} changed on this machine's disk after it was written",
                fix="Check the disk of the store, and run the export again",
            )
