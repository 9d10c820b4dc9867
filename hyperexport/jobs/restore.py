"""The job that restores an export into vSphere: a whole VM, some of its disks, or disks for another VM.

This module holds the order of the steps. Until :func:`~hyperexport.steps.restoring.remove_owner_tag` has run, a run
that fails or is stopped destroys the new VM.
"""

import logging
import time
from collections.abc import Generator
from contextlib import contextmanager

from hyperexport.errors import HyperExportError
from hyperexport.jobs.notices import notifying_of_restore
from hyperexport.jobs.runner import StepRunner
from hyperexport.model.progress import Stage, expect
from hyperexport.model.restore import RestorePlan, RestoreRequest, RestoreResult
from hyperexport.model.restore_point import RestorePoint
from hyperexport.model.vm import VmRef
from hyperexport.options.precedence import ExportOptions
from hyperexport.steps import restore_plan, restoring
from hyperexport.steps.choosing import choose_export
from hyperexport.steps.liveness import at_work_here
from hyperexport.steps.restore_job import RestoreJob
from hyperexport.steps.stores import open_stores
from hyperexport.vsphere.session import connect

logger = logging.getLogger(__name__)


def restore_vm(run: StepRunner, wanted: RestorePoint, request: RestoreRequest, options: ExportOptions) -> RestoreResult:
    """Restore an export into vSphere; in a dry run only say what would be done. No other VM is touched.

    Args:
        run: Carries out the steps.
        wanted: Which export.
        request: What becomes of it.
        options: Where the exports are, and whether it is a dry run.

    Raises:
        ExportNotFound: There is no such export.
        UsageError, PlaceNotFound, TargetExists, DatastoreFull, PermissionMissing, ImportRefused: It cannot be done;
            nothing was made.
        VerificationFailed: The export is damaged; nothing of it is left.
        HyperExportError: The restore failed; nothing of it is left.
    """
    began = time.monotonic()
    run.check_options(options)
    with (
        notifying_of_restore(run, wanted.vm or wanted.export or "", options) as notices,
        opened(run, wanted, request, options) as job,
    ):
        notices.vm, notices.cleaned_up = job.source, job.cleaned_up
        plan = prepare(run, job)
        if options.execution.dry_run:
            result = RestoreResult(dry_run=True, plan=plan, seconds=time.monotonic() - began, warnings=job.warnings)
            return show(run, result)
        for warning in notices.started(plan):
            job.warn(warning)
        with undo_on_failure(job, plan):
            uploaded = make_vm(run, job, plan)
            vm, attached = attach(run, job, plan) if plan.attach_to else keep(run, job, plan)
        powered_on = request.power_on and power_on(run, job, vm)
        result = RestoreResult(
            dry_run=False,
            plan=plan,
            vm=vm,
            powered_on=powered_on,
            attached=attached,
            verified=request.verify and not job.unverified,
            proofs={file.name: job.proofs[file.name] for file in plan.files},
            uploaded=uploaded,
            seconds=time.monotonic() - began,
            warnings=job.warnings,
        )
    return show(run, notices.completed(result))


def keep(run: StepRunner, job: RestoreJob, plan: RestorePlan) -> tuple[VmRef, tuple[str, ...]]:
    """Give the VM what is left to give, and hand it over to the user."""
    run(restoring.restore_attributes, job, plan)
    return run(restoring.remove_owner_tag, job), ()


def attach(run: StepRunner, job: RestoreJob, plan: RestorePlan) -> tuple[VmRef, tuple[str, ...]]:
    """Attach the disks to the VM that gets them, and remove the one that they came with."""
    assert plan.attach_to
    attached = run(restoring.attach_disks, job, plan)
    run(restoring.remove_carrier, job, plan)
    return plan.attach_to, attached


@contextmanager
def opened(
    run: StepRunner,
    wanted: RestorePoint,
    request: RestoreRequest,
    options: ExportOptions,
) -> Generator[RestoreJob]:
    """Open the store and the server for one restore, and choose the export.

    Args:
        run: Carries out the steps.
        wanted: Which export.
        request: What becomes of it.
        options: Where the exports are.
    """
    place = options.destination
    with run.stop_signal() as stop, run.bandwidth(options.bandwidth) as throttle, at_work_here(run.id) as network:
        stores = open_stores(place, throttle=throttle, stop=stop, s3=run.s3_settings(place))
        store, export = choose_export(stores, export=wanted.export, vm=wanted.vm, at=wanted.at)
        with connect(run.endpoint(), stop=stop, run=run.id) as session, run.progress(export.manifest.vm):
            run.watch_logins(session, stop)
            yield RestoreJob(
                run=run.id,
                session=session,
                store=store,
                export=export,
                request=request,
                options=options,
                throttle=throttle,
                stop=stop,
                network=network,
            )


def prepare(run: StepRunner, job: RestoreJob) -> RestorePlan:
    """Remove what dead restores left, unless it is a dry run, and make the plan."""
    if not job.options.execution.dry_run:
        remove_partial_vms(run, job)
    return run(restore_plan.make_restore_plan, job)


def remove_partial_vms(run: StepRunner, job: RestoreJob) -> None:
    """Destroy the VMs that restores of dead runs left half made. What fails here is a warning."""
    try:
        found = run(restoring.find_partial_vms, job.session, run.is_over)
        for made in found:
            problem = run(restoring.destroy_partial, job.session, made, stop=job.stop)
            job.warn(
                f"{made.ref.path}, left half made by a restore that did not end, "
                + (f"could not be removed: {problem}" if problem else "was removed")
            )
    except HyperExportError as error:
        job.stop.check()
        job.warn(f"the orphans of earlier restores could not be listed: {error}")


@contextmanager
def undo_on_failure(job: RestoreJob, plan: RestorePlan) -> Generator[None]:
    """Take back everything that the block has begun if it fails, or is interrupted."""
    try:
        yield
    except BaseException:
        job.stop.set()
        try:
            restoring.undo(job, plan)
        except BaseException:
            # The interruption met the way back itself. Once more.
            restoring.undo(job, plan)
            raise
        raise


def make_vm(run: StepRunner, job: RestoreJob, plan: RestorePlan) -> int:
    """Import the VM and send its files, side by side. It has the owner tag still.

    Returns:
        The bytes that were sent.
    """
    with run.lease_slots(job) as slots:
        run(restoring.begin_import, job, plan)
        calls = [{"job": job, "file": file} for file in plan.files]
        expect(job.source, Stage.RESTORE, [(file.name, file.size) for file in plan.files])
        sent = run.side_by_side(restoring.upload_file, calls, max_concurrency=slots.max_concurrency, stop=job.stop)
    run(restoring.complete_import, job, plan)
    return sum(sent)


def power_on(run: StepRunner, job: RestoreJob, vm: VmRef) -> bool:
    """Power the restored VM on. What fails here is a warning: the VM is there, and whole."""
    try:
        run(restoring.power_on, job, vm)
    except HyperExportError as error:
        job.stop.check()
        job.warn(f"the VM is restored, but could not be powered on: {error}")
        return False
    return True


def show(run: StepRunner, result: RestoreResult) -> RestoreResult:
    """Leave the closing page with the run."""
    kind, title = ("plan", "Plan for the restore") if result.dry_run else ("restore", "Restore")
    run.show_result((kind, result.plan.source.name), result, f"{title} of {result.plan.source.path}")
    return result
