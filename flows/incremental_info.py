"""The flow that only says what an incremental export would transfer, and why."""

from typing import Annotated, Unpack

from hyperexport.flows.job_flow import job_flow
from hyperexport.flows.runtime import OPTIONS, Profile, VSphere, options_in_force, runner_for
from hyperexport.jobs import incremental_info as info
from hyperexport.options.form import Shown
from hyperexport.options.keywords import OptionKeywords
from hyperexport.options.precedence import ExportOptions
from hyperexport.policy.export_plan import ExportPlan


@job_flow("incremental-info", "analyse {vm}".format_map)
def incremental_info(
    vm: str,
    options: Annotated[ExportOptions, Shown("destination", "snapshot", "incremental")] = OPTIONS,
    vsphere: VSphere = None,
    profile: Profile = None,
    **_: Unpack[OptionKeywords],
) -> ExportPlan:
    """Show, disk by disk, what an incremental export would transfer, why, and what it would save.

    The changed areas of a running VM are known only from a snapshot. With the snapshot option one is made and removed
    again; without it nothing is changed, and such disks count as undecided.

    Args:
        vm: The VM's name or its whole inventory path, exactly; the flow inventory lists them in an artifact.
        options: As for the export itself.
        vsphere: The vSphere credentials block to use, or its name. The worker's environment (GOVC_URL, ...) if empty.
        profile: A saved export profile, or its name.

    Returns:
        The decision for each disk, with its reason and its bytes.

    Raises:
        SnapshotLeaked: The snapshot that was made for it could not be removed.
    """
    return info.incremental_info(runner_for(vsphere), vm, options_in_force(info.only_looking(options), profile))
