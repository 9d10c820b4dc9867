"""The order of an export's steps, and what happens when one fails: written once, whoever carries the steps out.

Under Prefect each step is a task (``flows/steps.py``); without it, a plain call (``hyperexport/direct.py``). Both run
this. A step is called and answers; how it is retried, timed and shown is not known here.
"""

import logging
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from hyperexport.base.stop import StopSignal
from hyperexport.errors import HyperExportError, SnapshotLeaked, VerificationFailed
from hyperexport.model.manifest import ExportKind, SnapshotRecord
from hyperexport.model.vm import DiskInfo
from hyperexport.options.groups import Cleanup, Format, VerifyMode
from hyperexport.options.precedence import ExportOptions
from hyperexport.policy.change_tracking import TrackingPlan
from hyperexport.policy.clock import judge_clock
from hyperexport.policy.incremental import Decision, DiskPlan, ExportPlan
from hyperexport.policy.retention import Incoming
from hyperexport.policy.snapshots import SnapshotPlan
from hyperexport.results import CleanupResult, ExportResult
from hyperexport.steps.cleanup import Occasion, planned_export
from hyperexport.steps.job import Job
from hyperexport.steps.plan import disks_of
from hyperexport.steps.recent import young_export
from hyperexport.steps.staging import Copies, Entries, staged
from hyperexport.steps.wall_clock import ask_server, remember
from hyperexport.store.base import Store, StoredExport
from hyperexport.verify import Verification
from hyperexport.vsphere.snapshots import CreatedSnapshot

logger = logging.getLogger(__name__)

DiskMove = tuple[DiskPlan, DiskInfo]
"""What the plan says of a disk, and the disk as the snapshot froze it."""


class Slots(Protocol):
    """The right to hold export leases."""

    @property
    def at_once(self) -> int:
        """How many disks may move at once."""
        ...

    def release(self) -> None:
        """Give it back, as soon as the last byte has moved."""
        ...


def _nobody(*_: object) -> None:
    """Nobody is told."""


@dataclass(frozen=True)
class Steps:
    """Who carries out each step. What it does is told where it is written, in ``hyperexport/steps/``."""

    check_export: Callable[[Job], None]
    plan_snapshots: Callable[[Job], SnapshotPlan]
    plan_change_tracking: Callable[[Job, SnapshotPlan], TrackingPlan]
    remove_leftovers: Callable[[Job, SnapshotPlan], list[str]]
    enable_change_tracking: Callable[[Job], None]
    take_snapshot: Callable[[Job, str], CreatedSnapshot]
    plan_export: Callable[[Job, str | None], ExportPlan]
    lease_slots: Callable[[Job], AbstractContextManager[Slots]]
    """Taken before the snapshot is made: one that waits for a slot grows."""
    export_disks: Callable[[Job, Copies, Sequence[DiskMove], str | None, int], list[Entries]]
    """Side by side. When one fails, or the run is interrupted, none reads any more once this has returned."""
    export_nvram: Callable[[Job, Copies, str | None], list[Entries]]
    describe_vm: Callable[[Job, Copies, list[Entries], list[Entries], str | None], list[Entries]]
    remove_snapshot: Callable[[Job, str, str], None]
    publish_export: Callable[[Job, Copies, list[Entries], ExportPlan, SnapshotRecord | None], tuple[StoredExport, ...]]
    verify_export: Callable[[Store, StoredExport, VerifyMode, StopSignal], tuple[StoredExport, Verification]]
    tidy_snapshots: Callable[[Job, SnapshotPlan, str | None], None]
    clean_up: Callable[[Store, Cleanup, bool, Occasion], CleanupResult]
    begun: Callable[[Job], None] = _nobody
    """Told when everything is checked, just before the first change anywhere."""
    leaked: Callable[[Job, SnapshotRecord], None] = _nobody
    """Told of a snapshot that could not be removed."""
    ended: Callable[[Job, ExportResult], None] = _nobody
    """Told what the run did, or in a dry run would do, before it fails for what is wrong with it."""


def run_export(job: Job, steps: Steps, *, began: float) -> ExportResult:
    """Export a VM; in a dry run only say what would be done.

    Args:
        job: The export.
        steps: Who carries out each step.
        began: When the run began, on the monotonic clock.

    Raises:
        HyperExportError: The export failed; what was begun has been cleaned up.
        VerificationFailed, SnapshotLeaked: The export is there, and all the same not everything is well.
    """
    job.server_time = ask_server(job.session)
    if (recent := young_export(job)) is not None:
        return left_out(job, steps, recent, began)
    steps.check_export(job)
    snapshots = steps.plan_snapshots(job)
    tracking = steps.plan_change_tracking(job, snapshots)
    if job.options.execution.dry_run:
        return dry_run(job, steps, snapshots, tracking, began)
    steps.begun(job)
    steps.remove_leftovers(job, snapshots)
    if tracking.enable:
        steps.enable_change_tracking(job)
    with staged(job) as copies:
        with (
            steps.lease_slots(job) as slots,
            snapshot_for(job, steps, snapshots.make) as snapshot,
            job.lease.held(),
        ):
            plan = steps.plan_export(job, snapshot.moref if snapshot else None)
            files = move_files(job, steps, copies, plan, snapshot, at_once=slots.at_once)
            slots.release()
        exports = steps.publish_export(job, copies, files, plan, snapshot)
    exports, verifications = verify_all(job, steps, exports)
    tidy(job, steps, snapshots, snapshot)
    cleanups = clean_stores(job, steps)
    remember_clock(job)
    result = ExportResult(
        dry_run=False,
        plan=plan,
        manifest=exports[0].manifest,
        locations=tuple(f"{store.url}/{export}" for store, export in zip(job.stores, exports, strict=True)),
        snapshots=snapshots,
        snapshot_kept=snapshots.keeps_made,
        tracking=tracking,
        verifications=verifications,
        cleanups=cleanups,
        warnings=tuple(dict.fromkeys(job.warnings)),
        seconds=time.monotonic() - began,
    )
    steps.ended(job, result)
    fail_on_damage(result)
    fail_on_leak(job, f"{result.locations[0]} is complete")
    return result


def left_out(job: Job, steps: Steps, recent: StoredExport, began: float) -> ExportResult:
    """Say that the VM has an export that is young enough; nothing is done."""
    logger.info("%s: nothing to do, %s is young enough", job.vm.name, recent)
    location = f"{job.primary.url}/{recent}"
    result = ExportResult(
        dry_run=job.options.execution.dry_run,
        plan=ExportPlan(vm=job.ref, kind=recent.manifest.kind, reason=f"{recent} is young enough", disks=()),
        recent=location,
        locations=(location,),
        seconds=time.monotonic() - began,
    )
    steps.ended(job, result)
    return result


def dry_run(job: Job, steps: Steps, snapshots: SnapshotPlan, tracking: TrackingPlan, began: float) -> ExportResult:
    """Say what the real run would do; nothing is changed anywhere."""
    plan = steps.plan_export(job, None)
    result = ExportResult(
        dry_run=True,
        plan=plan,
        locations=tuple(f"{store.url}/{job.folder_in(store)}/{job.export_id}" for store in job.stores),
        incoming=tuple(planned_job(job, store, plan) for store in job.stores),
        snapshots=snapshots,
        tracking=tracking,
        cleanups=clean_stores(job, steps, plan),
        warnings=tuple(job.warnings),
        seconds=time.monotonic() - began,
    )
    steps.ended(job, result)
    return result


def analyse(job: Job, steps: Steps) -> ExportPlan:
    """Say, disk by disk, what an incremental export would transfer, and why.

    A snapshot that is made for it is removed again; whoever calls asks :func:`fail_on_leak` whether it is gone.
    """
    snapshots = steps.plan_snapshots(job)
    with snapshot_for(job, steps, snapshots.make) as snapshot:
        return steps.plan_export(job, snapshot.moref if snapshot else None)


def only_looking(options: ExportOptions) -> ExportOptions:
    """The options for an analysis: incremental, and nothing stays on the VM or goes from it."""
    looking = {"incremental": True, "keep_snapshots": 0, "delete_snapshot": True, "consolidate_snapshots": False}
    return ExportOptions.from_keys({**options.given_keys(), **looking})


@contextmanager
def snapshot_for(job: Job, steps: Steps, name: str | None) -> Generator[SnapshotRecord | None]:
    """Hold the snapshot for as long as the block reads from it, and not longer: while it is there, it grows."""
    if name is None:
        yield None
        return
    snapshot = steps.take_snapshot(job, name).record
    try:
        yield snapshot
    except BaseException:
        job.stop.set()
        raise
    finally:
        if job.options.snapshot.deletes:
            release(job, steps, snapshot)
        else:
            job.aftermath.append(f"snapshot {snapshot.name} stays on the VM, as the options ask")


def release(job: Job, steps: Steps, snapshot: SnapshotRecord) -> None:
    """Remove the run's own snapshot. Where that fails, the export is published all the same, and the run fails then."""
    try:
        steps.remove_snapshot(job, snapshot.moref, snapshot.name)
        job.aftermath.append(f"snapshot {snapshot.name} was removed")
    except HyperExportError as error:
        logger.error("%s: snapshot %s is still there: %s", job.vm.name, snapshot.name, error)
        job.leaked_snapshots.append(snapshot.name)
        job.aftermath.append(f"snapshot {snapshot.name} could NOT be removed: {error}")
        job.warn(str(error))
        steps.leaked(job, snapshot)
    except BaseException:
        # The interruption met the removal itself, perhaps before it was asked for. Once more, with little patience.
        job.stop.set()
        release(job, steps, snapshot)
        raise


def move_files(
    job: Job, steps: Steps, copies: Copies, plan: ExportPlan, snapshot: SnapshotRecord | None, *, at_once: int
) -> list[Entries]:
    """Move the small files, then the disks, then write what describes them.

    Small files come first, so that what fails with them fails before hours of disks. Disks move side by side from a
    snapshot, and one after the other from a VM that is off, which has one lease.
    """
    moref = snapshot.moref if snapshot else None
    if plan.kind is ExportKind.FULL:
        copies = copies.of_its_own()
    disks = {disk.key: disk for disk in disks_of(job, moref)}
    moves = [(disk, disks[disk.key]) for disk in plan.disks if disk.decision is not Decision.SKIP]
    nvram = steps.export_nvram(job, copies, moref)
    moved = steps.export_disks(job, copies, moves, moref, at_once if moref else 1)
    return steps.describe_vm(job, copies, moved, nvram, moref)


def verify_all(
    job: Job, steps: Steps, exports: tuple[StoredExport, ...]
) -> tuple[tuple[StoredExport, ...], tuple[Verification, ...]]:
    """Prove every copy of the export, if that was asked for."""
    mode = job.options.execution.verify
    if mode is VerifyMode.OFF:
        return exports, ()
    copies = zip(job.stores, exports, strict=True)
    verified = [steps.verify_export(store, export, mode, job.stop) for store, export in copies]
    return tuple(export for export, _ in verified), tuple(found for _, found in verified)


def tidy(job: Job, steps: Steps, snapshots: SnapshotPlan, made: SnapshotRecord | None) -> None:
    """Remove the snapshots that the plan gives up. The export is safe by now: what fails here is a warning."""
    try:
        steps.tidy_snapshots(job, snapshots, made.moref if made else None)
    except HyperExportError as error:
        logger.error("%s: %s", job.vm.name, error)
        job.warn(str(error))


def clean_stores(job: Job, steps: Steps, planned: ExportPlan | None = None) -> tuple[CleanupResult, ...]:
    """Delete old exports in every store of the run, if that was asked for; what fails here is a warning."""
    results: list[CleanupResult] = []
    for store in job.stores if job.options.cleanup.wanted else ():
        try:
            incoming = (planned_job(job, store, planned),) if planned else ()
            occasion = Occasion(incoming=incoming, own=frozenset({job.export_id}), server=job.server_time)
            result = steps.clean_up(store, job.options.cleanup, job.options.execution.dry_run, occasion)
            for doubt in result.plan.doubts:
                job.warn(f"cleanup of {store.url}: {doubt}")
            results.append(result)
        except HyperExportError as error:
            logger.error("%s: cleanup failed: %s", store.url, error)
            job.warn(f"cleanup of {store.url} failed: {error}")
    return tuple(results)


def planned_job(job: Job, store: Store, plan: ExportPlan) -> Incoming:
    """What the planned export will add to a store."""
    packed = job.options.destination.format is Format.OVA
    return planned_export(store, job.folder_in(store), job.identity, plan, packed=packed)


def remember_clock(job: Job) -> None:
    """Note for later cleanups that the server's clock and this machine's agree, if they do. Never raises."""
    if job.server_time is not None:
        verdict = judge_clock(datetime.now(UTC), [job.server_time.now()], None, uptime=None)
        for store in job.stores:
            remember(store, verdict)


def fail_on_damage(result: ExportResult) -> None:
    """Fail where the export is damaged.

    Raises:
        VerificationFailed: It is.
    """
    if result.verified is False:
        raise VerificationFailed(
            f"{result.locations[0]} is damaged: {result.verifications[0].findings[0]}",
            fix="Export the VM again; the damaged export stays as it is, and nothing builds on it",
        )


def fail_on_leak(job: Job, done: str) -> None:
    """Fail where a snapshot of this run is still on the VM.

    Args:
        job: The run.
        done: What went well all the same, for the message.

    Raises:
        SnapshotLeaked: One is.
    """
    if job.leaked_snapshots:
        raise SnapshotLeaked(
            f"{done}, but snapshot {', '.join(job.leaked_snapshots)} of {job.ref.path} could not be removed",
            fix="Remove it in vSphere, or run reap-snapshots later; until then it goes on growing",
        )
