"""The flow that lists all VMs of a vCenter in an artifact, to pick names from. Made to be scheduled."""

from collections.abc import Mapping
from typing import Any

from hyperexport.base.display import Listing
from hyperexport.flows.job_flow import job_flow
from hyperexport.flows.runtime import VSphere, runner_for
from hyperexport.jobs import vm_info as job
from hyperexport.model.vm import VmBrief


def _run_name(parameters: Mapping[str, Any]) -> str:
    del parameters
    return "list the VMs"


@job_flow("inventory", _run_name)
def inventory(vsphere: VSphere = None) -> Listing[VmBrief]:
    """List every VM of a vCenter in an artifact, to pick names from. Nothing on the server is changed.

    The artifact's key is inventory- and the server's name; each run adds a version, and the newest is shown.

    Args:
        vsphere: The vSphere credentials block to use, or its name. The worker's environment (GOVC_URL, ...) if empty.

    Returns:
        The VMs in the order of their paths.

    Raises:
        VmNotFound: The user sees no VM.
    """
    return Listing(job.inventory(runner_for(vsphere)))
