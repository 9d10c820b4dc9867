"""A disk stored as a delta out of its whole stream, or written whole out of the store's own grains."""

import hashlib
import logging
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Final, NamedTuple

from hyperexport.base.units import format_bytes
from hyperexport.errors import ChecksumMismatch, ExportNotFound, StoreUnreachable, StoreUnusable, VerificationFailed
from hyperexport.formats.grain_tags import ChainTags, GrainTags
from hyperexport.formats.vmdk import GRAIN, NO_PARENT, Identity, Parent
from hyperexport.formats.vmdk_stream import StreamCheck
from hyperexport.formats.vmdk_writer import StreamWriter
from hyperexport.images.base_grains import UNUSABLE, BaseGrains, BaseUnusable, ReadGrains, TaggedGrains, TrackedAreas
from hyperexport.images.delta import DeltaWriter, TrackingWrong, whole_stream
from hyperexport.images.disk import Disk
from hyperexport.images.opening import grain_tags_of, open_disk, open_streamed
from hyperexport.images.stream import StreamedDisk
from hyperexport.model.manifest import FileEntry, FileRole, StageName
from hyperexport.model.transport import Transport
from hyperexport.model.vm import DiskInfo
from hyperexport.options.groups import VerifyMode
from hyperexport.policy.export_plan import DiskPlan
from hyperexport.steps import disks
from hyperexport.steps.block_tags import Packed, drop_file, with_tags
from hyperexport.steps.disk_output import DiskOutput
from hyperexport.steps.job import Job
from hyperexport.steps.stages import stage
from hyperexport.steps.staging import Copies, Entries, as_stored
from hyperexport.store.at_once import at_once
from hyperexport.store.base import Sink, Stored, StoredExport

logger = logging.getLogger(__name__)


class WrittenDisk(NamedTuple):
    """A delta or a synthetic full, as far as it is the same in every store."""

    entry: FileEntry
    changed: bool
    """Whether a delta holds anything."""
    received: int
    """Bytes that were read from vSphere for it."""
    tags: Packed


def drop_bases(copies: Copies, names: list[str]) -> None:
    """Take the files that a disk was to build on out of the staged export again."""
    for name in names:
        drop_file(copies, name)


def base_names(plan: DiskPlan) -> list[str]:
    """What the files that a delta builds on are called in each export that has them, the base first.

    A delta names the one below it in its descriptor, so a file keeps the name that it got when it was first built
    upon. It is made of the disk's key and the export that wrote it: no two files of an export have it.
    """
    origin = (plan.bases[-1].written_as or "unknown").partition("/")[0]
    return [*(part.name for part in plan.bases[:-1]), f"base-{plan.key}-{origin}.vmdk"]


@stage(StageName.DISKS)
def transfer_delta(job: Job, copies: Copies, plan: DiskPlan, disk: DiskInfo, snapshot: str | None) -> list[Entries]:
    """Read one disk out of vSphere and keep of it what differs from the base export's. Safe to repeat.

    What the base has is known from the tags of its grains; in a folder its bytes are compared where it has none. Where
    nothing differs, the base's own files stand for the disk. Either way each of its files is proved before it counts.

    Returns:
        The files that the disk builds on, the base first, and the delta.

    Raises:
        BaseUnusable: The base is damaged or gone, so the disk has to be kept whole.
        TrackingWrong: Change tracking left out what changed.
        TransientError, HyperExportError, Interrupted: As for :func:`hyperexport.steps.disks.transfer_disk`.
    """
    job.stop.check()
    base, names = find_base(copies, plan)
    with disks.sinks_for(copies.parts, plan.file_name) as sinks:
        written = _write_delta(job, base, plan, disk, snapshot, parent=names[-1], sinks=sinks)
        if written.changed:
            stored = [sink.finish() for sink in sinks]
        else:
            stored = []
            for sink in sinks:
                sink.abort()
    asked = job.options.execution.verify
    mode = VerifyMode.ON if asked is VerifyMode.OFF else asked
    return keep_delta(job, copies, plan, disk, base=base, written=written, stored=stored, mode=mode)


def find_base(copies: Copies, plan: DiskPlan) -> tuple[StoredExport, list[str]]:
    """Find the export whose disk a delta builds on, and what its files are called in the new one.

    Raises:
        BaseUnusable: It may not be built on, or its files are not named for it.
    """
    base, names = base_of(copies, plan), base_names(plan)
    if plan.bases[-1].written_as is None or len({*names, plan.file_name}) != len(names) + 1:
        raise BaseUnusable(f"the files of {base} are not named so that a delta can build on them")
    return base, names


def keep_delta(
    job: Job,
    copies: Copies,
    plan: DiskPlan,
    disk: DiskInfo,
    *,
    base: StoredExport,
    written: WrittenDisk,
    stored: Sequence[Stored],
    mode: VerifyMode,
) -> list[Entries]:
    """Keep a delta with the files that it builds on; where nothing differs, the base's own files stand for the disk.

    Args:
        job: The export.
        copies: The staged export in each store.
        plan: What the plan says of the disk.
        disk: The disk as the snapshot froze it.
        base: The export that it builds on.
        written: The delta.
        stored: What each store says of its file; empty where the delta is.
        mode: How much proof of the base's files is asked for.

    Raises:
        BaseUnusable: The base is damaged or gone.
    """
    names = base_names(plan)
    try:
        if not written.changed:
            return _unchanged(job, copies, plan, disk, mode=mode, written=written)
        bases = [(part.model_copy(update=_AS_BASE), name) for part, name in zip(plan.bases, names, strict=True)]
        files = disks.keep_files(job, copies, bases, mode=mode)
    except (ExportNotFound, ChecksumMismatch) as error:
        drop_file(copies, plan.file_name)
        raise BaseUnusable(error.what) from error
    logger.info(
        "%s: %s: %s transferred, %s kept as a delta on %s",
        *(job.vm.name, disk.label, format_bytes(written.received), format_bytes(written.entry.size), base),
    )
    entry = written.entry.model_copy(update={"chain": tuple(names)})
    own = tuple(as_stored(entry, done, by=job.export_id) for done in stored)
    return [*files, *with_tags(job, copies, own, written.tags)]


_AS_BASE: Final = {
    "role": FileRole.BASE,
    "chain": (),
    "change_id": None,
    "distrusted": None,
    "backing_files": (),
    "device_id": None,
    "transferred": False,
    "transport": None,
    "sampled": None,
    "synthetic": False,
}
"""What becomes of a disk's entry where another file builds on it."""


def _write_delta(
    job: Job,
    base: StoredExport,
    plan: DiskPlan,
    disk: DiskInfo,
    snapshot: str | None,
    *,
    parent: str,
    sinks: Sequence[Sink],
) -> WrittenDisk:
    """Compare the stream with the base, and write what differs."""
    check = StreamCheck(capacity=disk.capacity)
    with _base_grains(job, base, plan) as (grains, base_id), DiskOutput(sinks) as output:
        content_id = new_content_id(f"{job.export_id}/{disk.key}", unlike=base_id)
        delta = DeltaWriter(
            grains,
            capacity=disk.capacity,
            out=output.write,
            name=plan.file_name,
            content_id=content_id,
            parent=Parent(base_id, parent),
            tracked=None if plan.changed is None else TrackedAreas(plan.changed),
        )
        with job.lease.reading(snapshot) as lease:
            file = disks.lease_file_of(lease, disk)
            name, total = plan.file_name, disk.capacity
            try:
                received = disks.receive(job, lease, file, (delta,), item=name, total=total, check=check)
            except (BaseUnusable, TrackingWrong):
                job.failed_attempts.remove(name)  # the connection is not to blame
                raise
        delta.finish()
        output.finish()
    entry = FileEntry(
        name=plan.file_name,
        role=FileRole.DISK,
        size=output.size,
        sha256=output.sha256,
        populated=check.populated,
        device_id=file.key,
        cid=f"{content_id:08x}",
        received=received.size,
        transport=Transport.LEASE,
        **disks.facts_of(disk),
    )
    return WrittenDisk(entry, delta.changed > 0, received.size, output.tags())


@contextmanager
def _base_grains(job: Job, base: StoredExport, plan: DiskPlan) -> Generator[tuple[BaseGrains, int]]:
    """What the stream is compared with (the tags of the base's grains, or its bytes), and the CID of the base."""
    entry = plan.bases[-1]
    tags = chain_tags(job, base, plan.bases)
    with ExitStack() as stack:
        if tags is not None and entry.cid is not None and tags[0].capacity == plan.capacity:

            def open_base() -> Disk:
                return stack.enter_context(open_disk(job.primary, base, entry, stop=job.stop))

            yield TaggedGrains(ChainTags(tags), open_base), int(entry.cid, 16)
            return
        if job.primary.refers:
            raise BaseUnusable(f"{base} has no usable tags of its grains, and comparing would download all of it")
        source, identity = stack.enter_context(streamed_base(job, base, entry, plan.capacity))
        yield ReadGrains(source.ascending(), plan.capacity), identity.content_id


def chain_tags(job: Job, base: StoredExport, parts: Sequence[FileEntry]) -> list[GrainTags] | None:
    """The tags of the grains of each file of a disk; None where a file has none that can be used."""
    try:
        read = partial(grain_tags_of, job.primary, base, stop=job.stop)
        layers = at_once(read, parts, distant=job.primary.refers)
    except (ExportNotFound, VerificationFailed, StoreUnusable, StoreUnreachable) as error:
        job.warn(f"the tags of the grains of {base} cannot be used: {error.what}")
        return None
    found = [layer for layer in layers if layer is not None]
    if len(found) < len(parts) or len({layer.capacity for layer in found}) != 1:
        return None
    return found


@contextmanager
def streamed_base(
    job: Job, base: StoredExport, entry: FileEntry, capacity: int
) -> Generator[tuple[StreamedDisk, Identity]]:
    """Open the base's disk to be read from beginning to end, with the identity that a delta names as its parent's.

    Raises:
        BaseUnusable: It is damaged, gone, or of another form.
    """
    with ExitStack() as stack:
        try:
            source = stack.enter_context(open_streamed(job.primary, base, entry, stop=job.stop))
            identity = source.disk.layers[-1].identity()
        except UNUSABLE as error:
            raise BaseUnusable(error.what) from error
        check_base(base, entry, source.disk, identity, capacity)
        yield source, identity


def check_base(base: StoredExport, entry: FileEntry, disk: Disk, identity: Identity, capacity: int) -> None:
    """Refuse a disk that a delta cannot build on.

    Raises:
        BaseUnusable: It has no identity that a delta can name, or another form.
    """
    if not identity.can_be_a_base or (not entry.chain and identity.parent_id != NO_PARENT):
        raise BaseUnusable(f"{base} has the content id {identity.content_id:08x}, which cannot be a base")
    if (disk.grain, disk.capacity) != (GRAIN, capacity):
        raise BaseUnusable(
            f"the disk in {base} has {disk.capacity} bytes in grains of {disk.grain}, "
            f"not {capacity} in grains of {GRAIN}"
        )


@stage(StageName.DISKS)
def write_synthetic(job: Job, copies: Copies, plan: DiskPlan, disk: DiskInfo) -> list[Entries]:
    """Write a disk that is proven unchanged as one whole file: the base's grains, compressed as they are stored.

    The base's files are read and proved beside the writing; nothing of the new file counts before the last is proved.

    Raises:
        BaseUnusable: The base is damaged or gone, so the disk has to be transferred.
        HyperExportError: A store refused the bytes.
        Interrupted: The run was asked to stop.
    """
    job.stop.check()
    entry, name = plan.base_entry, plan.file_name
    assert entry is not None, "a disk is unchanged only on proof, and the proof names the base"
    base = base_of(copies, plan)
    with disks.sinks_for(copies.parts, name) as sinks:
        with streamed_base(job, base, entry, plan.capacity) as (source, identity), DiskOutput(sinks) as output:
            content_id = new_content_id(f"{job.export_id}/{disk.key}", unlike=identity.content_id)
            writer = StreamWriter(plan.capacity, name=name, content_id=content_id)
            for piece in whole_stream(source.ascending(), writer):
                output.write(piece)
            output.finish()
        stored = [sink.finish() for sink in sinks]
    written = FileEntry(
        name=name,
        role=FileRole.DISK,
        size=output.size,
        sha256=output.sha256,
        populated=writer.populated,
        device_id=entry.device_id,
        cid=f"{content_id:08x}",
        transferred=False,
        synthetic=True,
        **disks.facts_of(disk),
    )
    return keep_whole(job, copies, base=base, written=WrittenDisk(written, False, 0, output.tags()), stored=stored)


def keep_whole(
    job: Job, copies: Copies, *, base: StoredExport, written: WrittenDisk, stored: Sequence[Stored]
) -> list[Entries]:
    """Keep a synthetic full, which builds on nothing.

    Args:
        job: The export.
        copies: The staged export in each store.
        base: The export that most of its grains are of.
        written: The full.
        stored: What each store says of its file.
    """
    entry = written.entry
    logger.info(
        "%s: %s: synthetic full of %s written from the grains of %s and %s read from vSphere",
        *(job.vm.name, entry.disk_label, format_bytes(entry.size), base, format_bytes(written.received)),
    )
    own = tuple(as_stored(entry, done, by=job.export_id) for done in stored)
    return with_tags(job, copies, own, written.tags)


def _unchanged(
    job: Job, copies: Copies, plan: DiskPlan, disk: DiskInfo, *, mode: VerifyMode, written: WrittenDisk
) -> list[Entries]:
    """Let the base's files, proved, stand for a disk that was read and found to be as it was."""
    logger.info("%s: %s: every grain is as in the base export", job.vm.name, disk.label)
    kept = plan.model_copy(update={"bases": plan.bases[:-1]})
    files = disks.reuse_disk(job, copies, kept, disk, mode=mode)
    entry = written.entry
    read = {
        **disks.facts_of(disk),
        "transferred": True,
        "received": written.received,
        "transport": entry.transport,
        "sampled": entry.sampled,
    }
    return [
        tuple(entry.model_copy(update=read) for entry in file) if file[0].role is FileRole.DISK else file
        for file in files
    ]


def base_of(copies: Copies, plan: DiskPlan) -> StoredExport:
    """Find the export whose disk the plan builds on, as the primary store has it now.

    Raises:
        BaseUnusable: It may not be built on any more.
    """
    for export in copies.all[0].earlier:
        if not export.manifest.damage and plan.base_entry in export.manifest.disks:
            return export
    raise BaseUnusable("the base export is gone, or may not be referred to now")


def new_content_id(seed: str, *, unlike: int) -> int:
    """Make a CID: any number but those with a meaning, and not the base's."""
    number = 0
    while True:
        found = int.from_bytes(hashlib.sha256(f"{seed}/{number}".encode()).digest()[:4], "big")
        if found not in {0, NO_PARENT, NO_PARENT - 1, unlike}:
            return found
        number += 1
