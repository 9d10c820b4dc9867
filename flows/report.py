"""The flow that says how well the VMs are protected, and which have no export. Made to be scheduled."""

from typing import Annotated, Any, Unpack

from hyperexport.base.units import parse_duration
from hyperexport.errors import UsageError
from hyperexport.flows.job_flow import job_flow
from hyperexport.flows.runtime import OPTIONS, Profile, VSphere, options_in_force, runner_for
from hyperexport.jobs import report as job
from hyperexport.options.form import Shown
from hyperexport.options.keywords import OptionKeywords
from hyperexport.options.precedence import ExportOptions


@job_flow("report", lambda _: "report on all VMs")
def report(
    inventory: bool = True,
    rpo: str = "26h",
    options: Annotated[ExportOptions, Shown("destination", "execution")] = OPTIONS,
    vsphere: VSphere = None,
    profile: Profile = None,
    **_: Unpack[OptionKeywords],
) -> list[dict[str, Any]]:
    """Report on each VM: its newest good export, how old it is, what is missing; and which VMs have no export.

    The report is an artifact of the run. Nothing is changed, on the server or in the stores.

    Args:
        inventory: Also ask vCenter which VMs there are, to find those without an export.
        rpo: How old the newest good export of a VM may be, such as 26h.
        options: Where the exports are.
        vsphere: The vSphere credentials block to use, or its name. The worker's environment (GOVC_URL, ...) if empty.
        profile: A saved export profile, or its name.

    Returns:
        With the inventory, of each VM the facts that hyperexport report --json has; else nothing.

    Raises:
        StoreUnusable, ServerUnreachable: A store, or vCenter, could not be read; the artifact has what the others say.
    """
    try:
        allowed = parse_duration(rpo)
    except ValueError as error:
        raise UsageError(f"rpo: {error}", fix="Give one such as 26h or 7d") from error
    found = job.report_as_page(
        runner_for(vsphere), options_in_force(options, profile), inventory=inventory, rpo=allowed
    )
    return found.coverage.facts(allowed) if found.coverage else []
