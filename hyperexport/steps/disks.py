"""One disk's way: out of a lease, through the checks, into every store."""

import hashlib
import logging
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from hyperexport.base.units import KIB, SECTOR, format_bytes
from hyperexport.errors import (
    ChecksumMismatch,
    ExportNotFound,
    HyperExportError,
    LeaseRefused,
    ServerFault,
    ServerUnreachable,
    StoreUnusable,
    StreamCorrupt,
    TransferInterrupted,
)
from hyperexport.formats.vmdk import NO_PARENT, Header, parse_identity
from hyperexport.formats.vmdk_stream import StreamCheck
from hyperexport.model.manifest import FileEntry, FileRole, StageName
from hyperexport.model.progress import Progress, Stage, report
from hyperexport.model.transport import RANGED, Transport
from hyperexport.model.vm import DiskInfo
from hyperexport.options.declaring import Format, VerifyMode
from hyperexport.policy.export_plan import DiskPlan
from hyperexport.steps.block_tags import DiskTagger, with_tags
from hyperexport.steps.job import Job, Uncompared
from hyperexport.steps.proof import find_damage, server_confirms
from hyperexport.steps.stages import stage
from hyperexport.steps.staging import Copies, Entries, StagedCopy, as_kept, as_stored
from hyperexport.store.at_once import at_once
from hyperexport.store.base import Sink, StoredExport
from hyperexport.transfer.pipeline import Received, Writable, transfer
from hyperexport.transfer.source import open_source
from hyperexport.vsphere.lease import Lease
from hyperexport.vsphere.lease_files import LeaseFile

logger = logging.getLogger(__name__)

SECONDS_FOR_PROMISED: Final = 10.0
"""How long a checksum is waited for that the server took the request for."""

SECONDS_FOR_CHECKSUM: Final = 0.5
"""How long any other is waited for: not every server keeps one."""

_HEAD: Final = 64 * KIB
"""Bytes before a stream's first grain: its header and its descriptor."""


@stage(StageName.DISKS)
def transfer_disk(job: Job, copies: Copies, plan: DiskPlan, disk: DiskInfo, snapshot: str | None) -> list[Entries]:
    """Read one disk out of vSphere into every store. Safe to repeat: each attempt starts from nothing.

    Args:
        job: The export.
        copies: The staged export in each store.
        plan: What the plan says of the disk.
        disk: The disk as the snapshot froze it (as the VM has it, without a snapshot).
        snapshot: The snapshot's moref; None to export the VM itself, which must be off.

    Returns:
        The disk and its tags.

    Raises:
        TransientError: The lease, the connection or the bytes failed; another attempt may succeed.
        HyperExportError: A store refused the bytes.
        Interrupted: The run was asked to stop.
    """
    job.stop.check()
    check, head, tagger = StreamCheck(capacity=disk.capacity), Head(), DiskTagger()
    with sinks_for(copies.parts, plan.file_name) as sinks:
        with job.lease.reading(snapshot) as lease:
            file = lease_file_of(lease, disk)
            written = (*sinks, head, tagger)
            received = receive(job, lease, file, written, item=plan.file_name, total=disk.capacity, check=check)
        stored = [sink.finish() for sink in sinks]
    entry = FileEntry(
        name=plan.file_name,
        role=FileRole.DISK,
        size=received.size,
        sha256=received.digests["sha256"],
        populated=check.populated,
        device_id=file.key,
        cid=head.cid,
        transport=Transport.LEASE,
        **facts_of(disk),
    )
    logger.info("%s: %s: %s transferred", job.vm.name, disk.label, format_bytes(received.size))
    entries = [as_stored(entry, done, by=job.export_id) for done in stored]
    once = tuple(store_once(job, copy, own) for copy, own in zip(copies.parts, entries, strict=True))
    return with_tags(job, copies, once, tagger.finish())


def facts_of(disk: DiskInfo) -> dict[str, Any]:
    """What an entry says of the disk at this export, whatever of its bytes was stored."""
    return {
        "capacity": disk.capacity,
        "disk_key": disk.key,
        "disk_label": disk.label,
        "disk_controller": disk.controller,
        "disk_unit": disk.unit,
        "backing_uuid": disk.backing_uuid,
        "content_id": disk.content_id,
        "change_id": disk.change_id,
        "backing_files": disk.backing_files,
    }


class Head:
    """Keeps the beginning of a disk's stream, where its descriptor is."""

    def __init__(self) -> None:
        self._data = b""

    def write(self, data: memoryview) -> None:
        """Take the next bytes."""
        if len(self._data) < _HEAD:
            self._data += bytes(data[: _HEAD - len(self._data)])

    @property
    def cid(self) -> str | None:
        """The CID in the descriptor, as eight hex digits; None where there is none, or none that a delta can name."""
        try:
            header = Header.parse(self._data[:SECTOR], 0)
            begin, length = header.descriptor * SECTOR, header.descriptor_size * SECTOR
            identity = parse_identity(self._data[begin : begin + length] if begin else b"", begin)
        except StreamCorrupt:
            return None
        return f"{identity.content_id:08x}" if identity.can_be_a_base and identity.parent_id == NO_PARENT else None


@contextmanager
def sinks_for(copies: Sequence[StagedCopy], name: str) -> Generator[list[Sink]]:
    """Begin the file in every store; if the block fails, no byte of it stays anywhere."""
    sinks: list[Sink] = []
    try:
        for copy in copies:
            sinks.append(copy.staging.create(name))
        yield sinks
    except BaseException:
        for sink in sinks:
            sink.abort()
        raise


def lease_file_of(lease: Lease, disk: DiskInfo) -> LeaseFile:
    """Find the disk among the lease's files.

    Raises:
        LeaseRefused: The lease does not offer it.
    """
    for file in lease.files:
        if file.disk and file.disk_key == disk.key:
            return file
    raise LeaseRefused(
        f"vSphere's NFC lease offers no file for {disk.label}",
        fix="Check in vSphere whether the disk was changed or removed in the meantime, and run the export again",
    )


def receive(
    job: Job,
    lease: Lease,
    file: LeaseFile,
    sinks: Sequence[Writable],
    *,
    item: str,
    total: int,
    check: StreamCheck | None = None,
    largest: int | None = None,
    later: bool = False,
) -> Received:
    """Download one file of a lease, prove it against what the server says it sent, and show how far it is.

    Args:
        job: The export.
        lease: The lease that offers it.
        file: Which of its files.
        sinks: Where the bytes go.
        item: The file's name in the export.
        total: Bytes of it, as far as they are known beforehand; of a disk, its capacity.
        check: Knows where the stream has to end, for a disk.
        largest: Bytes at which a stream without a check is given up, because no such file has more.
        later: Whether a checksum that the server does not give at once is left to :func:`is_as_sent`.
    """
    last = Progress(job.ref, item, Stage.TRANSFER, 0, total, 0)

    def on_progress(position: int, moved: int) -> None:
        nonlocal last
        last = Progress(job.ref, item, Stage.TRANSFER, position, total, moved)
        lease.progress(100 * position // max(total, 1))
        report(last)

    server_hashes = lease.request_checksums()
    report(last)
    try:
        asked = time.monotonic()
        with open_source(file.url, trust=file.trust, stop=job.stop, largest=largest) as source:
            job.throttle.answered("read", time.monotonic() - asked)
            lease.on_lost(source.close)
            received = transfer(
                source,
                sinks,
                throttle=job.throttle,
                stop=job.stop,
                check=check,
                digests=("sha256",) if server_hashes and file.disk else ("sha256", "sha1"),
                on_progress=on_progress,
            )
        if later and job.gives_checksums and file.key not in lease.checksums():
            job.uncompared.append(Uncompared(lease, file, received, item, time.monotonic() + SECONDS_FOR_CHECKSUM))
        else:
            promised = server_hashes and file.disk
            seconds = SECONDS_FOR_PROMISED if promised else SECONDS_FOR_CHECKSUM
            compare_with_server(job, lease, file, received, item, seconds=seconds, promised=promised)
    except BaseException as error:
        job.failed_attempts.append(item)
        if isinstance(error, TransferInterrupted | ServerUnreachable):
            job.throttle.trouble()
        job.stop.check()
        lease.check()  # a lost lease closes the socket: the lease's end is the reason to give
        if isinstance(error, ServerFault):
            lease.confirm()  # its URL may be gone with it
        report(Progress(job.ref, item, Stage.TRANSFER, last.position, total, last.moved, failed=True))
        raise
    report(Progress(job.ref, item, Stage.TRANSFER, total, total, received.size, done=True))
    return received


def compare_with_server(
    job: Job, lease: Lease, file: LeaseFile, received: Received, item: str, *, seconds: float, promised: bool = False
) -> None:
    """Compare what came with what the server's manifest says it sent, where the server keeps one.

    Args:
        job: The export.
        lease: The lease that offers the file.
        file: Which of its files.
        received: What came.
        item: The file's name in the export.
        seconds: How long the checksum is waited for.
        promised: Whether the server took the request for a checksum: then a missing one is a warning.

    Raises:
        ChecksumMismatch: They differ.
        Interrupted: The run was asked to stop.
    """
    sent = lease.wait_for_checksum(file.key, seconds=0, stop=job.stop)
    if sent is None and seconds and _may_come(job, lease):
        sent = lease.wait_for_checksum(file.key, seconds=seconds, stop=job.stop)
    got = received.digests.get(sent.algorithm) if sent else None
    if sent and (sent.size != received.size or got not in {None, sent.digest}):
        raise ChecksumMismatch(
            f"{item}: the server sent {sent.size} bytes with {sent.algorithm} {sent.digest}, "
            f"and {received.size} bytes with {got} came"
        )
    if got is None:
        job.gives_checksums = False
        logger.info("%s: the server gives no checksum that could be compared", item)
        if promised:
            job.warn(f"{item}: the server promised a checksum of what it sent and gives none, so nothing was compared")


def is_as_sent(job: Job) -> bool:
    """Compare the files whose checksum the server did not give at once, now that it had the time.

    Returns:
        False where one differs, or can no longer be compared, as its lease is over: it has to be read again.

    Raises:
        Interrupted: The run was asked to stop.
    """
    waiting, job.uncompared = job.uncompared, []
    for lease, file, received, item, until in waiting:
        if lease is not job.lease.current:
            logger.info("%s: its lease is over, so it is read again to be compared", item)
            return False
        try:
            compare_with_server(job, lease, file, received, item, seconds=max(until - time.monotonic(), 0))
        except HyperExportError as error:
            job.stop.check()
            logger.warning("%s: read again: %s", item, error)
            job.failed_attempts.append(item)
            return False
    return True


def _may_come(job: Job, lease: Lease) -> bool:
    """Whether a checksum is worth waiting for: a server that gives none of a smaller file gives none of a disk."""
    for one in job.uncompared:
        left = max(one.until - time.monotonic(), 0)
        if one.lease is lease and lease.wait_for_checksum(one.file.key, seconds=left, stop=job.stop) is None:
            job.gives_checksums = False
    return job.gives_checksums


def store_once(job: Job, copy: StagedCopy, entry: FileEntry) -> FileEntry:
    """Let an earlier file with the same content stand for this one: an incremental export keeps equal bytes once.

    The earlier file is proved first, whatever the options: bytes that just came must not give way to rotten ones. A
    local file is read. In S3 the server's own checksum must be the one that it acknowledged; with ``--verify`` the
    object is read where the server keeps none. What is not proved is not used, and the bytes that came are kept.
    """
    found = copy.holding(entry)
    if found is None or not is_proved(job, copy, *found):
        return entry
    earlier, same = found
    reused = copy.staging.reuse(earlier, same, entry.name)
    if reused is None:
        return entry
    logger.info("%s: the same content as in %s; kept once", entry.name, earlier)
    return as_kept(entry, reused)


def is_proved(job: Job, copy: StagedCopy, earlier: StoredExport, entry: FileEntry) -> bool:
    """Prove an earlier file of the store at least as far as that costs no download."""
    mode = job.options.execution.verify
    if mode is not VerifyMode.OFF or not copy.store.refers:
        return not warned_of_damage(job, copy, earlier, entry, mode=VerifyMode.ON if mode is VerifyMode.OFF else mode)
    try:
        if server_confirms(copy.store, earlier, entry):
            return True
    except (ExportNotFound, StoreUnusable) as error:
        logger.info("%s of %s: %s", entry.name, earlier, error)
    job.warn(
        f"{entry.name} of {copy.store.url}/{earlier} has the same content and is not proved by its server's checksum, "
        f"so the content is stored again. Look at it: hyperexport verify {earlier.export_id} --deep"
    )
    return False


def warned_of_damage(job: Job, copy: StagedCopy, earlier: StoredExport, entry: FileEntry, *, mode: VerifyMode) -> bool:
    """Look for damage of an earlier file, and warn of what is found: that export cannot be relied on."""
    damage = find_damage(copy.store, earlier, entry, mode=mode, stop=job.stop)
    if damage:
        job.warn(
            f"{copy.store.url}/{earlier} is damaged: {entry.name} {damage}; this export does not use it. "
            f"Record the damage with: hyperexport verify {earlier.export_id}"
        )
    return bool(damage)


@stage(StageName.DISKS)
def reuse_disk(
    job: Job, copies: Copies, plan: DiskPlan, disk: DiskInfo, *, mode: VerifyMode | None = None
) -> list[Entries]:
    """Let the base export's bytes stand for a disk that is proven unchanged.

    Where a store can't refer to them (the base lies in an OVA, or only in the other store), they are copied from the
    primary store, with their hash checked. For an OVA the bytes are read in any case, so they are always proved.

    Args:
        job: The export.
        copies: The staged export in each store.
        plan: What the plan says of the disk.
        disk: The disk as the snapshot froze it.
        mode: How much proof of the base's files is asked for; as the options say if None.

    Returns:
        The files that the disk is made of, the base first, each with its tags.

    Raises:
        ChecksumMismatch: The base's bytes are not what its manifest says.
        ExportNotFound: The base is gone.
    """
    job.stop.check()
    base_entry = plan.base_entry
    assert base_entry is not None, "a disk is reused only on proof, and the proof names the base"
    now = {
        "change_id": disk.change_id,
        "backing_files": disk.backing_files,
        "disk_label": disk.label,
        "transferred": False,
        "received": None if base_entry.transport in RANGED else base_entry.received,
        "transport": None,
        "sampled": None,
        "synthetic": False,
        "distrusted": None,
    }
    asked = mode or job.options.execution.verify
    as_ova = job.options.destination.format is Format.OVA
    mode = VerifyMode.ON if as_ova and asked is VerifyMode.OFF else asked
    own = (base_entry.model_copy(update=now), plan.file_name)
    files = keep_files(job, copies, [*((part, part.name) for part in plan.bases), own], mode=mode)
    logger.info("%s: %s: unchanged, %s not transferred", job.vm.name, disk.label, format_bytes(base_entry.size))
    return files


def keep_files(job: Job, copies: Copies, files: Sequence[tuple[FileEntry, str]], *, mode: VerifyMode) -> list[Entries]:
    """Let the bytes of an earlier export's files stand for files of this export, in every store.

    Args:
        job: The export.
        copies: The staged export in each store.
        files: Each file, as the earlier export's manifest has it, with what is to be said of it in this one, and what
            it is called in this export.
        mode: How much proof of the earlier files is asked for.

    Returns:
        Each file, and after it its tags as far as the earlier export left some.

    Raises:
        ChecksumMismatch: The bytes are not what the manifest says.
        ExportNotFound: They are gone.
    """
    distant = any(copy.store.refers for copy in copies.parts)
    kept = at_once(lambda file: _keep_file(job, copies, *file, mode=mode), files, distant=distant)
    return [entries for one in kept for entries in one]


def _keep_file(job: Job, copies: Copies, entry: FileEntry, name: str, *, mode: VerifyMode) -> list[Entries]:
    entry = entry.model_copy(update={"name": name, "member_of": None, "offset": None})
    entries: list[FileEntry] = []
    for copy in copies.parts:
        found = copy.holding(entry)
        if found and warned_of_damage(job, copy, *found, mode=mode):
            found = None
        reused = copy.staging.reuse(*found, name) if found else None
        kept = reused or copy_from_base(job, copies, copy, entry, name)
        entries.append(as_kept(entry, kept))
    return with_tags(job, copies, tuple(entries))


def copy_from_base(job: Job, copies: Copies, copy: StagedCopy, base_entry: FileEntry, name: str) -> FileEntry:
    """Copy a disk out of an export of the primary store, which holds it in another form or another place."""
    found = copies.all[0].holding(base_entry)
    if found is None:
        raise ExportNotFound(f"no export of {job.primary.url} holds {base_entry.name} any more")
    base, held = found
    digest = hashlib.sha256()
    with sinks_for((copy,), name) as (sink,):
        with job.primary.open(base, held.name) as reader:
            for chunk in reader.chunks():
                job.stop.check()
                digest.update(chunk)
                sink.write(memoryview(chunk))
        if digest.hexdigest() != base_entry.sha256:
            raise ChecksumMismatch(f"{base_entry.name} of {base} is not what its manifest says")
        done = sink.finish()
    return as_stored(base_entry.model_copy(update={"name": name}), done, by=job.export_id)
