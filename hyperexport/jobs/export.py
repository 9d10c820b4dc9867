"""The main job: one VM, from its snapshot to a proven export.

The order of the steps stands here and nowhere else. A step is called through the runner, which retries, times and
shows it.
"""

import logging
import time
from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime

from hyperexport.base.stop import StopSignal
from hyperexport.errors import HyperExportError, SnapshotLeaked, VerificationFailed
from hyperexport.jobs.notices import Notices, notifying
from hyperexport.jobs.runner import StepRunner
from hyperexport.model.manifest import ExportKind, SnapshotRecord
from hyperexport.model.progress import Stage, expect
from hyperexport.model.rates import RateRecorder, recording_rates
from hyperexport.options.declaring import Format, VerifyMode
from hyperexport.options.precedence import ExportOptions
from hyperexport.policy.change_tracking import TrackingPlan
from hyperexport.policy.cleanup_candidates import Incoming
from hyperexport.policy.clock import compare_clocks
from hyperexport.policy.export_plan import Decision, ExportPlan
from hyperexport.policy.snapshots import SnapshotPlan
from hyperexport.results import CleanupResult, ExportResult
from hyperexport.steps import (
    change_tracking,
    cleanup,
    disk_export,
    disks,
    inspect,
    leftovers,
    package,
    plan,
    shared_damage,
    snapshots,
    verification,
)
from hyperexport.steps.job import Job
from hyperexport.steps.recent import young_export
from hyperexport.steps.staging import Copies, Entries, staged
from hyperexport.steps.stores import open_stores
from hyperexport.steps.wall_clock import ask_server, remember
from hyperexport.store.base import Store, StoredExport
from hyperexport.transfer.bandwidth.throttle import Throttle
from hyperexport.verify.findings import Verification
from hyperexport.vsphere.session import Session, connect

logger = logging.getLogger(__name__)


def export_vm(run: StepRunner, vm: str, options: ExportOptions) -> ExportResult:
    """Export a VM; in a dry run only say what would be done.

    Args:
        run: Carries out the steps.
        vm: The VM's name or its whole inventory path, exactly.
        options: Those in force.

    Raises:
        HyperExportError: The export failed; what was begun has been cleaned up.
        VerificationFailed, SnapshotLeaked: The export exists, but it is damaged or its snapshot is still on the VM.
    """
    began = time.monotonic()
    run.check_options(options)
    if run.shared:
        run.shared.runs[vm] = run.run
    with (
        notifying(run, vm, options) as notices,
        run.stop_signal() as stop,
        run.bandwidth(options.bandwidth) as throttle,
        connect(run.endpoint(), stop=stop, run=run.id) as session,
    ):
        job = prepare_job(run, session, vm, options, stop=stop, throttle=throttle)
        with run.progress(job.ref), recording_rates(job.ref) as recorder:
            result = run_export(run, job, notices, recorder, began)
    return notices.completed(result)


def prepare_job(
    run: StepRunner, session: Session, vm: str, options: ExportOptions, *, stop: StopSignal, throttle: Throttle
) -> Job:
    """Find the VM and gather what the steps share."""
    run.watch_logins(session, stop)
    found = run(inspect.inspect_vm, session, vm, run.shared.found if run.shared else {})
    place = options.destination
    return Job(
        run=run.id,
        session=session,
        vm=found,
        options=options,
        stores=open_stores(place, throttle=throttle, stop=stop, s3=run.s3_settings(place)),
        throttle=throttle,
        stop=stop,
        is_over=run.is_over,
        at_work=run.at_work,
        refusals=run.shared.refusals if run.shared else None,
    )


def run_export(run: StepRunner, job: Job, notices: Notices, recorder: RateRecorder, began: float) -> ExportResult:
    """The order of the steps of an export.

    Args:
        run: Carries out the steps.
        job: The export.
        notices: Called when everything is checked, just before the first change anywhere.
        recorder: How fast each file moved, for the closing page.
        began: When the run began, on the monotonic clock.
    """
    job.server_time = ask_server(job.session)
    if (recent := young_export(job)) is not None:
        return show(run, job, recorder, skipped_result(job, recent, began))
    run(plan.check_export, job)
    snapshot_plan = run(snapshots.make_snapshot_plan, job)
    tracking = run(change_tracking.make_tracking_plan, job, snapshot_plan)
    if job.options.execution.dry_run:
        return show(run, job, recorder, dry_run(run, job, snapshot_plan, tracking, began))
    notices.started(job)
    run(leftovers.remove_leftovers, job, snapshot_plan)
    if tracking.enable:
        run(change_tracking.enable_change_tracking, job)
    with tidy_on_failure(run, job, snapshot_plan) as made:
        with staged(job) as copies:
            with (
                run.lease_slots(job) as slots,
                snapshot_for(run, job, snapshot_plan.make, made) as snapshot,
                job.lease.held(),
            ):
                export_plan = run(plan.make_plan, job, snapshot.moref if snapshot else None)
                plan.warn_of_room(job, export_plan)
                files = move_files(run, job, copies, export_plan, snapshot, max_concurrency=slots.max_concurrency)
                slots.release()
            exports = run(package.publish, job, copies, files, export_plan, snapshot)
        remember_clock(job)
        exports, verifications = verify_all(run, job, exports)
    tidy(run, job, snapshot_plan, snapshot.moref if snapshot else None)
    cleanups = clean_up_stores(run, job)
    result = ExportResult(
        dry_run=False,
        plan=export_plan,
        manifest=exports[0].manifest,
        locations=tuple(f"{store.url}/{export}" for store, export in zip(job.stores, exports, strict=True)),
        snapshots=snapshot_plan,
        snapshot_kept=snapshot_plan.keeps_made,
        tracking=tracking,
        verifications=verifications,
        cleanups=cleanups,
        warnings=tuple(dict.fromkeys(job.warnings)),
        seconds=time.monotonic() - began,
    )
    show(run, job, recorder, result)
    fail_on_damage(result)
    fail_on_leak(job, f"{result.locations[0]} is complete")
    return result


def show(run: StepRunner, job: Job, recorder: RateRecorder, result: ExportResult) -> ExportResult:
    """Leave the closing page with the run, before it fails for what is wrong with the export."""
    kind, title = ("plan", "Plan for") if result.dry_run and not result.recent else ("export", "Export of")
    title = "Nothing to do for" if result.recent else title

    def page() -> str:
        from hyperexport.views.exports import export_markdown  # noqa: PLC0415 - only where pages are kept

        return export_markdown(result, recorder.rates)

    run.show_markdown((kind, job.vm.name), page, f"{title} {job.vm.ref.path}")
    return result


def skipped_result(job: Job, recent: StoredExport, began: float) -> ExportResult:
    """Say that the VM has an export that is young enough; nothing is done."""
    logger.info("%s: nothing to do, %s is newer than --skip-newer-than", job.vm.name, recent)
    location = f"{job.primary.url}/{recent}"
    return ExportResult(
        dry_run=job.options.execution.dry_run,
        plan=ExportPlan(
            vm=job.ref, kind=recent.manifest.kind, reason=f"{recent} is newer than --skip-newer-than", disks=()
        ),
        recent=location,
        locations=(location,),
        seconds=time.monotonic() - began,
    )


def dry_run(
    run: StepRunner, job: Job, snapshot_plan: SnapshotPlan, tracking: TrackingPlan, began: float
) -> ExportResult:
    """Say what the real run would do; nothing is changed anywhere."""
    export_plan = run(plan.make_plan, job, None)
    plan.warn_of_room(job, export_plan)
    return ExportResult(
        dry_run=True,
        plan=export_plan,
        locations=tuple(f"{store.url}/{job.folder_in(store)}/{job.export_id}" for store in job.stores),
        incoming=tuple(planned_job(job, store, export_plan) for store in job.stores),
        snapshots=snapshot_plan,
        tracking=tracking,
        cleanups=clean_up_stores(run, job, export_plan),
        warnings=tuple(job.warnings),
        seconds=time.monotonic() - began,
    )


@contextmanager
def snapshot_for(
    run: StepRunner, job: Job, name: str | None, made: list[SnapshotRecord]
) -> Generator[SnapshotRecord | None]:
    """Hold the snapshot for as long as the block reads from it, and not longer: while it is there, it grows.

    Args:
        run: Carries out the steps.
        job: The export.
        name: The snapshot's name; None for none.
        made: Called with the snapshot as soon as it exists.
    """
    if name is None:
        yield None
        return
    snapshot = run(snapshots.take_snapshot, job, name).record
    made.append(snapshot)
    try:
        yield snapshot
    except BaseException:
        job.stop.set()
        raise
    finally:
        if job.options.snapshot.deletes:
            release(run, job, snapshot)
        else:
            job.cleaned_up.append(f"snapshot {snapshot.name} stays on the VM, as the options ask")


def release(run: StepRunner, job: Job, snapshot: SnapshotRecord) -> None:
    """Remove the run's own snapshot. If that fails, publish the export anyway, and fail the run afterwards."""
    try:
        run(snapshots.remove_snapshot, job, snapshot.moref, snapshot.name)
        job.cleaned_up.append(f"snapshot {snapshot.name} was removed")
    except HyperExportError as error:
        logger.error("%s: snapshot %s is still there: %s", job.vm.name, snapshot.name, error)
        job.leaked_snapshots.append(snapshot.name)
        job.cleaned_up.append(f"snapshot {snapshot.name} could NOT be removed: {error}")
        job.warn(str(error))
        run.snapshot_leaked(job.ref, moref=snapshot.moref, name=snapshot.name, vcenter=job.session.address)
    except BaseException:
        # The interruption met the removal itself, perhaps before it was asked for. Once more, with a short timeout.
        job.stop.set()
        release(run, job, snapshot)
        raise


def move_files(
    run: StepRunner,
    job: Job,
    copies: Copies,
    export_plan: ExportPlan,
    snapshot: SnapshotRecord | None,
    *,
    max_concurrency: int,
) -> list[Entries]:
    """Move the small files, then the disks, then write what describes them.

    Small files come first, so that what fails with them fails before hours of disks. Disks move side by side from a
    snapshot, and one after the other from a VM that is off, which has one lease.
    """
    moref = snapshot.moref if snapshot else None
    if export_plan.kind is ExportKind.FULL:
        copies = copies.of_its_own()
    frozen = {disk.key: disk for disk in plan.disks_of(job, moref)}
    calls = [
        {"job": job, "copies": copies, "plan": disk, "disk": frozen[disk.key], "snapshot": moref}
        for disk in export_plan.disks
        if disk.decision is not Decision.SKIP
    ]
    expect(job.ref, Stage.TRANSFER, [(disk.file_name, disk.capacity) for disk in export_plan.to_transfer])
    nvram = run(package.export_nvram, job, copies, moref, later=moref is None)
    try:
        parts = run.side_by_side(
            disk_export.export_disk, calls, max_concurrency=max_concurrency if moref else 1, stop=job.stop
        )
    finally:  # what was found holds, also where the export fails
        for found in job.distrusted:
            run.transport_distrusted(job.ref, disk=found.disk, transport=found.transport, reason=found.reason)
    if not disks.is_as_sent(job):
        nvram = run(package.export_nvram, job, copies, moref, instead_of=nvram)
    moved = [file for files in parts for file in files]
    return run(package.describe_vm, job, copies, moved, nvram, moref)


def verify_all(
    run: StepRunner, job: Job, exports: tuple[StoredExport, ...]
) -> tuple[tuple[StoredExport, ...], tuple[Verification, ...]]:
    """Prove every copy of the export, if that was asked for."""
    mode = job.options.execution.verify
    if mode is VerifyMode.OFF:
        return exports, ()
    copies = zip(job.stores, exports, strict=True)
    verified: list[tuple[StoredExport, Verification]] = []
    for store, export in copies:
        verified.append(run(verification.verify, store, export, mode, job.stop))
        shared_damage.record(store, [shared_damage.Outcome(*verified[-1])])
    return tuple(export for export, _ in verified), tuple(found for _, found in verified)


@contextmanager
def tidy_on_failure(run: StepRunner, job: Job, snapshot_plan: SnapshotPlan) -> Generator[list[SnapshotRecord]]:
    """Have ``--keep-snapshots`` hold also where the block fails or is interrupted.

    Yields:
        Where the block puts the snapshot that it makes.
    """
    made: list[SnapshotRecord] = []
    try:
        yield made
    except BaseException:
        if made and not job.options.snapshot.deletes:
            tidy(run, job, snapshot_plan, made[0].moref, failed=True)
        raise


def tidy(run: StepRunner, job: Job, snapshot_plan: SnapshotPlan, made: str | None, *, failed: bool = False) -> None:
    """Remove the snapshots that the plan gives up. What fails here is a warning: the export is safe, or has failed."""
    try:
        run(snapshots.tidy_snapshots, job, snapshot_plan, made, failed)
    except HyperExportError as error:
        logger.error("%s: %s", job.vm.name, error)
        job.warn(str(error))


def clean_up_stores(run: StepRunner, job: Job, planned: ExportPlan | None = None) -> tuple[CleanupResult, ...]:
    """Delete old exports in every store of the run, if that was asked for; what fails here is a warning."""
    options, dry = job.options.cleanup, job.options.execution.dry_run
    results: list[CleanupResult] = []
    for store in job.stores if options.wanted else ():
        try:
            incoming = (planned_job(job, store, planned),) if planned else ()
            cleanup_context = cleanup.CleanupContext(
                incoming=incoming, own=frozenset({job.export_id}), server=job.server_time
            )
            result = run(cleanup.clean_up_store, store, options, dry, cleanup_context, run.is_over, run=run.id)
            for warning in result.plan.warnings:
                job.warn(f"cleanup of {store.url}: {warning}")
            results.append(result)
        except HyperExportError as error:
            logger.error("%s: cleanup failed: %s", store.url, error)
            job.warn(f"cleanup of {store.url} failed: {error}")
    return tuple(results)


def planned_job(job: Job, store: Store, planned: ExportPlan) -> Incoming:
    """What the planned export will add to a store."""
    packed = job.options.destination.format is Format.OVA
    return cleanup.planned_export(store, job.folder_in(store), job.identity, planned, packed=packed)


def remember_clock(job: Job) -> None:
    """Note for later cleanups that the server's clock and this machine's agree, if they do. Never raises."""
    if job.server_time is not None:
        verdict = compare_clocks(datetime.now(UTC), [job.server_time.now()], None, uptime=None)
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
        done: What succeeded nevertheless, for the message.

    Raises:
        SnapshotLeaked: One is.
    """
    if job.leaked_snapshots:
        raise SnapshotLeaked(
            f"{done}, but snapshot {', '.join(job.leaked_snapshots)} of {job.ref.path} could not be removed",
            fix="Remove it in vSphere, or run reap-snapshots later; until then it keeps growing",
        )
