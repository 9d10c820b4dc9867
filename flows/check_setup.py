"""The flow that tries tonight's export without exporting: what would fail, in plain words. Made to be scheduled."""

from collections.abc import Mapping
from typing import Any, Unpack

from hyperexport.flows.job_flow import job_flow
from hyperexport.flows.runtime import OPTIONS, Profile, VSphere, options_in_force, runner_for
from hyperexport.jobs import check
from hyperexport.model.drill import DrillTarget
from hyperexport.options.keywords import ChosenKeywords
from hyperexport.options.precedence import ExportOptions
from hyperexport.options.selection import Selection, selection_from_environment
from hyperexport.results import SetupReport


def _run_name(parameters: Mapping[str, Any]) -> str:
    return f"check {Selection.model_validate(parameters['selection']) or 'the setup'}"


@job_flow("check-setup", _run_name)
def check_setup(
    selection: Selection = Selection(),  # noqa: B008
    options: ExportOptions = OPTIONS,
    vsphere: VSphere = None,
    profile: Profile = None,
    *,
    restore: bool = False,
    drill: DrillTarget | None = None,
    **_: Unpack[ChosenKeywords],
) -> SetupReport:
    """Try everything that an export with these options would need, and change nothing.

    Tried are: the vCenter's certificate, login and clock; the hosts that the bytes would come from; for each VM the
    user's privileges, whether it can be exported, and the room on its datastores; tags, where they choose; each store,
    with a probe that is written, read and deleted; the mail server, without sending; Prefect's limits and workers.

    Args:
        selection: The VMs, as for the export. The environment chooses if empty; without any, no VM is looked at.
        options: As for the export. What is not set comes from the environment, the profile, the defaults.
        vsphere: The vSphere credentials block to use, or its name. The worker's environment (GOVC_URL, ...) if empty.
        profile: A saved export profile, or its name.
        restore: Also look whether the VMs could be restored to where they are, by this user.
        drill: Also look whether exports of the VMs could be drilled: on QEMU where the flow runs, or in vSphere.

    Returns:
        Everything that was tried, with the result of each.

    Raises:
        SetupUnfit: Something would fail. Every check has run; the artifact has the report.
    """
    return check.check_setup(
        runner_for(vsphere),
        selection or selection_from_environment(),
        options_in_force(options, profile),
        restore=restore,
        drill=drill,
    )
