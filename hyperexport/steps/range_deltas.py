"""A disk of which only the changed grains are read, by a range transport.

They become a delta; or, in a synthetic full, they are merged into the base's own grains. Change tracking says what
changed, and is trusted only while it is proven: known grains have to come as the store has them before anything else
counts, and a random sample of the grains that it calls unchanged is read again on the way.
"""

import heapq
import logging
import random
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Final, NamedTuple

from hyperexport.base.units import format_bytes
from hyperexport.errors import ChangeTrackingUnavailable
from hyperexport.formats.block_tags import BLOCK
from hyperexport.formats.grain_tags import GrainTags, holder
from hyperexport.formats.vmdk import GRAIN, TABLE_ENTRIES, Identity, Parent
from hyperexport.formats.vmdk_writer import ZERO_GRAIN, StreamWriter
from hyperexport.images.base_grains import UNUSABLE, BaseUnusable
from hyperexport.images.delta import ChangedGrain, delta_stream, whole_stream
from hyperexport.images.disk import Disk
from hyperexport.images.opening import open_disk
from hyperexport.images.stream import StreamedDisk
from hyperexport.model.manifest import GRAINS_SUFFIX, FileEntry, FileRole, StageName
from hyperexport.model.progress import Progress, Stage, report
from hyperexport.model.vm import DiskInfo
from hyperexport.policy.export_plan import DiskPlan
from hyperexport.policy.incremental import other_series
from hyperexport.policy.transport import KNOWN_GRAINS, Run, choose_sample, grains_of, is_changed
from hyperexport.steps import deltas, disks
from hyperexport.steps.disk_output import DiskOutput
from hyperexport.steps.job import Job
from hyperexport.steps.range_sources import READ_ERRORS, open_ranges
from hyperexport.steps.stages import stage
from hyperexport.steps.staging import Copies, Entries
from hyperexport.store.base import Sink, Stored, StoredExport
from hyperexport.transfer.behind import Behind
from hyperexport.transfer.pipeline import PROGRESS_INTERVAL
from hyperexport.transfer.ranges import RangeSource, joined, read_ranges
from hyperexport.vsphere.change_tracking import changed_areas
from hyperexport.vsphere.lease import Lease

logger = logging.getLogger(__name__)

COMPARED: Final = 32
"""Blocks of 64 KiB that may wait for their comparison, which reads from the store."""

_TABLE: Final = TABLE_ENTRIES * GRAIN
"""Bytes of the disk that one grain table is for."""

_SAME: Final = ("backing_uuid", "capacity", "file")
"""What has to be the same of a VM's disk when it is held as when the export was planned."""


class RangesUnusable(Exception):
    """What changed cannot be read in ranges; the whole stream has it. No error that a user sees."""


class NotAsStored(Exception):
    """A grain that should be as the store has it was read otherwise. No error that a user sees."""


@stage(StageName.DISKS)
def transfer_ranges(job: Job, copies: Copies, plan: DiskPlan, disk: DiskInfo, snapshot: str | None) -> list[Entries]:
    """Read what changed on one disk, and only that, and store it as a delta or in a synthetic full. Safe to repeat.

    A VM that is off is held by a lease meanwhile, so that it cannot be powered on and written to.

    Returns:
        The files that the disk builds on, the base first, and its own.

    Raises:
        RangesUnusable: It cannot be read so; nothing is left in the stores.
        NotAsStored: Change tracking or the transport was found to be wrong.
        BaseUnusable: The base is damaged or gone, so the disk has to be transferred and kept whole.
        HyperExportError: A store refused the bytes.
        Interrupted: The run was asked to stop.
    """
    job.stop.check()
    export = deltas.base_of(copies, plan) if plan.synthetic else deltas.find_base(copies, plan)[0]
    failure: Exception | None = None
    written: deltas.WrittenDisk | None = None
    stored: list[Stored] = []
    with ExitStack() as held:
        lease = held.enter_context(job.lease.reading(None)) if snapshot is None else None
        try:
            with (
                _open_base(job, export, plan) as base,
                disks.sinks_for(copies.parts, plan.file_name) as sinks,
            ):
                written = _Reader(job, plan, disk, snapshot, base).write(sinks, lease)
                if lease:
                    lease.check()
                    lease.confirm()
                if written.changed or plan.synthetic:
                    stored = [sink.finish() for sink in sinks]
                else:
                    for sink in sinks:
                        sink.abort()
        except (RangesUnusable, NotAsStored, BaseUnusable) as error:
            failure = error  # raised when the lease was given back in good order: it is not to blame
    if failure or written is None:
        assert failure
        job.failed_attempts.append(plan.file_name)
        last = Progress(job.ref, plan.file_name, Stage.TRANSFER, 0, disk.capacity, 0, failed=True)
        report(last)
        raise failure
    if plan.synthetic:
        return deltas.keep_whole(job, copies, base=export, written=written, stored=stored)
    mode = job.options.execution.verify
    return deltas.keep_delta(job, copies, plan, disk, base=export, written=written, stored=stored, mode=mode)


class _Base(NamedTuple):
    """The base export's disk."""

    export: StoredExport
    known: Disk
    """Read at any place, each block proved."""
    identity: Identity
    held: Sequence[GrainTags]
    """Which grains each of its files holds; empty where that would take longer to read than to look at the files."""
    streamed: StreamedDisk | None
    """The same from beginning to end, proved by its SHA-256; only for a synthetic full, which takes its grains."""


@contextmanager
def _reading_base() -> Generator[None]:
    """What cannot be read of the base in the block makes the base unusable; what a store cannot write does not."""
    try:
        yield
    except UNUSABLE as error:
        raise BaseUnusable(error.what) from error


@contextmanager
def _open_base(job: Job, export: StoredExport, plan: DiskPlan) -> Generator[_Base]:
    entry = plan.bases[-1]
    with ExitStack() as stack:
        with _reading_base():
            known = stack.enter_context(open_disk(job.primary, export, entry, stop=job.stop))
            identity = known.layers[-1].identity()
        deltas.check_base(export, entry, known, identity, plan.capacity)
        streamed: StreamedDisk | None = None
        if plan.synthetic:
            streamed, _ = stack.enter_context(deltas.streamed_base(job, export, entry, plan.capacity))
        yield _Base(export, known, identity, _held(job, export, plan), streamed)


def _held(job: Job, export: StoredExport, plan: DiskPlan) -> Sequence[GrainTags]:
    """The tags of the base's grains, where they have fewer bytes than looking for each changed grain would read.

    A look reads, in each file of the chain, the block of the grain table; tables of 32 MiB of the disk.
    """
    names = {part.name + GRAINS_SUFFIX for part in plan.bases}
    size = sum(entry.size for entry in export.manifest.files if entry.name in names)
    looks = len({offset // _TABLE for offset, _ in plan.changed or ()})
    if size > looks * len(plan.bases) * BLOCK:
        return ()
    tags = deltas.chain_tags(job, export, plan.bases)
    return tags if tags and tags[0].capacity == plan.capacity else ()


class _Reader:
    """One pass over what changed, and over the sample of what did not."""

    def __init__(self, job: Job, plan: DiskPlan, disk: DiskInfo, snapshot: str | None, base: _Base) -> None:
        self._job = job
        self._plan = plan
        self._disk = disk
        self._snapshot = snapshot
        self._base = base
        self._known = base.known
        self._lease: Lease | None = None
        self._position = 0
        self._moved = 0
        self._sampled = 0
        self._populated = 0
        """Bytes of the grains that hold something now and did not in the base, less those that do not any more."""

    def write(self, sinks: Sequence[Sink], lease: Lease | None) -> deltas.WrittenDisk:
        """Read and write.

        Args:
            sinks: Where the file goes.
            lease: What holds a VM that is off: when it ends, so does the reading.
        """
        self._lease = lease
        changed = self._changed()
        with self._opened() as source:
            forget = lease.on_lost(source.cut) if lease else None
            try:
                return self._written(source, changed, sinks)
            finally:
                if forget:
                    forget()

    def _changed(self) -> list[Run]:
        """Ask what changed, now that nothing can change any more.

        What had changed when the export was planned is in the plan, so of a VM that is off only what came after that
        is asked for: nothing, as a rule, where it takes the longer to read the more there is.
        """
        job, disk, entry = self._job, self._disk, self._plan.bases[-1]
        planned, since = (), entry.change_id or ""
        now: DiskInfo | None = disk
        if self._lease:
            now = next((one for one in self._lease.disks if one.key == disk.key), None)
            if now is None or any(getattr(now, fact) != getattr(disk, fact) for fact in _SAME):
                raise RangesUnusable("the disk was changed in vSphere since the export was planned")
            if doubt := other_series(now.change_id or "", entry.change_id or ""):
                raise RangesUnusable(doubt)
            if self._plan.changed is not None and disk.change_id:
                planned, since = self._plan.changed, disk.change_id
        try:
            areas = changed_areas(job.session, job.ref, now, snapshot=self._snapshot, since=since)
        except ChangeTrackingUnavailable as error:
            raise RangesUnusable(error.what) from error
        return grains_of(sorted([*planned, *areas.extents]), GRAIN)

    @contextmanager
    def _opened(self) -> Generator[RangeSource]:
        """Open the source; that it cannot be is a reason to read otherwise."""
        assert self._plan.transport
        with ExitStack() as stack:
            try:
                opening = open_ranges(self._job, self._disk, self._plan.transport, self._snapshot)
                source = stack.enter_context(opening)
            except READ_ERRORS as error:
                self._job.stop.check()
                raise RangesUnusable(error.what) from error
            yield source

    def _written(self, source: RangeSource, changed: list[Run], sinks: Sequence[Sink]) -> deltas.WrittenDisk:
        job, plan, disk = self._job, self._plan, self._disk
        name, identity = plan.file_name, self._base.identity
        sample = self._sample(source, changed, -(-disk.capacity // GRAIN))
        content_id = deltas.new_content_id(f"{job.export_id}/{disk.key}", unlike=identity.content_id)
        parent = None if plan.synthetic else Parent(identity.content_id, deltas.base_names(plan)[-1])
        writer = StreamWriter(disk.capacity, name=name, content_id=content_id, parent=parent)
        self._report(0)
        with (
            DiskOutput(sinks) as output,
            Behind[ChangedGrain](lambda grain: self._compare(*grain), most=COMPARED, name="compare") as comparisons,
        ):
            for piece in self._stream(writer, self._read(source, changed, sample, comparisons)):
                output.write(piece)
            comparisons.finish()
            output.finish()
        report(Progress(job.ref, name, Stage.TRANSFER, disk.capacity, disk.capacity, self._moved, done=True))
        logger.info(
            "%s: %s: %s read by %s, %d unchanged grains compared with %s",
            *(job.vm.name, disk.label, format_bytes(self._moved), source.name, self._sampled, self._base.export),
        )
        entry = FileEntry(
            name=name,
            role=FileRole.DISK,
            size=output.size,
            sha256=output.sha256,
            populated=writer.populated if plan.synthetic else self._bytes_populated(),
            device_id=plan.bases[-1].device_id,
            cid=f"{content_id:08x}",
            received=self._moved,
            transport=plan.transport,
            sampled=self._sampled,
            synthetic=plan.synthetic,
            **disks.facts_of(disk),
        )
        return deltas.WrittenDisk(entry, writer.populated > 0, self._moved, output.tags())

    def _stream(self, writer: StreamWriter, changes: Iterator[ChangedGrain]) -> Iterator[bytes]:
        """The bytes of the disk's file."""
        streamed = self._base.streamed
        if streamed is None:
            return delta_stream(self._known, writer, changes)
        size = max(streamed.size, 1)
        grains = streamed.ascending(lambda done: self._report(self._disk.capacity * done // size))
        return whole_stream(grains, writer, changes)

    def _report(self, position: int) -> None:
        self._position = max(self._position, position)
        name, total = self._plan.file_name, self._disk.capacity
        report(Progress(self._job.ref, name, Stage.TRANSFER, self._position, total, self._moved))

    def _bytes_populated(self) -> int | None:
        before = self._plan.bases[-1].populated
        return None if before is None else min(max(before + self._populated, 0), self._disk.capacity)

    # -- trust --------------------------------------------------------------------------------------------------------

    def _sample(self, source: RangeSource, changed: list[Run], total: int) -> list[int]:
        """Choose the grains that are read again, and prove the transport by some that hold something.

        Returns:
            Those that are still to be read, ascending.

        Raises:
            NotAsStored: One of the known grains is not as the store has it.
            RangesUnusable: There is nothing to prove the transport by.
        """
        chance = random.SystemRandom()
        percent = self._job.options.incremental.transport_sample
        chosen = choose_sample(changed, total, percent=percent, chance=chance)
        with _reading_base():
            filled = [number for number in chosen if self._is_held(number)]
            proof = sorted(chance.sample(filled, min(KNOWN_GRAINS, len(filled))))
            if len(proof) < KNOWN_GRAINS:
                have = set(proof)
                proof += [number for number in self._filled(changed, chance, total) if number not in have]
                proof = sorted(proof[:KNOWN_GRAINS])
        if not proof:
            raise RangesUnusable("the base has no unchanged grain that holds anything, to prove the transport by")
        for grain in self._grains(source, proof):
            self._compare(*grain)
        proved = set(proof)
        return [number for number in chosen if number not in proved]

    def _filled(self, changed: list[Run], chance: random.Random, total: int) -> Iterator[int]:
        """Unchanged grains of the base that hold something, from a random place on; twice as many as are wanted."""
        begin = chance.randrange(total) * GRAIN
        left = 2 * KNOWN_GRAINS
        stretches = ((begin, self._disk.capacity - begin), (0, begin))
        for offset, length in stretches:
            for extent in self._known.extents(offset, length) if length else ():
                first, end = extent.offset // GRAIN, -(-(extent.offset + extent.length) // GRAIN)
                for number in range(first, end) if extent.data else ():
                    if not left:
                        return
                    if not is_changed(number, changed):
                        left -= 1
                        yield number

    def _is_held(self, number: int) -> bool:
        """Whether any of the base's files holds the grain."""
        held = self._base.held
        return (holder(held, number) if held else self._known.place(number)) is not None

    def _had_data(self, number: int) -> bool:
        """Whether the grain was anything but zeros; one that became zero is held, by the delta of that time."""
        if held := self._base.held:
            newest = holder(held, number)
            return newest is not None and number not in held[newest].zeros
        with _reading_base():
            place = self._known.place(number)
            return place is not None and (place.layer == 0 or any(self._known.read(number * GRAIN, GRAIN)))

    def _stored(self, number: int, content: bytes) -> bytes:
        """A grain as the store has it; the newest file that holds it is enough where its content is equal."""
        if held := self._base.held:
            newest = holder(held, number)
            found = None if newest is None else self._known.content_in(newest, number)
            if content == (found or ZERO_GRAIN[: len(content)]):
                return content
        return self._known.read(number * GRAIN, GRAIN)

    def _compare(self, number: int, content: bytes) -> None:
        """Compare a grain that should be unchanged with the store's."""
        with _reading_base():
            stored = self._stored(number, content)
        if content != stored:
            raise NotAsStored(
                f"the block at byte {number * GRAIN}, which change tracking calls unchanged, is not as in "
                f"{self._base.export}"
            )
        self._sampled += 1

    # -- grains -------------------------------------------------------------------------------------------------------

    def _read(
        self, source: RangeSource, changed: list[Run], sample: list[int], comparisons: Behind[ChangedGrain]
    ) -> Iterator[ChangedGrain]:
        """The changed grains, ascending; those of the sample are read, and compared meanwhile."""
        again = set(sample)
        numbers = heapq.merge(sample, (number for first, end in changed for number in range(first, end)))
        report_at = time.monotonic() + PROGRESS_INTERVAL
        for grain in self._grains(source, numbers):
            if grain.number in again:
                comparisons.put(grain)
            else:
                self._populated += len(grain.content) * ((not grain.is_zero) - self._had_data(grain.number))
                yield grain
            if self._base.streamed is None and time.monotonic() >= report_at:
                self._report(grain.number * GRAIN)
                report_at = time.monotonic() + PROGRESS_INTERVAL

    def _grains(self, source: RangeSource, numbers: Iterable[int]) -> Iterator[ChangedGrain]:
        """Read grains, neighbours together; the last of the disk is as long as it is."""
        parts = joined(numbers, grain=GRAIN, capacity=self._disk.capacity)
        try:
            for part, data in read_ranges(source, parts, throttle=self._job.throttle, stop=self._job.stop):
                self._moved += len(data)
                for at in range(0, len(data), GRAIN):
                    yield ChangedGrain((part.offset + at) // GRAIN, data[at : at + GRAIN])
        except READ_ERRORS as error:
            self._job.stop.check()
            if self._lease:
                self._lease.check()
            raise RangesUnusable(error.what) from error
