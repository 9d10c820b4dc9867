"""The flow that only says what an incremental export would transfer, and why."""

from typing import Annotated

from prefect import flow

from flows.connections import OPTIONS, Profile, VSphere, options_in_force, stop_signal, vsphere_session
from flows.export_vm import fail_on_leak, prepare_job, snapshot_for
from flows.outcome import told_in_words
from hyperexport.form import Shown
from hyperexport.options import ExportOptions
from hyperexport.policy.incremental import ExportPlan
from hyperexport.report.summary import plan_markdown
from hyperexport.transfer.throttle import Throttle
from tasks.artifacts import artifact_key, progress_artifacts, show_markdown
from tasks.inspect import plan_export
from tasks.snapshots import plan_snapshots


@flow(name="incremental-info", flow_run_name="analyse {vm}", persist_result=False)
@told_in_words
def incremental_info(
    vm: str,
    options: Annotated[ExportOptions, Shown("destination", "snapshot", "incremental")] = OPTIONS,
    vsphere: VSphere = None,
    profile: Profile = None,
) -> ExportPlan:
    """Show, disk by disk, what an incremental export would transfer, why, and what it would save.

    What changed on a running VM can be told only from a snapshot. With the snapshot option one is made and removed
    again; without it nothing is changed, and such disks count as undecided.

    Args:
        vm: The VM's name or its whole inventory path, exactly.
        options: As for the export itself.
        vsphere: The vSphere credentials block to use, or its name. The worker's environment (GOVC_URL, ...) if empty.
        profile: A saved export profile, or its name.

    Raises:
        SnapshotLeaked: The snapshot that was made for it could not be removed.
    """
    only_looking = {"incremental": True, "keep_snapshots": 0, "delete_snapshot": True, "consolidate_snapshots": False}
    given = ExportOptions.from_keys({**options.given_keys(), **only_looking})
    with stop_signal() as stop, vsphere_session(vsphere, stop) as session:
        job = prepare_job(session, vm, options_in_force(given, profile), stop, Throttle(None))
        snapshots = plan_snapshots(job)
        with progress_artifacts(), snapshot_for(job, snapshots.make) as snapshot:
            plan = plan_export(job, snapshot.moref if snapshot else None)
    show_markdown(artifact_key("plan", job.vm.name), plan_markdown(plan), f"Plan for {job.vm.ref.path}")
    fail_on_leak(job, f"the analysis of {job.ref.path} is done")
    return plan
