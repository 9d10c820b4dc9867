"""The flow that only says what an incremental export would transfer, and why."""

from typing import Annotated

from prefect import flow

from hyperexport.flows.outcome import report_failures
from hyperexport.flows.run_names import run_name
from hyperexport.flows.runtime import OPTIONS, Profile, VSphere, options_in_force, runner_for
from hyperexport.jobs import incremental_info as info
from hyperexport.options.form import Shown
from hyperexport.options.precedence import ExportOptions
from hyperexport.policy.incremental import ExportPlan


@flow(name="incremental-info", flow_run_name=run_name("analyse {vm}".format_map), persist_result=False)
@report_failures
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
    return info.incremental_info(runner_for(vsphere), vm, options_in_force(info.only_looking(options), profile))
