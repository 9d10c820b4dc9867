"""One disk of an export: transferred whole, stored as a delta, written whole from the store's grains, or not moved."""

import hashlib
import logging
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Final, NamedTuple

from hyperexport.base.units import format_bytes
from hyperexport.errors import ChecksumMismatch, ExportNotFound, StoreUnreachable, StoreUnusable, VerificationFailed
from hyperexport.formats.grain_tags import ChainTags
from hyperexport.formats.vmdk import GRAIN, NO_PARENT, Identity, Parent
from hyperexport.formats.vmdk_stream import StreamCheck
from hyperexport.formats.vmdk_writer import StreamWriter
from hyperexport.images.base_grains import UNUSABLE, BaseGrains, BaseUnusable, ReadGrains, TaggedGrains, TrackedAreas
from hyperexport.images.delta import DeltaWriter, TrackingWrong, whole_stream
from hyperexport.images.disk import Disk
from hyperexport.images.opening import grain_tags_of, open_disk, open_streamed
from hyperexport.images.stream import StreamedDisk
from hyperexport.model.manifest import FileEntry, FileRole, StageName
from hyperexport.model.vm import DiskInfo
from hyperexport.options.groups import VerifyMode
from hyperexport.policy.incremental import Decision, DiskPlan, series_of
from hyperexport.steps import disks
from hyperexport.steps.block_tags import DiskTagger, Packed, drop_file, with_tags
from hyperexport.steps.job import Job
from hyperexport.steps.stages import stage
from hyperexport.steps.staging import Copies, Entries, as_stored
from hyperexport.steps.step import step
from hyperexport.store.base import Sink, StoredExport

logger = logging.getLogger(__name__)


@step("export-disk", run_name="{plan.decision} {plan.label}", retried=True)
def export_disk(job: Job, copies: Copies, plan: DiskPlan, disk: DiskInfo, snapshot: str | None) -> list[Entries]:
    """Transfer one disk into every store, or let the base export's bytes stand for it, as the plan says.

    Returns:
        The files that the disk is made of, the base first, each with its tags.
    """
    distrusted = plan.distrusted
    try:
        files = _export(job, copies, plan, disk, snapshot)
    except TrackingWrong as error:
        job.warn(
            f"change tracking of {disk.label} is wrong: {error}. The disk is exported whole, and its change tracking "
            "is not used again until it begins anew: switch it off and on again in vSphere"
        )
        drop_bases(copies, base_names(plan))
        distrusted = series_of(disk.change_id)
        files = disks.transfer_disk(job, copies, plan, disk, snapshot)
    told = {"distrusted": distrusted}
    return [
        tuple(entry.model_copy(update=told) for entry in file) if file[0].role is FileRole.DISK else file
        for file in files
    ]


def _export(job: Job, copies: Copies, plan: DiskPlan, disk: DiskInfo, snapshot: str | None) -> list[Entries]:
    if plan.synthetic:
        try:
            return write_synthetic(job, copies, plan, disk)
        except BaseUnusable as error:
            job.warn(f"{disk.label} is unchanged, and was transferred anyway: {error}")
    elif plan.decision is Decision.REUSE:
        try:
            return disks.reuse_disk(job, copies, plan, disk)
        except (ExportNotFound, ChecksumMismatch) as error:  # deleted since the plan was made, or damaged
            job.warn(f"{disk.label} is unchanged, and was transferred anyway: {error.what}")
            drop_bases(copies, [part.name for part in plan.bases])
    elif plan.bases and _shares_files(job, copies, plan):
        try:
            return transfer_delta(job, copies, plan, disk, snapshot)
        except BaseUnusable as error:
            job.warn(f"{disk.label} is stored whole, not as a delta: {error}")
            drop_bases(copies, base_names(plan))
    return disks.transfer_disk(job, copies, plan, disk, snapshot)


def _shares_files(job: Job, copies: Copies, plan: DiskPlan) -> bool:
    """Tell whether exports of the primary store can share the base's files: else each delta would copy its chain."""
    copy, name = copies.parts[0], base_names(plan)[0]
    found = copy.holding(plan.bases[0])
    if copy.store.refers or found is None:
        return True
    if copy.staging.reuse(*found, name) is None:
        logger.info("%s: %s: stored whole: %s makes no hard links", job.vm.name, plan.label, copy.store.url)
        return False
    copy.staging.remove(name)
    return True


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
    base = base_of(copies, plan)
    names = base_names(plan)
    asked = job.options.execution.verify
    mode = VerifyMode.ON if asked is VerifyMode.OFF else asked
    if plan.bases[-1].written_as is None or len({*names, plan.file_name}) != len(names) + 1:
        raise BaseUnusable(f"the files of {base} are not named so that a delta can build on them")
    with disks.sinks_for(copies.parts, plan.file_name) as sinks:
        written = _write_delta(job, base, plan, disk, snapshot, parent=names[-1], sinks=sinks)
        if written.changed:
            stored = [sink.finish() for sink in sinks]
        else:
            stored = []
            for sink in sinks:
                sink.abort()
    try:
        if not written.changed:
            return _unchanged(job, copies, plan, disk, mode=mode, received=written.received)
        files = [
            file
            for part, name in zip(plan.bases, names, strict=True)
            for file in disks.keep_file(job, copies, part.model_copy(update=_AS_BASE), name, mode=mode)
        ]
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
}
"""What becomes of a disk's entry where another file builds on it."""


class _Written(NamedTuple):
    """A delta, as far as it is the same in every store."""

    entry: FileEntry
    changed: int
    """Grains that it holds."""
    received: int
    """Bytes of the stream that it was made of."""
    tags: Packed


def _write_delta(
    job: Job,
    base: StoredExport,
    plan: DiskPlan,
    disk: DiskInfo,
    snapshot: str | None,
    *,
    parent: str,
    sinks: Sequence[Sink],
) -> _Written:
    """Compare the stream with the base, and write what differs."""
    check, digest, tagger, size = StreamCheck(capacity=disk.capacity), hashlib.sha256(), DiskTagger(), 0

    def out(data: bytes) -> None:
        nonlocal size
        digest.update(data)
        tagger.write(data)
        size += len(data)
        for sink in sinks:
            sink.write(memoryview(data))

    with _base_grains(job, base, plan) as (grains, base_id):
        content_id = _content_id(f"{job.export_id}/{disk.key}", unlike=base_id)
        delta = DeltaWriter(
            grains,
            capacity=disk.capacity,
            out=out,
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
    entry = FileEntry(
        name=plan.file_name,
        role=FileRole.DISK,
        size=size,
        sha256=digest.hexdigest(),
        populated=check.populated,
        device_id=file.key,
        cid=f"{content_id:08x}",
        received=received.size,
        **disks.facts_of(disk),
    )
    return _Written(entry, delta.changed, received.size, tagger.finish())


@contextmanager
def _base_grains(job: Job, base: StoredExport, plan: DiskPlan) -> Generator[tuple[BaseGrains, int]]:
    """What the stream is compared with (the tags of the base's grains, or its bytes), and the CID of the base."""
    entry = plan.bases[-1]
    tags = _chain_tags(job, base, plan.bases)
    with ExitStack() as stack:
        if tags is not None and entry.cid is not None and tags.capacity == plan.capacity:

            def open_base() -> Disk:
                return stack.enter_context(open_disk(job.primary, base, entry, stop=job.stop))

            yield TaggedGrains(tags, open_base), int(entry.cid, 16)
            return
        if job.primary.refers:
            raise BaseUnusable(f"{base} has no usable tags of its grains, and comparing would download all of it")
        source, identity = stack.enter_context(_base_disk(job, base, entry, plan.capacity))
        yield ReadGrains(source.ascending(), plan.capacity), identity.content_id


def _chain_tags(job: Job, base: StoredExport, parts: Sequence[FileEntry]) -> ChainTags | None:
    """The tags of the grains of a disk; None where a file has none that can be used."""
    try:
        layers = [grain_tags_of(job.primary, base, part, job.stop) for part in parts]
    except (ExportNotFound, VerificationFailed, StoreUnusable, StoreUnreachable) as error:
        job.warn(f"the tags of the grains of {base} cannot be used: {error.what}")
        return None
    found = [layer for layer in layers if layer is not None]
    if len(found) < len(parts) or len({layer.capacity for layer in found}) != 1:
        return None
    return ChainTags(found)


@contextmanager
def _base_disk(
    job: Job, base: StoredExport, entry: FileEntry, capacity: int
) -> Generator[tuple[StreamedDisk, Identity]]:
    """Open the base's disk to be read from beginning to end, with the identity that a delta names as its parent's."""
    with ExitStack() as stack:
        try:
            source = stack.enter_context(open_streamed(job.primary, base, entry, stop=job.stop))
            identity = source.disk.layers[-1].identity()
        except UNUSABLE as error:
            raise BaseUnusable(error.what) from error
        if not identity.can_be_a_base or (not entry.chain and identity.parent_id != NO_PARENT):
            raise BaseUnusable(f"{base} has the content id {identity.content_id:08x}, which cannot be a base")
        if (source.disk.grain, source.disk.capacity) != (GRAIN, capacity):
            raise BaseUnusable(
                f"the disk in {base} has {source.disk.capacity} bytes in grains of {source.disk.grain}, "
                f"not {capacity} in grains of {GRAIN}"
            )
        yield source, identity


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
    digest, tagger, size = hashlib.sha256(), DiskTagger(), 0
    with disks.sinks_for(copies.parts, name) as sinks:
        with _base_disk(job, base, entry, plan.capacity) as (source, identity):
            content_id = _content_id(f"{job.export_id}/{disk.key}", unlike=identity.content_id)
            writer = StreamWriter(plan.capacity, name=name, content_id=content_id)
            for piece in whole_stream(source.ascending(), writer):
                digest.update(piece)
                tagger.write(piece)
                size += len(piece)
                for sink in sinks:
                    sink.write(memoryview(piece))
        stored = [sink.finish() for sink in sinks]
    written = FileEntry(
        name=name,
        role=FileRole.DISK,
        size=size,
        sha256=digest.hexdigest(),
        populated=writer.populated,
        device_id=entry.device_id,
        cid=f"{content_id:08x}",
        transferred=False,
        **disks.facts_of(disk),
    )
    logger.info("%s: %s: unchanged, %s written whole from %s", job.vm.name, disk.label, format_bytes(size), base)
    own = tuple(as_stored(written, done, by=job.export_id) for done in stored)
    return with_tags(job, copies, own, tagger.finish())


def _unchanged(
    job: Job, copies: Copies, plan: DiskPlan, disk: DiskInfo, *, mode: VerifyMode, received: int
) -> list[Entries]:
    """Let the base's files, proved, stand for a disk that was read and found to be as it was."""
    logger.info("%s: %s: every grain is as in the base export", job.vm.name, disk.label)
    kept = plan.model_copy(update={"bases": plan.bases[:-1]})
    files = disks.reuse_disk(job, copies, kept, disk, mode=mode)
    read = {**disks.facts_of(disk), "transferred": True, "received": received}
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


def _content_id(seed: str, *, unlike: int) -> int:
    """Make a CID: any number but those with a meaning, and not the base's."""
    number = 0
    while True:
        found = int.from_bytes(hashlib.sha256(f"{seed}/{number}".encode()).digest()[:4], "big")
        if found not in {0, NO_PARENT, NO_PARENT - 1, unlike}:
            return found
        number += 1
