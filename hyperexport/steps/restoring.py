"""A restore's steps: import, upload, make whole, hand over; and the way back from each of them."""

import logging
import time
from collections.abc import Callable
from contextlib import ExitStack

from hyperexport.base.stop import StopSignal
from hyperexport.base.units import MIB, format_bytes
from hyperexport.convert.conversion import choose_disks
from hyperexport.convert.whole import WholeFile, whole_file
from hyperexport.errors import HyperExportError, Interrupted, RestoreFailed, RestoreLeaked
from hyperexport.model.progress import Progress, Stage, report
from hyperexport.model.restore import RestoredFile, RestorePlan
from hyperexport.model.vm import VmRef
from hyperexport.steps.leftovers import end_abandoned_sessions
from hyperexport.steps.liveness import IsOver
from hyperexport.steps.restore_job import RestoreJob
from hyperexport.steps.step import step
from hyperexport.steps.upload_proof import is_left_to_server, prove_arrived, prove_stored
from hyperexport.transfer.pipeline import Received
from hyperexport.transfer.upload import PIECE, Upload, open_upload, send, send_unhashed
from hyperexport.vsphere import vm_tasks
from hyperexport.vsphere.collector import properties
from hyperexport.vsphere.disk_moves import Moving, attach, detach, disk_files
from hyperexport.vsphere.import_lease import ImportLease, open_import
from hyperexport.vsphere.inventory import vm_object
from hyperexport.vsphere.partial_vms import PartialVm, destroy_partial_vm, notes_of, partial_vms, take_off_tag
from hyperexport.vsphere.session import Session
from hyperexport.vsphere.tags import attach_tags
from hyperexport.vsphere.vm_place import set_attributes

logger = logging.getLogger(__name__)

_DISK_TYPE = "application/x-vnd.vmware-streamVmdk"


@step("find-half-made-vms", retried=True)
def find_partial_vms(session: Session, is_over: IsOver) -> list[PartialVm]:
    """Find the VMs that restores of dead runs left half made; the logins of these runs are ended first."""
    end_abandoned_sessions(session, is_over)
    return [made for made in partial_vms(session) if is_over(made.owner)]


@step("destroy-half-made-vm", run_name="destroy {made.ref.name}")
def destroy_partial(session: Session, made: PartialVm, *, stop: StopSignal) -> str | None:
    """Destroy a VM that a dead run left half made.

    Returns:
        Why it could not be destroyed; None where it is gone.

    Raises:
        Interrupted: The run was stopped; vSphere completes the removal.
    """
    stop.check()
    try:
        destroy_partial_vm(session, made.ref, made.owner, stop=stop)
    except Interrupted:
        raise
    except HyperExportError as error:
        logger.error("%s", error)
        return str(error)
    return None


@step("begin-import", retried=True)
def begin_import(job: RestoreJob, plan: RestorePlan) -> None:
    """Have vSphere begin to make the VM. It has the run's owner tag from its first moment. Safe to repeat.

    Raises:
        TargetExists, DatastoreFull, PermissionMissing, ImportRefused: vSphere refuses it.
        LeaseFailed, Interrupted: As they say; what was begun is gone.
    """
    assert job.prepared
    placement = job.prepared.placement
    ref = VmRef(moref="", name=plan.name, path=plan.path, instance_uuid="")
    with ExitStack() as stack:
        lease = stack.enter_context(
            open_import(
                job.session,
                ref,
                job.prepared.spec.spec,
                pool=placement.pool.obj,
                folder=placement.folder.obj,
                host=placement.host.obj if placement.host else None,
                stop=job.stop,
            )
        )
        lease.expect((file.name, file.size) for file in plan.files)
        job.server_hashes = lease.request_checksums()
        job.vm = ref.model_copy(update={"moref": lease.vm_moref})
        job.lease = lease
        job.holding.enter_context(stack.pop_all())


@step("upload-file", run_name="restore {file.name}", retried=True)
def upload_file(job: RestoreJob, file: RestoredFile) -> int:
    """Send one file of the export, proved; see :mod:`hyperexport.steps.upload_proof`. Safe to repeat.

    Returns:
        The bytes that were sent.

    Raises:
        VerificationFailed: The stored file is damaged; no VM is made of it.
        ChecksumMismatch: Another file arrived than was sent.
        RestoreFailed, DatastoreFull, ImportRefused: The lease has ended; the message says why.
        TransferInterrupted, ServerUnreachable: The connection broke; another attempt may succeed.
    """
    job.stop.check()
    lease = held_lease(job)
    entry = job.export.manifest.file(file.name)
    assert entry
    assert job.prepared
    asked = next(each for each in job.prepared.spec.files if each.path == file.name)
    target = lease.file_for(asked.import_key)
    whole = whole_file(job.store, job.export, entry, stop=job.stop)
    last = Progress(job.source, file.name, Stage.RESTORE, 0, whole.size, 0)

    def on_progress(sent: int) -> None:
        nonlocal last
        last = Progress(job.source, file.name, Stage.RESTORE, sent, whole.size, sent)
        lease.sent(file.name, sent)
        report(last)

    report(last)
    by_server = is_left_to_server(job, disk=asked.disk)
    upload = None
    try:
        with open_upload(
            target.url,
            verb="POST" if asked.disk else "PUT",
            size=whole.size,
            headers={"Content-Type": _DISK_TYPE} if asked.disk else {"Overwrite": "t"},
            trust=target.trust,
            stop=job.stop,
        ) as upload:
            forget = lease.on_lost(upload.close)
            try:
                received = send_file(job, whole, upload, by_server=by_server, on_progress=on_progress)
            finally:
                forget()
        prove_arrived(job, lease, target.key, whole, received)
    except HyperExportError as error:
        job.stop.check()
        if error.transient:
            job.throttle.trouble()
        report(Progress(job.source, file.name, Stage.RESTORE, last.position, whole.size, last.moved, failed=True))
        reason = lease.ended(error)
        if reason is error and upload and upload.refused:
            prove_stored(job, whole)
        raise reason from error
    report(Progress(job.source, file.name, Stage.RESTORE, whole.size, whole.size, received.size, done=True))
    logger.info("%s: %s: %s restored", job.vm and job.vm.path, file.name, format_bytes(received.size))
    return received.size


def send_file(
    job: RestoreJob, whole: WholeFile, upload: Upload, *, by_server: bool, on_progress: Callable[[int], None]
) -> Received:
    """Send a file, and prove it before its last byte unless that is left to the server; errors as for :func:`send`."""
    if by_server:
        return send_unhashed(
            whole.chunks(PIECE if whole.local else MIB),
            upload,
            throttle=job.throttle,
            stop=job.stop,
            ahead=not whole.local,
            on_progress=on_progress,
        )
    return send(
        whole.chunks(MIB),
        upload,
        prove=whole.prove,
        throttle=job.throttle,
        stop=job.stop,
        digests=("sha1",) if job.request.verify else (),
        on_progress=on_progress,
    )


def held_lease(job: RestoreJob) -> ImportLease:
    """The import lease, which is held.

    Raises:
        RestoreFailed: It has ended by itself.
    """
    assert job.lease
    if lost := job.lease.lost:
        raise job.lease.ended(RestoreFailed(lost.what, fix=lost.fix)) from lost
    return job.lease


@step("complete-import")
def complete_import(job: RestoreJob, plan: RestorePlan) -> VmRef:
    """Have vSphere make the VM whole. It still has the run's tag, and still goes if anything fails.

    Raises:
        RestoreFailed: The VM was not made.
    """
    lease = held_lease(job)
    job.stop.check()
    lease.complete()
    job.holding.close()
    assert job.vm
    doing = f"reading the identity of {plan.path}"
    values = properties(job.session, vm_object(job.session, job.vm), ("config.instanceUuid",), doing=doing)
    job.vm = job.vm.model_copy(update={"instance_uuid": values.shown("config.instanceUuid") or ""})
    return job.vm


@step("restore-attributes")
def restore_attributes(job: RestoreJob, plan: RestorePlan) -> None:
    """Give the VM its tags and custom attributes. What fails is a warning: the VM runs without."""
    assert job.vm
    failed = attach_tags(job.session, job.vm.moref, plan.tags)
    for tag, error in failed.items():
        job.warn(f"the tag {tag} was not attached: {error}")
    unset = set_attributes(job.session, job.vm, dict(plan.custom_attributes))
    for name, error in unset.items():
        job.warn(f"the custom attribute {name} was not set: {error}")


@step("hand-over")
def remove_owner_tag(job: RestoreJob) -> VmRef:
    """Take the owner tag off: the commit point, after which the VM is the user's and no reaper touches it.

    Raises:
        HyperExportError: It was not done.
    """
    job.stop.check()
    assert job.vm
    assert job.prepared
    take_off_tag(job.session, job.vm, job.prepared.annotation, stop=job.stop)
    logger.info("%s: restored from export %s", job.vm.path, job.export.export_id)
    vm, job.vm = job.vm, None
    return vm


@step("power-on")
def power_on(job: RestoreJob, vm: VmRef, *, timeout: float | None = None) -> None:
    """Power the VM on, which may take so many seconds.

    Raises:
        HyperExportError: It is not on.
    """
    vm_tasks.power_on(job.session, vm, stop=job.stop, timeout=timeout)


@step("attach-disks")
def attach_disks(job: RestoreJob, plan: RestorePlan) -> tuple[str, ...]:
    """Move the restored disks from the VM that was imported with them to the VM that gets them.

    Returns:
        Their files.
    """
    job.stop.check()
    assert job.vm
    assert job.prepared
    assert plan.attach_to
    entries = choose_disks(job.export, job.request.disks)
    files = disk_files(job.session, job.vm, entries)
    notes = notes_of(job.session, job.vm) or ""
    detach(job.session, job.vm, Moving(plan.attach_to.moref, files), notes, stop=job.stop)
    attach(job.session, plan.attach_to, files, job.prepared.addresses, stop=job.stop)
    return files


@step("remove-carrier")
def remove_carrier(job: RestoreJob, plan: RestorePlan) -> None:
    """Destroy the VM that was imported with the disks, which it no longer has. What fails here is a warning."""
    assert job.vm
    try:
        destroy_partial_vm(job.session, job.vm, job.owner_of_plan(plan), stop=job.stop)
    except RestoreLeaked as error:
        job.warn(f"the disks are attached, but the VM that they came with is left; reap-snapshots removes it: {error}")
    job.vm = None


@step("destroy-drill-vm")
def destroy_drill_vm(job: RestoreJob, plan: RestorePlan) -> None:
    """Power off and destroy the VM that was made for a drill.

    Raises:
        RestoreLeaked: It could not be destroyed; the message names it.
    """
    assert job.vm
    destroy_partial_vm(job.session, job.vm, job.owner_of_plan(plan), stop=job.stop)
    job.vm = None


def undo(job: RestoreJob, plan: RestorePlan) -> None:
    """Take back what was begun: the lease is aborted, and the VM destroyed if it is still there. Never raises."""
    began = time.monotonic()
    try:
        job.holding.close()
    except HyperExportError as error:
        logger.warning("%s", error)
    vm = job.vm
    if vm is None:
        return
    try:
        destroy_partial_vm(job.session, vm, job.owner_of_plan(plan))
        job.vm = None
        job.cleaned_up.append(f"the half-made VM {vm.path} is gone")
        logger.info("%s: rolled back in %.1f s", vm.path, time.monotonic() - began)
    except HyperExportError as error:
        job.cleaned_up.append(f"the half-made VM {vm.path} could NOT be removed: {error}")
        logger.error("%s: could not be removed: %s", vm.path, error)
