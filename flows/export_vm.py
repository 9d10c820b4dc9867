"""The main job: one VM, from its snapshot to a proven export."""

import logging
import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import Annotated

from prefect import flow
from prefect.runtime import flow_run

from flows.connections import OPTIONS, Profile, VSphere, options_in_force, s3_settings, stop_signal, vsphere_session
from flows.notifying import notifying
from flows.outcome import told_in_words
from flows.parallel import side_by_side
from hyperexport.errors import HyperExportError, SnapshotLeaked, VerificationFailed
from hyperexport.form import Shown
from hyperexport.manifest import SnapshotRecord
from hyperexport.option_groups import VerifyMode
from hyperexport.options import ExportOptions
from hyperexport.policy.change_tracking import TrackingPlan
from hyperexport.policy.incremental import Decision, ExportPlan
from hyperexport.policy.snapshots import SnapshotPlan
from hyperexport.report.summary import export_markdown
from hyperexport.results import CleanupResult, ExportResult
from hyperexport.steps.cleanup import planned_export
from hyperexport.steps.job import Job
from hyperexport.steps.plan import disks_of
from hyperexport.steps.recent import young_export
from hyperexport.steps.staging import Copies, Entries, staged
from hyperexport.steps.stores import open_stores
from hyperexport.stop import StopSignal
from hyperexport.store.base import StoredExport
from hyperexport.transfer.throttle import Throttle
from hyperexport.verify import Verification
from hyperexport.vsphere.session import Session
from tasks.artifacts import artifact_key, progress_artifacts, show_markdown
from tasks.bandwidth import bandwidth_for
from tasks.change_tracking import enable_change_tracking, plan_change_tracking
from tasks.cleanup import clean_up
from tasks.disks import export_disk
from tasks.events import tell_of_leak
from tasks.inspect import check_export, inspect_vm, plan_export
from tasks.lease_limits import lease_slots
from tasks.liveness import run_may_be_at_work
from tasks.package import describe_vm, export_nvram, publish_export
from tasks.snapshots import (
    plan_snapshots,
    remove_leftovers,
    remove_snapshot,
    take_snapshot,
    tidy_snapshots,
)
from tasks.verify import verify_export

logger = logging.getLogger(__name__)


@flow(name="export-vm", flow_run_name="export {vm}", persist_result=False)
@told_in_words
def export_vm(
    vm: str,
    options: Annotated[
        ExportOptions, Shown("destination", "snapshot", "incremental", "bandwidth", "execution", "cleanup", "email")
    ] = OPTIONS,
    vsphere: VSphere = None,
    profile: Profile = None,
) -> ExportResult:
    """Export one virtual machine, consistently and at a controlled rate, with proof that the bytes are right.

    Args:
        vm: The VM's name or its whole inventory path, exactly.
        options: What to do, and how. What is not set comes from the environment, the profile, the defaults.
        vsphere: The vSphere credentials block to use, or its name. The worker's environment (GOVC_URL, ...) if empty.
        profile: A saved export profile, or its name.

    Raises:
        HyperExportError: The export failed; what was begun has been cleaned up.
    """
    began = time.monotonic()
    options = options_in_force(options, profile)
    with (
        notifying(vm, options) as notices,
        stop_signal() as stop,
        bandwidth_for(options.bandwidth) as throttle,
        vsphere_session(vsphere, stop) as session,
    ):
        job = prepare_job(session, vm, options, stop, throttle)
        if (recent := young_export(job)) is not None:
            return left_out(job, recent, began)
        check_export(job, probe=not options.execution.dry_run)
        snapshots = plan_snapshots(job)
        tracking = plan_change_tracking(job, snapshots)
        if options.execution.dry_run:
            return dry_run(job, snapshots, tracking, began)
        notices.started(job)
        remove_leftovers(job, snapshots)
        if tracking.enable:
            enable_change_tracking(job)
        with progress_artifacts(), staged(job) as copies:
            with lease_slots(job) as slots, snapshot_for(job, snapshots.make) as snapshot:
                plan = plan_export(job, snapshot.moref if snapshot else None)
                files = move_files(job, copies, plan, snapshot, at_once=slots.at_once)
                slots.release()
            exports = publish_export(job, copies, files, plan, snapshot)
        exports, verifications = verify_all(job, exports)
        tidy(job, snapshots, snapshot)
        cleanups = clean_stores(job)
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
        conclude(job, result)
    return notices.completed(result)


def prepare_job(session: Session, vm: str, options: ExportOptions, stop: StopSignal, throttle: Throttle) -> Job:
    """Find the VM and gather what the steps share."""
    found = inspect_vm(session, vm)
    stores = open_stores(options.destination, throttle=throttle, stop=stop, s3=s3_settings(options.destination))
    return Job(
        run=str(flow_run.id),
        session=session,
        vm=found,
        options=options,
        stores=stores,
        throttle=throttle,
        stop=stop,
        at_work=run_may_be_at_work,
    )


def conclude(job: Job, result: ExportResult) -> None:
    """Say what was done; fail where the export is there and all the same not everything is well.

    Raises:
        VerificationFailed: The export is damaged.
        SnapshotLeaked: The snapshot is still on the VM.
    """
    show_markdown(artifact_key("export", job.vm.name), export_markdown(result), f"Export of {job.vm.ref.path}")
    if result.verified is False:
        raise VerificationFailed(
            f"{result.locations[0]} is damaged: {result.verifications[0].findings[0]}",
            fix="Export the VM again; the damaged export stays as it is, and nothing builds on it",
        )
    fail_on_leak(job, f"{result.locations[0]} is complete")


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


def left_out(job: Job, recent: StoredExport, began: float) -> ExportResult:
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
    show_markdown(artifact_key("export", job.vm.name), export_markdown(result), f"Nothing to do for {job.ref.path}")
    return result


def dry_run(job: Job, snapshots: SnapshotPlan, tracking: TrackingPlan, began: float) -> ExportResult:
    """Show what the real run would do; nothing is changed anywhere."""
    plan = plan_export(job, None)
    result = ExportResult(
        dry_run=True,
        plan=plan,
        locations=tuple(f"{store.url}/{job.folder}/{job.export_id}" for store in job.stores),
        snapshots=snapshots,
        tracking=tracking,
        cleanups=clean_stores(job, plan),
        warnings=tuple(job.warnings),
        seconds=time.monotonic() - began,
    )
    show_markdown(artifact_key("plan", job.vm.name), export_markdown(result), f"Plan for {job.vm.ref.path}")
    return result


@contextmanager
def snapshot_for(job: Job, name: str | None) -> Generator[SnapshotRecord | None]:
    """Hold the snapshot for as long as the block reads from it, and not longer: while it is there, it grows."""
    if name is None:
        yield None
        return
    snapshot = take_snapshot(job, name).record
    try:
        yield snapshot
    except BaseException:
        job.stop.set()
        raise
    finally:
        if job.options.snapshot.deletes:
            release(job, snapshot)
        else:
            job.aftermath.append(f"snapshot {snapshot.name} stays on the VM, as the options ask")


def release(job: Job, snapshot: SnapshotRecord) -> None:
    """Remove the run's own snapshot. Where that fails, the export is published all the same, and the run fails then."""
    try:
        remove_snapshot(job, snapshot.moref, snapshot.name)
        job.aftermath.append(f"snapshot {snapshot.name} was removed")
    except HyperExportError as error:
        logger.error("%s: snapshot %s is still there: %s", job.vm.name, snapshot.name, error)
        job.leaked_snapshots.append(snapshot.name)
        job.aftermath.append(f"snapshot {snapshot.name} could NOT be removed: {error}")
        job.warn(str(error))
        tell_of_leak(job.ref, moref=snapshot.moref, name=snapshot.name, vcenter=job.session.address)
    except BaseException:
        # The interruption met the removal itself, perhaps before it was asked for. Once more, with little patience.
        job.stop.set()
        release(job, snapshot)
        raise


def move_files(
    job: Job, copies: Copies, plan: ExportPlan, snapshot: SnapshotRecord | None, *, at_once: int
) -> list[Entries]:
    """Move the disks side by side, then write what describes them."""
    moref = snapshot.moref if snapshot else None
    disks = {disk.key: disk for disk in disks_of(job, moref)}
    calls = [
        {"job": job, "copies": copies, "plan": disk, "disk": disks[disk.key], "snapshot": moref}
        for disk in plan.disks
        if disk.decision is not Decision.SKIP
    ]
    moved = side_by_side(export_disk, calls, at_once=at_once, stop=job.stop)
    nvram = export_nvram(job, copies, moref)
    return describe_vm(job, copies, moved, nvram, moref)


def verify_all(
    job: Job, exports: tuple[StoredExport, ...]
) -> tuple[tuple[StoredExport, ...], tuple[Verification, ...]]:
    """Prove every copy of the export, if that was asked for."""
    mode = job.options.execution.verify
    if mode is VerifyMode.OFF:
        return exports, ()
    verified = [verify_export(store, export, mode, job.stop) for store, export in zip(job.stores, exports, strict=True)]
    return tuple(export for export, _ in verified), tuple(found for _, found in verified)


def tidy(job: Job, snapshots: SnapshotPlan, made: SnapshotRecord | None) -> None:
    """Remove the snapshots that the plan gives up. The export is safe by now: what fails here is a warning."""
    try:
        with progress_artifacts():
            tidy_snapshots(job, snapshots, made.moref if made else None)
    except HyperExportError as error:
        logger.error("%s: %s", job.vm.name, error)
        job.warn(str(error))


def clean_stores(job: Job, planned: ExportPlan | None = None) -> tuple[CleanupResult, ...]:
    """Delete old exports in every store of the run, if that was asked for; what fails here is a warning."""
    results: list[CleanupResult] = []
    for store in job.stores if job.options.cleanup.wanted else ():
        incoming = [planned_export(store, job.folder, planned)] if planned else ()
        try:
            results.append(
                clean_up(store, job.options.cleanup, dry_run=job.options.execution.dry_run, incoming=incoming)
            )
        except HyperExportError as error:
            logger.error("%s: cleanup failed: %s", store.url, error)
            job.warn(f"cleanup of {store.url} failed: {error}")
    return tuple(results)
