"""The flow that restores an export into vSphere: a whole VM, some of its disks, or disks for a VM that is there."""

from datetime import datetime
from typing import Annotated, Final, Unpack

from pydantic import Field

from hyperexport.flows.job_flow import job_flow
from hyperexport.flows.runtime import OPTIONS, Profile, VSphere, options_in_force, runner_for
from hyperexport.jobs import restore as job
from hyperexport.model.restore import RestoreRequest, RestoreResult
from hyperexport.model.restore_point import RestorePoint
from hyperexport.options.form import Shown
from hyperexport.options.keywords import RestoreKeywords
from hyperexport.options.precedence import ExportOptions

_AS_IT_WAS: Final = RestoreRequest()


@job_flow("restore-vm", "restore {export}{vm}".format_map)
def restore_vm(
    export: str = "",
    vm: str = "",
    at: datetime | None = None,
    *,
    restore: Annotated[RestoreRequest, Field(title="Restore")] = _AS_IT_WAS,
    options: Annotated[ExportOptions, Shown("destination", "bandwidth", "execution", "email")] = OPTIONS,
    vsphere: VSphere = None,
    profile: Profile = None,
    **_: Unpack[RestoreKeywords],
) -> RestoreResult:
    """Restore an export into vSphere. No other VM is touched; what fails or is cancelled leaves no VM.

    Args:
        export: The export's id, as hyperexport list shows it. Empty where vm names it.
        vm: In place of the id: the newest good export of this VM.
        at: With vm: the newest good export begun at this time or before.
        restore: Name, place, networks, identity; what is empty is as it was.
        options: Where the exports are. With dry_run the plan is shown, and nothing is made.
        vsphere: The vSphere credentials block to use, or its name. The worker's environment (GOVC_URL, ...) if empty.
        profile: A saved export profile, or its name.

    Returns:
        The restored VM, and what does not come back; in a dry run, the plan.

    Raises:
        ExportNotFound: There is no such export.
        UsageError, PlaceNotFound, TargetExists, DatastoreFull, PermissionMissing, ImportRefused: It cannot be done;
            nothing was made.
        HyperExportError: The restore failed; nothing of it is left.
    """
    wanted = RestorePoint(export=export or None, vm=vm or None, at=at)
    return job.restore_vm(runner_for(vsphere), wanted, restore, options_in_force(options, profile))
