"""The flow that only says what an incremental export would transfer, and why."""

from typing import Annotated

from prefect import flow

from hyperexport.flows.connections import OPTIONS, Profile, VSphere, options_in_force, stop_signal, vsphere_session
from hyperexport.flows.export_vm import prepare_job
from hyperexport.flows.outcome import told_in_words
from hyperexport.flows.steps import as_tasks
from hyperexport.options.form import Shown
from hyperexport.options.precedence import ExportOptions
from hyperexport.policy.incremental import ExportPlan
from hyperexport.runbook import analyse, fail_on_leak, only_looking
from hyperexport.tasks.artifacts import artifact_key, progress_artifacts, show_markdown
from hyperexport.transfer.bandwidth.throttle import Throttle
from hyperexport.views.summary import plan_markdown


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
    options = options_in_force(only_looking(options), profile)
    with stop_signal() as stop, vsphere_session(vsphere, stop) as session:
        job = prepare_job(session, vm, options, stop, Throttle(None))
        with progress_artifacts(job.ref):
            plan = analyse(job, as_tasks())
    show_markdown(artifact_key("plan", job.vm.name), plan_markdown(plan), f"Plan for {job.vm.ref.path}")
    fail_on_leak(job, f"the analysis of {job.ref.path} is done")
    return plan
